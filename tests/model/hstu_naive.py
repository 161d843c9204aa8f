"""HSTU written as slow loops, straight from the equations of arXiv:2402.17152 and the bias of arXiv:2504.10545."""

import math

import torch


def silu(x):
    return x / (1 + torch.exp(-x))


def norm(x):
    centred = x - x.mean()
    return centred / torch.sqrt((centred**2).mean() + 1e-6)


def bucket(delta_ms):
    return min(128, math.floor(math.log(max(1, abs(int(delta_ms)))) / 0.301))


def naive_layer(layer, x, times, request_time, mode):
    """One history: states x (L, H), times (L,) and the time of the next event; returns (L, H)."""
    heads, d_qk, d_v, n = layer.sizes
    length = len(x)
    next_times = [*times[1:], request_time] if mode == "request" else times
    u, v, q, k = [], [], [], []
    for i in range(length):
        mixed = silu(norm(x[i]) @ layer.uvqk)
        parts = mixed.split([heads * d_v, heads * d_v, heads * d_qk, heads * d_qk])
        for part, kept in zip(parts, (u, v, q, k)):
            kept.append(part)
    out = []
    for i in range(length):
        heads_out = []
        for h in range(heads):
            qk, vv = slice(h * d_qk, (h + 1) * d_qk), slice(h * d_v, (h + 1) * d_v)
            total = torch.zeros(d_v, dtype=x.dtype)
            for j in range(i + 1):
                score = q[i][qk] @ k[j][qk] + layer.pos_bias[i - j]
                if mode != "none":
                    score = score + layer.time_bias[bucket(int(next_times[i]) - int(times[j]))]
                total = total + silu(score) / n * v[j][vv]
            heads_out.append(total)
        gated = u[i] * norm(torch.cat(heads_out))
        out.append(layer.output.weight @ gated + layer.output.bias + x[i])
    return torch.stack(out)


def naive_encoder(encoder, vectors, times, request_time):
    """One history of item vectors (L, H) to states (L, H), without dropout."""
    x = vectors * math.sqrt(vectors.shape[1]) + encoder.position_embedding.weight[: len(vectors)]
    for layer in encoder.layers:
        x = naive_layer(layer, x, times, request_time, encoder.time_bias)
    return x

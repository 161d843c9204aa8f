"""What each operation means, in plain PyTorch: the definitions that the fast forms equal up to rounding.

B batch, M items, n rows, H hidden, D text width, E experts, L history, T tokens.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from recbole_blair.ops.pointwise_attention import HistoryPairs


def at_least_float32(x: Tensor) -> Tensor:
    """Return x in float32, or float64 if that is what it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def full_softmax_loss(users: Tensor, items: Tensor, target: Tensor, bound: float | None = None) -> Tensor:
    """Mean over B of -log(exp(u . i_target) / sum over all items of exp(u . i)); see ops/softmax.py."""
    logits = users @ items.to(users.dtype).T  # (B, M)
    return F.cross_entropy(at_least_float32(logits), target)


def apply_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (…, k) @ weight (m, k) transposed + bias (m,): (…, m)."""
    return F.linear(x, weight, bias)


def apply_dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """x * keep / (1 - p), each element of keep 0 with probability p and else 1; x itself outside training."""
    return F.dropout(x, p, training)


def hstu_attention(vqk: Tensor, pos_weight: Tensor, time_weight: Tensor | None, pairs: HistoryPairs) -> Tensor:
    """SiLU(q k^T + b_pos + b_time) v / n over this and earlier positions: (P, heads d_v)."""
    (heads, d_qk, d_v, n), mixed = pairs.sizes, []
    for part in pairs.groups:
        padded = part.group.pad(vqk[part.group.items]).unflatten(2, (-1, math.gcd(d_qk, d_v)))  # (R, W, chunks, g)
        sizes = [heads * width // padded.shape[3] for width in (d_v, d_qk, d_qk)]
        v, q, k = (x.flatten(2).unflatten(2, (heads, -1)).transpose(1, 2) for x in padded.split(sizes, 2))
        bias = pos_weight[pairs.distance[: part.group.width, : part.group.width]].expand(len(v), 1, -1, -1)
        if time_weight is not None and part.buckets is not None:
            bias = bias + time_weight[part.buckets.long()][:, None]
        weights = F.silu(at_least_float32(q @ k.mT) + bias).tril()  # (R, heads, W, W)
        mixed.append(part.group.unpad((weights.to(v.dtype) @ v / n).transpose(1, 2).flatten(2)))
    return torch.cat(mixed)


def sampled_cross_entropy(
    users: Tensor, table: Tensor, candidates: Tensor, log_expected: Tensor | None = None, smoothing: float = 0.0
) -> Tensor:
    """Mean over P of the cross-entropy over candidates (P, 1 + K), the target first; later hits on it do not count."""
    logits = (table[candidates] * users[:, None]).sum(2)  # (P, 1 + K)
    if log_expected is not None:
        logits = logits - F.pad(log_expected[candidates[:, 1:]], (1, 0)).to(logits.dtype)
    return candidates_cross_entropy(logits, candidates, smoothing)


def candidates_cross_entropy(logits: Tensor, candidates: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of logits (P, 1 + K), the target's first; `smoothing` of it goes evenly to all that count."""
    hit = F.pad(candidates[:, 1:] == candidates[:, :1], (1, 0))
    log_share = logits.masked_fill(hit, float("-inf")).log_softmax(1)
    even = log_share.masked_fill(hit, 0).sum(1) / (~hit).sum(1)  # (P,)
    return -((1 - smoothing) * log_share[:, 0] + smoothing * even).mean()


def sampled_binary_cross_entropy(users: Tensor, table: Tensor, candidates: Tensor, beta: float) -> Tensor:
    """Mean over P of (beta softplus(-x) + sum of softplus(negatives' logits)) / (1 + K), x the target's logit."""
    logits = (table[candidates] * users[:, None]).sum(2)  # (P, 1 + K), the target first
    negative = F.softplus(logits[:, 1:]).masked_fill(candidates[:, 1:] == candidates[:, :1], 0.0)
    return (beta * F.softplus(-logits[:, 0]) + negative.sum(1)).mean() / candidates.shape[1]


def gated_scores(users: Tensor, query: Tensor, e: Tensor, t: Tensor, key: Tensor, trained: Tensor) -> Tensor:
    """Cosine of u and (1 - g) e + g t, g = sigmoid(query . key) or 1 without a trained id: (B, 1 + M), column 0 0."""
    g = torch.where(trained.T, torch.sigmoid(query @ key.T), 1.0)[:, :, None]  # (B, M, 1)
    return F.pad((F.normalize((1 - g) * e + g * t, dim=2) * users[:, None]).sum(2), (1, 0))


def gated_cross_entropy(
    users: Tensor, query: Tensor, e: Tensor, t: Tensor, key: Tensor, trained: Tensor, candidates: Tensor,
    temperature: float,
) -> Tensor:  # fmt: skip
    """Mean cross-entropy over the gated scores of the candidates (P, 1 + K), or, of one column, over all items."""
    logits = gated_scores(users, query, e, t, key, trained)[:, 1:] / temperature  # (P, M)
    if candidates.shape[1] == 1:
        return F.cross_entropy(logits, candidates[:, 0])
    return candidates_cross_entropy(logits.gather(1, candidates), candidates)


def gather_rows(vectors: Tensor, row: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows `row` (P,) of vectors (M, H) in `dtype`: (P, H)."""
    return vectors.to(dtype)[row]


def mix_experts(x: Tensor, weight: Tensor, shift: Tensor, gates: Tensor) -> Tensor:
    """Sum over experts e of g_e (W_e x - s_e): x (n, D), weight (E, H, D), shift (E, H), gates (n, E) give (n, H)."""
    experts = torch.einsum("nd,ehd->neh", x, weight) - shift  # (n, E, H)
    return torch.einsum("ne,neh->nh", gates.to(x.dtype), experts)


def normalise_rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x / |x| for each row of x (n, H), in `dtype`."""
    return F.normalize(at_least_float32(x), dim=1).to(dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, p: float, seen: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, the probabilities dropped at rate p; causal where `seen` is None."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=p, is_causal=seen is None)


def attend_text(query: Tensor, key: Tensor, value: Tensor, keep: Tensor | None, scale: float) -> Tensor | None:
    """softmax(query key^T * scale) value over the keys to keep, (B, T, heads, D)."""
    mask = None if keep is None else keep[:, None, None]  # (B, 1, 1, T)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale).transpose(1, 2)


def rank_targets(scores: Tensor, target: Tensor) -> np.ndarray:
    """1 + the number of scores (B, N) above the target's + half the number of others equal to it; (B,) float64.

    Column 0, the padding item, is left out.
    """
    candidates = scores[:, 1:]
    own = candidates.gather(1, (target - 1)[:, None])  # (B, 1)
    above, equal = (candidates > own).sum(1), (candidates == own).sum(1)  # (B,); the target equals itself, a NaN not
    return refuse_nan(torch.where(equal > 0, above + (equal.double() + 1) / 2, torch.nan).cpu().numpy())


def refuse_nan(ranks: np.ndarray) -> np.ndarray:
    """Return the ranks; raises FloatingPointError where one is not a number."""
    if np.isnan(ranks).any():
        raise FloatingPointError("the model scores a target as NaN; lower the learning rate or use precision=fp32")
    return ranks

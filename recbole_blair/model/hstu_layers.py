"""HSTU's parts: the layout of a batch, pointwise attention with position and time biases, the encoder."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from recbole_blair.ops import apply_dropout, per_device

LOG_BUCKET_WIDTH = 0.301  # of the released code: about log10(2), applied to natural logarithms
N_TIME_BUCKETS = 129
NORM_EPS = 1e-6  # of the released layers' LayerNorm
# Scores worked on at a time: on the CPU a tile stays in the cache, on a GPU it fills the device.
TILE_ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 26}
# Scores below which a tile takes rows of any length: on a GPU they cost less than the launches of one more tile.
SMALL_TILE = {"cpu": 0, "cuda": 1 << 24}


def time_buckets(delta_ms):
    """Return floor(ln(max(1, |delta|)) / 0.301), clamped to 0..128, of int64 milliseconds, as uint8."""
    logs = delta_ms.abs().clamp_(min=1).double().log_()
    return (logs / LOG_BUCKET_WIDTH).clamp_(max=N_TIME_BUCKETS - 1).to(torch.uint8)


@dataclass
class Tile:
    """Rows of like lengths that attend together: `span` of the flat positions, padded to (rows, width).

    `slot` (P,) is each position's place among rows x width, None where nothing is padded; `buckets` (rows, width,
    width) uint8 are the time buckets of (query, key), None without a time bias.
    """

    span: slice
    rows: int
    width: int
    slot: torch.Tensor | None
    buckets: torch.Tensor | None

    def pad(self, flat):
        """Lay flat positions (P, C) out as (rows, width, C), zeros between."""
        if self.slot is None:
            return flat.reshape(self.rows, self.width, -1)
        out = flat.new_zeros(self.rows * self.width, flat.shape[1])
        return out.index_copy_(0, self.slot, flat).view(self.rows, self.width, -1)

    def unpad(self, padded):
        """Return the real positions (P, C) of (rows, width, C)."""
        flat = padded.reshape(self.rows * self.width, -1)
        return flat if self.slot is None else flat.index_select(0, self.slot)


class Layout:
    """Where the real positions of a right-padded batch are: flat, rows sorted by length, cut into tiles.

    Everything but attention works on the P real positions alone; a tile pads to its own longest row.

    Args:
        item_seq_len (B,) int64: at least 1.
        width (int): L of the batch.
        times (B, L) int64: time of each event, ms; None: no time bias.
        query_times (B, L) int64: the time each position asks at, ms.
        tile_elements (int): scores of one head-free tile; default by device.
    """

    def __init__(self, item_seq_len, width, times=None, query_times=None, tile_elements=None):
        length, self.order = torch.sort(item_seq_len, stable=True)
        self.real = torch.arange(width, device=length.device) < length[:, None]  # (B, L), rows in order
        self.last = length.cumsum(0) - 1  # flat place of each row's last position
        self.row, self.step = self.real.nonzero(as_tuple=True)  # (P,) each
        if times is not None:
            times, query_times = times[self.order], query_times[self.order]
        budget = tile_elements or per_device(TILE_ELEMENTS, length.device)
        counts, self.tiles, first = length.tolist(), [], 0
        for start, stop in tile_rows(counts, budget, per_device(SMALL_TILE, length.device)):
            span = slice(first, first + sum(counts[start:stop]))
            self.tiles.append(self.make_tile(span, start, stop, counts[stop - 1], times, query_times))
            first = span.stop

    def make_tile(self, span, start, stop, width, times, query_times):
        """Build the tile of sorted rows start..stop."""
        full = span.stop - span.start == (stop - start) * width
        slot = None if full else (self.row[span] - start) * width + self.step[span]
        buckets = None
        if times is not None:
            asked, past = query_times[start:stop, :width, None], times[start:stop, None, :width]
            buckets = time_buckets(asked - past)
        return Tile(span, stop - start, width, slot, buckets)

    def flatten(self, values):
        """Return values (B, L) at the real positions, (P,)."""
        return values[self.order][self.real]

    def last_of(self, states):
        """Return each row's last state, (B, H) in the batch's own order, of flat states (P, H)."""
        return states[self.last][torch.argsort(self.order)]


def tile_rows(counts, budget, small=0):
    """Cut rows sorted by length into runs whose scores fit the budget and whose lengths lie within a factor of two.

    Runs of at most `small` scores may hold any lengths.
    """
    start = 0
    for stop in range(1, len(counts) + 1):
        if stop < len(counts):
            width = counts[stop]
            scores = (stop + 1 - start) * width * width
            if scores <= budget and (scores <= small or width <= 1 << (counts[start] - 1).bit_length()):
                continue
        yield start, stop
        start = stop


class HSTUAttention(torch.autograd.Function):
    """SiLU(q k^T + b_pos + b_time) v / n over earlier positions, tile by tile; nothing L x L outlives its tile.

    There is no softmax, so tiles need no shared state: the backward pass makes each tile's scores again, and memory
    beyond the time buckets (a byte a pair) does not grow with the square of the history.

    Source: arXiv:2402.17152, equations 2 and 3; arXiv:2504.10545, section 3.
    """

    @staticmethod
    def forward(ctx, vqk, pos_weight, time_weight, layout, sizes):
        """Attend.

        Args:
            vqk (P, heads * (d_v + 2 d_qk)): values, queries, keys, heads outermost within each.
            pos_weight (longest,): bias by distance; time_weight (129,) or None: bias by time bucket.
            layout (Layout)
            sizes (tuple): heads, d_qk, d_v, n.

        Returns:
            (P, heads * d_v)
        """
        ctx.save_for_backward(vqk, pos_weight, time_weight)
        ctx.layout, ctx.sizes = layout, sizes
        heads, _, d_v, n = sizes
        out = vqk.new_empty(len(vqk), heads * d_v)
        with torch.autocast(vqk.device.type, enabled=False):
            for tile in layout.tiles:
                v, q, k = split_heads(tile.pad(vqk[tile.span]), sizes)
                mixed = torch.empty_like(v)
                for r0, r1 in query_blocks(tile, heads, vqk.device):
                    scores = tile_scores(tile, q, k, pos_weight, time_weight, r0, r1)
                    weights = F.silu(scores, inplace=True).tril_(r0).flatten(0, 1).to(v.dtype)
                    torch.bmm(weights, v[:, :r1], out=mixed[:, r0:r1])
                out[tile.span] = tile.unpad(join_heads(mixed, heads)) / n
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        vqk, pos_weight, time_weight = ctx.saved_tensors
        heads, n = ctx.sizes[0], ctx.sizes[3]
        grad_vqk = torch.empty_like(vqk)
        grad_pos = torch.zeros_like(pos_weight)
        grad_time = None if time_weight is None else torch.zeros_like(time_weight)
        for tile in ctx.layout.tiles:
            v, q, k = split_heads(tile.pad(vqk[tile.span]), ctx.sizes)
            g = tile.pad((grad[tile.span] / n).to(vqk.dtype)).unflatten(2, (heads, -1)).transpose(1, 2).flatten(0, 1)
            grads = [torch.zeros_like(x) for x in (v, q, k)]
            for r0, r1 in query_blocks(tile, heads, vqk.device):
                scores = tile_scores(tile, q, k, pos_weight, time_weight, r0, r1)
                grad_bias = block_backward(scores, g[:, r0:r1], (v, q, k), grads, r0, r1)
                add_bias_grads(tile, grad_bias, grad_pos, grad_time, r0, r1)
            grad_vqk[tile.span] = tile.unpad(torch.cat([join_heads(x, heads) for x in grads], 2))
        return grad_vqk, grad_pos, grad_time, None, None


def block_backward(scores, grad, vqk, grads, r0, r1):
    """Add one block's part to the gradients of v, q, k; return that of the bias, (rows, queries, keys).

    Args:
        scores (rows, heads, queries, keys): before the SiLU; overwritten.
        grad (rows * heads, queries, d_v): of the block's output, divided by n.
    """
    v, q, k = vqk
    gate = torch.sigmoid(scores)
    weights = (scores * gate).tril_(r0).flatten(0, 1).to(v.dtype)
    grads[0][:, :r1] += weights.transpose(1, 2) @ grad
    slope = scores.mul_(1 - gate).add_(1).mul_(gate)  # SiLU' = s (1 + x (1 - s))
    inner = (grad @ v[:, :r1].transpose(1, 2)).view(scores.shape) * slope
    inner.tril_(r0)
    flat = inner.flatten(0, 1).to(q.dtype)
    grads[1][:, r0:r1] = flat @ k[:, :r1]
    grads[2][:, :r1] += flat.transpose(1, 2) @ q[:, r0:r1]
    return inner.sum(1)


def add_bias_grads(tile, grad_bias, grad_pos, grad_time, r0, r1):
    """Sum the gradient of a block's bias (rows, queries, keys) by distance and by time bucket, in float64."""
    by_distance = distances(r0, r1, grad_bias.device).flatten()
    grad_pos += torch.bincount(by_distance, grad_bias.sum(0).flatten().double(), len(grad_pos)).to(grad_pos.dtype)
    if grad_time is not None:
        buckets = tile.buckets[:, r0:r1, :r1].flatten().int()
        grad_time += torch.bincount(buckets, grad_bias.flatten().double(), N_TIME_BUCKETS).to(grad_time.dtype)


def split_heads(padded, sizes):
    """Split (rows, width, C) into v, q, k of (rows * heads, width, d)."""
    heads, d_qk, d_v, _ = sizes
    parts = padded.split([heads * d_v, heads * d_qk, heads * d_qk], 2)
    return [x.unflatten(2, (heads, -1)).transpose(1, 2).flatten(0, 1) for x in parts]


def join_heads(x, heads):
    """Lay (rows * heads, width, d) out as (rows, width, heads * d)."""
    return x.unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)


def query_blocks(tile, heads, device):
    """Cut a tile's queries into blocks whose scores fit the budget; a block sees no key after its last query."""
    block = max(16, per_device(TILE_ELEMENTS, device) // (tile.rows * heads * tile.width))
    return [(r0, min(r0 + block, tile.width)) for r0 in range(0, tile.width, block)]


def distances(r0, r1, device):
    """How far back key j lies from query i, (r1 - r0, r1); 0 for later keys, which are masked."""
    query = torch.arange(r0, r1, device=device)[:, None]
    return (query - torch.arange(r1, device=device)).clamp_(min=0)


def tile_scores(tile, q, k, pos_weight, time_weight, r0, r1):
    """Scores of queries r0..r1 and keys 0..r1 with both biases, (rows, heads, queries, keys), float32 or wider."""
    scores = (q[:, r0:r1] @ k[:, :r1].transpose(1, 2)).to(torch.promote_types(q.dtype, torch.float32))
    scores = scores.view(tile.rows, -1, r1 - r0, r1)
    bias = pos_weight[distances(r0, r1, q.device)]
    if time_weight is not None:
        buckets = tile.buckets[:, r0:r1, :r1]
        bias = bias + time_weight.index_select(0, buckets.flatten().int()).view(buckets.shape)
        bias = bias.unsqueeze(1)
    return scores.add_(bias)


class HSTULayer(nn.Module):
    """One layer: x + W_o dropout(u * LayerNorm(attention(v, q, k))) with u, v, q, k = split(SiLU(LayerNorm(x) W)).

    Neither LayerNorm has an affine map; the biases are shared by the heads. d_qk and d_v are widths a head.

    Source: arXiv:2402.17152, equations 1 to 3.
    """

    def __init__(self, hidden_size, n_heads, d_qk, d_v, dropout_prob, max_seq_length, padded_length, time_bias, std):
        super().__init__()
        self.sizes = (n_heads, d_qk, d_v, padded_length)
        self.dropout_prob = dropout_prob
        self.uvqk = nn.Parameter(torch.randn(hidden_size, 2 * n_heads * (d_qk + d_v)) * std)
        self.output = nn.Linear(n_heads * d_v, hidden_size)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.pos_bias = nn.Parameter(torch.randn(max_seq_length) * std)
        self.time_bias = nn.Parameter(torch.randn(N_TIME_BUCKETS) * std) if time_bias else None

    def attend(self, vqk, layout):
        """See HSTUAttention."""
        return HSTUAttention.apply(vqk, self.pos_bias, self.time_bias, layout, self.sizes)

    def forward(self, x, layout):
        """Map flat states (P, H) to (P, H)."""
        heads, _, d_v, _ = self.sizes
        normed = F.layer_norm(x, x.shape[1:], eps=NORM_EPS)
        mixed = F.silu(normed @ self.uvqk)  # (P, heads * (2 d_v + 2 d_qk)): u, v, q, k
        u, vqk = mixed[:, : heads * d_v], mixed[:, heads * d_v :]
        attended = self.attend(vqk, layout)
        gated = u * F.layer_norm(attended, attended.shape[1:], eps=NORM_EPS)
        return x + self.output(apply_dropout(gated, self.dropout_prob, self.training))


class HSTUEncoder(nn.Module):
    """Item vectors times sqrt(H) plus positions, dropout, HSTU layers; a state at every real position.

    Args:
        time_bias (str): request: position i knows the time of event i + 1; history: only its own; none.

    Source: arXiv:2402.17152; the time bias and the input as in the released code of arXiv:2504.10545.
    """

    def __init__(
        self, max_seq_length, n_layers, n_heads, hidden_size, d_qk, d_v, dropout_prob, padded_length, time_bias,
        initializer_range,
    ):  # fmt: skip
        super().__init__()
        self.time_bias, self.dropout_prob = time_bias, dropout_prob
        self.position_embedding = nn.Embedding(max_seq_length, hidden_size)
        nn.init.trunc_normal_(self.position_embedding.weight, std=math.sqrt(1 / hidden_size))
        sizes = (hidden_size, n_heads, d_qk, d_v, dropout_prob, max_seq_length, padded_length)
        self.layers = nn.ModuleList(HSTULayer(*sizes, time_bias != "none", initializer_range) for _ in range(n_layers))

    def layout(self, item_seq_len, width, times=None, request_time=None):
        """Lay a batch out.

        Args:
            item_seq_len (B,) int64, width (int): L.
            times (B, L) int64 ms: of the history's events; not read with time_bias=none.
            request_time (B,) int64 ms: of the event after each history; read with time_bias=request alone.
        """
        if self.time_bias == "none":
            return Layout(item_seq_len, width)
        asked = times
        if self.time_bias == "request":
            asked = torch.cat([times[:, 1:], times[:, -1:]], 1)
            asked = asked.scatter(1, item_seq_len[:, None] - 1, request_time[:, None])
        return Layout(item_seq_len, width, times, asked)

    def forward(self, vectors, layout):
        """Encode item vectors (P, H) at the layout's real positions to states (P, H)."""
        x = vectors * math.sqrt(vectors.shape[1]) + self.position_embedding(layout.step)
        x = apply_dropout(x, self.dropout_prob, self.training)
        for layer in self.layers:
            x = layer(x, layout)
        return x

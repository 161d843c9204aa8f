"""HSTU's pointwise attention over packed histories, group by group; nothing of queries x keys outlives its group."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_blair.ops import plain
from recbole_blair.ops.device import per_device
from recbole_blair.ops.ragged import GROUP_SCORES, HistoryGroup, PackedHistories, join
from recbole_blair.ops.switch import fast_form_of

N_TIME_BUCKETS = 129
LOG_BUCKET_WIDTH = 0.301  # of the released code: about log10(2), applied to natural logarithms
FUTURE = -1e9  # added to the score of a later key: its SiLU and the slope of it are 0
LEAST_QUERIES = 16  # of a block, however long the history


class HeadSizes(NamedTuple):
    """Heads, widths per head of queries and keys (d_qk) and of values (d_v), and n, which attention is divided by."""

    heads: int
    d_qk: int
    d_v: int
    n: int


def time_buckets(delta_ms: Tensor) -> Tensor:
    """Return floor(ln(max(1, |delta|)) / 0.301), clamped to 0..128, of int64 milliseconds.

    In uint8 on the CPU, one byte per pair; in int64, which indexing takes as it is, on a GPU.
    """
    buckets = (delta_ms.abs().clamp_(min=1).double().log_() / LOG_BUCKET_WIDTH).clamp_(max=N_TIME_BUCKETS - 1)
    return buckets.to(torch.uint8 if buckets.device.type == "cpu" else torch.int64)


@dataclass
class GroupPairs:
    """A group's pairs of positions, and where its items' heads go.

    Values, queries and keys of a packed item are chunks of g numbers, g the greatest common divisor of d_v and d_qk.

    Attributes:
        group: R histories of width W, P' items.
        buckets (R, W, W): time buckets of (query, key); None without a time bias.
        gather: for each chunk of v (heads R, W, d_v), then q and k (heads R, W, d_qk), its number among all packed
            chunks. A padded position takes its history's last item: no earlier query sees it.
        place (P' x chunks per item): the reverse; of each chunk of an item, its number among the gathered ones.
        own (P' x chunks of v): as `place`, of v and the output alone.
    """

    group: HistoryGroup
    buckets: Tensor | None
    gather: Tensor
    place: Tensor
    own: Tensor


class HistoryPairs:
    """What attention needs of a batch, alike in every layer.

    Args:
        histories: the packed batch.
        sizes: of the heads.
        times (B, L) int64: time of each event, ms; None: no time bias.
        query_times (B, L) int64: the time each position asks at, ms.

    Attributes:
        distance (W, W) int64: i - j of query i and key j, 0 for later keys; future (W, W): 0, FUTURE for later keys.
        groups: a GroupPairs for each of the histories' groups.
    """

    def __init__(
        self, histories: PackedHistories, sizes: HeadSizes, times: Tensor | None = None,
        query_times: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.histories, self.sizes = histories, sizes
        step = torch.arange(histories.groups[-1].width, device=histories.order.device)
        ahead = step[:, None] - step
        self.distance, self.future = ahead.clamp(min=0), (ahead < 0) * FUTURE
        if times is not None and query_times is not None:
            times, query_times = times[histories.order], query_times[histories.order]
        self.groups = []
        for group in histories.groups:
            buckets = None
            if times is not None and query_times is not None:
                asked, past = query_times[group.rows, : group.width, None], times[group.rows, None, : group.width]
                buckets = time_buckets(asked - past)
            nearest = torch.minimum(step[: group.width], histories.length[group.rows, None] - 1)
            item = histories.start[group.rows, None] + nearest  # (R, W)
            gather, place = self.head_places(item, group)
            own = place[:, : sizes.heads * sizes.d_v // math.gcd(sizes.d_qk, sizes.d_v)]
            self.groups.append(GroupPairs(group, buckets, gather, place.flatten(), own.flatten()))

    def head_places(self, item: Tensor, group: HistoryGroup) -> tuple[Tensor, Tensor]:
        """Return `gather`, and `place` as (P', chunks), of GroupPairs.

        Args:
            item (R, W): the packed item at each padded position.
        """
        heads, d_qk, d_v, _ = self.sizes
        g, padded, device = math.gcd(d_qk, d_v), group.n_rows * group.width, item.device
        # Heads that lie together, and the chunks of one: v, q and k, or v apart where its width is another.
        parts = [(3 * heads, 1)] if d_qk == d_v else [(heads, d_v // g), (2 * heads, d_qk // g)]
        item = item.view(-1, 1) * sum(n * chunks for n, chunks in parts)  # (R W, 1): its first chunk
        gather, place, first = [], [], 0
        for n, chunks in parts:
            end = first + n * chunks
            by_head = (item + torch.arange(first, end, device=device)).view(padded, n, chunks).transpose(0, 1)
            gather.append(by_head.flatten())  # (n, R W, chunks)
            head = torch.arange(first * padded, end * padded, chunks * padded, device=device)
            own = group.slot[:, None] * chunks + head if chunks > 1 else group.slot[:, None] + head  # (P', n)
            place.append((own[:, :, None] + torch.arange(chunks, device=device)).flatten(1) if chunks > 1 else own)
            first = end
        return join(gather), torch.cat(place, 1) if len(place) > 1 else place[0]

    def split(self, gathered: Tensor, pairs: GroupPairs) -> tuple[Tensor, Tensor, Tensor]:
        """View gathered chunks as values, queries and keys: v (heads R, W, d_v), q and k (heads R, W, d_qk)."""
        heads, d_qk, d_v, _ = self.sizes
        shape = (heads * pairs.group.n_rows, pairs.group.width)
        if d_qk == d_v:
            v, q, k = gathered.view(3, *shape, d_v).unbind()
            return v, q, k
        n_qk = shape[0] * shape[1] * d_qk
        v, q, k = gathered.flatten().split([gathered.numel() - 2 * n_qk, n_qk, n_qk])
        return v.view(*shape, d_v), q.view(*shape, d_qk), k.view(*shape, d_qk)


@fast_form_of(plain.hstu_attention)
def hstu_attention(vqk: Tensor, pos_weight: Tensor, time_weight: Tensor | None, pairs: HistoryPairs) -> Tensor:
    """SiLU(q k^T + b_pos + b_time) v / n over this and earlier positions.

    Args:
        vqk (P, heads (d_v + 2 d_qk)): values, queries, keys of the packed items, heads outermost within each.
        pos_weight (longest,): bias by distance; time_weight (129,): bias by time bucket, or None.
        pairs: of the batch.

    Returns:
        (P, heads d_v)

    Source: arXiv:2402.17152, equations 2 and 3; arXiv:2504.10545, section 3.
    """
    return HSTUAttention.apply(vqk, pos_weight, time_weight, pairs)


class HSTUAttention(torch.autograd.Function):
    """See `hstu_attention`. The backward pass makes each group's scores again.

    There is no softmax, so blocks of queries share no state, and memory beyond the time buckets does not grow with the
    square of the history.
    """

    @staticmethod
    def forward(ctx: Any, vqk: Tensor, pos_weight: Tensor, time_weight: Tensor | None, pairs: HistoryPairs) -> Tensor:
        pos_weight = plain.at_least_float32(pos_weight)
        time_weight = None if time_weight is None else plain.at_least_float32(time_weight)
        by_distance = pos_weight.index_select(0, pairs.distance.flatten()).view_as(pairs.distance).add_(pairs.future)
        heads, d_qk, d_v, n = pairs.sizes
        g, out, kept = math.gcd(d_qk, d_v), [], []
        chunks = vqk.reshape(-1, g)
        with torch.autocast(vqk.device.type, enabled=False):
            for part in pairs.groups:
                kept.append(chunks.index_select(0, part.gather))
                v, q, k = pairs.split(kept[-1], part)
                mixed = torch.empty_like(v)  # (heads R, W, d_v)
                for r0, r1 in query_blocks(part.group, heads, vqk.device):
                    scores = block_scores(part, q, k, by_distance, time_weight, r0, r1)
                    weights = F.silu(scores, inplace=True).flatten(0, 1).to(v.dtype)  # (heads R, r1 - r0, r1)
                    rows = span(mixed, r0, r1)
                    torch.baddbmm(rows, weights, span(v, 0, r1), beta=0, alpha=1 / n, out=rows)
                out.append(mixed.view(-1, g).index_select(0, part.own).view(-1, heads * d_v))
        ctx.save_for_backward(pos_weight, time_weight, by_distance, *kept)
        ctx.pairs = pairs
        return join(out)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pos_weight, time_weight, by_distance, *kept = ctx.saved_tensors
        pairs, (heads, d_qk, d_v, n) = ctx.pairs, ctx.pairs.sizes
        g, dtype = math.gcd(d_qk, d_v), kept[0].dtype
        grad_chunks = (grad / n).to(dtype).view(len(grad), -1, g)
        grad_vqk, grad_pos, grad_time = [], torch.zeros_like(pos_weight), []
        for part, gathered in zip(pairs.groups, kept, strict=True):
            v, q, k = pairs.split(gathered, part)
            grad_out = v.new_zeros(v.numel() // g, g)  # a padded query has no gradient
            grad_out.index_copy_(0, part.own, grad_chunks[part.group.items].flatten(0, 1))
            grad_out, grad_gathered = grad_out.view_as(v), torch.empty_like(gathered)
            grads = pairs.split(grad_gathered, part)
            for r0, r1 in reversed(query_blocks(part.group, heads, grad.device)):
                scores = block_scores(part, q, k, by_distance, time_weight, r0, r1)
                by_pair = block_backward(scores, span(grad_out, r0, r1), (v, q, k), grads, r0, r1)  # (R, queries, keys)
                grad_pos.index_add_(0, block_of(pairs.distance, r0, r1).flatten(), by_pair.sum(0).flatten())
                if part.buckets is not None:
                    grad_time.append(sum_by_bucket(by_pair, block_of(part.buckets, r0, r1)))
            grad_vqk.append(grad_gathered.index_select(0, part.place).view(part.group.slot.shape[0], -1))
        return join(grad_vqk), grad_pos, sum(grad_time[1:], grad_time[0]) if grad_time else None, None


def span(x: Tensor, r0: int, r1: int) -> Tensor:
    """Return x[:, r0:r1] of x (n, W, …), x itself where that is all: a slice costs a dispatch."""
    return x if r1 - r0 == x.shape[1] else x[:, r0:r1]


def block_of(pairs: Tensor, r0: int, r1: int) -> Tensor:
    """Return pairs (…, W', W') of queries r0..r1 and keys 0..r1."""
    return pairs if r1 - r0 == pairs.shape[-1] else pairs[..., r0:r1, :r1]


def query_blocks(group: HistoryGroup, heads: int, device: torch.device) -> list[tuple[int, int]]:
    """Cut a group's queries into blocks whose scores fit the budget; a block sees no key after its last query."""
    size = max(LEAST_QUERIES, per_device(GROUP_SCORES, device) // (group.n_rows * heads * group.width))
    return [(r0, min(r0 + size, group.width)) for r0 in range(0, group.width, size)]


def block_scores(
    part: GroupPairs, q: Tensor, k: Tensor, by_distance: Tensor, time_weight: Tensor | None, r0: int, r1: int
) -> Tensor:
    """Scores q k^T + b_pos + b_time of queries r0..r1 and keys 0..r1, (heads, R, r1 - r0, r1), float32 or wider."""
    scores = torch.bmm(span(q, r0, r1), span(k, 0, r1).transpose(1, 2)).to(by_distance.dtype)
    bias = block_of(by_distance, r0, r1)
    if time_weight is not None and part.buckets is not None:
        buckets = block_of(part.buckets, r0, r1)
        index = buckets.flatten()
        by_time = time_weight.index_select(0, index.int() if index.dtype == torch.uint8 else index)
        bias = by_time.view_as(buckets).add_(bias)  # (R, r1 - r0, r1)
    return scores.view(-1, part.group.n_rows, r1 - r0, r1).add_(bias)


def block_backward(
    scores: Tensor, grad: Tensor, vqk: tuple[Tensor, ...], grads: tuple[Tensor, ...], r0: int, r1: int
) -> Tensor:
    """Add one block's part to the gradients of v, q and k; return that of the bias, (R, queries, keys).

    With x the scores and y = SiLU(x) v: dv = SiLU(x)^T dy, dx = (dy v^T) SiLU'(x), dq = dx k, dk = dx^T q.

    Args:
        scores (heads, R, queries, keys): x.
        grad (heads R, queries, d_v): dy, the gradient of the block's output divided by n.
    """
    (v, q, k), (grad_v, grad_q, grad_k) = vqk, grads
    add = 0 if r1 == v.shape[1] else 1  # the last queries come first and see all keys: nothing is there yet
    weights = F.silu(scores).flatten(0, 1).to(v.dtype)
    span(grad_v, 0, r1).baddbmm_(weights.transpose(1, 2), grad, beta=add)
    grad_weights = torch.bmm(grad, span(v, 0, r1).transpose(1, 2)).view_as(scores).to(scores.dtype)
    inner = torch.ops.aten.silu_backward(grad_weights, scores)
    flat = inner.flatten(0, 1).to(q.dtype)
    span(grad_q, r0, r1).baddbmm_(flat, span(k, 0, r1), beta=0)
    span(grad_k, 0, r1).baddbmm_(flat.transpose(1, 2), span(q, r0, r1), beta=add)
    return inner.sum(0)


def sum_by_bucket(values: Tensor, buckets: Tensor) -> Tensor:
    """Sum values (R, queries, keys) by their buckets of that shape: (129,)."""
    if values.device.type == "cpu":
        return torch.bincount(buckets.flatten(), values.flatten().double(), N_TIME_BUCKETS).to(values.dtype)
    # A GPU's bincount waits for the largest bucket; a row of sums for each query keeps atomic additions apart.
    sums = values.new_zeros(*values.shape[:2], N_TIME_BUCKETS).scatter_add_(2, buckets, values)
    return sums.sum((0, 1))

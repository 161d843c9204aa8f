"""Histories of a batch without padding: packed items, padded among rows of like lengths where positions are mixed."""

import bisect

import torch

from recbole_blair.ops import per_device

# Padded positions up to which histories of any length go together: cheaper on a GPU than another group's launches.
SMALL_GROUP = {"cpu": 0, "cuda": 1 << 16}


class PackedHistories:
    """The histories of a batch, sorted by length, their items one after the other. On a GPU the lengths are waited for.

    Args:
        item_seq_len (B,) int64: items in each history, at least 1.
        longest (int): width of the batch.

    Attributes:
        order (B,): the batch's rows as they are packed; length (B,): of these.
        at (P,), step (P,): which packed row each item is in, and where in it.
        last (B,): each packed row's last item, as a number below P.
    """

    def __init__(self, item_seq_len, longest):
        device = item_seq_len.device
        self.order, self.groups = length_groups(item_seq_len, longest, per_device(SMALL_GROUP, device))
        self.length, n_items = item_seq_len[self.order], sum(group[3] for group in self.groups)
        ends = self.length.cumsum(0)
        self.last = ends - 1
        self.at = torch.repeat_interleave(torch.arange(len(ends), device=device), self.length, output_size=n_items)
        self.step = torch.arange(n_items, device=device) - (ends - self.length)[self.at]

    def padded(self, x):
        """Lay packed items (P, C) out, group by group.

        Yields:
            (b, l, C) right-padded with zeros; lengths (b,); which packed rows these are, a slice; of each of their
            items, its place among b x l, or None where none is padding.
        """
        sizes = [group[3] for group in self.groups]
        packed = zip(x.split(sizes), self.at.split(sizes), self.step.split(sizes), strict=True)
        for (start, stop, width, n_here), (part, at, step) in zip(self.groups, packed, strict=True):
            size, slot = (stop - start) * width, None
            if n_here < size:
                slot = (at - start) * width + step
                part = x.new_zeros(size, x.shape[1]).index_copy_(0, slot, part)
            yield part.view(stop - start, width, -1), self.length[start:stop], slice(start, stop), slot

    def mix(self, x, layer):
        """Apply layer((b, l, C), length, rows), which gives (b, l, H), to packed items (P, C): (P, H)."""
        mixed = []
        for part, length, rows, slot in self.padded(x):
            states = layer(part, length, rows).flatten(0, 1)
            mixed.append(states if slot is None else states.index_select(0, slot))
        return torch.cat(mixed)

    def mix_last(self, x, layer):
        """Apply layer((b, l, C), length, rows), which gives (b, H), to packed items (P, C): (B, H), in packed order."""
        return torch.cat([layer(part, length, rows) for part, length, rows, _ in self.padded(x)])


class GatheredRows(torch.autograd.Function):
    """Rows `row` (P,) of vectors (M, H) in `dtype`, (P, H).

    The gradient is sparse, each row's summed in `dtype` first: no table of zeros, and one rounding a row.
    """

    @staticmethod
    def forward(ctx, vectors, row, dtype):
        ctx.save_for_backward(row)
        ctx.like = vectors.shape, vectors.dtype
        return vectors.index_select(0, row).to(dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (row,), (shape, dtype) = ctx.saved_tensors, ctx.like
        rows, place = torch.unique(row, return_inverse=True)
        total = grad.new_zeros(len(rows), shape[1]).index_add_(0, place, grad).to(dtype)
        gradient = torch.sparse_coo_tensor(rows[None], total, shape, is_coalesced=True, check_invariants=False)
        return gradient, None, None


def gather_rows(vectors, row, dtype):
    """Rows `row` (P,) of vectors (M, H) in `dtype`, (P, H); on the CPU computed vectors get a sparse gradient."""
    sparse = vectors.device.type == "cpu" and vectors.grad_fn is not None and len(row) < len(vectors)
    if sparse and not torch.compiler.is_compiling():
        return GatheredRows.apply(vectors, row, dtype)
    return vectors.index_select(0, row).to(dtype)


def length_groups(length, longest, small=0):
    """Sort rows by length and cut them into groups whose lengths lie within a factor of two.

    Args:
        length (B,) int64: at least 1.
        longest (int): width of the batch.
        small (int): a group of at most so many padded positions may hold any lengths.

    Returns:
        order (B,): rows by length; groups: list of (first row, end row, width to pad to, real positions).
    """
    sorted_length, order = torch.sort(length, stable=True)
    counts = sorted_length.tolist()
    groups, start = [], 0
    while start < len(counts):
        limit = 1 << (counts[start] - 1).bit_length()  # the power of two at or above the shortest
        stop = max(bisect.bisect_right(counts, limit), rows_that_fit(counts, start, small))
        groups.append((start, stop, min(counts[stop - 1], longest), sum(counts[start:stop])))
        start = stop
    return order, groups


def rows_that_fit(counts, start, positions):
    """Return the end of the longest run of rows, sorted by length, that takes at most so many padded positions."""
    ends = range(start + 1, len(counts) + 1)
    return start + bisect.bisect_right(ends, positions, key=lambda end: (end - start) * counts[end - 1])

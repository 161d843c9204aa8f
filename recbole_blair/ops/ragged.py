"""Histories of a batch without padding: packed items, padded in groups of like lengths where positions are mixed."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_blair.ops import plain
from recbole_blair.ops.device import per_device
from recbole_blair.ops.switch import fast_form_of

# Scores (queries x keys, per head) of a group: on the CPU they stay in the cache, on a GPU they fill the device.
GROUP_SCORES = {"cpu": 1 << 18, "cuda": 1 << 26}
# Scores up to which a group takes histories of any length: on a GPU their padding costs less than the launches of
# one more group. A batch of 2,048 histories of 50 items is one group.
SMALL_GROUP = {"cpu": 0, "cuda": 1 << 23}


@dataclass
class HistoryGroup:
    """Histories of like lengths that are padded together.

    Attributes:
        rows: which packed histories; items: which packed items, P' of them.
        width: the longest of these histories, to which all are padded.
        slot (P',) int64: place of each item among n_rows x width.
    """

    rows: slice
    items: slice
    width: int
    slot: Tensor

    @property
    def n_rows(self) -> int:
        """Histories of the group."""
        return self.rows.stop - self.rows.start

    @property
    def is_full(self) -> bool:
        """True where nothing is padding."""
        return self.items.stop - self.items.start == self.n_rows * self.width

    def pad(self, x: Tensor) -> Tensor:
        """Lay the group's items (P', C) out as (n_rows, width, C), zeros at the right."""
        if not self.is_full:
            x = x.new_zeros(self.n_rows * self.width, x.shape[1]).index_copy_(0, self.slot, x)
        return x.view(self.n_rows, self.width, -1)

    def unpad(self, padded: Tensor) -> Tensor:
        """Return the items (P', C) of (n_rows, width, C)."""
        flat = padded.flatten(0, 1)
        return flat if self.is_full else flat.index_select(0, self.slot)


class PackedHistories:
    """The histories of a batch, sorted by length, their items one after the other. A GPU is waited for once.

    Args:
        item_seq_len (B,) int64: items in each history, at least 1.
        longest: L, the width of the batch.

    Attributes:
        order (B,): the batch's rows as they are packed; length (B,), start (B,), last (B,): of these, how many items
            they have and the numbers, below P, of their first and last item.
        row (P,), step (P,): which packed row each item is in, and where in it.
        place (P,): where each item stands among the batch's B x L positions, counted row by row.
        groups: what is padded together.
    """

    def __init__(self, item_seq_len: Tensor, longest: int) -> None:
        device = item_seq_len.device
        self.length, self.order = torch.sort(item_seq_len, stable=True)
        counts = self.length.tolist()  # a GPU is waited for
        ends = self.length.cumsum(0)
        self.start, self.last = ends - self.length, ends - 1
        numbers = torch.arange(sum(counts), device=device)
        self.row = torch.searchsorted(ends, numbers, right=True)  # (P,)
        self.step = numbers - self.start[self.row]
        self.place = self.order[self.row] * longest + self.step
        self.groups: list[HistoryGroup] = []
        first = 0
        for start, stop in group_rows(counts, per_device(GROUP_SCORES, device), per_device(SMALL_GROUP, device)):
            width, items = counts[stop - 1], slice(first, first + sum(counts[start:stop]))
            slot = (self.row[items] - start) * width + self.step[items]
            self.groups.append(HistoryGroup(slice(start, stop), items, width, slot))
            first = items.stop

    def take(self, values: Tensor) -> Tensor:
        """Return the packed items' values (P,) of values (B, L)."""
        return values.flatten().index_select(0, self.place)

    def unsort(self, x: Tensor) -> Tensor:
        """Return packed rows (B, …) in the batch's own order."""
        return x.index_select(0, torch.argsort(self.order))

    def padded(self, x: Tensor) -> Iterator[tuple[HistoryGroup, Tensor]]:
        """Lay packed items (P, C) out group by group: each group and its (n_rows, width, C)."""
        parts = x.split([group.items.stop - group.items.start for group in self.groups]) if self.groups[1:] else [x]
        for group, part in zip(self.groups, parts, strict=True):
            yield group, group.pad(part)

    def mix(self, x: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply a layer that maps (b, l, C) to (b, l, H), causally, to packed items (P, C): (P, H)."""
        return join([group.unpad(layer(part)) for group, part in self.padded(x)])

    def mix_last(self, x: Tensor, layer: Callable[[Tensor, Tensor, slice], Tensor]) -> Tensor:
        """Apply layer((b, l, C), length (b,), packed rows), which gives (b, H), to packed items (P, C): (B, H)."""
        return join([layer(part, self.length[group.rows], group.rows) for group, part in self.padded(x)])


def join(parts: list[Tensor]) -> Tensor:
    """Return the parts, one per group, one after the other."""
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def group_rows(counts: list[int], most: int, small: int) -> Iterator[tuple[int, int]]:
    """Cut histories sorted by length into groups whose lengths lie within a factor of two.

    Args:
        counts: items of each history, ascending, at least 1.
        most: scores (rows x width x width) of a group, unless one row has more.
        small: a group of at most so many scores may hold any lengths.

    Yields:
        (first row, end row) of each group.
    """
    start = 0

    def end_within(scores: int) -> int:
        ends = range(start + 1, len(counts) + 1)
        return start + bisect.bisect_right(ends, scores, key=lambda end: (end - start) * counts[end - 1] ** 2)

    while start < len(counts):
        limit = 1 << (counts[start] - 1).bit_length()  # the power of two at or above the shortest
        like = max(bisect.bisect_right(counts, limit, start), end_within(small))
        stop = max(start + 1, min(like, end_within(most)))
        yield start, stop
        start = stop


@fast_form_of(plain.gather_rows)
def gather_rows(vectors: Tensor, row: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows `row` (P,) of vectors (M, H) in `dtype`, (P, H), without a copy of the whole table in it.

    On the CPU each row's gradients are summed in `dtype` before they are rounded to that of `vectors`.
    """
    if vectors.dtype == dtype or vectors.device.type != "cpu":
        return vectors.index_select(0, row).to(dtype)
    rows, place = torch.unique(row, return_inverse=True)
    return vectors.index_select(0, rows).to(dtype).index_select(0, place)

"""Lays rows out as flat sequences: a row is a slice of its user's sequence.

The text files repeat a user's items in every row: (a) -> b, (a b) -> c, (a b c) -> d. Here the user's events stand
once, in order, and a row is the position of its target with the length of its history:

    events     a  b  c  d  |  e  f        one user after the other, item and time side by side
    position   0  1  2  3     4  5
    row "(a b) -> c"   target 2, length 2: the history is events[target - length : target]

That is several times smaller than the text, and what a batch reads together lies together in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

CHECKED_ROWS = 1 << 16  # rows whose histories are checked at a time: in the cache, and in memory that is touched once


def chain_rows(rows: Mapping[str, np.ndarray], n_users: int) -> dict[str, np.ndarray] | None:
    """Lay every user's rows out as one sequence: the first row's history, then the targets.

    Args:
        rows: R rows in the order of the files, whose histories hold H items together. `user` from 1, `split`, `item`,
            `time` (of the target), `length`, `offset` (where the history starts), each (R,); `history`,
            `history_time` (H,).
        n_users: number of users U.

    Returns:
        `events` (S, 2) int64 of item and time; `target` (R,) position of each row's target among them; `user_start`
        (U + 1,) int64 where a user's sequence starts, -1 for padding. None when some row's history is not the slice
        before its target: then the rows do not chain.
    """
    order = np.lexsort((np.arange(len(rows["user"])), rows["split"], rows["user"]))  # by user, then split, then line
    user = rows["user"][order]
    first = np.flatnonzero(np.diff(user, prepend=0))  # each user's first row
    lead = np.zeros(len(user), np.int64)
    lead[first] = rows["length"][order][first]  # history items before the first target
    target_sorted = np.cumsum(lead + 1) - 1  # each row adds its target, a first row its history too
    size = int(target_sorted[-1]) + 1
    target = np.empty(len(user), np.int64)
    target[order] = target_sorted
    user_start = np.full(n_users + 1, -1, np.int64)
    user_start[user[first]] = target_sorted[first] - lead[first]
    events = np.zeros((size, 2), np.int64)
    seq_items, seq_times = events.T
    seq_items[target], seq_times[target] = rows["item"], rows["time"]
    row = order[first]  # the first rows' histories are the begins of the sequences
    spread = ragged_range(rows["length"][row])
    at = np.repeat(target[row] - rows["length"][row], rows["length"][row]) + spread
    source = np.repeat(rows["offset"][row], rows["length"][row]) + spread
    seq_items[at], seq_times[at] = rows["history"][source], rows["history_time"][source]
    if not all(
        are_chained(rows, target, events, slice(i, i + CHECKED_ROWS)) for i in range(0, len(target), CHECKED_ROWS)
    ):
        return None
    return {"events": events, "target": target, "user_start": user_start}


def are_chained(rows: Mapping[str, np.ndarray], target: np.ndarray, events: np.ndarray, part: slice) -> bool:
    """Tell whether the histories of a part of the rows are the slices before their targets."""
    length = rows["length"][part]
    at = np.repeat(target[part] - length, length) + ragged_range(length)
    if at.min(initial=0) < 0:
        return False
    start = int(rows["offset"][part.start])
    history = slice(start, start + len(at))
    items, times = events[at].T
    return np.array_equal(items, rows["history"][history]) and np.array_equal(times, rows["history_time"][history])


def slice_rows(rows: Mapping[str, np.ndarray], n_users: int) -> dict[str, np.ndarray]:
    """Lay out one slice per row, history then target: for files whose rows do not chain; see `chain_rows`."""
    target = np.cumsum(rows["length"].astype(np.int64) + 1) - 1
    events = np.zeros((target[-1] + 1, 2), np.int64)
    seq_items, seq_times = events.T
    seq_items[target], seq_times[target] = rows["item"], rows["time"]
    at = np.repeat(target - rows["length"], rows["length"]) + ragged_range(rows["length"])
    seq_items[at], seq_times[at] = rows["history"], rows["history_time"]
    unknown = np.full(n_users + 1, -1, np.int64)
    return {"events": events, "target": target, "user_start": unknown}


def ragged_range(lengths: np.ndarray) -> np.ndarray:
    """Return 0…n-1 for each length n, one after the other: [2, 3] gives [0, 1, 0, 1, 2]."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum()), dtype=np.int64) - np.repeat(starts, lengths)

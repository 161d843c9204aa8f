"""From sorted events to `.inter` rows: one pass, batch by batch, in bounded memory.

A row is an interaction that has a history; its history is the user's latest `max_history` earlier interactions,
where "earlier" means before it in the order (time, line of the file). The split decides the row's file only: a history
may hold items of an earlier split, and no row holds anything that comes later in that order.

Under the random protocol rows have no history: each interaction of a user with two or more is a row.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataset_tools.conversion.array_ranges import flatten_ranges, mark_changes
from dataset_tools.storage.arrow import string_bytes, string_ends, to_arrow, to_string
from recbole_blair.schema import INTER_COLUMNS, PAIR_COLUMNS, SPLITS

FORMAT_THREADS = 2  # at most: more would wait for the thread that fetches and counts; each holds the text of a batch
BATCHES_AHEAD = 32  # counted but not yet written; without its text a batch takes some 5 MB


class Writable(Protocol):
    """What takes bytes: a file, a `SyncedFile`."""

    def write(self, data: bytes | memoryview, /) -> object: ...


class SplitEvents(NamedTuple):
    """Events of whole users, users together, in time order within a user."""

    names: pa.StringArray  # (users,) ids
    user: np.ndarray  # (n,) int64 index into `names`, ascending
    item: np.ndarray  # (n,) int64 index into the item ids
    time_ms: np.ndarray  # (n,) int64
    split: np.ndarray  # (n,) int8 index into SPLITS, of the row whose target this event is


class RowCounts:
    """What the rows of a build hold, counted while they are written."""

    def __init__(self, n_items: int) -> None:
        self.rows = np.zeros(len(SPLITS), np.int64)
        self.users = np.zeros(len(SPLITS), np.int64)
        self.targets = np.zeros((len(SPLITS), n_items), bool)
        self.n_users = 0
        self.n_items = 0
        self.first_events = 0  # that are no row, because they have no history
        self.history_items = 0
        self.seen = np.zeros(n_items, bool)  # the items that occur in a row

    def add(self, events: SplitEvents, target: np.ndarray, length: np.ndarray) -> np.ndarray:
        """Count the rows whose targets are the positions `target`, with histories of `length`; return the new items."""
        user, split = events.user[target], events.split[target]
        self.rows += np.bincount(split, minlength=len(SPLITS))
        self.history_items += int(length.sum())
        first_row = mark_changes(user)
        self.n_users += int(first_row.sum())
        for number in range(len(SPLITS)):
            mine = split == number
            self.users[number] += int(mark_changes(user[mine]).sum())
            self.targets[number, events.item[target[mine]]] = True
        occurs, has_history = np.zeros(len(events.user), bool), length[first_row] > 0
        self.first_events += int(has_history.sum())
        # A user's first event stands before the first row; where rows have no history, it is a row itself.
        occurs[target] = occurs[target[first_row] - has_history] = True
        return self._new_items(events.item[occurs])

    def _new_items(self, items: np.ndarray) -> np.ndarray:
        """Return the items that no earlier row holds, by first occurrence."""
        new = items[~self.seen[items]]
        values, first = np.unique(new, return_index=True)
        self.seen[values] = True
        self.n_items += len(values)
        return new[np.sort(first)]


def find_histories(user: np.ndarray, max_history: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (target, start, length) of the rows of whole users.

    Args:
        user: (n,) the user of each event, equal users together.
        max_history: the longest history that is kept.

    Returns:
        target, start, length: (rows,) position of the target, of the history's first event, history length.
    """
    position, new_user = np.arange(len(user)), mark_changes(user)
    first = np.maximum.accumulate(np.where(new_user, position, 0))
    target = np.flatnonzero(~new_user)
    start = np.maximum(first[target], target - max_history)
    return target, start, target - start


def find_accompanied(user: np.ndarray) -> np.ndarray:
    """Return which events (n,) are of users with two or more, (n,) bool; equal users are together."""
    new_user = mark_changes(user)
    return ~(new_user & np.append(new_user[1:], True)[: len(user)])


def find_pairs(user: np.ndarray, max_history: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what `find_histories` does, for rows without a history: all events of users with two or more."""
    target = np.flatnonzero(find_accompanied(user))
    return target, target, np.zeros(len(target), np.int64)


def format_rows(
    events: SplitEvents, item_ids: pa.StringArray, target: np.ndarray, start: np.ndarray, length: np.ndarray
) -> pa.StringArray:
    """Return the rows as an Arrow string array, each with a newline in front.

    A row's history and target are neighbours in the events, so both columns come from one range of them, first with
    the items, then with the times: "\\n" user "\\t" item " " item … "\\t" item "\\t" time " " time … "\\t" time.
    """
    offsets, flat = flatten_ranges(start, length + 1)
    times = pc.cast(to_arrow(events.time_ms), pa.string())
    return pc.binary_join_element_wise(
        to_string(b"\n"),
        events.names.take(to_arrow(events.user[target])),
        join_ranges(item_ids.take(to_arrow(events.item)), offsets, flat),
        join_ranges(times, offsets, flat),
        to_string(b""),
    )


def format_pairs(
    events: SplitEvents, item_ids: pa.StringArray, target: np.ndarray, start: np.ndarray, length: np.ndarray
) -> pa.StringArray:
    """Return what `format_rows` does, for rows without a history: "\\n" user "\\t" item "\\t" time."""
    lines = pc.binary_join_element_wise(
        events.names.take(to_arrow(events.user[target])),
        item_ids.take(to_arrow(events.item[target])),
        pc.cast(to_arrow(events.time_ms[target]), pa.string()),
        to_string(b"\t"),
    )
    return pc.binary_join_element_wise(to_string(b"\n"), lines, to_string(b""))


class RowForm(NamedTuple):
    """What a row is: its columns, which events are rows, and their text."""

    columns: tuple[str, ...]
    find: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray, np.ndarray]]
    format: Callable[..., pa.StringArray]


HISTORY_ROWS = RowForm(INTER_COLUMNS, find_histories, format_rows)
PAIR_ROWS = RowForm(PAIR_COLUMNS, find_pairs, format_pairs)


def join_ranges(strings: pa.StringArray, offsets: np.ndarray, flat: np.ndarray) -> pa.StringArray:
    """Return per range (ranges,) a tab, its strings but the last joined by spaces, a tab, the last.

    Item ids of Amazon and times have one width: their bytes are gathered as a table, which saves 6 % of a conversion.

    Args:
        strings: (n,).
        offsets, flat: ranges of positions, from `flatten_ranges`; each holds two or more.
    """
    width = find_common_width(strings)
    if width is None:
        return _join_ranges_of_any_width(strings, offsets, flat)
    cells = np.empty((len(strings), width + 1), np.uint8)  # one byte for what comes before the string
    cells[:, 0] = ord(" ")
    cells[:, 1:] = np.frombuffer(string_bytes(strings), np.uint8).reshape(-1, width)
    cells = np.take(cells.view(f"V{width + 1}")[:, 0], flat).view(np.uint8).reshape(-1, width + 1)
    cells[offsets[:-1], 0] = cells[offsets[1:] - 1, 0] = ord("\t")
    ends = (offsets * (width + 1)).astype(np.int32)
    return pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(ends), pa.py_buffer(cells))


def find_common_width(strings: pa.StringArray) -> int | None:
    """Return the number of bytes of every string, or None if the strings differ in length."""
    widths = np.diff(string_ends(strings)) if len(strings) else np.zeros(0, np.int32)
    return int(widths[0]) if len(widths) and widths[0] > 0 and (widths == widths[0]).all() else None


def _join_ranges_of_any_width(strings: pa.StringArray, offsets: np.ndarray, flat: np.ndarray) -> pa.StringArray:
    """Return what `join_ranges` does, for strings of different widths."""
    ends = offsets[1:]
    keep = np.ones(len(flat), bool)
    keep[ends - 1] = False
    lists = to_arrow((offsets - np.arange(len(offsets))).astype(np.int32))
    past = pc.binary_join(pa.ListArray.from_arrays(lists, strings.take(to_arrow(flat[keep]))), to_string(b" "))
    last = strings.take(to_arrow(flat[ends - 1]))
    return pc.binary_join_element_wise(to_string(b""), past, last, to_string(b"\t"))


def write_rows(
    batches: Iterable[SplitEvents], files: Mapping[str, Writable], item_ids: pa.StringArray, max_history: int,
    threads: int = FORMAT_THREADS, add_items: Callable[[np.ndarray], object] | None = None,
    form: RowForm = HISTORY_ROWS,
) -> RowCounts:  # fmt: skip
    """Write the rows of every split; return their counts.

    Args:
        batches: sorted.
        files: split name to a file open for writing bytes; each gets its header here.
        item_ids: (items,) id of each item index.
        max_history: the longest history that is kept.
        threads: that format, beside the one that fetches and counts.
        add_items: called with the items (n,) that no earlier row holds, in their order.
        form: rows with or without a history.
    """
    for file in files.values():
        file.write("\t".join(form.columns).encode())
    counts = RowCounts(len(item_ids))
    pool = ThreadPoolExecutor(threads)  # Arrow and NumPy release the interpreter while they copy
    waiting: collections.deque[Future[None]] = collections.deque()
    before = pool.submit(lambda: None)
    try:
        for events in batches:
            histories = form.find(events.user, max_history)
            if not len(histories[0]):
                continue
            before = pool.submit(_write_batch, files, events, item_ids, histories, form, before)
            waiting.append(before)
            target, _, length = histories
            items = counts.add(events, target, length)
            if add_items:
                add_items(items)
            if len(waiting) > BATCHES_AHEAD:
                waiting.popleft().result()
        before.result()
    finally:
        pool.shutdown(cancel_futures=True)
    for file in files.values():
        file.write(b"\n")
    return counts


def _write_batch(
    files: Mapping[str, Writable], events: SplitEvents, item_ids: pa.StringArray,
    histories: tuple[np.ndarray, np.ndarray, np.ndarray], form: RowForm, before: Future[None],
) -> None:  # fmt: skip
    """Format the rows of a batch; write them to the files of their splits once `before`, of the last batch, is done."""
    lines, split = form.format(events, item_ids, *histories), events.split[histories[0]]
    before.result()  # started earlier, so it never waits for this thread
    for number, name in enumerate(SPLITS):
        mine = split == number
        if mine.all():
            files[name].write(string_bytes(lines))
        elif mine.any():
            files[name].write(string_bytes(lines.filter(to_arrow(mine))))

"""Sorted events in, `.inter` rows out: one pass, batch by batch, in bounded memory.

A row is an interaction that has a history; its history is the user's latest `max_history` earlier interactions,
where "earlier" means before it in the order (time, line of the file). The cut decides the row's file only: a history
may reach back over it, and no row sees anything that comes later in that order.
"""

import collections
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataset_tools.storage.arrow import common_width, string_bytes, take_strings, to_arrow, to_string
from recbole_blair.schema import INTER_COLUMNS, SPLITS

FORMAT_THREADS = 2  # at most: more would wait for the one that fetches and counts; each holds the text of a batch
BATCHES_AHEAD = 32  # counted but not yet written; without its text a batch takes some 5 MB


class Events(NamedTuple):
    """Events of whole users, users together, in time order within a user."""

    names: pa.Array  # (users,) ids
    user: np.ndarray  # (n,) int64 index into `names`, ascending
    item: np.ndarray  # (n,) int64 index into the item ids
    time_ms: np.ndarray  # (n,) int64
    split: np.ndarray  # (n,) int8 index into SPLITS, of the row whose target this event is


class RowCounts:
    """What the rows of a build hold, gathered while they are written."""

    def __init__(self, n_items):
        self.rows = np.zeros(len(SPLITS), np.int64)
        self.users = np.zeros(len(SPLITS), np.int64)
        self.targets = np.zeros((len(SPLITS), n_items), bool)
        self.n_users = 0
        self.n_items = 0
        self.history_items = 0
        self.seen = np.zeros(n_items, bool)  # the items that occur in a row

    def add(self, events, target, length):
        """Count the rows whose targets are the positions `target`, with histories of `length`; return the new items."""
        user, split = events.user[target], events.split[target]
        self.rows += np.bincount(split, minlength=len(SPLITS))
        self.history_items += int(length.sum())
        first_row = changes(user)
        self.n_users += int(first_row.sum())
        for number in range(len(SPLITS)):
            mine = split == number
            self.users[number] += int(changes(user[mine]).sum())
            self.targets[number, events.item[target[mine]]] = True
        occurs = np.zeros(len(events.user), bool)
        occurs[target] = occurs[target[first_row] - 1] = True  # the one before a user's first row is the user's first
        return self._new_items(events.item[occurs])

    def _new_items(self, items):
        """Return those that no row before had, by first occurrence."""
        new = items[~self.seen[items]]
        values, first = np.unique(new, return_index=True)
        self.seen[values] = True
        self.n_items += len(values)
        return new[np.sort(first)]


def changes(values):
    """Tell where a value (n,) differs from the one before; the first does."""
    return np.append(True, values[1:] != values[:-1])[: len(values)]


def history_bounds(user, max_history):
    """Return (target, start, length) of the rows of whole users.

    Args:
        user (ndarray): (n,) the user of each event, equal users together.
        max_history (int): the longest history that is kept.

    Returns:
        target, start, length: (rows,) position of the target, of the history's first event, history length.
    """
    position, new_user = np.arange(len(user)), changes(user)
    first = np.maximum.accumulate(np.where(new_user, position, 0))
    target = np.flatnonzero(~new_user)
    start = np.maximum(first[target], target - max_history)
    return target, start, target - start


def flatten_ranges(start, length):
    """Return offsets (rows + 1,) and the positions start, start + 1, … of every range in one array."""
    offsets = np.zeros(len(start) + 1, np.int64)
    np.cumsum(length, out=offsets[1:])
    flat = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], length)
    return offsets, flat


def format_rows(events, item_ids, target, start, length):
    """Return the rows as an Arrow string array, each led by a newline.

    A row's history and target are neighbours in the events, so both columns come from one range of them, first with
    the items, then with the times: "\\n" user "\\t" item " " item … "\\t" item "\\t" time " " time … "\\t" time.
    """
    offsets, flat = flatten_ranges(start, length + 1)
    times = pc.cast(to_arrow(events.time_ms), pa.string())
    return pc.binary_join_element_wise(
        to_string(b"\n"),
        take_strings(events.names, events.user[target]),
        join_ranges(item_ids.take(to_arrow(events.item)), offsets, flat),
        join_ranges(times, offsets, flat),
        to_string(b""),
    )


def join_ranges(strings, offsets, flat):
    """Return, for each range, a tab, its strings but the last joined by spaces, a tab, the last.

    Args:
        strings (pa.StringArray): (n,).
        offsets, flat (ndarray): ranges of positions, from `flatten_ranges`; each holds two or more.

    Returns:
        pa.StringArray: (ranges,).
    """
    width = common_width(strings)
    if width is None:
        return _join_ranges_of_any_width(strings, offsets, flat)
    cells = np.empty((len(strings), width + 1), np.uint8)  # one byte for what comes before the string
    cells[:, 0] = ord(" ")
    cells[:, 1:] = np.frombuffer(string_bytes(strings), np.uint8).reshape(-1, width)
    cells = np.take(cells.view(f"V{width + 1}")[:, 0], flat).view(np.uint8).reshape(-1, width + 1)
    cells[offsets[:-1], 0] = cells[offsets[1:] - 1, 0] = ord("\t")
    ends = (offsets * (width + 1)).astype(np.int32)
    return pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(ends), pa.py_buffer(cells))


def _join_ranges_of_any_width(strings, offsets, flat):
    """Do the work of `join_ranges` for strings of different widths."""
    ends = offsets[1:]
    keep = np.ones(len(flat), bool)
    keep[ends - 1] = False
    lists = to_arrow((offsets - np.arange(len(offsets))).astype(np.int32))
    past = pc.binary_join(pa.ListArray.from_arrays(lists, strings.take(to_arrow(flat[keep]))), to_string(b" "))
    last = strings.take(to_arrow(flat[ends - 1]))
    return pc.binary_join_element_wise(to_string(b""), past, last, to_string(b"\t"))


def write_rows(batches, files, item_ids, max_history, threads=FORMAT_THREADS, found=None):
    """Write the rows of every split and count them.

    Args:
        batches (iterable of Events): sorted.
        files (dict): split name to a file open for writing bytes; each gets its header here.
        item_ids (pa.StringArray): (items,) id of each item index.
        max_history (int): the longest history that is kept.
        threads (int): that format, beside the one that fetches and counts.
        found (callable | None): called with the items (n,) that no row before has, in their order.

    Returns:
        RowCounts: rows, users, items and history lengths.
    """
    for file in files.values():
        file.write("\t".join(INTER_COLUMNS).encode())
    counts = RowCounts(len(item_ids))
    pool = ThreadPoolExecutor(threads)  # Arrow and NumPy let go of the interpreter while they copy
    waiting: collections.deque = collections.deque()
    before = pool.submit(lambda: None)
    try:
        for events in batches:
            bounds = history_bounds(events.user, max_history)
            if not len(bounds[0]):
                continue
            before = pool.submit(_write_batch, files, events, item_ids, bounds, before)
            waiting.append(before)
            target, _, length = bounds
            items = counts.add(events, target, length)
            if found:
                found(items)
            if len(waiting) > BATCHES_AHEAD:
                waiting.popleft().result()
        before.result()
    finally:
        pool.shutdown(cancel_futures=True)
    for file in files.values():
        file.write(b"\n")
    return counts


def _write_batch(files, events, item_ids, bounds, before):
    """Format the rows of a batch; write them to the files of their splits once `before`, of the last batch, is done."""
    lines, split = format_rows(events, item_ids, *bounds), events.split[bounds[0]]
    before.result()  # begun sooner: never one that waits for this thread
    for number, name in enumerate(SPLITS):
        mine = split == number
        if mine.all():
            files[name].write(string_bytes(lines))
        elif mine.any():
            files[name].write(string_bytes(lines.filter(to_arrow(mine))))

"""The row writer alone: histories by hand, and the same rows however the events are cut into batches."""

import errno
import io

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_tools.conversion.array_ranges import flatten_ranges
from dataset_tools.conversion.inter_rows import SplitEvents, find_histories, write_rows
from dataset_tools.storage.arrow import string_bytes
from recbole_blair.schema import INTER_COLUMNS, SPLITS

ITEM_IDS = pa.array([f"i{n}" for n in range(10)])


def events(lengths, items):
    user = np.repeat(np.arange(len(lengths)), lengths)
    n = len(user)
    return SplitEvents(
        pa.array([f"u{u}" for u in range(len(lengths))], pa.string()),
        user,
        np.array(items[:n], np.int64),
        np.arange(n, dtype=np.int64) * 10,
        (np.arange(n) % 3).astype(np.int8),
    )


def batches_of(run, size):
    """Yield `size` users at a time."""
    for first in range(0, len(run.names), size):
        mine = (run.user >= first) & (run.user < first + size)
        _, user, *rest = (column[mine] if isinstance(column, np.ndarray) else column for column in run)
        yield SplitEvents(run.names[first : first + size], user - first, *rest)


def write(run, size, max_history, threads=2):
    files = {split: io.BytesIO() for split in SPLITS}
    items = []
    counts = write_rows(
        batches_of(run, size), files, ITEM_IDS, max_history, threads, lambda new: items.extend(new.tolist())
    )
    assert counts.n_items == len(items)
    return {split: file.getvalue() for split, file in files.items()}, counts, items


def test_histories_by_hand():
    user = np.array([4, 4, 4, 4, 9, 2, 2])
    target, start, length = find_histories(user, 2)
    assert target.tolist() == [1, 2, 3, 6]
    assert start.tolist() == [0, 0, 1, 5]
    assert length.tolist() == [1, 2, 2, 1]


def test_flatten_ranges_by_hand():
    offsets, flat = flatten_ranges(np.array([0, 5, 2]), np.array([2, 0, 3]))
    assert offsets.tolist() == [0, 2, 2, 5]
    assert flat.tolist() == [0, 1, 2, 3, 4]


def test_string_bytes_of_a_slice():
    strings = pa.array(["ab", "", "çd", "e"])
    assert bytes(string_bytes(strings.slice(1, 2))) == "çd".encode()


def test_rows_by_hand():
    files, counts, items = write(events([3, 1, 2], [0, 1, 2, 3, 4, 5]), 100, 50)
    header = "\t".join(INTER_COLUMNS) + "\n"
    assert files["train"].decode() == header
    assert files["valid"].decode() == header + "u0\ti0\ti1\t0\t10\n"
    assert files["test"].decode() == header + "u0\ti0 i1\ti2\t0 10\t20\n" + "u2\ti4\ti5\t40\t50\n"
    assert counts.rows.tolist() == [0, 1, 2] and counts.users.tolist() == [0, 1, 2]
    assert (counts.n_users, counts.history_items) == (2, 4)
    assert items == [0, 1, 2, 4, 5]  # item 3 is a lone event's


def test_no_events_give_headers_only():
    files, counts, items = write(events([], []), 5, 50)
    assert all(data.decode() == "\t".join(INTER_COLUMNS) + "\n" for data in files.values())
    assert counts.rows.sum() == 0 and items == []


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.lists(st.integers(0, 9), min_size=108, max_size=108),
    st.integers(1, 7),
    st.integers(1, 5),
)
@settings(max_examples=150, deadline=None)
def test_batches_make_no_difference(lengths, items, size, max_history):
    run = events(lengths, items)
    whole, counts, items = write(run, 1000, max_history)
    parts, found, order = write(run, size, max_history)
    assert parts == whole == write(run, size, max_history, threads=1)[0]
    for name in ("n_users", "history_items"):
        assert getattr(found, name) == getattr(counts, name)
    assert counts.n_users == sum(length > 1 for length in lengths)
    assert (found.rows == counts.rows).all() and (found.users == counts.users).all()
    assert (found.targets == counts.targets).all()
    assert order == items


@pytest.mark.parametrize("batches", [3, 200])
def test_a_failed_write_is_raised(batches):
    class Full(io.BytesIO):
        def write(self, data):
            if self.tell():
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    run, files = events([2] * batches, [1, 2] * batches), {split: Full() for split in SPLITS}
    with pytest.raises(OSError, match="No space left"):
        write_rows(batches_of(run, 2), files, ITEM_IDS, 5)


def test_an_error_of_the_one_that_gets_the_items_is_raised():
    files = {split: io.BytesIO() for split in SPLITS}
    with pytest.raises(KeyError, match="missing"):
        write_rows(batches_of(events([9], range(9)), 2), files, ITEM_IDS, 5, add_items=lambda _: {}["missing"])

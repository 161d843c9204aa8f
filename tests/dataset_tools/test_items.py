"""Item lines: the short way for clean records equals the long one; worker processes equal this one."""

import io
import json
import os
import signal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_tools.item_workers import ItemWorkers
from dataset_tools.items import META_FIELDS, format_item, format_items, is_plain, write_items

PIECES = ["a", " ", "&", "& ", "&amp;", "&lt", "<b>", "< ", "\x7f", "\x00", "é", '"', "\t", ".", "​", "Tea & Pots"]
STRINGS = st.lists(st.sampled_from(PIECES), max_size=4).map("".join)
VALUES = st.one_of(
    st.none(), STRINGS, st.integers(), st.lists(st.one_of(STRINGS, st.none(), st.floats(), st.lists(STRINGS)))
)
RECORDS = st.lists(VALUES, min_size=len(META_FIELDS), max_size=len(META_FIELDS))


@given(RECORDS, st.booleans())
@settings(max_examples=400, deadline=None)
def test_the_short_way_equals_the_long_one(values, ascii_only):
    record = json.dumps(["B1", *values], ensure_ascii=False)
    if is_plain(record):
        values = json.loads(record)[1:]
        assert format_item("B1", values, ascii_only, True) == format_item("B1", values, ascii_only, False)


@pytest.mark.parametrize(
    ("text", "plain"),
    [("Parts & Accessories", True), (" x ", True), ("AT&T", False), ("&amp;", False), ("<b>", False), ('"', False),
     ("a  b", False), ("é", False), ("\x7f", False), ("\n", False), ("ends in &", False)],
)  # fmt: skip
def test_what_is_plain(text, plain):
    assert is_plain(json.dumps(["B1", text, [], [], [], None, None], ensure_ascii=False)) is plain


class Bar:
    n = 0

    def update(self, n):
        self.n += n


def chunks(n=5, size=40):
    for first in range(0, n * size, size):
        yield [
            json.dumps([f"B{i}", f'Thing {i} "x"' if i % 3 else f" Thing {i}", ["f"], None, "", None, i])
            for i in range(first, first + size)
        ]


def written(workers, ascii_only=False):
    file, bar = io.BytesIO(), Bar()
    counts = write_items(chunks(), file, ascii_only, 90, bar, workers)
    return file.getvalue(), counts.hashes(), counts.items, counts.characters, counts.bad_prices, bar.n


def test_workers_write_the_same_bytes():
    alone = written(1)
    assert alone[0].decode().splitlines()[1:3] == [
        "B0\tThing 0\tThing 0. f.\t\t\t0.0",
        "B1\tThing 1 ''x''\tThing 1 ''x''. f.\t\t\t1.0",
    ]
    assert alone[2] == alone[5] == 200
    assert written(3) == alone


def test_a_worker_that_dies_is_named():
    with (
        pytest.raises(RuntimeError, match="a process that formats item texts ended with status -9"),
        ItemWorkers(1, False) as pool,
    ):
        assert list(pool.map(chunks(1))) == [format_items(next(chunks(1)), False)]
        os.kill(pool._processes[0].pid, signal.SIGKILL)
        list(pool.map(chunks(2)))
    assert all(process.poll() is not None for process in pool._processes)

"""Item lines: those that DuckDB formats equal Python's; those of worker processes equal this process's."""

import io
import json
import os
import signal
import sys
import threading

import numpy as np
import pyarrow as pa
import pytest
from raw_data import meta

from dataset_tools.items import format_items as format_items_module
from dataset_tools.items import item_file
from dataset_tools.items import metadata as metadata_module
from dataset_tools.items.format_items import find_texts, format_items_into, line_buffer
from dataset_tools.items.item_file import ItemCounts, take_lines, write_items
from dataset_tools.items.item_lines import (
    META_FIELDS,
    format_item,
    format_items,
    parse_price,
)
from dataset_tools.items.item_workers import ItemWorkers, format_chunks
from dataset_tools.items.metadata import load_metadata
from dataset_tools.storage.duckdb_session import DuckDBSession
from recbole_blair.text.item_text import ids_hash, text_hash

PIECES = ["a", " ", "&", "& ", "&amp;", "&lt", "<b>", "< ", "\x7f", "\x00", "é", '"', "\t", ".", "​", "Tea & Pots"]

SHAPES = [  # title, features, categories, description, store, price
    ["A lamp", ["bright", "red!"], ["Home & Kitchen", "Lamps"], ["It shines."], "Shop", 3.5],
    [" edges ", [" a", "b "], [" c d "], [" e "], " s ", 0.0],
    ["x", [], [], [], None, None],
    [None, None, None, None, None, None],
    ["", [""], ["a", ""], ["", "b"], "", ""],
    [" ", [" "], ["a", " "], [",", ", ", ","], "s", 12],
    ["x", "one string", "c", "d", ["s"], "$3.50"],
    ["x", ["a", None, "b"], ["a", 1], [["n"], "b"], 5, True],
    ["x", ["a", ["n"], "b"], [{"k": "v"}], [None], {"k": "v"}, [1]],
    ['q"q', ["a\\"], ["é"], ["<b>"], "AT&T", 1e22],
    ["ends in &", ["&amp;"], ["a  b"], ["tab\t"], "\x7f", 0.00001],
    ["null", ["null"], ["[]"], ["]"], "{", 12345678901.5],
    [" a b", ["a ", " b ", "c"], [" x y"], [" ,", ", "], " s", 7.5],
    [" ", ["a"], ["b"], ["c"], "s", 1.5],
    ["a", [" "], ["b"], ["c "], "s", 1.5],
    ["end?", ["a."], ["b"], ["c!"], "s", -1.5],
]


@pytest.mark.parametrize("spaced", [False, True])
def test_duckdb_formats_as_python(tmp_path, spaced):
    records = [*SHAPES, *([part, [part + "a", "b" + part], [part], [part, "x"], part, 2.25] for part in PIECES)]
    path, folder = tmp_path / "meta.jsonl", tmp_path / "duck"
    folder.mkdir()
    separators = (" , ", " : ") if spaced else (",", ":")
    lines = [
        json.dumps({"parent_asin": f"B{i}", **dict(zip(META_FIELDS, values))}, separators=separators)
        for i, values in enumerate(records)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with DuckDBSession(folder, "1GB", 1, False) as duck:
        lines = line_buffer(duck)
        format_items_into(lines, load_metadata(duck, path), duck.con, threading.Event(), False, 1)
        with lines.as_relation():
            rows = duck.run("SELECT * FROM formatted ORDER BY item, line NULLS FIRST")
    found = [(line, characters, bad) for _, line, _, _, characters, bad in rows if line is not None]
    texts = [line.encode()[begin:end].decode() for _, line, begin, end, *_ in rows if line is not None]
    by_python = {item for item, line, *_ in rows if line is None}
    expected = [format_item(f"B{i}", values, False) for i, values in enumerate(records)]
    assert found == [(line, characters, bad_price) for line, _, characters, bad_price in expected]
    assert texts == [text for _, text, *_ in expected]
    assert [item in by_python for item in range(5)] == [False, False, False, False, True]


def test_texts_of_lines_with_empty_cells():
    lines = pa.array(["x\tx\tx\tx\tx\tx", "i1\ttitle\ta text, \u00e9.\tc\ts\t1.0", "i2\t\t\t\t\t", "i3\tt\tlast\t\t\t"])
    bounds = zip(*find_texts(lines[1:]))
    assert [line.as_py().encode()[begin:end].decode() for line, (begin, end) in zip(lines[1:], bounds)] == [
        "a text, \u00e9.", "", "last",
    ]  # fmt: skip


def chunks(n=5, size=40):
    for first in range(0, n * size, size):
        yield [
            json.dumps([f"B{i}", f'Thing {i} "x"' if i % 3 else f" Thing {i}", ["f"], None, "", None, i])
            for i in range(first, first + size)
        ]


def test_workers_write_the_same_bytes():
    alone = list(format_chunks(chunks(), False, 0))
    assert alone[0].lines.decode().splitlines()[:2] == [
        "B0\tThing 0\tThing 0. f.\t\t\t0.0",
        "B1\tThing 1 ''x''\tThing 1 ''x''. f.\t\t\t1.0",
    ]
    assert list(format_chunks(chunks(), False, 3)) == alone


@pytest.mark.parametrize("without_worker", [0, 100])
@pytest.mark.parametrize("in_memory", [10**9, 50_000])
def test_items_are_written_in_the_order_asked_for(tmp_path, monkeypatch, without_worker, in_memory):
    monkeypatch.setattr(format_items_module, "CHUNKS_WITHOUT_WORKER", without_worker)
    monkeypatch.setattr(format_items_module, "MOST_BYTES", in_memory)
    monkeypatch.setattr(format_items_module, "ITEMS_PER_BATCH", 300)
    monkeypatch.setattr(item_file, "ITEMS_PER_BATCH", 300)
    monkeypatch.setattr(metadata_module, "LINES_PER_BATCH", 700)
    monkeypatch.setattr(metadata_module, "MOST_BYTES", in_memory)
    path, folder = tmp_path / "meta.jsonl", tmp_path / "duck"
    folder.mkdir()
    metadata = [meta(f"B{i}", f"Thing {i}" + (' "x"' if i % 3 else "")) for i in range(3000)]
    metadata[7] = meta("B7", None, price="from 12")
    path.write_text("\n".join(map(json.dumps, metadata)) + "\n", encoding="utf-8")
    order = np.random.default_rng(1).permutation(3000)[:2500]
    order = np.append(order[order != 7], 7)
    file, counts = io.BytesIO(), ItemCounts()
    with DuckDBSession(folder, "1GB", 2, False) as duck:
        records, lines = load_metadata(duck, path), line_buffer(duck)
        assert records.records.in_table == (in_memory < 10**9)
        format_items_into(lines, records, duck.con, threading.Event(), False, 2)
        assert lines.in_table == (in_memory < 10**9)
        batches = take_lines(lines, duck.con, np.array_split(order, 7))
        write_items(batches, records.item_ids, file, counts)
    expected = [format_item(f"B{i}", [metadata[i].get(field) for field in META_FIELDS], False) for i in order]
    assert file.getvalue().decode().split("\n")[1:] == [*(line for line, *_ in expected), ""]
    assert counts.hashes() == (ids_hash([f"B{i}" for i in order]), text_hash([text for _, text, *_ in expected]))
    for items in (len(order), len(order) - 1, 0):
        assert counts.characters(items) == sum(characters for *_, characters, _ in expected[:items])
    assert (counts.items, counts.without_text, counts.bad_prices) == (len(order), 1, 1)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 always looks into the working folder first")
def test_workers_do_not_take_a_package_of_the_working_folder(tmp_path, monkeypatch):
    other = tmp_path / "dataset_tools"
    other.mkdir()
    (other / "__init__.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    with ItemWorkers(1, False) as pool:
        assert list(pool.map(chunks(1))) == [format_items(next(chunks(1)), False)]


def test_a_worker_that_dies_is_named():
    with (
        pytest.raises(RuntimeError, match="a process that formats item texts ended with status -9"),
        ItemWorkers(1, False) as pool,
    ):
        assert list(pool.map(chunks(1))) == [format_items(next(chunks(1)), False)]
        os.kill(pool._processes[0].pid, signal.SIGKILL)
        list(pool.map(chunks(2)))
    assert all(process.poll() is not None for process in pool._processes)


@pytest.mark.parametrize(
    ("raw", "written"),
    [
        ("$1,299.00", "1299.0"), ("1,299", "1299.0"), ("12.5", "12.5"), (3, "3.0"), ("84,99", "84.99"), ("0,5", "0.5"),
        ("1.299,00", "1299.0"), ("1.234.567,8", "1234567.8"), (None, ""), ("", ""),
    ],
)  # fmt: skip
def test_prices_with_points_and_commas(raw, written):
    assert parse_price(raw) == (written, False)


@pytest.mark.parametrize("raw", ["from 12.99", "-3", "nan", "1.29.00,5", "12,345,6.7.8"])
def test_what_is_no_price_is_said_to_be_none(raw):
    assert parse_price(raw) == ("", True)

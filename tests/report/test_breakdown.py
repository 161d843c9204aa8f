"""Breakdowns of a small build, worked out by hand."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from builds import TEST_MS, VALID_MS, write_build

from recbole_blair.cli.main import main
from recbole_blair.data.dataset import BlairDataset
from recbole_blair.errors import InputError
from recbole_blair.figures import fraction
from recbole_blair.report.breakdown import (
    BREAKDOWNS,
    breakdown,
    name_ranges,
    parse_breakdowns,
    split_rows,
    train_events,
)

DAY_MS = 86_400_000
EARLY = 1_500_000_000_000
# user: items; the last two fall into valid and test
EVENTS = {
    "ann": ["a", "b", "c", "d"],
    "bob": ["a", "b", "c", "a"],
    "cat": ["b", "a", "b", "c", "c", "n"],
    "dan": ["d", "b", "n", "b"],
}
CATEGORIES = {"a": "Shop Red", "b": "Shop Red", "c": "Shop Dark_blue", "d": "Shop", "n": "Shop Dark_blue"}


def small_build(folder, categories=CATEGORIES, spread_days=40):
    sequences = {}
    for number, (user, items) in enumerate(EVENTS.items()):
        last = [VALID_MS + number, TEST_MS + number * spread_days * DAY_MS]
        times = [EARLY + i for i in range(len(items) - 2)] + last
        sequences[user] = list(zip(items, times))
    built = write_build(folder, sequences, name="small")
    path = built / "small.item"
    lines = path.read_text().splitlines()
    cells = [line.split("\t") for line in lines[1:]]
    rows = ["\t".join([*c[:3], categories[c[0]], *c[4:]]) for c in cells]
    path.write_text("\n".join([lines[0], *rows]) + "\n")
    return BlairDataset(built, use_cache=False)


@pytest.fixture
def small(tmp_path):
    return small_build(tmp_path)


def named(buckets):
    """The bucket's name of each row."""
    return [buckets.names[code] for code in buckets.code]


def test_training_events_by_hand(small):
    # ann a b, bob a b, cat b a b c, dan d b
    count = dict(zip(small.item_tokens.to_pylist(), train_events(small)[1:].tolist()))
    assert count == {"a": 3, "b": 5, "c": 1, "d": 1, "n": 0}


def test_popularity_and_novelty_of_targets(small):
    # targets of test: d (1 event), a (3), n (0), b (5)
    assert named(split_rows("popularity", small)) == ["1–4", "1–4", "0", "5–19"]
    assert named(split_rows("new_item", small)) == ["known item", "known item", "new item", "known item"]


def test_popularity_of_rows_that_do_not_chain_counts_targets(small):
    small.chained = False
    buckets = split_rows("popularity", small)
    assert "targets" in buckets.note
    # targets of train: b; b; a b c; b
    assert train_events(small)[1:].tolist() == small.item_counts("train")[1:].tolist()
    assert named(buckets) == ["0", "1–4", "0", "1–4"]


def test_history_length_of_rows(small):
    assert named(split_rows("history_length", small)) == ["2–3", "2–3", "4–7", "2–3"]
    assert named(split_rows("history_length", small, "train"))[0] == "1"


def test_category_takes_the_level_that_tells_items_apart(small):
    buckets = split_rows("category", small)
    # the first level is Shop for all; d has no second
    assert named(buckets) == ["no category", "Red", "Dark blue", "Red"]
    assert buckets.note.startswith("level 2")


def test_items_without_categories_are_refused(tmp_path):
    dataset = small_build(tmp_path, dict.fromkeys(CATEGORIES, ""))
    with pytest.raises(InputError, match=r"small\.item gives no item a category"):
        split_rows("category", dataset)


def test_time_is_the_month_and_over_long_spans_the_year(small, tmp_path):
    # the test part begins on 16 July 2022; a row each 40 days later
    assert named(split_rows("time", small)) == ["2022-07", "2022-08", "2022-10", "2022-11"]
    long = small_build(tmp_path / "long", spread_days=400)
    assert named(split_rows("time", long)) == ["2022", "2023", "2024", "2025"]


def test_times_that_are_absent_are_named(small):
    small.seq_times = np.zeros_like(small.seq_times)
    with pytest.raises(InputError, match="rows of small carry no times"):
        split_rows("time", small)


def test_every_row_is_in_one_bucket_and_the_parts_make_the_whole(small):
    rank = np.array([1.0, 4.0, 20.0, 2.5])
    for by in BREAKDOWNS:
        table = breakdown(rank, split_rows(by, small), ["recall", "ndcg"], [3, 10])
        assert sum(row["rows"] for row in table) == 4 and sum(row["share"] for row in table) == pytest.approx(1)
        assert sum(row["rows"] * row["recall@3"] for row in table) == pytest.approx(2)
        assert all(row["rows"] for row in table)
    new, known = breakdown(rank, split_rows("new_item", small), ["recall"], [10])
    assert (new["recall@10"], known["recall@10"]) == (0.0, 1.0)
    with pytest.raises(ValueError, match="3 ranks for 4 rows"):
        breakdown(rank[:3], split_rows("time", small), ["recall"], [10])


def test_names_of_ranges():
    assert name_ranges((0, 1, 5, 20)) == ["0", "1–4", "5–19", "20 or more"]


def test_an_unknown_breakdown_names_the_nearest():
    assert parse_breakdowns("time, popularity,time") == ["time", "popularity"]
    with pytest.raises(InputError, match=r"--by=popularty: known are .*history_length.* Did you mean 'popularity'"):
        parse_breakdowns("popularty")
    with pytest.raises(InputError, match="--by is empty"):
        parse_breakdowns(",")


def test_evaluate_prints_and_saves_breakdowns(tiny_runs, tmp_path, capsys):
    run = tiny_runs / "SASRec-1"
    output = tmp_path / "parts.json"
    assert main(["evaluate", f"--checkpoint={run}", "--by=new_item,time", f"--output={output}"]) == 0
    shown = capsys.readouterr().out
    assert "by new_item" in shown and "2022-07" in shown and "100.0 %" in shown
    saved = json.loads(output.read_text())
    tests = json.loads((run / "metrics.json").read_text())["test"]
    assert {k: saved["metrics"][k] for k in tests} == pytest.approx(tests)
    assert fraction(tests["ndcg@10"]) in shown
    for part in saved["by"].values():
        total = sum(row["rows"] * row["ndcg@10"] for row in part["table"])
        assert total == pytest.approx(saved["rows"] * tests["ndcg@10"])
    table = tmp_path / "parts.parquet"
    assert main(["evaluate", f"--checkpoint={run}", "--by=new_item,time", f"--output={table}"]) == 0
    rows = pq.read_table(table).to_pylist()
    assert rows[0]["by"] == rows[0]["bucket"] == "all"
    expected = [{"by": by, **row} for by, part in saved["by"].items() for row in part["table"]]
    assert [{k: row[k] for k in ("by", "bucket", "rows", "mrr")} for row in rows[1:]] == [
        {k: row[k] for k in ("by", "bucket", "rows", "mrr")} for row in expected
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--by=novelty"], "--by=novelty: known are new_item, popularity"),
        (["--by=time", "--output=parts.csv"], "expected a file that ends in .json or .parquet"),
        (["--by=time", "--checkpoint=nowhere"], "nowhere holds no config.yaml: it is no run folder"),
    ],
)
def test_wrong_use_of_evaluate_is_one_line(tiny_runs, capsys, flags, message):
    assert main(["evaluate", f"--checkpoint={tiny_runs / 'SASRec-1'}", *flags]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and message in error and "\n" not in error


def test_a_run_whose_data_moved_is_found_by_data_path(tiny_runs, tiny_data, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(tiny_runs / "SASRec-1", run)
    config = run / "config.yaml"
    lines = config.read_text().split("\n", 1)[1]  # without the checksum of the others, as who changes a file does
    config.write_text(lines.replace(str(tiny_data), "/nowhere"))
    assert "/nowhere" in config.read_text()
    assert main(["evaluate", f"--checkpoint={run}", "--by=new_item", f"--data_path={tiny_data}", "--device=cpu"]) == 0
    expected = json.loads((run / "metrics.json").read_text())["test"]["ndcg@10"]
    assert fraction(expected) in capsys.readouterr().out

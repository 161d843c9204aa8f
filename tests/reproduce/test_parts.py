"""Tables of measured rows in parts, by how often training holds the target, and of what they cost."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builds import TEST_MS, VALID_MS, write_build

from recbole_blair.errors import InputError
from recbole_blair.reproduce.parts import cost_lines, part_lines
from recbole_blair.reproduce.tables import find_rows

EARLY = 1_500_000_000_000
# Targets of the test rows: e and f are in no training row, b is in one history and as often a target, c in three rows.
SESSIONS = {
    "u1": [("a", EARLY), ("b", EARLY + 1), ("c", EARLY + 2), ("d", VALID_MS), ("e", TEST_MS)],
    "u2": [("a", EARLY), ("c", EARLY + 1), ("b", TEST_MS)],
    "u3": [("a", EARLY), ("c", EARLY + 1), ("c", TEST_MS)],
    "u4": [("a", EARLY), ("f", TEST_MS)],
}
TARGETS = ["e", "b", "c", "f"]


@pytest.fixture
def rows():
    return find_rows("slices-platforms/sasrecid/wines")


def write_runs(tmp_path, ranks):
    """Write runs that left these ranks, a list per seed; returns their folders."""
    runs = []
    for seed, rank in enumerate(ranks):
        folder = tmp_path / f"run-{seed}"
        folder.mkdir()
        columns = {"user_id": [f"u{n + 1}" for n in range(len(rank))], "item_id": TARGETS[: len(rank)], "rank": rank}
        pq.write_table(pa.table({**columns, "rank": pa.array(rank, pa.float64())}), folder / "ranks.parquet")
        metrics = {"epochs": 10 + seed, "seconds": {"train": 1000.0 + seed}, "peak_memory_mb": 2000.0}
        metrics["best_valid"] = {"ndcg@10": 0.1 + seed / 100}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        runs.append(str(folder))
    return runs


def test_parts_are_means_over_rows_and_seeds(tmp_path, rows):
    write_build(tmp_path, SESSIONS, name="xwines_slim")
    runs = write_runs(tmp_path, [[1, 2, 1, 11], [1, 11, 11, 11]])  # NDCG@10: 1 .6309 1 0; 1 0 0 0
    measured = {rows[0].id: {"runs": runs}}
    assert list(part_lines(rows, measured, tmp_path)) == [
        "",
        "| wines: ndcg@10 by events of the target in training | rows | sasrecid |",
        "|---|---|---|",
        "| 0 | 50% | .5000 |",  # (1 + 0) / 2
        "| 1–5 | 50% | .4077 |",  # ((1 + .6309) / 2 + 0) / 2
    ]


def test_costs_are_means_over_seeds(tmp_path, rows):
    measured = {rows[0].id: {"runs": write_runs(tmp_path, [[1], [1], [1]])}}
    assert list(cost_lines(rows, measured))[-1] == "| wines | sasrecid | .1100 | 11 | 1,001 | 2,000 |"


def test_runs_of_another_build_are_refused(tmp_path, rows):
    write_build(tmp_path, SESSIONS, name="xwines_slim")
    measured = {rows[0].id: {"runs": write_runs(tmp_path, [[1, 2, 1]])}}
    with pytest.raises(InputError, match="sasrecid ranked 3 test rows, the build holds 4"):
        list(part_lines(rows, measured, tmp_path))


def test_rows_that_do_not_train_have_neither():
    rows = find_rows("slices-scaling/pairs-1k")
    assert not list(part_lines(rows, {rows[0].id: {"runs": []}}, "none")) and not list(cost_lines(rows, {}))

"""Orders: claims that one row is above another, judged by paired intervals; no two models' figures may be swapped."""

import dataclasses
import itertools
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recbole_blair.errors import InputError
from recbole_blair.reproduce import display, tables
from recbole_blair.reproduce.orders import (
    ABOVE,
    BELOW,
    HOLDS,
    NOT_SHOWN,
    REVERSED,
    UNDECIDED,
    compare_values,
    judge,
    load_values,
    read_orders,
)
from recbole_blair.reproduce.run import NOT_COMPARABLE, OUTSIDE, compare, compare_order, correct_p_values, verdict
from recbole_blair.reproduce.steps import Places, Planner

# Table 4 prints the same four figures for both; BLaIR-Bench's Table 6 has four digits and means that agree in them
SAME_FIGURES = {
    frozenset(("blair-table4/sasrec/baby", "blair-table4/unisrec-blair-large/baby")),
    *(
        frozenset(f"blair-bench-table6/{name}/sequential" for name in names)
        for names in (
            ("e5-mistral", "gritlm"), ("e5-mistral", "gemini"), ("gritlm", "gemini"), ("qwen3-06b", "qwen3-8b"),
        )
    ),
}  # fmt: skip


def failures(rows, orders, figures):
    """The ids of the rows and orders that fail when row `id` is measured as `figures[id]`, without any noise."""
    failed = []
    for row in rows:
        unit = tables.UNITS[row.unit]
        scaled = {
            name: value / unit if isinstance(value, float | int) and name not in ("queries", "items") else value
            for name, value in figures[row.id].items()
        }
        if verdict(compare(row, {"metrics": scaled})) == OUTSIDE:
            failed.append(row.id)
    for order in orders:
        above, below = figures[order.above.id], figures[order.below.id]
        for metric in order.published:
            if None in (above.get(metric), below.get(metric)):
                continue
            difference = above[metric] - below[metric]
            verdict_of = judge(order, metric, difference, difference, difference)["verdict"]
            if verdict_of == REVERSED or (verdict_of != HOLDS and metric not in order.asked):
                failed.append(order.id)
    return failed


def swaps(rows):
    """Pairs of rows of one data set with figures of the same metrics; else of one line on two data sets."""
    pairs = [(a, b) for a, b in itertools.combinations(rows, 2) if a.published.keys() == b.published.keys()]
    pairs = [(a, b) for a, b in pairs if None not in {*a.published.values(), *b.published.values()}]
    models = [(a, b) for a, b in pairs if a.label == b.label]
    return models or [(a, b) for a, b in pairs if a.name == b.name]


@pytest.mark.parametrize("table", tables.table_ids())
def test_the_figures_of_two_models_cannot_be_swapped(table):
    rows = tables.load_table(table)
    orders, figures = tables.load_orders(table, rows), {row.id: dict(row.published) for row in rows}
    assert failures(rows, orders, figures) == []  # the published figures themselves
    pairs = swaps(rows)
    assert pairs or len(rows) == 1 or all(set(row.published.values()) == {None} for row in rows)  # not measured yet
    same = {frozenset((a.id, b.id)) for a, b in pairs if a.published == b.published}
    assert same <= SAME_FIGURES
    for a, b in pairs:
        if a.published == b.published:
            continue
        swapped = figures | {a.id: figures[b.id], b.id: figures[a.id]}
        assert failures(rows, orders, swapped), f"{a.id} and {b.id} can be swapped"


@pytest.fixture(scope="module")
def rows():
    return tables.load_table("blair-table4")


def test_published_orders_go_down_the_figures_and_decide_equal_ones_by_the_next_metric(rows):
    small = [r for r in rows if r.label == "games" and r.name in ("gru4rec", "sasrec", "unisrec-roberta-base")]
    found = read_orders("t", ["published by ndcg@10"], small)
    assert [(o.above.name, o.below.name, o.published) for o in found] == [
        ("sasrec", "unisrec-roberta-base", {"ndcg@10": 0.02}), ("unisrec-roberta-base", "gru4rec", {"ndcg@10": 0.03}),
    ]  # fmt: skip
    assert found[0].id == "blair-table4/sasrec-over-unisrec-roberta-base/games" and not found[0].claimed
    equal = [dataclasses.replace(row, published={**row.published, "ndcg@10": 1.2}) for row in small]
    assert [o.published for o in read_orders("t", ["published by ndcg@10, recall@50"], equal)] == [
        {"recall@50": 0.26}, {"recall@50": 0.29},
    ]  # fmt: skip


def test_a_chain_claims_each_step_on_the_data_it_names(rows):
    found = read_orders("t", ["unisrec-blair-base > sasrec > gru4rec by ndcg@10, recall@10 on games"], rows)
    assert [o.id.split("/", 1)[1] for o in found] == [
        "unisrec-blair-base-over-sasrec/games",
        "sasrec-over-gru4rec/games",
    ]
    assert found[1].claimed == {"ndcg@10", "recall@10"}
    assert found[1].published == {"ndcg@10": 0.05, "recall@10": 0.04}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sasrec above gru4rec", "expected `A > B by METRIC`"),
        ("sasrek > gru4rec by ndcg@10 on games", "no row 'sasrek'. Did you mean 'sasrec'"),
        ("sasrec by ndcg@10 on games", "needs two rows"),
        (
            "gru4rec > sasrec by ndcg@10",
            "gru4rec > sasrec, but by ndcg@10 on beauty the published figures say otherwise",
        ),
    ],
)
def test_a_wrong_line_is_named(rows, spec, message):
    with pytest.raises(InputError, match=message.replace("`", ".").replace("@", ".")):
        read_orders("t", [spec], rows)


def test_an_id_of_an_order_stands_for_its_rows():
    rows = tables.find_rows("hstu-blair-games/hstu-over-sasrec")
    assert sorted(row.name for row in rows) == ["hstu", "sasrec"]
    assert [order.id for order in tables.find_orders(rows)] == ["hstu-blair-games/hstu-over-sasrec/games"]


def test_intervals_decide():
    (order,) = tables.find_orders(tables.find_rows("hstu-blair-games/hstu-over-sasrec"))
    bare = dataclasses.replace(order, claimed=set())
    for low, high, claimed, seen in (
        (0.001, 0.02, HOLDS, HOLDS), (-0.02, -0.001, REVERSED, REVERSED), (-0.001, 0.02, NOT_SHOWN, UNDECIDED),
        (0.0, 0.0, NOT_SHOWN, UNDECIDED),
    ):  # fmt: skip
        assert judge(order, "ndcg@10", 0.01, low, high)["verdict"] == claimed
        assert judge(bare, "ndcg@10", 0.01, low, high)["verdict"] == seen
    assert [display.is_success({"verdict": v}) for v in (HOLDS, UNDECIDED, NOT_SHOWN, REVERSED)] == [True, True] + [
        False
    ] * 2


def test_a_pattern_names_all_rows_of_one_data_set():
    rows = tables.find_rows("slices-platforms/*/wines")
    assert {row.label for row in rows} == {"wines"}
    assert [row.name for row in rows] == [
        row.name for row in tables.load_table("slices-platforms") if row.label == "wines"
    ]


def test_a_question_is_answered_and_is_no_failure():
    rows = tables.load_table("slices-platforms")
    found = [order for order in tables.load_orders("slices-platforms", rows) if order.id.endswith("hstu/retail")]
    assert [order.id for order in found] == ["slices-platforms/hstublair-over-hstu/retail"]
    assert found[0].asked == {"ndcg@10", "recall@10"} and not found[0].claimed
    for low, high, answer in ((0.001, 0.02, ABOVE), (-0.02, -0.001, BELOW), (-0.001, 0.02, UNDECIDED)):
        figure = judge(found[0], "ndcg@10", 0.01, low, high)
        assert figure["verdict"] == answer and display.is_success({"verdict": verdict([figure])})


def test_a_recorded_answer_can_be_contradicted(rows):
    small = [row for row in rows if row.label == "games" and row.name in ("gru4rec", "sasrec")]
    (order,) = read_orders("t", ["gru4rec against sasrec by ndcg@10"], small)
    assert order.published["ndcg@10"] < 0
    for low, high, answer in ((0.001, 0.02, REVERSED), (-0.02, -0.001, BELOW), (-0.001, 0.02, UNDECIDED)):
        assert judge(order, "ndcg@10", 0.01, low, high)["verdict"] == answer


def test_p_values_of_orders_are_corrected_for_their_number():
    """Holm by hand: .01 x 3, .02 x 2, .03 x 1, none below the one before."""
    results = [{"figures": [{"p_value": 0.03}, {"metric": "mrr"}]}, {"figures": [{"p_value": 0.01}, {"p_value": 0.02}]}]
    correct_p_values(results)
    corrected = [figure.get("p_value_holm") for result in results for figure in result["figures"]]
    assert corrected == pytest.approx([0.04, None, 0.03, 0.04])


def write_ranks(folder, ranks, items="abcdefghij"):
    folder.mkdir(parents=True)
    users = [f"u{n // 2}" for n in range(len(ranks))]  # two rows a user
    table = {"user_id": users, "item_id": list(items[: len(ranks)]), "history_length": [1] * len(ranks)}
    pq.write_table(
        pa.table({**table, "rank": np.asarray(ranks, float)}), folder / "ranks.parquet", write_page_checksum=True
    )
    return str(folder)


def test_ranks_of_two_trainings_are_paired_by_user_over_seeds(tmp_path):
    """Ranks 1 and 3 of the first ten: NDCG@10 1 and 1/2. The mean over two seeds is taken row by row."""
    good = [write_ranks(tmp_path / f"good{n}", ranks) for n, ranks in enumerate(([1] * 10, [3] * 10))]
    bad = [write_ranks(tmp_path / f"bad{n}", [50] * 10) for n in range(2)]
    above, below = (load_values("train", runs, "ndcg@10") for runs in (good, bad))
    assert above.values.tolist() == [0.75] * 10 and above.means == (1.0, 0.5)
    found = compare_values(above, below, 100)
    assert (found["difference"], found["low"], found["high"], found["seeds"]) == (75.0, 75.0, 75.0, "2 of 2")
    assert len(set(above.users)) == 5
    other = load_values("train", [write_ranks(tmp_path / "other", [1] * 10, "bacdefghij")], "ndcg@10")
    with pytest.raises(InputError, match="ranked other test rows, so they cannot be paired"):
        compare_values(above, other)
    (tmp_path / "none").mkdir()
    assert load_values("train", [str(tmp_path / "none")], "ndcg@10") is None


def test_the_interval_is_over_users(tmp_path):
    """One user of five decides the difference: drawn users may leave her out, so that 0 is inside the interval."""
    above = load_values("train", [write_ranks(tmp_path / "a", [1, 1] + [7] * 8)], "hit@1")
    below = load_values("train", [write_ranks(tmp_path / "b", [7] * 10)], "hit@1")
    found = compare_values(above, below)
    assert found["difference"] == pytest.approx(0.2) and found["low"] == 0.0


def test_queries_of_two_searches_are_paired(tmp_path):
    for name, values in (("a", [0.5, 1.0, 0.0]), ("b", [0.25, 0.5, 0.0])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text("{}")
        frame = {
            "id": [3, 1, 2],
            "query": ["x", "y", "z"],
            "domain": ["G", "G", "B"],
            "group": [0, 1, 2],
            "ndcg@100": values,
        }
        pd.DataFrame(frame).to_parquet(tmp_path / name / "per_query.parquet")
    above, below = (load_values("search", [str(tmp_path / n)], "ndcg@100 G") for n in "ab")
    assert above.ids.tolist() == ["1", "3"] and compare_values(above, below)["difference"] == pytest.approx(0.375)
    assert load_values("search", [str(tmp_path / "a")], "ndcg@100 All").means == (0.5,)
    assert load_values("search", [str(tmp_path / "a")], "ndcg@100 domains") is None


def test_held_out_pairs_of_two_pretrainings_are_paired(tmp_path):
    """Ranks 1, 3 and 20: NDCG@10 1, .5 and 0. Before the training all are 3. Two pairs are of one item."""
    folder = tmp_path / "pretraining"
    folder.mkdir()
    for name, ranks in (("after", [1.0, 3.0, 20.0]), ("before", [3.0] * 3)):
        pq.write_table(pa.table({"item": [0, 0, 1], "rank": ranks}), folder / f"{name}_ranks.parquet")
    after, before = (load_values("pretrain", [str(tmp_path)], metric) for metric in ("ndcg@10", "before ndcg@10"))
    assert after.values.tolist() == [1.0, 0.5, 0.0] and before.values.tolist() == [0.5] * 3
    found = compare_values(after, before)
    assert found["difference"] == 0 and (found["low"], found["high"]) == (-0.5, 0.25)  # items alone are drawn
    assert load_values("pretrain", [str(tmp_path / "none")], "ndcg@10") is None


def test_an_untrained_row_is_compared_by_its_own_names():
    rows = {row.name: row for row in tables.load_table("slices-scaling")}
    assert rows["pairs-0"].metric_name("ndcg@10") == "before ndcg@10" and rows["pairs-1k"].metric_name("mrr") == "mrr"
    steps = [Planner(Places(plm=".")).steps_of(rows[name]) for name in ("pairs-0", "pairs-1k")]
    assert steps[0] == steps[1]  # one pretraining has both


def test_an_order_becomes_a_result_with_its_lines(tmp_path):
    (order,) = tables.find_orders(tables.find_rows("hstu-blair-games/hstu-over-sasrec"))
    hstu, sasrec = ({"runs": [write_ranks(tmp_path / n, [rank] * 10)]} for n, rank in (("hstu", 1), ("sasrec", 50)))
    result = compare_order(order, hstu, sasrec)
    result["verdict"] = verdict(result["figures"])
    assert result["verdict"] == HOLDS and json.dumps(result)
    text = "\n".join(display.result_lines(result))
    assert "ndcg@10" in text and "published        .0168" in text and "ours 1 [1, 1]" in text
    assert "holds (the 95 % interval is above 0)" in text and "above in 1 of 1 seeds" in text
    turned = compare_order(order, sasrec, hstu)
    assert {figure["verdict"] for figure in turned["figures"]} == {REVERSED}
    (tmp_path / "empty").mkdir()
    nothing = compare_order(order, {"runs": [str(tmp_path / "empty")]}, sasrec)
    assert {figure["verdict"] for figure in nothing["figures"]} == {NOT_COMPARABLE}
    assert "not comparable (the runs of train leave no ndcg@10" in "\n".join(
        display.result_lines({**nothing, "verdict": "x"})
    )


def test_a_full_run_judges_rows_and_then_orders(tmp_path, monkeypatch):
    from recbole_blair.reproduce import runner
    from recbole_blair.reproduce.run import run_full

    class Stub:
        """Gives the published figures as the measured ones, HSTU's ranks better than SASRec's."""

        def __init__(self, planner, places, folder):
            self.planner = planner

        def run(self, name):
            model = self.planner.steps[name].keys["model"]
            row = next(row for row in rows if row.model == model)
            folder = tmp_path / model
            if not folder.exists():
                write_ranks(folder, [1 if model == "HSTU" else 50] * 10)
            return {"metrics": dict(row.published), "runs": [str(folder)]}

    monkeypatch.setattr(runner, "Runner", Stub)
    rows = tables.find_rows("hstu-blair-games/hstu-over-sasrec")
    results = run_full(rows, Places(output_dir=str(tmp_path / "out")))
    assert [(r["id"].split("/")[1], r["verdict"]) for r in results] == [
        ("hstu", "within tolerance"), ("sasrec", "within tolerance"), ("hstu-over-sasrec", HOLDS),
    ]  # fmt: skip
    saved = json.loads((tmp_path / "out/full/results/hstu-blair-games.json").read_text())
    assert saved["hstu-blair-games/hstu-over-sasrec/games"]["verdict"] == HOLDS
    lines = "\n".join(display.status_lines(rows, tmp_path / "out"))
    assert "hstu-blair-games/hstu-over-sasrec/games" in lines and "full: holds" in lines

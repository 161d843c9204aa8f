"""NDCG, Recall, MRR: by hand, and against ir-measures on the saved run files."""

import math

import numpy as np
import pytest

from recbole_blair.search import metrics, runs
from recbole_blair.search.readers import Pool
from recbole_blair.search.tasks import Task


def test_one_target_by_hand():
    scores = metrics.score_rankings(np.array([[5, 9, 2], [5, 9, -1]]), [{2: 100}, {2: 100}], [1, 3])
    assert scores["ndcg@3"] == pytest.approx([1 / 2, 0])
    assert scores["mrr@3"] == pytest.approx([1 / 3, 0])
    assert scores["recall@3"].tolist() == [1, 0]
    assert scores["ndcg@1"].tolist() == [0, 0]


def test_graded_by_hand():
    gains = [{0: 100, 1: 10, 2: 100}]
    scores = metrics.score_rankings(np.array([[1, 7, 0]]), gains, [3])
    dcg = 10 / math.log2(2) + 100 / math.log2(4)
    ideal = 100 / math.log2(2) + 100 / math.log2(3) + 10 / math.log2(4)
    assert scores["ndcg@3"] == pytest.approx([dcg / ideal])
    assert scores["recall@3"] == pytest.approx([1 / 2])  # Exact items only
    assert scores["mrr@3"] == pytest.approx([1 / 3])


def test_cutoff_beyond_the_depth_is_refused():
    with pytest.raises(ValueError, match=r"outside 1..2"):
        metrics.score_rankings(np.zeros((1, 2), dtype=int), [{0: 100}], [3])


def random_run(seed, n=40, n_items=200, depth=50):
    """Rankings with many equal scores, short lists, graded judgements and queries that find nothing."""
    rng = np.random.default_rng(seed)
    pool = Pool([f"B{rng.integers(10**6):06d}x{i}" for i in range(n_items)], ["X"] * n_items, [""] * n_items, "p")
    positions = np.stack([rng.permutation(n_items)[:depth] for _ in range(n)])
    scores = -np.sort(-rng.integers(0, 12, size=(n, depth)).astype(np.float32) / 7, axis=1)
    for row in range(0, n, 5):
        cut = rng.integers(0, depth)
        positions[row, cut:], scores[row, cut:] = -1, -np.inf
    gains = []
    for row in range(n):
        judged = rng.choice(n_items, 6, replace=False)
        gains.append(dict(zip(judged.tolist(), [100, *rng.choice([0, 1, 10, 100], 5).tolist()])))
        if row % 3 == 0:
            gains[-1] = {int(positions[row, rng.integers(0, depth)]) % n_items: 100}
    task = Task([f"q{i}" for i in range(n)], ["t"] * n, gains, ["X"] * n, np.arange(n), [], [], "graded")
    return task, pool, positions, scores


@pytest.mark.parametrize("seed", range(5))
def test_saved_run_files_score_the_same_in_ir_measures(tmp_path, seed):
    ir_measures = pytest.importorskip("ir_measures")
    from ir_measures import RR, R, nDCG

    task, pool, positions, scores = random_run(seed)
    ours = metrics.score_rankings(positions, task.gains, [1, 10, 50])
    runs.write_run(tmp_path, task, pool, positions, scores, ours, {"retriever": "a b"})
    qrels = list(ir_measures.read_trec_qrels(str(tmp_path / runs.QRELS_FILE)))
    run = list(ir_measures.read_trec_run(str(tmp_path / runs.RUN_FILE)))
    for k in (1, 10, 50):
        for name, measure in (
            (f"ndcg@{k}", nDCG @ k), (f"recall@{k}", R(rel=100) @ k), (f"mrr@{k}", RR(rel=100) @ k)
        ):  # fmt: skip
            theirs = {m.query_id: m.value for m in ir_measures.iter_calc([measure], qrels, run)}
            assert len(theirs) == len(task)
            for query, value in zip(task.ids, ours[name]):
                assert theirs[query] == pytest.approx(value, abs=1e-6), (name, query)


def test_ties_are_separated_without_changing_an_order():
    scores = np.array([[3.0, 3.0, 3.0, 1.0, -np.inf], [0.0, 0.0, -1.0, -1.0, -1.0]], dtype=np.float32)
    out = runs.separate_ties(scores)
    assert (np.diff(out[0][:4]) < 0).all()
    assert (np.diff(out[1]) < 0).all()
    np.testing.assert_allclose(out[:, :4], scores[:, :4], atol=1e-6)


def test_summary_means_over_queries_and_over_domains():
    rows = metrics.summarise({"ndcg@1": np.array([1.0, 0.0, 0.0, 0.5])}, ["X", "X", "X", "Y"], n_boot=200)
    by = {row["domain"]: row for row in rows}
    assert by[metrics.MEAN_QUERIES]["ndcg@1"] == pytest.approx(0.375)
    assert by[metrics.MEAN_DOMAINS]["ndcg@1"] == pytest.approx((1 / 3 + 0.5) / 2)
    assert by["X"]["queries"] == 3
    assert by["Y"]["ndcg@1_low"] == by["Y"]["ndcg@1_high"] == 0.5
    assert by[metrics.MEAN_QUERIES]["ndcg@1_low"] <= 0.375 <= by[metrics.MEAN_QUERIES]["ndcg@1_high"]


def test_bootstrap_draws_whole_groups():
    values = np.repeat([0.0, 1.0], 50)
    rows = metrics.bootstrap_interval(values, np.arange(100), 2000)
    groups = metrics.bootstrap_interval(values, np.repeat([0, 1], 50), 2000)
    assert groups == (0.0, 1.0)  # two groups: both drawn alike a quarter of the time each
    assert rows[1] - rows[0] == pytest.approx(4 * 0.5 / 10, abs=0.03)  # 2 x 1.96 standard errors
    assert rows == metrics.bootstrap_interval(values, np.arange(100), 2000)

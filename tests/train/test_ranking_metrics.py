"""Metrics by hand and against ir-measures; ranks with ties in the middle."""

from math import log2

import numpy as np
import pytest
import torch

from recbole_blair.errors import InputError
from recbole_blair.ops import rank_targets
from recbole_blair.train.metrics import compute_metrics, parse_metric

NAMES = ["recall", "ndcg", "hit", "mrr"]


def test_values_by_hand():
    found = compute_metrics(np.array([1.0, 2.0, 3.5, 11.0]), NAMES, [3, 10])
    assert found == pytest.approx(
        {
            "recall@3": 2 / 4,
            "hit@3": 2 / 4,
            "ndcg@3": (1 + 1 / log2(3)) / 4,
            "mrr@3": (1 + 1 / 2) / 4,
            "recall@10": 3 / 4,
            "hit@10": 3 / 4,
            "ndcg@10": (1 + 1 / log2(3) + 1 / log2(4.5)) / 4,
            "mrr@10": (1 + 1 / 2 + 1 / 3.5) / 4,
            "mrr": (1 + 1 / 2 + 1 / 3.5 + 1 / 11) / 4,
        }
    )
    assert list(found) == [f"{m}@{k}" for k in (3, 10) for m in NAMES] + ["mrr"]


def test_the_metric_of_early_stopping_is_there_too():
    assert compute_metrics(np.array([2.0]), ["recall"], [1], also=["ndcg@2"]) == {"recall@1": 0, "ndcg@2": 1 / log2(3)}
    assert compute_metrics(np.array([2.0]), ["recall"], [1], also=["mrr"]) == {"recall@1": 0, "mrr": 0.5}


def test_no_rows_are_no_metrics():
    with pytest.raises(InputError, match="no rows to evaluate"):
        compute_metrics(np.array([]), NAMES, [10])


def test_names_of_metrics():
    assert parse_metric("NDCG@10") == ("ndcg", 10) and parse_metric("mrr") == ("mrr", None)
    for bad in ("ndcg@0", "recall@x", "hit", "recall@-1"):
        with pytest.raises(InputError, match="needs a k above 0"):
            parse_metric(bad)
    with pytest.raises(InputError, match=r"unknown metric 'ndgc@5'; known: .*Did you mean 'ndcg'"):
        parse_metric("ndgc@5")


@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_ir_measures(seed):
    ir_measures = pytest.importorskip("ir_measures")
    from ir_measures import RR, R, Success, nDCG

    rng = np.random.default_rng(seed)
    rows, items = 30, 40
    scores = rng.permuted(np.tile(np.arange(items, dtype=float), (rows, 1)), axis=1)
    target = rng.integers(1, items, rows)
    rank = rank_targets(torch.from_numpy(scores), torch.from_numpy(target))
    ours = compute_metrics(np.asarray(rank), NAMES, [1, 10])
    qrels = [ir_measures.Qrel(str(i), f"d{t}", 1) for i, t in enumerate(target)]
    run = [ir_measures.ScoredDoc(str(i), f"d{j}", scores[i, j]) for i in range(rows) for j in range(1, items)]
    for k in (1, 10):
        for name, measure in (("ndcg", nDCG @ k), ("recall", R @ k), ("hit", Success @ k), ("mrr", RR @ k)):
            theirs = ir_measures.calc_aggregate([measure], qrels, run)[measure]
            assert ours[f"{name}@{k}"] == pytest.approx(theirs, abs=1e-9), (name, k)
    assert ours["mrr"] == pytest.approx(ir_measures.calc_aggregate([RR], qrels, run)[RR], abs=1e-9)


def test_a_target_in_ties_holds_the_middle_of_them():
    scores = torch.tensor([[9.0, 1.0, 1.0, 1.0, 0.0], [9.0, 5.0, 2.0, 2.0, 7.0], [9.0, 0.0, 0.0, 0.0, 0.0]])
    assert np.asarray(rank_targets(scores, torch.tensor([2, 3, 4]))).tolist() == [2.0, 3.5, 2.5]


def test_the_padding_item_is_never_a_candidate():
    scores = torch.tensor([[float("inf"), 3.0, 2.0], [float("nan"), 3.0, 2.0]])
    assert np.asarray(rank_targets(scores, torch.tensor([1, 2]))).tolist() == [1.0, 2.0]


def test_a_score_that_is_no_number_is_an_error():
    with pytest.raises(FloatingPointError, match="scores a target as NaN; lower the learning rate or use"):
        rank_targets(torch.tensor([[0.0, float("nan"), float("nan")]]), torch.tensor([1]))

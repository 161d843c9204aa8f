"""Metrics by hand and against ir-measures; ranks with ties in the middle."""

from math import log2

import numpy as np
import pytest
import torch

from recbole_blair.errors import InputError
from recbole_blair.ops import rank_targets
from recbole_blair.train.metrics import compute_metrics, metric_values, parse_metric, part_ties

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


def test_values_of_users_with_several_relevant_items_by_hand():
    rank, user = np.array([1.0, 4.0, 2.0, 5.0, 12.0]), np.array([7, 7, 3, 3, 3])
    values = {
        name: metric_values(rank, name, user).tolist() for name in ("recall@4", "hit@4", "ndcg@4", "mrr@4", "mrr")
    }
    assert values["recall@4"] == pytest.approx([1 / 3, 1.0])  # user 3, then user 7
    assert values["hit@4"] == [1, 1]
    ideal = [1 + 1 / log2(3) + 1 / log2(4), 1 + 1 / log2(3)]
    assert values["ndcg@4"] == pytest.approx([1 / log2(3) / ideal[0], (1 + 1 / log2(5)) / ideal[1]])
    assert values["mrr@4"] == values["mrr"] == [1 / 2, 1.0]
    assert compute_metrics(rank, ["recall"], [4], user=user) == {"recall@4": pytest.approx((1 / 3 + 1) / 2)}
    assert metric_values(rank, "ndcg@1", user).tolist() == [0, 1]  # of two relevant items one place holds one


def test_users_are_counted_as_recbole_counts_them():
    """Against RecBole's own metrics, on scores without ties."""
    from recbole.evaluator.metrics import MRR, NDCG, Hit, Recall

    from recbole_blair import compat

    compat.apply()
    rng = np.random.default_rng(0)
    scores = rng.permuted(np.tile(np.arange(40.0), (25, 1)), axis=1)  # 25 users, 40 items
    relevant = rng.random((25, 40)) < 0.15
    relevant[:, 0] |= ~relevant.any(1)
    place = (-scores).argsort(1).argsort(1) + 1  # (25, 40) rank of each item
    user, item = np.nonzero(relevant)
    topk = [10, 20, 30]
    found = compute_metrics(place[user, item].astype(float), NAMES, topk, user=user)
    in_order = np.take_along_axis(relevant, (-scores).argsort(1), 1)[:, :30]  # what RecBole collects
    config = {"topk": topk, "metric_decimal_place": 12}
    for metric in (Recall, NDCG, Hit, MRR):
        one = metric(config)
        one.used_info = lambda _: (in_order, relevant.sum(1))
        for key, value in one.calculate_metric(None).items():
            assert found[key] == pytest.approx(value, abs=1e-9), key


def test_items_of_a_user_that_tie_stand_beside_each_other():
    rank, user = np.array([2.5, 2.5, 3.0, 3.0, 3.0, 9.0, 2.5]), np.array([0, 0, 1, 1, 1, 1, 2])
    assert part_ties(rank, user).tolist() == [2, 3, 2, 3, 4, 9, 2.5]
    assert part_ties(np.array([]), np.array([], np.int64)).tolist() == []


def test_a_ranking_that_ties_all_items_scores_no_more_than_a_perfect_one():
    """Five items, three relevant, one score: the middle for all of them would put three items on two places."""
    rank = part_ties(np.array([3.0, 3.0, 3.0]), np.zeros(3, np.int64))
    assert rank.tolist() == [2, 3, 4]
    assert metric_values(rank, "recall@3", np.zeros(3, np.int64)).tolist() == pytest.approx([2 / 3])
    assert metric_values(rank, "ndcg@3", np.zeros(3, np.int64))[0] < 1

"""Ranks, NDCG and candidates, worked by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset

from recbole_blair.pretrain.retrieval import build_retrieval_task, mean_cosine, retrieval_metrics, target_ranks


def test_ranks_with_ties_in_the_middle():
    items = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [-1.0, 0.0]])
    queries = torch.tensor([[5.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    # Query 0: items 0 and 2 tie at 1; its item 0 stands at 1.5. Query 1: item 1 first. Query 2: item 3 last.
    assert target_ranks(queries, items, torch.tensor([0, 1, 3])).tolist() == [1.5, 1.0, 4.0]


def test_metrics_by_hand():
    found = retrieval_metrics(torch.tensor([1.0, 3.0, 11.0], dtype=torch.float64), topk=(10,))
    assert found["ndcg@10"] == pytest.approx((1 + 1 / math.log2(4)) / 3)
    assert found["recall@10"] == pytest.approx(2 / 3)
    assert found["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 11) / 3)


def test_candidates_are_the_held_out_items_then_the_others():
    held = Dataset.from_dict({"context": ["q1", "q2", "q3"], "metadata": ["a", "b", "a2"], "item_id": ["A", "B", "A"]})
    train = Dataset.from_dict(
        {"context": ["t"] * 4, "metadata": ["c", "a", "d", "c2"], "item_id": ["C", "A", "D", "C"]}
    )
    task = build_retrieval_task(held, train, 100, 0)
    assert task.contexts == ["q1", "q2", "q3"] and task.target.tolist() == [0, 1, 0]
    assert task.items == ["a", "b", "c", "d"]
    assert build_retrieval_task(held, train, 3, 0).items in (["a", "b", "c"], ["a", "b", "d"])
    assert build_retrieval_task(held, train, 1, 0).items == ["a", "b"]
    assert build_retrieval_task(held.select([]), train, 10, 0) is None


def test_the_mean_cosine_is_over_pairs_of_different_items():
    items = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)) + 1
    pairs = [float(F.cosine_similarity(items[i], items[j], dim=0)) for i in range(7) for j in range(7) if i != j]
    assert mean_cosine(items) == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    assert mean_cosine(torch.ones(3, 4)) == pytest.approx(1.0)

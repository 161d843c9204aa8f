"""Full ranking against a naive sort: ties, chunks, the masked history, both ways of scoring."""

import contextlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from builds import random_sequences, write_build

from recbole_blair.config import Config
from recbole_blair.data.dataset import BlairDataset
from recbole_blair.data.loader import RowLoader
from recbole_blair.ops import DotScores
from recbole_blair.train import evaluation
from recbole_blair.train.evaluation import Evaluator

SEQUENCES = random_sequences(n_users=25, n_items=7, seed=5, longest=12)  # longer than the catalogue: items come back
SETTINGS = {
    "max_score_elements": 1 << 20, "mask_history": False, "show_progress": False, "metrics": ["recall", "ndcg"],
    "topk": [1, 3], "valid_metric": "ndcg@3",
}  # fmt: skip


class FullSort(torch.nn.Module):
    """Small whole-number scores, so that ties are many and exact; the padding item scores highest."""

    def __init__(self, n_users, n_items):
        super().__init__()
        rng = np.random.default_rng(0)
        table = rng.integers(0, 4, (n_users, n_items)).astype(np.float32)
        table[:, 0] = 100
        self.register_buffer("table", torch.from_numpy(table))

    def full_sort_predict(self, interaction):
        return self.table[interaction["user_id"]].clone()


class DotProduct(FullSort):
    """The same scores as products of a user's row with unit item vectors."""

    def project_items(self, items=None):
        return torch.eye(self.table.shape[1])[1:]

    def item_vectors(self, projected=None):
        return torch.nn.functional.pad(projected, (0, 0, 1, 0))

    def user_vectors(self, interaction, projected=None):
        return self.table[interaction["user_id"]]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return BlairDataset(write_build(tmp_path_factory.mktemp("evaluation"), SEQUENCES, max_history=3))


def evaluator(dataset, split="test", batch_size=6, **changes):
    loader = RowLoader(dataset, split, batch_size, max_length=3)
    return Evaluator(loader, Config({**SETTINGS, **changes}), torch.device("cpu"), contextlib.nullcontext)


def naive_ranks(dataset, table, split, masked):
    """Sort every row's candidates in plain Python; a masked one is what came before, all of it, but the target."""
    ranks = []
    rows = dataset.rows[split]
    for i in range(len(rows)):
        user = int(rows.user[i])
        target = int(dataset.seq_items[rows.target[i]])
        candidates = set(range(1, dataset.n_items))
        if masked:
            start = int(dataset.user_start[user])
            candidates -= set(dataset.seq_items[start : rows.target[i]].tolist()) - {target}
        ordered = sorted(candidates, key=lambda item: -table[user, item])
        places = [p for p, item in enumerate(ordered, 1) if table[user, item] == table[user, target]]
        ranks.append(sum(places) / len(places))
    return ranks


@pytest.mark.parametrize("model_class", [FullSort, DotProduct])
@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize("masked", [False, True])
def test_ranks_are_those_of_a_naive_sort(dataset, model_class, split, masked):
    model = model_class(dataset.n_users, dataset.n_items)
    found = evaluator(dataset, split, mask_history=masked).ranks(model)
    assert found.tolist() == naive_ranks(dataset, model.table.numpy(), split, masked)


def test_the_masked_history_is_the_whole_one_and_spares_the_target(dataset):
    model = FullSort(dataset.n_users, dataset.n_items)
    plain, masked = (evaluator(dataset, mask_history=m).ranks(model) for m in (False, True))
    assert (masked <= plain).all() and (masked < plain).any()
    again = [
        i for i, t in enumerate(dataset.rows["test"].target)
        if dataset.seq_items[t] in dataset.seq_items[dataset.user_start[dataset.rows["test"].user[i]] : t]
    ]  # fmt: skip
    assert again and np.isfinite(masked[again]).all() and masked.max() <= dataset.n_items - 1


@pytest.mark.parametrize("model_class", [FullSort, DotProduct])
@pytest.mark.parametrize("changes", [{"max_score_elements": 1}, {"max_score_elements": 20}, {"batch_size": 1}])
def test_chunks_and_batches_change_nothing(dataset, model_class, changes):
    model = model_class(dataset.n_users, dataset.n_items)
    for masked in (False, True):
        whole = evaluator(dataset, mask_history=masked).ranks(model)
        assert evaluator(dataset, mask_history=masked, **changes).ranks(model).tolist() == whole.tolist()


def test_metrics_come_from_the_ranks(dataset):
    model = FullSort(dataset.n_users, dataset.n_items)
    metrics, rank = evaluator(dataset).evaluate(model)
    assert metrics["recall@1"] == np.mean(rank <= 1) and metrics["recall@3"] == np.mean(rank <= 3)
    assert set(metrics) == {"recall@1", "recall@3", "ndcg@1", "ndcg@3"}


def test_dropout_is_off_and_nothing_is_learnt(dataset):
    model = FullSort(dataset.n_users, dataset.n_items)
    model.train()
    evaluator(dataset).ranks(model)
    assert not model.training


def test_a_model_that_scores_nan_stops_the_evaluation(dataset):
    model = DotProduct(dataset.n_users, dataset.n_items)
    model.table[3] = float("nan")
    with pytest.raises(FloatingPointError, match="a user's vector is not finite"):
        evaluator(dataset).ranks(model)


@pytest.mark.parametrize("mask", [False, True])
def test_a_bf16_run_scores_coarsely_where_the_chip_is_made_for_it(dataset, monkeypatch, mask):
    seen = []

    def watched(self, users, target, plain=DotScores.extend_users):
        extended = plain(self, users, target)
        seen.append(extended.dtype)
        return extended

    monkeypatch.setattr(DotScores, "extend_users", watched)
    model, wanted = DotProduct(dataset.n_users, dataset.n_items), evaluator(dataset, mask_history=mask)
    exact = wanted.ranks(model)
    assert set(seen) == {torch.float32}
    wanted.autocast = lambda: torch.autocast("cpu", torch.bfloat16)
    for fast, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        monkeypatch.setattr(evaluation, "has_fast_bf16", lambda device, fast=fast: fast)
        seen.clear()
        assert np.array_equal(wanted.ranks(model), exact)  # whole numbers below 2^8: bfloat16 holds them
        assert set(seen) == {dtype}

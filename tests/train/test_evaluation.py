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
from recbole_blair.device import coarse_products, has_fast_bf16
from recbole_blair.train import evaluation
from recbole_blair.train.evaluation import MANY_SCORES, Evaluator, count_above_and_equal

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
    with pytest.raises(FloatingPointError, match="scores a target as NaN"):
        evaluator(dataset).ranks(model)


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("threads", [1, 3])
def test_counting_in_threads_equals_counting_in_one(rows, threads):
    scores = torch.from_numpy(np.random.default_rng(0).integers(0, 50, (rows, MANY_SCORES + 1)).astype(np.float32))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        above, ties = count_above_and_equal(scores, scores[:, 5:6])
    finally:
        torch.set_num_threads(before)
    assert above.tolist() == (scores > scores[:, 5:6]).sum(1).tolist()
    assert ties.tolist() == (scores == scores[:, 5:6]).sum(1).tolist()


def test_coarse_products_end_where_they_began_and_stay_near():
    """bfloat16 keeps eight bits: a product of unit vectors is off by less than 2^-7, and no result is rounded to it."""
    device = torch.device("cpu")
    users, items = (torch.nn.functional.normalize(torch.randn(n, 64), dim=1) for n in (32, 500))
    exact = users @ items.T
    with coarse_products(device):
        coarse = users @ items.T
    assert coarse.dtype == torch.float32 and (coarse - exact).abs().max() < 2**-7
    assert len(coarse[0].unique()) == 500  # rounded to bfloat16 they would tie
    assert torch.equal(users @ items.T, exact)
    if has_fast_bf16(device):
        assert not torch.equal(coarse, exact)


def test_a_bf16_run_scores_by_coarse_products(dataset, monkeypatch):
    seen = []

    @contextlib.contextmanager
    def watched(device):
        seen.append(device)
        yield

    monkeypatch.setattr(evaluation, "coarse_products", watched)
    model, wanted = DotProduct(dataset.n_users, dataset.n_items), evaluator(dataset)
    exact = wanted.ranks(model)
    assert not seen
    wanted.autocast = lambda: torch.autocast("cpu", torch.bfloat16)
    assert np.array_equal(wanted.ranks(model), exact) and seen  # whole numbers below 2^8: bfloat16 holds them

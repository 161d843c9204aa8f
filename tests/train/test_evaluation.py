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
from recbole_blair.train import evaluation, ranks
from recbole_blair.train.evaluation import Evaluator
from recbole_blair.train.ranks import count_above_and_equal, device_ranks, rank_targets
from recbole_blair.train.scores import DotScores

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("at_once", [1, 3000, 1 << 24])
def test_counts_do_not_depend_on_how_many_rows_are_compared_at_a_time(dtype, at_once, monkeypatch):
    monkeypatch.setattr(ranks, "CACHE_BYTES", at_once)
    scores = torch.from_numpy(np.random.default_rng(0).integers(0, 50, (7, 301))).to(dtype)
    above, ties = count_above_and_equal(scores, scores[:, 5:6])
    assert above.tolist() == (scores > scores[:, 5:6]).sum(1).tolist()
    assert ties.tolist() == (scores == scores[:, 5:6]).sum(1).tolist()


@pytest.mark.parametrize("most", [2**23, 2**24 + 1])
def test_counts_of_millions_are_whole_numbers(most):
    own = torch.zeros(1, 1, dtype=torch.bfloat16)
    above, ties = count_above_and_equal(torch.ones(1, most, dtype=torch.bfloat16), own)
    assert above.tolist() == [most] and ties.tolist() == [0]


def test_bfloat16_numbers_are_counted_as_float32_ones_are():
    """Both signs, both zeros, tiny numbers, infinities and a NaN, as numbers and as what they are compared with."""
    numbers = torch.tensor([0.0, -0.0, 1.5, 1.5, -1.5, -1.5, 2.0, -2.0, 1e-38, 1e-40, torch.inf, -torch.inf])
    own = torch.cat([numbers, torch.tensor([torch.nan])])[:, None]
    rows = numbers.repeat(len(own), 1)
    above, ties = count_above_and_equal(rows.bfloat16(), own.bfloat16())
    assert above.tolist() == (rows.bfloat16().float() > own.bfloat16().float()).sum(1).tolist()
    assert ties.tolist() == (rows.bfloat16().float() == own.bfloat16().float()).sum(1).tolist()
    assert ties[-1] == 0 and ties[0] == 2


def test_coarse_ranks_are_those_of_float32_sums_of_bfloat16_inputs():
    """Not those of scores rounded to bfloat16, which tie; equal vectors tie still."""
    generator = torch.Generator().manual_seed(0)
    users, table = (torch.randn(n, 48, generator=generator) for n in (40, 3001))
    users, table = torch.nn.functional.normalize(users), torch.nn.functional.normalize(table)
    table[0] = 0
    table[2000:2010] = table[7]
    target = torch.randint(1, 2000, (40,), generator=generator)
    target[0] = 7
    scorer = DotScores(table, coarse=True)
    found = rank_targets(scorer.against(users, target), target)
    exact = (users.bfloat16().double() @ table.bfloat16().double().T)[:, 1:]
    own = exact.gather(1, target[:, None] - 1)
    assert ((exact - own).abs() < 1e-7).sum(1).tolist() == [11, *[1] * 39]  # no near ties but those that are ties
    expected = (exact > own + 1e-7).sum(1) + (((exact - own).abs() < 1e-7).sum(1) + 1) / 2
    assert found.tolist() == expected.tolist()
    for at_once in (1 << 25, 5000, 41):
        assert DotScores(table, True, max_elements=at_once).ranks(users, target).tolist() == expected.tolist()
    rounded = exact.bfloat16()
    assert (rounded == rounded.gather(1, target[:, None] - 1)).sum() > 100  # what the shift avoids
    torch.testing.assert_close(scorer.plain(users)[:, 1:].double(), exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("at_once", [1 << 25, 3000, 30])
def test_blocks_of_items_rank_as_whole_rows_do(coarse, at_once):
    generator = torch.Generator().manual_seed(1)
    users, table = (torch.nn.functional.normalize(torch.randn(n, 20, generator=generator)) for n in (30, 901))
    table[0] = 0
    target = torch.randint(1, 901, (30,), generator=generator)
    dropped = torch.arange(30).repeat_interleave(9), torch.randint(1, 901, (270,), generator=generator)
    dropped = tuple(x[dropped[1] != target[dropped[0]]] for x in dropped)
    scorer = DotScores(table, coarse, at_once)
    scores = scorer.against(users, target)
    scores[dropped] = float("-inf")
    expected = rank_targets(scores, target).tolist()
    assert scorer.ranks(users, target, dropped).tolist() == expected
    scorer.on_cpu = False  # a GPU's way: some users at a time, whole rows
    assert scorer.ranks(users, target, dropped).tolist() == expected


def test_a_target_whose_score_comes_out_otherwise_in_its_block_is_ranked_from_its_whole_row(monkeypatch):
    users, table = torch.randn(9, 5), torch.randn(50, 5)
    target = torch.arange(1, 10)
    exact = DotScores(table).ranks(users, target)

    def other(self, laid, target, plain=DotScores.own_scores):
        own = plain(self, laid, target)
        own[3], own[5] = own[3] + 1.0, float("nan")
        return own

    monkeypatch.setattr(DotScores, "own_scores", other)
    assert DotScores(table).ranks(users, target).tolist() == exact.tolist()


@pytest.mark.parametrize("mask", [False, True])
def test_a_bf16_run_scores_coarsely_where_the_chip_is_made_for_it(dataset, monkeypatch, mask):
    seen = []

    def watched(self, users, target, plain=DotScores.laid_out):
        laid = plain(self, users, target)
        seen.append(laid.dtype)
        return laid

    monkeypatch.setattr(DotScores, "laid_out", watched)
    model, wanted = DotProduct(dataset.n_users, dataset.n_items), evaluator(dataset, mask_history=mask)
    exact = wanted.ranks(model)
    assert set(seen) == {torch.float32}
    wanted.autocast = lambda: torch.autocast("cpu", torch.bfloat16)
    for fast, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        monkeypatch.setattr(evaluation, "has_fast_bf16", lambda device, fast=fast: fast)
        seen.clear()
        assert np.array_equal(wanted.ranks(model), exact)  # whole numbers below 2^8: bfloat16 holds them
        assert set(seen) == {dtype}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpus_way_of_ranking_counts_the_same(dtype):
    scores = torch.randint(-3, 4, (40, 301)).to(dtype)
    scores[0, 5], scores[1, 7] = float("-inf"), 1e-30
    own = scores.gather(1, torch.randint(0, 301, (40, 1)))
    wanted = (scores > own).sum(1) + ((scores == own).sum(1) + 1) / 2
    np.testing.assert_array_equal(device_ranks(scores, own), wanted.double().numpy())
    scores[3, 0] = float("nan")
    assert np.isnan(device_ranks(scores, scores[:, :1])).nonzero()[0].tolist() == [3]

"""Ranks of targets: fast forms against plain counting, ties and NaN included."""

import numpy as np
import pytest
import torch

from recbole_blair.ops import DotScores, plain, rank_targets, ranking, use_ops
from recbole_blair.ops.ranking import count_above_and_equal, rank_on_device


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(40, 301), (1, 2), (0, 9)])
def test_fast_ranks_equal_plain_ones(shape, dtype):
    scores = torch.randint(-3, 4, shape[::-1]).to(dtype).T  # many ties; not contiguous
    target = torch.randint(1, shape[1], shape[:1])
    expected = plain.rank_targets(scores, target)
    assert rank_targets(scores, target).tolist() == expected.tolist() and expected.dtype == np.float64
    with use_ops("plain"):
        assert rank_targets(scores, target).tolist() == expected.tolist()


@pytest.mark.parametrize("ops", ["fast", "plain"])
def test_a_score_that_is_no_number_is_refused(ops):
    with use_ops(ops), pytest.raises(FloatingPointError, match="scores a target as NaN"):
        rank_targets(torch.full((2, 3), torch.nan), torch.tensor([1, 2]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("at_once", [1, 3000, 1 << 24])
def test_counts_do_not_depend_on_how_many_rows_are_compared_at_a_time(dtype, at_once, monkeypatch):
    monkeypatch.setattr(ranking, "CACHE_BYTES", at_once)
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
    found = rank_targets(scorer.scores_against(users, target), target)
    exact = (users.bfloat16().double() @ table.bfloat16().double().T)[:, 1:]
    own = exact.gather(1, target[:, None] - 1)
    assert ((exact - own).abs() < 1e-7).sum(1).tolist() == [11, *[1] * 39]  # no near ties but those that are ties
    expected = (exact > own + 1e-7).sum(1) + (((exact - own).abs() < 1e-7).sum(1) + 1) / 2
    assert found.tolist() == expected.tolist()
    for at_once in (1 << 25, 5000, 41):
        assert DotScores(table, True, max_elements=at_once).ranks(users, target).tolist() == expected.tolist()
    rounded = exact.bfloat16()
    assert (rounded == rounded.gather(1, target[:, None] - 1)).sum() > 100  # what the shift avoids
    torch.testing.assert_close(scorer.scores(users)[:, 1:].double(), exact, rtol=0, atol=1e-6)


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
    scores = scorer.scores_against(users, target)
    scores[dropped] = float("-inf")
    expected = rank_targets(scores, target).tolist()
    assert scorer.ranks(users, target, dropped).tolist() == expected
    with use_ops("plain"):
        same = (scorer.ranks(users, target, dropped) == np.array(expected)).mean()
        assert same > 0.9  # other sums of the same products: a near tie may turn
    scorer.on_cpu = False  # a GPU's way: some users at a time, whole rows
    assert scorer.ranks(users, target, dropped).tolist() == expected


def test_a_target_whose_score_comes_out_otherwise_in_its_block_is_ranked_from_its_whole_row(monkeypatch):
    users, table = torch.randn(9, 5), torch.randn(50, 5)
    target = torch.arange(1, 10)
    exact = DotScores(table).ranks(users, target)

    def other(self, extended, target, own_scores=DotScores.own_scores):
        own = own_scores(self, extended, target)
        own[3], own[5] = own[3] + 1.0, float("nan")
        return own

    monkeypatch.setattr(DotScores, "own_scores", other)
    assert DotScores(table).ranks(users, target).tolist() == exact.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpus_way_of_ranking_counts_the_same(dtype):
    scores = torch.randint(-3, 4, (40, 301)).to(dtype)
    scores[0, 5], scores[1, 7] = float("-inf"), 1e-30
    own = scores.gather(1, torch.randint(0, 301, (40, 1)))
    wanted = (scores > own).sum(1) + ((scores == own).sum(1) + 1) / 2
    np.testing.assert_array_equal(rank_on_device(scores, own), wanted.double().numpy())
    scores[3, 0] = float("nan")
    assert np.isnan(rank_on_device(scores, scores[:, :1])).nonzero()[0].tolist() == [3]

"""A NaN anywhere among the scores stops the evaluation: in silence an item of NaN scores would lose to every target."""

import contextlib
import math

import numpy as np
import pytest
import torch
from builds import random_sequences, write_build

from recbole_blair.config import Config
from recbole_blair.data.dataset import BlairDataset
from recbole_blair.data.loader import RowLoader
from recbole_blair.train.evaluation import Evaluator

N_ITEMS, HIDDEN = 7, 3
SETTINGS = {
    "max_score_elements": 1 << 20, "mask_history": False, "show_progress": False, "metrics": ["recall"], "topk": [1],
    "valid_metric": "recall@1",
}  # fmt: skip


class Products(torch.nn.Module):
    """Every user has the same vector; one value of the item table or of that vector is spoilt."""

    def __init__(self, item=None, user=None, value=math.nan):
        super().__init__()
        self.items = torch.arange((N_ITEMS + 1) * HIDDEN, dtype=torch.float32).view(-1, HIDDEN)
        self.user = torch.tensor([1.0, 0.0, -1.0])
        if item is not None:
            self.items[item] = value
        if user is not None:
            self.user[user] = value

    def project_items(self, items=None):
        return self.items[1:]

    def item_vectors(self, projected=None):
        return self.items

    def user_vectors(self, interaction, projected=None):
        return self.user.expand(len(interaction), -1)


class FullSort(torch.nn.Module):
    """Scores of its own; one of them is spoilt."""

    def __init__(self, item=None):
        super().__init__()
        self.scores = torch.arange(N_ITEMS + 1, dtype=torch.float32)
        if item is not None:
            self.scores[item] = math.nan

    def full_sort_predict(self, interaction):
        return self.scores.repeat(len(interaction), 1)


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory):
    """An evaluator of ten test rows."""
    sequences = random_sequences(n_users=10, n_items=N_ITEMS, seed=5, longest=6)
    build = write_build(tmp_path_factory.mktemp("nan"), sequences, max_history=3)
    dataset = BlairDataset(build)
    assert dataset.n_items == N_ITEMS + 1
    loader = RowLoader(dataset, "test", 4, max_length=3)
    return Evaluator(loader, Config(SETTINGS), torch.device("cpu"), contextlib.nullcontext)


@pytest.mark.parametrize("masked", [False, True])
def test_finite_scores_are_ranked_and_the_padding_item_is_none(evaluator, masked):
    evaluator.config = Config({**SETTINGS, "mask_history": masked})
    for model in (Products(), Products(item=(0, 1)), FullSort(), FullSort(item=0)):
        assert np.isfinite(evaluator.ranks(model)).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("column", range(HIDDEN))
@pytest.mark.parametrize("item", range(1, N_ITEMS + 1))
def test_a_value_of_an_item_that_is_not_finite_stops_the_evaluation(evaluator, item, column, value):
    with pytest.raises(FloatingPointError, match="an item's vector is not finite, so scores would be NaN; lower"):
        evaluator.ranks(Products(item=(item, column), value=value))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("column", range(HIDDEN))
def test_a_value_of_a_user_that_is_not_finite_stops_the_evaluation(evaluator, column, value):
    with pytest.raises(FloatingPointError, match="a user's vector is not finite"):
        evaluator.ranks(Products(user=column, value=value))


@pytest.mark.parametrize("item", range(1, N_ITEMS + 1))
def test_a_score_that_is_nan_stops_the_evaluation(evaluator, item):
    with pytest.raises(FloatingPointError, match="the model scores an item as NaN; lower the learning rate"):
        evaluator.ranks(FullSort(item=item))

"""The best items of a row are those of a full stable sort."""

import pytest
import torch

from recbole_blair.recommend.topk import best_items


def naive(scores, k):
    """The same by sorting Python lists."""
    rows = []
    for row in scores.tolist():
        order = sorted((i for i in range(1, len(row)) if row[i] > float("-inf")), key=lambda i: (-row[i], i))[:k]
        rows.append((order + [0] * (min(k, len(row) - 1) - len(order)), [row[i] for i in order]))
    return rows


@pytest.mark.parametrize("levels", [2, 5, 1000])
@pytest.mark.parametrize("k", [1, 4, 19, 20, 50])
def test_best_items_equal_a_full_stable_sort(levels, k):
    scores = torch.randint(0, levels, (60, 21), generator=torch.Generator().manual_seed(levels)).float()
    scores[::3, 2:] = torch.where(torch.arange(19) % 2 == 0, float("-inf"), scores[::3, 2:])
    scores[5, 1:] = float("-inf")
    items, values = best_items(scores, k)
    for (order, own), row, value in zip(naive(scores, k), items.tolist(), values.tolist()):
        assert row == order
        assert value[: len(own)] == own and all(v == float("-inf") for v in value[len(own) :])


def test_the_padding_item_is_never_returned():
    items, _ = best_items(torch.tensor([[9.0, 1.0, 2.0]]), 3)
    assert items.tolist() == [[2, 1]]


def test_nan_is_refused():
    with pytest.raises(FloatingPointError, match="scores an item as NaN"):
        best_items(torch.tensor([[0.0, 1.0, float("nan")]]), 1)

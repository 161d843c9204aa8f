"""Packed histories: how they are grouped, padded and taken apart again."""

import pytest
import torch

from recbole_blair.ops import PackedHistories, gather_rows
from recbole_blair.ops.ragged import group_rows

MANY = 1 << 30


@pytest.mark.parametrize(
    ("counts", "most", "small", "groups"),
    [
        # Within a factor of two: 1; 2; 3 and 4; 7 and 8; 33 and 50.
        ([1, 1, 2, 3, 4, 7, 8, 33, 50], MANY, 0, [(0, 2), (2, 3), (3, 5), (5, 7), (7, 9)]),
        # At most 64 scores may hold any lengths: 4 x 4 x 4, and with the fifth 5 x 5 x 5 it would be 125.
        ([1, 2, 3, 4, 5, 40, 50], MANY, 64, [(0, 4), (4, 5), (5, 7)]),
        ([1, 2, 3, 4, 5, 40, 50], MANY, 7 * 50 * 50, [(0, 7)]),
        # At most 200 scores: two rows of 10 are all; one row of 20 has more and stands alone.
        ([10, 10, 10, 20], 200, 0, [(0, 2), (2, 3), (3, 4)]),
        ([10, 10, 10, 20], 200, MANY, [(0, 2), (2, 3), (3, 4)]),
        ([5], 1, 0, [(0, 1)]),
    ],
)
def test_groups_worked_by_hand(counts, most, small, groups):
    assert list(group_rows(counts, most, small)) == groups


def test_items_lie_where_the_batch_has_them():
    histories = PackedHistories(torch.tensor([3, 1, 2]), 4)
    assert histories.order.tolist() == [1, 2, 0]
    assert histories.row.tolist() == [0, 1, 1, 2, 2, 2]
    assert histories.step.tolist() == [0, 0, 1, 0, 1, 2]
    assert histories.start.tolist() == [0, 1, 3] and histories.last.tolist() == [0, 2, 5]
    values = torch.tensor([[1, 2, 3, 0], [4, 0, 0, 0], [5, 6, 0, 0]])
    assert histories.take(values).tolist() == [4, 5, 6, 1, 2, 3]
    assert histories.unsort(torch.tensor([10, 20, 30])).tolist() == [30, 10, 20]


def test_padding_and_back():
    histories = PackedHistories(torch.tensor([3, 1, 2, 3]), 3)
    x = torch.arange(1.0, 10.0)[:, None]
    assert [part.squeeze(2).tolist() for _, part in histories.padded(x)] == [
        [[1]], [[2, 3]], [[4, 5, 6], [7, 8, 9]],
    ]  # fmt: skip
    assert torch.equal(histories.mix(x, lambda part: part * 2), x * 2)
    last = histories.mix_last(x, lambda part, length, rows: part[torch.arange(len(part)), length - 1])
    assert last.squeeze(1).tolist() == [1, 3, 6, 9]


def test_gathered_rows_have_the_gradient_of_a_dense_gather_beside_another_use():
    """An item thousands of times in bfloat16 too: its gradient is summed before it is rounded."""
    leaf, row = torch.randn(9000, 4).bfloat16(), torch.randint(3, 6, (5000,))
    weight, other = torch.rand(5000, 4), torch.randn(9000, 4).bfloat16()
    found = []
    for gather in (gather_rows, lambda vectors, row, dtype: vectors.to(dtype)[row]):
        x = leaf.clone().requires_grad_()
        vectors = x * 1.0
        rows = gather(vectors, row, torch.float32)
        assert rows.dtype == torch.float32 and torch.equal(rows, leaf[row].float())
        ((rows * weight).sum() + (vectors * other).sum()).backward()
        found.append(x.grad)
    torch.testing.assert_close(*found, rtol=1e-2, atol=0)
    exact = torch.zeros(9000, 4).index_add_(0, row, weight) + other.float()
    torch.testing.assert_close(found[0].float(), exact, rtol=1e-2, atol=1e-6)

"""The contrastive loss against a double loop; the same-item mask."""

import math

import pytest
import torch

from recbole_blair.losses import info_nce_loss
from recbole_blair.pretrain.step import Objective, contrastive_loss


def naive_loss(anchors, candidates, target, temperature, mask):
    total = 0.0
    for i in range(len(anchors)):
        terms = {}
        for j in range(len(candidates)):
            if j != int(target[i]) and mask is not None and bool(mask[i, j]):
                continue
            cosine = torch.dot(anchors[i], candidates[j]) / (anchors[i].norm() * candidates[j].norm())
            terms[j] = torch.exp(cosine / temperature)
        total = total - torch.log(terms[int(target[i])] / sum(terms.values()))
    return total / len(anchors)


@pytest.mark.parametrize("masked", [False, True])
def test_loss_and_gradient_equal_a_double_loop(masked):
    torch.manual_seed(0)
    anchors = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    candidates = torch.randn(9, 7, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([3, 0, 8, 3, 5])
    mask = torch.rand(5, 9) < 0.4 if masked else None
    if masked:
        mask[0, 3] = True  # a mask on the positive changes nothing
    fast = info_nce_loss(anchors, candidates, target, 0.3, mask)
    fast_grads = torch.autograd.grad(fast, (anchors, candidates))
    slow = naive_loss(anchors, candidates, target, 0.3, mask)
    slow_grads = torch.autograd.grad(slow, (anchors, candidates))
    assert torch.allclose(fast, slow, atol=1e-12)
    for a, b in zip(fast_grads, slow_grads):
        assert torch.allclose(a, b, atol=1e-12)


def test_loss_worked_by_hand():
    """Cosines 1 and 0 at temperature 1: log(e + 1) - 1 for both anchors."""
    anchors = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    loss = info_nce_loss(anchors, torch.tensor([[5.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]), 1.0)
    assert float(loss) == pytest.approx(math.log(math.e + 1) - 1, abs=1e-6)


def test_loss_with_every_negative_masked_is_zero():
    anchors = torch.randn(3, 4)
    assert float(info_nce_loss(anchors, anchors, torch.arange(3), 0.05, torch.ones(3, 3, dtype=torch.bool))) == 0.0


def test_bf16_vectors_are_compared_in_float32():
    torch.manual_seed(1)
    vectors = torch.randn(8, 16).bfloat16()
    loss = info_nce_loss(vectors, vectors.flip(0), torch.arange(8), 0.05)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, info_nce_loss(vectors.float(), vectors.flip(0).float(), torch.arange(8), 0.05))


def test_pairs_of_one_item_or_with_equal_metadata_are_no_negatives():
    torch.manual_seed(2)
    vectors = torch.randn(8, 6, dtype=torch.float64)  # 4 contexts, 4 metadata
    batch = {"item_key": torch.tensor([1, 2, 1, 3]), "metadata_key": torch.tensor([10, 20, 11, 20])}
    same = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]], dtype=torch.bool)
    expected = naive_loss(vectors[:4], vectors[4:], torch.arange(4), 1.0, same)
    assert torch.allclose(contrastive_loss(vectors, batch, Objective(temperature=1.0)), expected, atol=1e-12)
    plain = naive_loss(vectors[:4], vectors[4:], torch.arange(4), 1.0, None)
    assert torch.allclose(
        contrastive_loss(vectors, batch, Objective(temperature=1.0, mask_same_item=False)), plain, atol=1e-12
    )
    assert not torch.allclose(plain, expected)


def test_symmetric_loss_is_the_mean_of_both_directions():
    torch.manual_seed(3)
    vectors = torch.randn(6, 6, dtype=torch.float64)
    batch = {"item_key": torch.arange(3), "metadata_key": torch.arange(3)}
    there = naive_loss(vectors[:3], vectors[3:], torch.arange(3), 0.05, None)
    back = naive_loss(vectors[3:], vectors[:3], torch.arange(3), 0.05, None)
    assert torch.allclose(contrastive_loss(vectors, batch, Objective(symmetric=True)), (there + back) / 2, atol=1e-12)

"""Softmax and in-batch losses against naive forms, value and gradient."""

import math

import pytest
import torch
import torch.nn.functional as F

from recbole_blair import losses
from recbole_blair.losses import ChunkedSoftmaxLoss, full_softmax_loss, in_batch_softmax_loss
from recbole_blair.ops import linear as products


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("form", ["pytorch", "chunked", "bounded"])
def test_full_softmax_equals_cross_entropy(chunk, form, monkeypatch):
    users = torch.randn(7, 4, dtype=torch.double, requires_grad=True)
    items = torch.randn(11, 4, dtype=torch.double, requires_grad=True)
    target = torch.tensor([0, 10, 3, 3, 5, 1, 0])
    expected = F.cross_entropy(users @ items.T, target)
    expected_grads = torch.autograd.grad(2 * expected, (users, items))
    if form == "bounded":
        monkeypatch.setattr(losses, "block_width", lambda users, n_items: chunk)
        got = full_softmax_loss(users, items, target, bound=30.0)
        assert type(got.grad_fn).__name__ == "BoundedSoftmaxLossBackward"
    else:
        loss = ChunkedSoftmaxLoss.apply if form == "chunked" else full_softmax_loss
        got = loss(users, items, target, chunk)
    torch.testing.assert_close(got, expected)
    for a, b in zip(torch.autograd.grad(2 * got, (users, items)), expected_grads):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("by_sigmoid", [True, False])
@pytest.mark.parametrize("temperature", [0.07, 1 / 30, 0.025])
def test_bounded_softmax_at_its_bound(temperature, by_sigmoid, monkeypatch):
    """Cosines of 1 and -1 over the temperature, float32 and bfloat16, against float64."""
    if by_sigmoid and not products.has_onednn():
        pytest.skip("this build of PyTorch has no oneDNN")
    monkeypatch.setattr(losses, "fuses", lambda *tensors: by_sigmoid)
    monkeypatch.setattr(losses, "CACHE_BYTES", 1 << 16)  # several blocks
    items = F.normalize(torch.randn(5000, 16), dim=1)
    users, target = torch.cat([items[:20], -items[:20]]) / temperature, torch.arange(40) % 20
    exact = [users.double().requires_grad_(), items.double().requires_grad_()]
    expected = torch.autograd.grad(F.cross_entropy(exact[0] @ exact[1].T, target), exact)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 5e-2)):
        own = [users.to(dtype).requires_grad_(), items.to(dtype).requires_grad_()]
        loss = full_softmax_loss(*own, target, bound=1.0 / temperature)
        assert loss.item() == pytest.approx(F.cross_entropy(exact[0] @ exact[1].T, target).item(), rel=tolerance)
        for a, b in zip(torch.autograd.grad(loss, own), expected):
            assert (a - b).norm() < tolerance * b.norm()


def test_a_large_bound_takes_the_other_form():
    users, items = torch.randn(3, 4, requires_grad=True), 100 * torch.randn(5, 4)
    loss = full_softmax_loss(users, items, torch.tensor([0, 1, 2]), bound=1e4)
    assert math.isfinite(loss.item())
    assert "Bounded" not in type(loss.grad_fn).__name__


def test_in_batch_loss_by_hand_leaves_masked_pairs_out():
    anchors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    positives = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    same = torch.tensor([[True, False, True], [False, True, False], [True, False, True]])
    # row 0: own 1, other 0 (row 2 masked); row 1: own 1, others 0 and .8; row 2: own .6, other 0 (row 0 masked)
    rows = [
        -math.log(math.exp(1) / (math.exp(1) + math.exp(0))),
        -math.log(math.exp(1) / (math.exp(1) + math.exp(0) + math.exp(0.8))),
        -math.log(math.exp(0.6) / (math.exp(0.6) + math.exp(0))),
    ]
    got = in_batch_softmax_loss(anchors, positives, 1.0, same)
    assert got.item() == pytest.approx(sum(rows) / 3, abs=1e-6)


def test_in_batch_loss_is_zero_when_every_negative_is_masked():
    x = F.normalize(torch.randn(4, 3), dim=1)
    assert in_batch_softmax_loss(x, x, 0.07, torch.ones(4, 4, dtype=torch.bool)).item() == 0.0

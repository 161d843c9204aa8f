"""In-batch losses by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from recbole_blair.losses import in_batch_softmax_loss


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

"""What each operation means, in plain PyTorch: the definitions that the fast forms equal up to rounding.

B batch, M items, n rows, H hidden, D text width, E experts, L history, T tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Return x in float32, or float64 if that is what it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def full_softmax_loss(users: Tensor, items: Tensor, target: Tensor, bound: float | None = None) -> Tensor:
    """Mean over B of -log(exp(u . i_target) / sum over all items of exp(u . i)); see ops/softmax.py."""
    logits = users @ items.to(users.dtype).T  # (B, M)
    return F.cross_entropy(at_least_float32(logits), target)


def apply_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (…, k) @ weight (m, k) transposed + bias (m,): (…, m)."""
    return F.linear(x, weight, bias)


def apply_dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """x * keep / (1 - p), each element of keep 0 with probability p and else 1; x itself outside training."""
    return F.dropout(x, p, training)

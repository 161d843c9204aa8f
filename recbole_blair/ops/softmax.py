"""Cross-entropy over all items, without keeping users x items logits and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_blair.ops import plain
from recbole_blair.ops.device import ALIGNED, CACHE_BYTES, per_device
from recbole_blair.ops.linear import add_product, product
from recbole_blair.ops.switch import fast_form_of

SUM_PART = 128  # numbers whose sum is rounded to one bfloat16 on the way to the sum of a row
LARGEST_BOUND = 40.0  # sums of exp(40) and of exp(-40) are normal float32 values
LOGITS_AT_A_TIME = {"cpu": 1 << 27, "cuda": 1 << 28}  # on a GPU: half a gigabyte in bfloat16

LossAndGradients = tuple[Tensor, list[Tensor]]


class LossWithGradients(torch.autograd.Function):
    """A scalar loss whose gradients are made in the forward pass, while its logits exist; backward scales them.

    Args of `apply`:
        compute: maps the tensors, detached, to the loss and one gradient per tensor.
        tensors: what the loss is differentiated by.
    """

    @staticmethod
    def forward(ctx: Any, compute: Callable[..., LossAndGradients], *tensors: Tensor) -> Tensor:
        loss, gradients = compute(*tensors)
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(grad * gradient for gradient in ctx.saved_tensors)  # a scalar leaves their dtype as it is


@fast_form_of(plain.full_softmax_loss)
def full_softmax_loss(users: Tensor, items: Tensor, target: Tensor, bound: float | None = None) -> Tensor:
    """Cross-entropy over all items without keeping users x items logits.

    Args:
        users (B, H): already divided by the temperature.
        items (M, H): every candidate; the padding item is not among them. Taken in the dtype of `users`.
        target (B,) int64: row numbers of `items`.
        bound: no logit's absolute value is above it, rounding aside; None: not known. A small one spares a pass.

    Returns:
        scalar, the mean over B.
    """
    bounded = bound is not None and bound <= LARGEST_BOUND
    by_items = bounded and users.device.type == "cpu"

    def compute(users: Tensor, items: Tensor) -> LossAndGradients:
        if by_items:
            return softmax_by_items(users, items, target)
        return softmax_by_users(users, items, target, bounded)

    return LossWithGradients.apply(compute, users, items.to(users.dtype))


def softmax_by_items(users: Tensor, items: Tensor, target: Tensor) -> LossAndGradients:
    """Loss and gradients, a block of items at a time, for logits x of a small bound, as cosines over a temperature are.

    No exponential overflows, so no row's maximum is looked for, and each block's exponentials are taken while it is in
    the CPU's cache. They are kept (B x M numbers of the users' dtype): once the rows' sums S_b are known, with
    n = B users, one product per block gives the items' gradient

        dL/di_m = 1/n (sum over b of exp(x_bm) / S_b u_b - sum over the b whose target is m of u_b)
    """
    wide, n_users = torch.promote_types(users.dtype, torch.float32), len(users)
    width = max(SUM_PART, CACHE_BYTES // max(1, n_users * users.element_size()))
    total, mixed = users.new_zeros((n_users, 1), dtype=wide), torch.zeros(users.shape, dtype=wide)
    exps = []  # one (B, items of the block) per block
    for block in items.split(width):
        exps.append(product(users, block.T).exp_())
        total += row_sums(exps[-1], wide)
        add_product(mixed, exps[-1], block)  # (B, H): sum over m of exp(x_bm) i_m
    own = items[target].to(wide)  # (B, H)
    loss = (total.squeeze(1).log() - (users.to(wide) * own).sum(1)).mean()
    share = 1.0 / (total * n_users)  # (B, 1)
    grad_users = mixed.mul_(share).sub_(own, alpha=1.0 / n_users).to(users.dtype)
    scaled, grad_items = (users.to(wide) * share).to(users.dtype), torch.empty_like(items)
    for block, out in zip(exps, grad_items.split(width), strict=True):
        product(block.T, scaled, out)
    return loss, [grad_users, subtract_targets(grad_items, users, target)]


def softmax_by_users(users: Tensor, items: Tensor, target: Tensor, bounded: bool) -> LossAndGradients:
    """Loss and gradients, as many users at a time as memory allows, over all items: each row of logits is complete.

    Each row's maximum is subtracted first, unless the logits are `bounded`. On a GPU items and widths are padded with
    zeros to whole 16 bytes, without which the matrix units take a slower way.
    """
    wide = torch.promote_types(users.dtype, torch.float32)
    n_users, (n_items, hidden) = len(users), items.shape
    aligned = 1 if users.device.type == "cpu" else ALIGNED
    items = F.pad(items, (0, -hidden % aligned, 0, -n_items % aligned)) if aligned > 1 else items
    loss, grad_users = users.new_zeros((), dtype=wide), torch.empty_like(users)
    grad_items = torch.zeros(items.shape, dtype=wide, device=items.device)
    chunk = max(1, per_device(LOGITS_AT_A_TIME, users.device) // max(1, len(items)))
    for start in range(0, n_users, chunk):
        part, own = users[start : start + chunk], items[target[start : start + chunk]].to(wide)
        part = F.pad(part, (0, -hidden % aligned))
        exps = product(part, items.T)  # (b, M): logits first; on a GPU the last columns are padding
        top = None if bounded else exps[:, :n_items].amax(1, keepdim=True)
        total = row_sums((exps if top is None else exps.sub_(top)).exp_()[:, :n_items], wide)  # (b, 1)
        log_sum = total.log() if top is None else total.log() + top.to(wide)
        loss += (log_sum - (part.to(wide) * own).sum(1, keepdim=True)).sum()
        share = (total * n_users).reciprocal()
        mixed = product(exps, items).to(wide).mul_(share).sub_(own, alpha=1.0 / n_users)
        grad_users[start : start + chunk] = mixed[:, :hidden]
        add_product(grad_items, exps.T, (part.to(wide) * share).to(users.dtype))
    grad_items = grad_items[:n_items, :hidden].to(users.dtype)
    return loss / n_users, [grad_users, subtract_targets(grad_items, users, target)]


def subtract_targets(grad_items: Tensor, users: Tensor, target: Tensor) -> Tensor:
    """Subtract each user's part of the mean from its target's gradient, in place."""
    wide = torch.promote_types(users.dtype, torch.float32)
    return grad_items.index_add_(0, target, (users.to(wide) / -len(users)).to(grad_items.dtype))


def row_sums(block: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum the rows of a block (n, m) to (n, 1) of a wider dtype; bfloat16 on the CPU in parts: ten times faster."""
    if block.dtype == dtype or block.device.type != "cpu":
        return block.sum(1, keepdim=True, dtype=dtype)
    whole = block.shape[1] // SUM_PART * SUM_PART
    parts = block[:, :whole].unflatten(1, (-1, SUM_PART)).sum(2)  # each part in float32, then rounded
    return parts.sum(1, keepdim=True, dtype=dtype) + block[:, whole:].sum(1, keepdim=True, dtype=dtype)

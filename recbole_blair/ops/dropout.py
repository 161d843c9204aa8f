"""Dropout on the CPU from eight random bits per element, where PyTorch draws a float for each."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_blair.ops import plain
from recbole_blair.ops.device import row_chunks
from recbole_blair.ops.switch import fast_form_of

DROPOUT_LEVELS = 256  # an 8-bit draw decides each element
DROPOUT_CHUNK = 1 << 21  # elements masked at a time, so that the mask stays in the cache


@fast_form_of(plain.apply_dropout)
def apply_dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero each element with probability p, divide the others by 1 - p.

    On the CPU p is rounded to 1/256, and the kept elements are scaled by the rounded rate's exact inverse.
    """
    if not training or p == 0.0:
        return x
    cut = round(p * DROPOUT_LEVELS)
    if x.device.type != "cpu" or torch.compiler.is_compiling() or not 0 < cut < DROPOUT_LEVELS:
        return F.dropout(x, p, True)
    return Dropout.apply(x, cut)


class Dropout(torch.autograd.Function):
    """x * keep * 256 / (256 - cut), keep = 0 with probability cut / 256, else 1; its backward is the same product.

    Works in chunks. The mask is ones and zeros of eight bits, not booleans, which PyTorch converts one by one.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cut: int) -> Tensor:
        flat, out = x.reshape(-1), torch.empty(x.numel(), dtype=x.dtype)
        ctx.scale = DROPOUT_LEVELS / (DROPOUT_LEVELS - cut)
        masks = []
        for span in row_chunks(x.numel(), DROPOUT_CHUNK):
            keep = random_bytes(span.stop - span.start)  # -128 to 127
            torch.ge(keep, cut - DROPOUT_LEVELS // 2, out=keep)
            apply_mask(flat[span], keep, ctx.scale, out[span])
            if ctx.needs_input_grad[0]:
                masks.append(keep)
        ctx.save_for_backward(*masks)
        return out.view(x.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        flat, out = grad.reshape(-1), torch.empty(grad.numel(), dtype=grad.dtype)
        for span, keep in zip(row_chunks(grad.numel(), DROPOUT_CHUNK), ctx.saved_tensors, strict=True):
            apply_mask(flat[span], keep, ctx.scale, out[span])
        return out.view(grad.shape), None


def random_bytes(n: int) -> Tensor:
    """Return n random int8 numbers, by a faster generator than PyTorch's that PyTorch's seeds."""
    seed = int(torch.randint(2**63 - 1, ()))
    words = np.random.SFC64(seed).random_raw(-(-n // 8))
    return torch.from_numpy(words.view(np.int8)[:n])


def apply_mask(x: Tensor, keep: Tensor, scale: float, out: Tensor) -> Tensor:
    """Write x * keep * scale to `out`; all (n,), `keep` int8 ones and zeros."""
    out.copy_(keep)
    return torch.addcmul(x.new_zeros(()), out, x, value=scale, out=out)

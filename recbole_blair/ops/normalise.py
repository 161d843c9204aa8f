"""Rows to length 1: in chunks, so that no copies of all rows in float32 exist."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recbole_blair.ops import plain
from recbole_blair.ops.device import ROWS_AT_A_TIME, per_device, row_chunks
from recbole_blair.ops.switch import fast_form_of

LEAST_NORM = 1e-12  # of PyTorch's normalize


@fast_form_of(plain.normalise_rows)
def normalise_rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """L2-normalise rows (n, H) into `dtype`, computed in float32 or wider; a zero row stays zero."""
    return NormalisedRows.apply(x, dtype)


class NormalisedRows(torch.autograd.Function):
    """u = x / |x|; its gradient is (grad - (grad . u) u) / |x|, made from u and 1 / |x| alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        unit = torch.empty(x.shape, dtype=dtype, device=x.device)
        inverse = torch.empty(len(x), 1, dtype=wide, device=x.device)
        for span in row_chunks(len(x), per_device(ROWS_AT_A_TIME, x.device)):
            row = x[span].to(wide)
            torch.reciprocal(row.norm(dim=1, keepdim=True).clamp_(min=LEAST_NORM), out=inverse[span])
            torch.mul(row, inverse[span], out=unit[span])
        ctx.save_for_backward(unit, inverse)
        ctx.input_dtype = x.dtype
        return unit

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        unit, inverse = ctx.saved_tensors
        grad_x = torch.empty(grad.shape, dtype=ctx.input_dtype, device=grad.device)
        for span in row_chunks(len(grad), per_device(ROWS_AT_A_TIME, grad.device)):
            g, u = grad[span].to(inverse.dtype), unit[span].to(inverse.dtype)
            across = torch.addcmul(g, u, (g * u).sum(1, keepdim=True), value=-1)
            torch.mul(across, inverse[span], out=grad_x[span])
        return grad_x, None

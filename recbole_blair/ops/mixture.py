"""A mixture of linear experts whose gates differ from row to row."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_blair.ops import plain
from recbole_blair.ops.device import ROWS_AT_A_TIME, per_device, row_chunks
from recbole_blair.ops.linear import add_product, linear_with, product
from recbole_blair.ops.switch import fast_form_of


@fast_form_of(plain.mix_experts)
def mix_experts(x: Tensor, weight: Tensor, shift: Tensor, gates: Tensor) -> Tensor:
    """Sum over experts e of g_e (W_e x - s_e), all experts as one matrix product.

    Args:
        x (n, D), weight (E, H, D), shift (E, H): of the dtype the products run in.
        gates (n, E): of the parameters' dtype.

    Returns:
        (n, H) of the products' dtype.
    """
    return ExpertMixture.apply(x, weight, shift, gates)


class ExpertMixture(torch.autograd.Function):
    """`mix_experts` in row chunks that stay in the cache.

    Frozen features need no gradient, so the backward pass is one product for all experts' weights:

        dL/dW_e = sum over rows n of g_ne grad_n x_n^T
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, shift: Tensor, gates: Tensor) -> Tensor:
        n_experts, hidden, width = weight.shape
        mixed, kept, share = x.new_empty(len(x), hidden), [], gates.to(x.dtype)
        apply_experts = linear_with(weight.reshape(-1, width), -shift.flatten())
        for span in row_chunks(len(x), per_device(ROWS_AT_A_TIME, x.device)):
            experts = apply_experts(x[span]).view(-1, n_experts, hidden)  # (c, E, H)
            sum_weighted(experts, share[span], mixed[span])  # (c, H)
            if any(ctx.needs_input_grad):
                kept.append(experts)
        ctx.save_for_backward(x, weight, gates, *kept)
        return mixed

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
        x, weight, gates, *kept = ctx.saved_tensors
        n_experts, hidden, width = weight.shape
        grad_weight = torch.zeros(n_experts * hidden, width, dtype=gates.dtype, device=x.device)
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        grad, share = grad.contiguous(), gates.to(x.dtype)
        grad_shift, grad_gates = -(share.T @ grad), torch.empty_like(gates)  # (E, H), (n, E)
        for span, experts in zip(row_chunks(len(x), per_device(ROWS_AT_A_TIME, x.device)), kept, strict=True):
            # (E, H, c): rows last, as the product wants them
            spread = (share[span].T.contiguous()[:, None] * grad[span].T.contiguous()).view(n_experts * hidden, -1)
            add_product(grad_weight, spread, x[span])
            # grad_n . (W_e x_n - s_e): row x matrix, for matrix x column or a strided `out` takes MKL twice as long
            grad_gates[span] = torch.bmm(grad[span, None], experts.mT)[:, 0]  # (c, E)
            if grad_x is not None:
                grad_x[span] = product(spread.T, weight.reshape(-1, width))
        return grad_x, grad_weight.view_as(weight).to(weight.dtype), grad_shift.to(weight.dtype), grad_gates


def sum_weighted(experts: Tensor, share: Tensor, out: Tensor) -> None:
    """Write the sum over experts (c, E, H) of share (c, E) times each to `out` (c, H).

    On the CPU as a bag of E rows per item: several times faster than as many products of one row.
    """
    if experts.device.type != "cpu":
        torch.bmm(share[:, None], experts, out=out[:, None])
        return
    n_rows = share.numel()
    out.copy_(F.embedding_bag(
        torch.arange(n_rows), experts.reshape(n_rows, -1), torch.arange(0, n_rows, share.shape[1]), mode="sum",
        per_sample_weights=share.reshape(-1),
    ))  # fmt: skip

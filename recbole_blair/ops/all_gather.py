"""Rows of all devices as one tensor that gradients flow through."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from recbole_blair.parallel.distributed import gather_values, rank, world_size


def all_gather_rows(rows: Tensor) -> Tensor:
    """Return the rows of every device, by rank; gradients flow back to each row's own device.

    Args:
        rows (B, D): the same B on every device.

    Returns:
        (world * B, D).
    """
    return AllGather.apply(rows) if world_size() > 1 else rows


class AllGather(torch.autograd.Function):
    """all_gather forwards; backwards the sum over devices of the gradients of this device's rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.n_rows = len(rows)
        return gather_values(rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        start = rank() * ctx.n_rows
        return grad[start : start + ctx.n_rows]

"""Several processes that train together: their group, reductions over it, rows of all devices as one tensor.

Every device computes its own loss over everybody's candidates. The mean of those losses is what is minimised, and
gradients are averaged over the devices afterwards; so a candidate's gradient is the sum over the devices' losses,
which the backward pass here collects.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

WAIT = datetime.timedelta(days=2)  # the first process may convert and encode for a day while the others wait


def join_group(device_name: str) -> str:
    """Join the processes that torchrun or `--nproc` started; the one process of a plain start joins nothing.

    Args:
        device_name: the key `device`; auto and cuda become this process's own GPU.

    Returns:
        the device this process works on.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device_name
    on_cuda = device_name.split(":")[0] == "cuda" or (device_name == "auto" and torch.cuda.is_available())
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo", timeout=WAIT)
    return f"cuda:{os.environ.get('LOCAL_RANK', rank())}" if on_cuda else "cpu"


def exit_together(status: int) -> None:
    """End this process with a status once every process of the group has come here; returns where there is no group.

    It ends without taking anything down: gloo's threads sometimes abort a process that leaves its group or ends as
    usual ("terminate called without an active exception"), when all its work is done and written.
    """
    if world_size() > 1:
        barrier()
        atexit._run_exitfuncs()  # trackers end their run there
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def barrier() -> None:
    """Return when every process has come here."""
    if world_size() > 1:
        dist.all_reduce(torch.zeros(1))  # on the CPU, in the group with the long limit


@contextlib.contextmanager
def main_process_first() -> Iterator[None]:
    """The body runs in the first process, then, when it has ended there, in the others: files are made once."""
    if rank() > 0:
        barrier()
    yield
    if rank() == 0:
        barrier()


def broadcast(value: Any) -> Any:
    """Return the first process's value of a string, a number or None in every process."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def all_reduce_sum(values: Any) -> Any:
    """Return the sums over the processes of float64 values (n,), or of a number."""
    if world_size() == 1:
        return values
    total = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(total)
    return total.numpy() if isinstance(values, np.ndarray) else total.item()


def add_up(tensor: Tensor) -> Tensor:
    """Add up a tensor over the processes, in place."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def world_size() -> int:
    """Return the number of processes that train together, 1 outside torchrun."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number, 0 outside torchrun."""
    return dist.get_rank() if world_size() > 1 else 0


def gather_values(values: Tensor) -> Tensor:
    """Return the values (B, ...) of every device, by rank, without gradients."""
    if world_size() == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(world_size())]
    dist.all_gather(parts, values.contiguous())
    return torch.cat(parts)


def mean_over_devices(value: Tensor) -> Tensor:
    """Return the mean of a scalar tensor over the devices, without gradients."""
    if world_size() == 1:
        return value.detach()
    value = value.detach().clone()
    dist.all_reduce(value)
    return value / world_size()


def all_reduce_gradients(parameters: Iterable[torch.nn.Parameter], bucket_bytes: int = 1 << 26) -> None:
    """Average the gradients of all devices in place.

    One reduction per step over flat buckets: the step runs several forward and backward passes, so hooks that reduce
    during the backward pass would reduce more than once. A parameter that has no gradient counts as zero, so that
    every device reduces the same buckets.

    Args:
        parameters: the same, in the same order, on every device.
        bucket_bytes: bytes reduced at once.
    """
    if world_size() == 1:
        return
    bucket: list[Tensor] = []
    size = 0
    for parameter in parameters:
        if not parameter.requires_grad:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        bucket.append(parameter.grad)
        size += parameter.grad.numel() * parameter.grad.element_size()
        if size >= bucket_bytes:
            _average(bucket)
            bucket, size = [], 0
    _average(bucket)


def _average(grads: list[Tensor]) -> None:
    """Average one bucket of gradients of one dtype."""
    if not grads:
        return
    flat = torch.cat([grad.reshape(-1) for grad in grads])
    dist.all_reduce(flat)
    flat /= world_size()
    for grad, part in zip(grads, flat.split([grad.numel() for grad in grads])):
        grad.copy_(part.view_as(grad))

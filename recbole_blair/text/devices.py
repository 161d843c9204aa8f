"""Devices and precision for encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recbole_blair.errors import InputError
from recbole_blair.ops import has_fast_bf16

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def pick_devices(device: str = "auto") -> list[torch.device]:
    """Return the devices to run on.

    Args:
        device: `auto` (every GPU, else the CPU), `cuda` (every GPU), `cuda:N`, `cpu`.

    Raises:
        InputError: a device that is not here.
    """
    import torch  # heavy

    name, found = str(device), torch.cuda.device_count() if torch.cuda.is_available() else 0
    every = [torch.device("cuda", i) for i in range(found)]
    if name == "cpu" or (name == "auto" and not every):
        return [torch.device("cpu")]
    if name in ("auto", "cuda") and every:
        return every
    if name in [str(d) for d in every]:
        return [torch.device(name)]
    here = ", ".join(["auto", "cpu", *(["cuda"] if every else []), *map(str, every)])
    raise InputError(f"--device={name} is not here; choose one of {here}")


def pick_precision(precision: str, device: torch.device) -> str:
    """Return `fp32`, `bf16` or `fp16` for a device.

    Args:
        precision: `fp32`, `bf16`, `fp16`, or `auto`: bf16 where the chip multiplies it natively.
        device: where the model runs.

    Raises:
        InputError: another value, or fp16 on a CPU.
    """
    if precision not in PRECISIONS:
        raise InputError(f"--precision={precision} is not one of {', '.join(PRECISIONS)}")
    if precision == "fp16" and device.type == "cpu":
        raise InputError("--precision=fp16 is for GPUs; on a CPU take bf16 or fp32")
    if precision != "auto":
        return precision
    return "bf16" if has_fast_bf16(device) else "fp32"

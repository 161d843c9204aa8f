"""Which device, which precision, and how much of a tensor to work on at a time on each kind of device."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from recbole_blair.errors import InputError

if TYPE_CHECKING:
    import torch

CACHE_BYTES = 1 << 24  # of a block that is worked on at a time on the CPU, so that it stays in the cache
ALIGNED = 8  # a GPU's matrix units want rows of whole 16 bytes: so many bfloat16 numbers
ROWS_AT_A_TIME = {"cpu": 2048, "cuda": 1 << 18}  # of an operation that works in chunks: a CPU's cache, or a GPU filled


def resolve_device(name: str = "auto") -> torch.device:
    """Return the torch.device for auto, cpu, cuda or cuda:N.

    Raises:
        InputError: no such device here.
    """
    import torch  # heavy

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device={name!r} is not a device; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device={name!r}: {torch.cuda.device_count()} CUDA devices are visible; use auto or cpu")
    return device


def has_fast_bf16(device: torch.device) -> bool:
    """True where the chip multiplies bfloat16 natively (CUDA 8.0+, AVX512-BF16, AMX)."""
    import torch  # heavy

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type != "cpu":
        return False
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def resolve_precision(name: str, device: torch.device) -> str:
    """Return `bf16` or `fp32`; auto is bf16 where the chip has it. Warns of bf16 on a CPU that has no units for it."""
    fast = has_fast_bf16(device)
    if name == "auto":
        return "bf16" if fast else "fp32"
    if name == "bf16" and device.type == "cpu" and not fast:
        warnings.warn(
            "precision=bf16, but this processor has neither AVX512-BF16 nor AMX: bf16 products can take many times as "
            "long as float32 ones here; precision=auto takes fp32",
            stacklevel=2,
        )
    return name


def per_device(sizes: Mapping[str, int], device: torch.device) -> int:
    """Return the entry of a table of sizes, "cpu" and "cuda", for a device."""
    return sizes["cpu" if device.type == "cpu" else "cuda"]


def row_chunks(n: int, size: int) -> list[slice]:
    """Return slices that cover n rows, `size` at a time."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]

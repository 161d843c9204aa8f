"""Devices and precision for encoders."""

from recbole_blair.errors import InputError
from recbole_blair.text.encoders import PRECISIONS


def pick_devices(device="auto"):
    """Return the devices to run on.

    Args:
        device (str): `auto` (every GPU, else the CPU), `cuda` (every GPU), `cuda:N`, `cpu`.

    Returns:
        list[torch.device]

    Raises:
        InputError: a device that is not here.
    """
    import torch

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


def pick_precision(precision, device):
    """Return `fp32` or `bf16` for a device.

    Args:
        precision (str): `fp32`, `bf16`, or `auto`: bf16 where the chip multiplies it natively.
        device (torch.device): where the model runs.

    Raises:
        InputError: another value.
    """
    if precision not in PRECISIONS:
        raise InputError(f"--precision={precision} is not one of {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision
    return "bf16" if has_native_bf16(device) else "fp32"


def has_native_bf16(device):
    """Whether a device multiplies bf16 natively: AVX512-BF16 or AMX on a CPU, compute capability 8 on a "
    "GPU."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if hasattr(torch.cpu, "get_capabilities"):
        chip = torch.cpu.get_capabilities()
        return bool(chip.get("avx512_bf16") or chip.get("amx_bf16"))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())

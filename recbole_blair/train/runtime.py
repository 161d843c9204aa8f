"""What a run computes with: its processes, their device, the precision of the large products, the seed."""

from __future__ import annotations

import contextlib
import random
from contextlib import AbstractContextManager

import numpy as np
import torch

from recbole_blair.config import Config
from recbole_blair.errors import InputError
from recbole_blair.ops import resolve_device, resolve_precision
from recbole_blair.parallel.distributed import join_group, world_size


def runtime_config(config: Config) -> Config:
    """Resolve `device` to a torch.device, `precision` to fp32 or bf16, and add `compute_dtype`, its torch.dtype."""
    if config["device"] != "auto" and not isinstance(config["device"], str):
        return config
    device = resolve_device(join_group(config["device"]))
    # RecBole's own models were not made for bfloat16: as baselines they run in float32 unless bf16 is asked for.
    auto = "fp32" if config.lenient else "auto"
    precision = resolve_precision(auto if config["precision"] == "auto" else config["precision"], device)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return config.replace(device=device, precision=precision, compute_dtype=dtype)


def count_processes(config: Config) -> int:
    """Return how many processes train this run together.

    Raises:
        InputError: more are asked for than were started, or the objective needs the whole batch in one process.
    """
    world = world_size()
    if world == 1 and config["nproc"] != 1:
        raise InputError(
            f"nproc={config['nproc']}, but this is one process; start several by `run_recbole.py --nproc=…` or torchrun"
        )
    if world > 1 and "train_stage" in config and config["train_stage"] == "pretrain":
        raise InputError(
            "train_stage=pretrain contrasts the rows of a whole batch, so it trains in one process: nproc: 1"
        )
    return world


def precision_context(config: Config) -> AbstractContextManager:
    """Return the precision context of one forward pass under a configuration whose device is resolved."""
    if config["compute_dtype"] == torch.bfloat16:
        return torch.autocast(config["device"].type, torch.bfloat16)
    return contextlib.nullcontext()


def seed_everything(seed: int) -> None:
    """Seed every generator that a model may draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  RecBole's models draw from the legacy generator
    torch.manual_seed(seed)

"""Start several processes of one command on this machine, by PyTorch's own launcher (what torchrun runs)."""

from __future__ import annotations

import logging
import os
import sys

from recbole_blair.config.keys import props_keys
from recbole_blair.config.kinds import usable_cores
from recbole_blair.errors import InputError


def started_by_launcher() -> bool:
    """True in a process that torchrun or `launch` started beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first_process() -> bool:
    """True unless this is one of several processes that train together, and not the first."""
    return not started_by_launcher() or os.environ.get("RANK", "0") == "0"


def end_together(status: int) -> None:
    """End this process with a status when all that train together have come here; returns where it is alone."""
    distributed = sys.modules.get("recbole_blair.parallel.distributed")  # not loaded: never joined
    if started_by_launcher() and distributed is not None:
        distributed.exit_together(status)


def check_processes(nproc: int, device: str) -> None:
    """Refuse a number of processes that this machine has no devices for.

    Args:
        nproc: processes on this machine.
        device: the key `device`.

    Raises:
        InputError: more than there are GPUs or, on a CPU, cores; one GPU named for all.
    """
    import torch  # heavy: every command imports this file

    props_keys("overall.yaml").check("nproc", nproc, "the configuration")
    gpus = torch.cuda.device_count()
    if nproc > 1 and ":" in device:
        raise InputError(f"device={device} is one device; with --nproc={nproc} use --device=cuda or --device=cpu")
    if nproc > 1 and (device == "cuda" or (device == "auto" and gpus)) and nproc > gpus:
        raise InputError(
            f"--nproc={nproc}, but {gpus} CUDA devices are visible; use at most that many, or --device=cpu"
        )


def launch(nproc: int, arguments: list[str]) -> int:
    """Run `recbole-blair <arguments>` in `nproc` processes; the first one's output is what a person sees.

    CPU threads are shared out unless OMP_NUM_THREADS is set.

    Args:
        nproc: from 2.

    Returns:
        0, or the exit status of the process that failed first.
    """
    # heavy: loads torch
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // nproc)))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # it repeats the child's own message
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=nproc, rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0",
        run_id=f"recbole-blair-{os.getpid()}", max_restarts=0,
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)("-m", "recbole_blair", *arguments)
    except ChildFailedError as error:
        process, first = error.get_first_failure()
        if process != 0 and 0 not in error.failures:
            print(
                f"error: process {process} of {nproc} ended with status {first.exitcode}; --nproc=1 shows why",
                file=sys.stderr,
            )
        return first.exitcode if first.exitcode > 0 else 1
    return 0

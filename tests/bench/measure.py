"""What every bench shares: synthetic data of a given size, peak memory, one JSON line a case."""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from recbole_blair.parallel.environment import THREADS

if not THREADS.keys() & os.environ.keys():  # for both sides, before torch is imported: as our command line sets it
    os.environ.update(THREADS)

SCALES = {  # items, train rows, rows a batch, feature width
    "small": {"n_items": 5_000, "n_rows": 40_000, "batch": 512, "width": 384},
    "medium": {"n_items": 28_954, "n_rows": 725_000, "batch": 2048, "width": 768},
    "games": {"n_items": 115_816, "n_rows": 2_900_000, "batch": 2048, "width": 768},
}
MEAN_HISTORY = 4.54  # of Games, arXiv:2403.03952, table 3


def history_lengths(n, rng, longest=50):
    """History lengths with Games' mean: one plus a heavy-tailed draw, cut at `longest`."""
    return np.minimum(1 + rng.geometric(1 / MEAN_HISTORY, n) - (rng.random(n) < 0.5), longest).astype(np.int64)


def peak_mb(device="cpu"):
    """The process's largest resident size so far, or the most it has allocated on a GPU, MiB."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(call, repeats=3, warmup=1):
    """Return the median and the spread of `repeats` calls in seconds, and the last result."""
    for _ in range(warmup):
        call()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), max(seconds) - min(seconds), result


def emit(case, **fields):
    """Print one JSON line with the versions and the machine."""
    import torch

    line = {"case": case, **fields}
    line = {k: round(v, 6) if isinstance(v, float) else v for k, v in line.items()}
    line.update(
        torch=torch.__version__, python=platform.python_version(), cores=torch.get_num_threads(),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    )  # fmt: skip
    print(json.dumps(line), flush=True)
    return line


def precisions(device):
    """The precisions that are measured: bf16 only where the chip multiplies it, which is said otherwise.

    Without such units a bfloat16 product takes some eighty times as long as one in float32.
    """
    import torch

    from recbole_blair.ops import has_fast_bf16

    if has_fast_bf16(torch.device(device)):
        return ("fp32", "bf16")
    emit("bf16", left_out="this chip has no bfloat16 units")
    return ("fp32",)


def run_around(script, sides, reference):
    """Run each of `sides`, then the reference, then each again: a machine's clock drifts within minutes.

    Args:
        sides (dict): arguments of each side, by name; reference (list): arguments.

    Returns:
        (dict of the sides' lines: the mean of both runs' seconds, the larger peak; the reference's line).
    """
    before = {name: run_side(script, *args) for name, args in sides.items()}
    other = run_side(script, *reference)
    after = {name: run_side(script, *args) for name, args in sides.items()}
    merged = {}
    for name, line in before.items():
        seconds = {k: (v + after[name][k]) / 2 for k, v in line.items() if k == "s" or k.endswith("_s")}
        merged[name] = {**line, **seconds, "peak_mb": max(line["peak_mb"], after[name]["peak_mb"])}
    return merged, other


def run_side(script, *args):
    """Run one side of a bench in a process of its own, so that its peak memory is its own; returns its JSON line."""
    done = subprocess.run(
        [sys.executable, str(Path(script).resolve()), *map(str, args)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{script} {' '.join(map(str, args))} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])

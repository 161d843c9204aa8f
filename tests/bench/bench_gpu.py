"""How long does a training step take on a GPU: HSTU packed and padded, UniSRecBlair? One short run: `make bench-gpu`.

Loss and gradients are first compared with the padded and the released form. Then every side takes `--steps` steps, in
turns, in one process; the device is waited for after each step.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import bench_hstu
import bench_training_step
import measure
import torch

from recbole_blair import compat

DEVICE, LARGEST_LOSS_GAP, LARGEST_GRAD_GAP = "cuda", 1e-5, 1e-4


def hstu_sides(case: str) -> dict[str, Callable[[], float]]:
    """Steps of HSTU in float32 and bfloat16, and of its padded form in float32."""
    sizes, sides = bench_hstu.CASES[case], {}
    batch = bench_hstu.make_batch(sizes, DEVICE)
    for name, precision in (("fp32", "fp32"), ("bf16", "bf16"), ("padded_fp32", "fp32")):
        model = bench_hstu.make_model(sizes, precision, DEVICE)
        module = bench_hstu.NaiveStep(model) if name.startswith("padded") else model
        sides[name] = bench_training_step.step_of(module.train(), precision, DEVICE, batch)
    return sides


def unisrec_sides(scale: str) -> dict[str, Callable[[], float]]:
    """Steps of UniSRecBlair in float32 and bfloat16."""
    size, sides = measure.SCALES[scale], {}
    dataset = bench_training_step.FakeDataset(size["n_items"], size["width"])
    batch = bench_training_step.make_batch(size["n_items"], size["batch"]).to(torch.device(DEVICE))
    for precision in ("fp32", "bf16"):
        model, _ = bench_training_step.make_model(dataset, precision, DEVICE)
        sides[precision] = bench_training_step.step_of(model.train(), precision, DEVICE, batch)
    return sides


def time_in_turns(sides: dict[str, Callable[[], float]], steps: int) -> dict[str, float]:
    """Median milliseconds per step of each side, two steps of warm-up each."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(steps + 2):
        for name, step in sides.items():
            started = time.perf_counter()
            step()
            if turn >= 2:
                taken[name].append(1000 * (time.perf_counter() - started))
    return {f"{name}_ms": statistics.median(times) for name, times in taken.items()}


def main() -> None:
    """Check agreement, then time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--scale", default="games", choices=measure.SCALES, help="of UniSRecBlair")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("bench_gpu.py: no GPU is visible to PyTorch here; run it on a machine with one")
    compat.apply()
    for bench in (bench_hstu, bench_training_step):
        loss_gap, grad_gap = bench.agreement(DEVICE)
        assert loss_gap < LARGEST_LOSS_GAP and grad_gap < LARGEST_GRAD_GAP, (bench.__name__, loss_gap, grad_gap)
        measure.emit(f"agreement:{bench.__name__}", loss_gap=loss_gap, grad_gap=grad_gap)
    for case in ("games", "long"):
        measure.emit(f"hstu_{case}", **time_in_turns(hstu_sides(case), args.steps))
    measure.emit(f"unisrec_{args.scale}", **time_in_turns(unisrec_sides(args.scale), args.steps))


if __name__ == "__main__":
    main()

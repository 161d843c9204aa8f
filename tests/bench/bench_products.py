"""What does this machine reach in products of the models' shapes, by which library, and how fast does it copy?

The ceilings that the other benches' figures are to be read against. `--scale=games` has the shapes of a training step
of UniSRecBlair at Games' size. A case a shape and dtype: PyTorch's own product against `recbole_blair.ops.linear`,
which on some processors takes another library for float32.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import measure
import torch

from recbole_blair.ops import keep_freed_memory, prefers_onednn
from recbole_blair.ops.linear import product

SHAPES = {  # of a (n, k) @ b (k, m): n, k, m, and whether a's columns lie together
    "small": {"square": (512, 512, 512, False)},
    "games": {
        "experts": (2048, 768, 2400, False), "experts_weight": (2400, 2048, 768, False),
        "logits": (2048, 300, 2048, False), "users_gradient": (2048, 2048, 300, False),
        "items_gradient": (2048, 2048, 300, True), "square": (4096, 4096, 4096, False),
    },
}  # fmt: skip


def tflop_per_s(call, flop, rounds):
    """The best of some rounds: what the chip reaches when nothing interrupts it."""
    call()
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return flop / best / 1e12


def main():
    """Print a line a shape and dtype, and one for copying."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="small", choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    dtypes = [torch.float32] + [torch.bfloat16] * ("bf16" in measure.precisions("cpu"))
    with keep_freed_memory():
        for dtype in dtypes:
            for name, (n, k, m, transposed) in SHAPES[args.scale].items():
                a = torch.randn(k, n).T if transposed else torch.randn(n, k)
                a, b = a.to(dtype), torch.randn(m, k).to(dtype).T
                exact, flop = a.double() @ b.double(), 2 * n * k * m
                tolerance = 1e-4 if dtype == torch.float32 else 2e-2
                assert (product(a, b).double() - exact).norm() < tolerance * exact.norm(), name
                ours, theirs = (tflop_per_s(lambda: f(a, b), flop, args.rounds) for f in (product, torch.mm))  # noqa: B023
                measure.emit(
                    f"products/{name}_{str(dtype).removeprefix('torch.')}", tflop_per_s=ours, torch_tflop_per_s=theirs,
                    ratio=ours / theirs, onednn=prefers_onednn(),
                )  # fmt: skip
        source = torch.randn(1 << (22 if args.scale == "small" else 27))
        target = torch.empty_like(source)
        copied = tflop_per_s(lambda: target.copy_(source), 2 * source.numel() * 4, args.rounds) * 1e3
    measure.emit("products/copy", gb_per_s=copied)


if __name__ == "__main__":
    main()

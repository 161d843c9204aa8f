"""How much quicker does a SASRec-like model learn the same targets from whole sequences than row by row?

Both sides take the same train targets of the same users, once forward and backward: a pass over `--users` sequences,
and the prefix rows of those sequences in batches of `--rows`, padded and bucketed as in training. Losses and gradients
are compared with dropout off before anything is timed. Usage: `python tests/bench/bench_train_style.py --mean=9`.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]
sys.path[:0] = [str(Path(__file__).resolve().parent)]

import measure
import numpy as np
import torch
from builds import TEST_MS, VALID_MS, write_build

from recbole_blair import compat

QUIET = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}


def make_dataset(folder, users, mean, n_items, seed=0):
    """A build whose users have `mean` train events and more, at least three and at most fifty."""
    from recbole_blair.data.dataset import BlairDataset

    rng = np.random.default_rng(seed)
    length = np.minimum(3 + rng.geometric(1 / (mean - 3), users), 50)
    sequences = {}
    for user, n in enumerate(length):
        items = rng.integers(n_items, size=n + 2)
        times = [1_500_000_000_000 + i for i in range(n)] + [VALID_MS, TEST_MS]
        sequences[f"u{user}"] = [(f"i{item}", t) for item, t in zip(items, times)]
    return BlairDataset(write_build(folder, sequences), use_cache=False)


def make_model(dataset, **overrides):
    """SASRecID with RecBole's sizes."""
    from recbole_blair.config import resolve_config
    from recbole_blair.registry import find_model
    from recbole_blair.registry.build_model import build_model
    from recbole_blair.train.runtime import runtime_config, seed_everything

    info = find_model("SASRecID")
    config = resolve_config(info, "bench", overrides={"precision": "fp32", "device": "cpu", **overrides})
    seed_everything(1)
    return build_model(info, runtime_config(config), dataset).train()


def passes(model, batches, total):
    """Forward and backward over batches; the mean loss of their targets, gradients left in the model."""
    model.zero_grad(set_to_none=True)
    loss = 0.0
    for batch in batches:
        part = model.calculate_loss(batch) * (len(model.targets(batch)) / total)
        part.backward()
        loss += part.item()
    return loss


def gradients(model):
    """All gradients as one vector."""
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def main():
    """Check agreement, then time both sides."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=128, help="sequences, one batch")
    parser.add_argument("--mean", type=float, default=9.0, help="mean train events a user")
    parser.add_argument("--items", type=int, default=5_000)
    parser.add_argument("--rows", type=int, default=2048, help="prefix rows a batch")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    compat.apply()
    from recbole_blair.data.loader import RowLoader, SequenceLoader

    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(folder, args.users, args.mean, args.items)
        rows = list(RowLoader(dataset, "train", args.rows))
        sequences = list(SequenceLoader(dataset, args.users))
        total = len(dataset.rows["train"])
        quiet = make_model(dataset, **QUIET)
        apart = abs(passes(quiet, rows, total) - passes(quiet, sequences, total))
        whole = gradients(quiet)
        passes(quiet, rows, total)
        gap = ((gradients(quiet) - whole).norm() / whole.norm()).item()
        assert apart < 1e-4 and gap < 1e-3, (apart, gap)
        for softmax in ("full", "sampled"):
            model = make_model(dataset, softmax=softmax)
            cost = {}
            for side, batches in (("rows", rows), ("sequences", sequences)):
                seconds, spread, _ = measure.timed(lambda b=batches: passes(model, b, total), args.repeats)  # noqa: B023
                started = time.process_time()
                passes(model, batches, total)
                cost[side] = (seconds, spread, time.process_time() - started)
            measure.emit(
                f"train_style_{softmax}_{args.mean:g}", ours_s=cost["sequences"][0], reference_s=cost["rows"][0],
                ratio=cost["rows"][0] / cost["sequences"][0], spread_s=cost["sequences"][1],
                ours_cpu_s=cost["sequences"][2], reference_cpu_s=cost["rows"][2], peak_mb=measure.peak_mb(),
                targets=total, users=args.users, items=dataset.n_items - 1, loss_gap=apart, grad_gap=gap,
            )  # fmt: skip


if __name__ == "__main__":
    main()

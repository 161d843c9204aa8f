"""How much faster is a full-ranking evaluation than the released way, with the same target ranks?

The naive side computes the item table again for every batch, the adaptor on every padded position with eight separate
experts, keeps the batch's scores of all items and takes their top 50, as RecBole does. Ours is timed on `--batches`
batches and the table; the totals are for all valid rows of the scale, which both sides reach linearly.
Usage: `python tests/bench/bench_evaluation.py --scale=games`.
"""

import argparse
import contextlib
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import measure
import numpy as np
import torch
from bench_training_step import FakeDataset, NaiveStep, make_batch, make_model

from recbole_blair import compat
from recbole_blair.parallel.environment import set_environment

VALID_SHARE = 0.1  # valid rows among all


class Batches:
    """Stands for a RowLoader over given batches."""

    def __init__(self, dataset, batches):
        self.dataset, self.split, self.batches = dataset, "valid", batches
        self.rows = range(sum(len(b) for b in batches))
        first = np.cumsum([0] + [len(b) for b in batches])
        for start, batch in zip(first, batches):
            batch["row"] = torch.arange(start, start + len(batch))

    def __iter__(self):
        return iter(self.batches)


def naive_scores(naive, batch):
    """Scores of every item the released way."""
    return naive.state(batch) @ naive.items().T


def naive_ranks(naive, batch):
    """Target ranks by a full sort of the scores, the padding item left out."""
    scores = naive_scores(naive, batch)[:, 1:]
    order = scores.argsort(1, descending=True)
    own = scores.gather(1, (batch["item_id"] - 1)[:, None])
    return (order == (batch["item_id"] - 1)[:, None]).int().argmax(1) + 1, scores, own


def side(args, size):
    """Time one side in this process; prints its JSON line."""
    from recbole_blair.train.evaluation import Evaluator

    dataset = FakeDataset(size["n_items"], size["width"])
    model, config = make_model(dataset, "fp32" if args.side == "naive" else args.side, args.device)
    model.eval()
    total_batches = size["n_rows"] * VALID_SHARE / size["batch"]
    device = torch.device(args.device)
    if args.side == "naive":
        naive, batch = NaiveStep(model, False).to(device).eval(), make_batch(size["n_items"], size["batch"], 50)
        with torch.inference_mode():
            seconds, _, _ = measure.timed(lambda: naive_scores(naive, batch.to(device)).topk(50, 1)[1].cpu(), 1, 1)
        peak = measure.peak_mb(args.device)
        return measure.emit("side:naive", s=seconds * total_batches, batch_s=seconds, peak_mb=peak)
    batches = [make_batch(size["n_items"], size["batch"], seed=i) for i in range(args.batches)]
    config = config.replace(show_progress=False)
    evaluator = Evaluator(Batches(dataset, batches), config, device, precision_context(args.side, device))
    one = Evaluator(Batches(dataset, batches[:1]), config, device, precision_context(args.side, device))
    one.ranks(model)
    started = time.perf_counter()
    one.ranks(model)
    first = time.perf_counter() - started
    started = time.perf_counter()
    evaluator.ranks(model)
    batch_s = (time.perf_counter() - started - first) / (len(batches) - 1)
    table_s = max(first - batch_s, 0.0)
    total, peak = table_s + batch_s * total_batches, measure.peak_mb(args.device)
    return measure.emit(f"side:{args.side}", s=total, batch_s=batch_s, table_s=table_s, peak_mb=peak)


def precision_context(precision, device):
    """The trainer's precision context."""
    if precision == "bf16":
        return lambda: torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext


def agreement(device, with_bf16):
    """Share of rows whose rank differs although no score lies within 1e-5 of the target's, and bf16's NDCG@10 gap."""
    from recbole_blair.train.evaluation import Evaluator
    from recbole_blair.train.metrics import ndcg

    dataset = FakeDataset(3000, 384)
    model, config = make_model(dataset, "fp32", device)
    model.eval()
    batches = [make_batch(3000, 512, 50, seed=i).to(torch.device(device)) for i in range(2)]
    naive = NaiveStep(model, False).to(device).eval()
    wrong = 0
    config = config.replace(show_progress=False)
    with torch.inference_mode():
        for batch in batches:
            scores = naive_scores(naive, batch)[:, 1:]
            drawn = (torch.rand(len(batch), 1) ** 3 * 300).long().to(scores.device)
            likely = scores.topk(300, 1).indices + 1  # make the targets plausible, so that NDCG is not zero
            batch["item_id"] = likely.gather(1, drawn).squeeze(1)
    loader = Batches(dataset, batches)
    ranks = Evaluator(loader, config, torch.device(device), precision_context("fp32", None)).ranks(model)
    with torch.inference_mode():
        for batch in batches:
            expected, scores, own = naive_ranks(naive, batch)
            near = ((scores - own).abs() < 1e-5).sum(1) > 1
            rows = batch["row"].numpy()
            wrong += int(((torch.from_numpy(ranks[rows]) != expected.cpu()) & ~near.cpu()).sum())
    if not with_bf16:
        return wrong / len(ranks), None
    half, _ = make_model(dataset, "bf16", device)
    half.load_state_dict(model.state_dict())
    context = precision_context("bf16", torch.device(device))
    coarse = Evaluator(loader, config, torch.device(device), context).ranks(half.eval())
    return wrong / len(ranks), float(abs(ndcg(coarse, 10).mean() / ndcg(ranks, 10).mean() - 1))


def main():
    """Check agreement, then time both sides in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="small", choices=measure.SCALES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", type=int, default=16)
    parser.add_argument("--side", choices=("naive", "fp32", "bf16"))
    args = parser.parse_args()
    compat.apply()
    size = measure.SCALES[args.scale]
    if args.side:
        if args.side != "naive":
            set_environment()
        side(args, size)
        return
    precisions = measure.precisions(args.device)
    wrong, gap = agreement(args.device, "bf16" in precisions)
    assert wrong == 0.0 and (gap is None or gap < 0.005), (wrong, gap)
    flags = ("--scale", args.scale, "--device", args.device)
    sides = {p: [f"--side={p}", "--batches", args.batches, *flags] for p in precisions}
    found, naive = measure.run_around(__file__, sides, ["--side=naive", *flags])
    for precision, ours in found.items():
        measure.emit(
            f"evaluation_{precision}_{args.scale}", ours_s=ours["s"], reference_s=naive["s"],
            ratio=naive["s"] / ours["s"], batch_s=ours["batch_s"], table_s=ours["table_s"],
            reference_batch_s=naive["batch_s"], peak_mb=ours["peak_mb"], reference_peak_mb=naive["peak_mb"],
            ranks_wrong=wrong, bf16_ndcg_gap=gap,
            floor_tflop_batch=2 * size["n_items"] * 300 * size["batch"] / 1e12,
        )  # fmt: skip


if __name__ == "__main__":
    main()

"""How much faster and smaller is an HSTU training step than the padded naive form, at equal loss and gradients?

The naive side is the released way in plain PyTorch: every history padded to the full length, scores, biases and mask of
all pairs and heads at once, every sampled vector of the real positions gathered and normalised at once. Cases: the
paper's Games setting (25,612 items, 128 users, length 50, 512 negatives a position), with Games' history lengths and
with full ones, and 1,000-long histories.
Usage: `python tests/bench/bench_hstu.py --case=games`.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import measure
import numpy as np
import torch
import torch.nn.functional as F
from bench_training_step import FakeDataset, step_of
from torch import nn

from recbole_blair import compat

# items, users a step, history; mean real length (None: all full); sampled negatives a position
CASES = {
    "small": {"n_items": 3_000, "batch": 32, "longest": 50, "mean": 8.0, "negatives": 64},
    "games": {"n_items": 25_612, "batch": 128, "longest": 50, "mean": 8.6, "negatives": 512},
    "games_full": {"n_items": 25_612, "batch": 128, "longest": 50, "mean": None, "negatives": 512},
    "long": {"n_items": 25_612, "batch": 4, "longest": 1000, "mean": None, "negatives": 64},
    "long_mixed": {"n_items": 25_612, "batch": 8, "longest": 1000, "mean": 250.0, "negatives": 64},
}


class SequenceDataset(FakeDataset):
    """FakeDataset whose rows carry times."""

    has_times, name = True, "bench"

    def __init__(self, n_items):
        super().__init__(n_items, 1)


def make_batch(case, device, seed=0):
    """Whole train sequences padded to the longest history, every position supervised."""
    from recbole.data.interaction import Interaction

    rng, longest = np.random.default_rng(seed), case["longest"]
    length = np.full(case["batch"], longest)
    if case["mean"]:
        length = np.minimum(3 + rng.geometric(1 / (case["mean"] - 3), case["batch"]), longest)
    real = np.arange(longest) < length[:, None]
    gaps = np.exp(rng.uniform(5, 22, (case["batch"], longest + 1))).astype(np.int64)
    times = 1_500_000_000_000 + gaps.cumsum(1)
    draw = lambda: np.where(real, rng.integers(1, case["n_items"], real.shape), 0)  # noqa: E731
    fields = {
        "item_id_list": draw(), "target_list": draw(), "timestamp_list": np.where(real, times[:, :-1], 0),
        "item_length": length, "timestamp": times[np.arange(len(length)), length],
    }  # fmt: skip
    return Interaction({k: torch.from_numpy(v) for k, v in fields.items()}).to(torch.device(device))


def make_model(case, precision, device, **overrides):
    """HSTU with the paper's widths."""
    from recbole_blair.config import resolve_config
    from recbole_blair.registry import find_model
    from recbole_blair.registry.build_model import build_model
    from recbole_blair.train.runtime import runtime_config, seed_everything

    info = find_model("HSTU")
    base = {
        "precision": precision, "device": device, "MAX_ITEM_LIST_LENGTH": case["longest"],
        "max_history": case["longest"], "n_negatives": case["negatives"],
    }  # fmt: skip
    config = runtime_config(resolve_config(info, "bench", overrides={**base, **overrides}))
    seed_everything(1)
    return build_model(info, config, SequenceDataset(case["n_items"]))


class NaiveStep(nn.Module):
    """The padded form with a model's own weights; `aligned`: our draws, in the order of its positions."""

    def __init__(self, model, aligned=False):
        super().__init__()
        self.model, self.aligned = model, aligned

    def attention(self, layer, x, buckets):
        """All pairs of all heads at once, (B, heads, L, L)."""
        heads, d_qk, d_v, n = layer.sizes
        length = x.shape[1]
        mixed = F.silu(F.layer_norm(x, x.shape[2:], eps=1e-6) @ layer.uvqk)
        u, v, q, k = mixed.split([heads * d_v, heads * d_v, heads * d_qk, heads * d_qk], 2)
        q, k, v = (y.unflatten(2, (heads, -1)).transpose(1, 2) for y in (q, k, v))
        step = torch.arange(length, device=x.device)
        distance = (step[:, None] - step).clamp(min=0)
        by_time = layer.time_bias.index_select(0, buckets.flatten()).view(buckets.shape)
        by_distance = layer.pos_bias.index_select(0, distance.flatten()).view(distance.shape)
        scores = q @ k.transpose(2, 3) + (by_distance + by_time)[:, None]
        weights = F.silu(scores) / n * (step[:, None] >= step)
        attended = (weights @ v).transpose(1, 2).flatten(2)
        gated = u * F.layer_norm(attended, attended.shape[2:], eps=1e-6)
        return x + layer.output(F.dropout(gated, layer.dropout_prob, self.training))

    def calculate_loss(self, batch):
        """Mean loss of the real positions; the layers compute every padded one as well."""
        model, encoder = self.model, self.model.encoder
        seq, target, times = batch["item_id_list"], batch["target_list"], batch["timestamp_list"]
        asked = torch.cat([times[:, 1:], times[:, -1:]], 1)
        asked = asked.scatter(1, batch["item_length"][:, None] - 1, batch["timestamp"][:, None])
        delta = (asked[:, :, None] - times[:, None]).abs().clamp(min=1).double()
        buckets = (delta.log() / 0.301).clamp(max=128).long()
        table = F.pad(model.id_embedding.weight, (0, 0, 1, 0))
        x = F.embedding(seq, table) * table.shape[1] ** 0.5 + encoder.position_embedding.weight
        x = F.dropout(x, encoder.dropout_prob, self.training) * (seq > 0)[..., None]
        for layer in encoder.layers:
            x = self.attention(layer, x, buckets) * (seq > 0)[..., None]
        users = F.normalize(x, dim=2) / model.temperature
        real = target > 0
        users, target = users[real], target[real]  # (P, H), (P,): the released loss too leaves padding out
        draws = torch.randint(1, model.n_items, (len(target), model.n_negatives), device=seq.device)
        negatives = self.order(batch, draws) if self.aligned else draws
        own = (F.normalize(F.embedding(target, table), dim=1) * users).sum(1, keepdim=True)
        others = (F.normalize(F.embedding(negatives, table), dim=2) @ users[..., None]).squeeze(2)
        others = others.masked_fill(negatives == target[:, None], float("-inf"))
        return -torch.cat([own, others], 1).log_softmax(1)[:, 0].mean()

    def order(self, batch, drawn):
        """Our draws come by length of row; lay them out by row."""
        length = batch["item_length"]
        order = torch.sort(length, stable=True).indices
        parts = drawn.split(length[order].tolist())
        return torch.cat([parts[i] for i in torch.argsort(order).tolist()])


def agreement(device):
    """Loss and gradients of both sides, dropout off, float32, the same draws."""
    case = CASES["small"]
    model, batch = make_model(case, "fp32", device, dropout_prob=0.0), make_batch(case, device)
    results = []
    for module in (model, NaiveStep(model, aligned=True)):
        module.train()
        torch.manual_seed(3)
        model.zero_grad()
        loss = module.calculate_loss(batch)
        loss.backward()
        results.append((loss.item(), [p.grad.clone() for p in model.parameters()]))
    (ours, our_grads), (theirs, their_grads) = results
    worst = max(((a - b).norm() / b.norm().clamp(min=1e-12)).item() for a, b in zip(our_grads, their_grads))
    return abs(ours - theirs), worst


def side(args, case):
    """Time one side in this process; prints its JSON line."""
    precision = "fp32" if args.side == "naive" else args.side
    model = make_model(case, precision, args.device)
    module = NaiveStep(model) if args.side == "naive" else model
    module.train()
    step = step_of(module, precision, args.device, make_batch(case, args.device))
    seconds, spread, loss = measure.timed(step, args.repeats)
    started = time.process_time()
    step()
    cpu_s = time.process_time() - started  # says more than wall time where others use the cores
    peak = measure.peak_mb(args.device)
    measure.emit(f"side:{args.side}", s=seconds, spread_s=spread, cpu_s=cpu_s, peak_mb=peak, loss=loss)


def main():
    """Check agreement, then time both sides in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", default="small", choices=CASES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=("naive", "fp32", "bf16"))
    args = parser.parse_args()
    compat.apply()
    case = CASES[args.case]
    if args.side:
        return side(args, case)
    loss_gap, grad_gap = agreement(args.device)
    assert loss_gap < 1e-5 and grad_gap < 1e-4, (loss_gap, grad_gap)
    flags = ("--case", args.case, "--device", args.device, "--repeats", args.repeats)
    naive = measure.run_side(__file__, "--side=naive", *flags)
    real = int(make_batch(case, "cpu")["item_length"].sum())
    for precision in ("fp32", "bf16"):
        ours = measure.run_side(__file__, f"--side={precision}", *flags)
        measure.emit(
            f"hstu_step_{precision}_{args.case}", ours_s=ours["s"], reference_s=naive["s"], spread_s=ours["spread_s"],
            ratio=naive["s"] / ours["s"], ours_cpu_s=ours["cpu_s"], reference_cpu_s=naive["cpu_s"],
            peak_mb=ours["peak_mb"], reference_peak_mb=naive["peak_mb"],
            loss_gap=loss_gap, grad_gap=grad_gap, real_positions=real, padded=case["batch"] * case["longest"],
        )  # fmt: skip
    return None


if __name__ == "__main__":
    main()

"""How much faster is a UniSRecBlair training step than the released way, at equal loss and gradients?

The naive side does what the released code does: the adaptor on every padded position and on every item, eight
separate experts, float32, the whole logit matrix. Usage: `python tests/bench/bench_training_step.py --scale=games`.
"""

import argparse
import contextlib
import copy
import statistics
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import measure
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from recbole_blair import compat
from recbole_blair.ops import keep_freed_memory
from recbole_blair.parallel.environment import set_environment

QUIET = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "adaptor_dropout_prob": 0.0, "noisy_gating": False}


class FakeDataset:
    """Random features and rows of the wanted size; what a model asks a dataset for."""

    has_histories = True

    def __init__(self, n_items, width, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.n_items = self.item_num = n_items
        self.text_features = torch.randn(n_items - 1, width, generator=generator)
        self.drawn_items = None

    def item_texts(self, dtype):
        from recbole_blair.text.trained.item_texts import FrozenTexts

        return FrozenTexts(self.text_features.to(dtype))

    def num(self, field):
        return self.n_items

    def item_counts(self, split):
        return np.ones(self.n_items, np.int64)


def make_batch(n_items, batch, width=None, seed=0):
    """A batch as RecBole interaction, padded to its longest history, or to `width`."""
    from recbole.data.interaction import Interaction

    rng = np.random.default_rng(seed)
    length = measure.history_lengths(batch, rng)
    step = np.arange(width or length.max())
    seq = np.where(step < length[:, None], rng.integers(1, n_items, (batch, len(step))), 0)
    fields = {"item_id_list": seq, "item_length": length, "item_id": rng.integers(1, n_items, batch)}
    return Interaction({k: torch.from_numpy(v) for k, v in fields.items()})


def make_model(dataset, precision, device, **overrides):
    """UniSRecBlair with its defaults."""
    from recbole_blair.config import resolve_config
    from recbole_blair.registry import find_model
    from recbole_blair.registry.build_model import build_model
    from recbole_blair.train.runtime import runtime_config, seed_everything

    info = find_model("UniSRecBlair")
    config = resolve_config(info, "bench", overrides={"precision": precision, "device": device, **overrides})
    seed_everything(1)
    config = runtime_config(config)
    return build_model(info, config, dataset), config


class NaiveExperts(nn.Module):
    """Eight separate whitening experts and gates over every row it is given."""

    def __init__(self, adaptor, noisy):
        super().__init__()
        self.p, self.noisy = adaptor.dropout_prob, noisy
        self.bias = nn.ParameterList(adaptor.bias.detach().clone().unbind())
        self.weight = nn.ParameterList(adaptor.weight.detach().clone().unbind())
        self.w_gate = nn.Parameter(adaptor.w_gate.detach().clone())
        self.w_noise = nn.Parameter(adaptor.w_noise.detach().clone())

    def forward(self, x):
        logits = x @ self.w_gate
        if self.noisy and self.training:
            logits = logits + torch.randn_like(logits) * (F.softplus(x @ self.w_noise) + 1e-2)
        gates = logits.softmax(-1).unsqueeze(-1)
        outputs = [(F.dropout(x, self.p, self.training) - b) @ w.T for b, w in zip(self.bias, self.weight)]
        return (gates * torch.stack(outputs, -2)).sum(-2)


def recbole_encoder(encoder):
    """RecBole's own transformer with the weights of ours, as the released model uses it."""
    from recbole.model.layers import TransformerEncoder

    first, hidden = encoder.layers[0], encoder.norm.normalized_shape[0]
    inner, drop = first.ff_in.out_features, (first.hidden_dropout, first.attn_dropout)
    theirs = TransformerEncoder(len(encoder.layers), first.n_heads, hidden, inner, *drop, "gelu", encoder.norm.eps)
    for own, other in zip(encoder.layers, theirs.layer):
        attention, feed = other.multi_head_attention, other.feed_forward
        for name, weight, bias in zip(("query", "key", "value"), own.qkv.weight.chunk(3), own.qkv.bias.chunk(3)):
            getattr(attention, name).load_state_dict({"weight": weight, "bias": bias})
        attention.dense.load_state_dict(own.attn_out.state_dict())
        attention.LayerNorm.load_state_dict(own.attn_norm.state_dict())
        feed.dense_1.load_state_dict(own.ff_in.state_dict())
        feed.dense_2.load_state_dict(own.ff_out.state_dict())
        feed.LayerNorm.load_state_dict(own.ff_norm.state_dict())
    return theirs


class NaiveStep(nn.Module):
    """The released step with this model's weights; the padding item is left out so that the losses can agree."""

    def __init__(self, model, noisy):
        super().__init__()
        self.table = nn.Embedding.from_pretrained(F.pad(model.item_texts.features.float(), (0, 0, 1, 0)))
        self.experts = NaiveExperts(model.adaptor, noisy)
        self.norm, self.position = copy.deepcopy(model.encoder.norm), copy.deepcopy(model.encoder.position_embedding)
        self.dropout_prob, self.temperature = model.encoder.dropout_prob, model.temperature
        self.transformer = recbole_encoder(model.encoder)

    def state(self, batch):
        """The state at each history's last item, (B, H), every padded position computed."""
        item_seq = batch["item_id_list"]
        x = self.norm(self.experts(self.table(item_seq)) + self.position.weight[: item_seq.shape[1]])
        x = F.dropout(x, self.dropout_prob, self.training)
        seen = torch.tril((item_seq != 0)[:, None, None].expand(-1, -1, item_seq.shape[1], -1))
        x = self.transformer(x, torch.where(seen, 0.0, -10000.0))[-1]
        return F.normalize(x[torch.arange(len(x)), batch["item_length"] - 1], dim=1)

    def items(self):
        """The whole item table, padding included, (N, H)."""
        return F.normalize(self.experts(self.table.weight), dim=1)

    def calculate_loss(self, batch):
        logits = self.state(batch) @ self.items().T / self.temperature
        logits = logits.masked_fill(torch.arange(logits.shape[1], device=logits.device) == 0, float("-inf"))
        return F.cross_entropy(logits, batch["item_id"])


def step_of(module, precision, device, batch):
    """A whole training step: forward, backward, Adam."""
    kind = torch.device(device).type
    trained = [p for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=1e-3, fused=True)

    def step():
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16"):
            loss = module.calculate_loss(batch)
        loss.backward()
        optimiser.step()
        if kind == "cuda":
            torch.cuda.synchronize()
        return loss.item()

    return step


def side(args, size):
    """Time one side in this process; prints its JSON line."""
    dataset = FakeDataset(size["n_items"], size["width"])
    model, _ = make_model(dataset, "fp32" if args.side == "naive" else args.side, args.device)
    batch = make_batch(size["n_items"], size["batch"], 50 if args.side == "naive" else None).to(
        torch.device(args.device)
    )
    module = NaiveStep(model, True).to(args.device) if args.side == "naive" else model
    module.train()
    step = step_of(module, "fp32" if args.side == "naive" else args.side, args.device, batch)
    tuned = contextlib.nullcontext() if args.side == "naive" else keep_freed_memory()  # as our trainer does
    with tuned:
        seconds, spread, loss = measure.timed(step, args.repeats)
    peak = measure.peak_mb(args.device)
    measure.emit(f"side:{args.side}", s=seconds, spread_s=spread, peak_mb=peak, loss=loss)


def agreement(device):
    """Loss and gradients of both sides with dropout and gate noise off, float32, at a small size."""
    dataset = FakeDataset(3000, 384)
    model, _ = make_model(dataset, "fp32", device, **QUIET)
    batch = make_batch(3000, 256, 50).to(torch.device(device))
    naive = NaiveStep(model, False).to(device)
    ours, theirs = model.calculate_loss(batch), naive.calculate_loss(batch)
    ours.backward()
    grads = [model.adaptor.weight.grad, model.adaptor.bias.grad, model.adaptor.w_gate.grad]
    grads += [model.encoder.position_embedding.weight.grad, model.encoder.norm.weight.grad]
    grads += [layer.ff_in.weight.grad for layer in model.encoder.layers]
    grads += [layer.attn_out.weight.grad for layer in model.encoder.layers]
    theirs.backward()
    other = [torch.stack([w.grad for w in naive.experts.weight]), torch.stack([b.grad for b in naive.experts.bias])]
    other += [naive.experts.w_gate.grad, naive.position.weight.grad, naive.norm.weight.grad]
    other += [layer.feed_forward.dense_1.weight.grad for layer in naive.transformer.layer]
    other += [layer.multi_head_attention.dense.weight.grad for layer in naive.transformer.layer]
    worst = max(((a - b).norm() / b.norm().clamp(min=1e-12)).item() for a, b in zip(grads, other, strict=True))
    return abs(ours.item() - theirs.item()), worst


def main():
    """Check agreement, then time both sides in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="small", choices=measure.SCALES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--rounds", type=int, default=1, help="ours, the reference, ours again; the median ratio counts"
    )
    parser.add_argument("--side", choices=("naive", "fp32", "bf16"))
    args = parser.parse_args()
    compat.apply()
    size = measure.SCALES[args.scale]
    if args.side:
        if args.side != "naive":
            set_environment()
        return side(args, size)
    loss_gap, grad_gap = agreement(args.device)
    assert loss_gap < 1e-5 and grad_gap < 1e-4, (loss_gap, grad_gap)
    flags = ("--scale", args.scale, "--device", args.device)
    repeats = 1 if args.device == "cpu" else args.repeats
    sides = {p: [f"--side={p}", f"--repeats={args.repeats}", *flags] for p in measure.precisions(args.device)}
    around = ["--side=naive", f"--repeats={repeats}", *flags]
    rounds = [measure.run_around(__file__, sides, around) for _ in range(args.rounds)]
    for precision in sides:
        ours, naive = [found[precision] for found, _ in rounds], [reference for _, reference in rounds]
        ratios = [theirs["s"] / mine["s"] for mine, theirs in zip(ours, naive)]
        seconds = statistics.median(one["s"] for one in ours)
        measure.emit(
            f"unisrec_step_{precision}_{args.scale}", ours_s=seconds,
            reference_s=statistics.median(one["s"] for one in naive), ratio=statistics.median(ratios),
            ratios=[round(ratio, 2) for ratio in ratios], peak_mb=max(one["peak_mb"] for one in ours),
            reference_peak_mb=max(one["peak_mb"] for one in naive), loss_gap=loss_gap, grad_gap=grad_gap,
            **floor(size, seconds),
        )  # fmt: skip
    return None


def floor(size, seconds):
    """Arithmetic a step cannot do without: the adaptor and its weight gradient, three products of the softmax."""
    n, d, b, h, experts = size["n_items"], size["width"], size["batch"], 300, 8
    flop = 2 * n * d * h * experts * 2 + 2 * n * h * b * 3
    return {"floor_tflop": flop / 1e12, "tflop_per_s": flop / 1e12 / seconds}


if __name__ == "__main__":
    main()

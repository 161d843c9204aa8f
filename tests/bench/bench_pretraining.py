"""How many pairs a second does a pretraining step take, and how much memory, against the plain two-forward fp32 step?

The reference is the straightforward step: fp32, contexts and metadata in one padded forward pass each, the masked texts
of each side in another, the vocabulary head on every position. Ours hides the same tokens, runs in bf16 where asked,
pads texts of like lengths together, and sends only the hidden positions through the head; with caching it runs the
encoder twice to hold one chunk at a time. In fp32 without dropout both give the same loss and gradients, which is
checked first. Random weights of RoBERTa-base's shape; every variant is timed in a process of its own, for its memory.

    python tests/bench/bench_pretraining.py --pairs_per_step=32 --repeats=3
    python tests/bench/bench_pretraining.py --device=cuda --pairs_per_step=384 --chunk=768 --cache_chunk=128 \
        --repeats=5 --peak_tflops=989
"""

import argparse
import contextlib
import json
import platform
import resource
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

VARIANTS = ("reference", "fp32", "bf16", "bf16 cached")
SHAPES = {
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128},
}
VOCABULARY, MASK_ID, PAD_ID = 50265, 50264, 1


def build_model(shape, dropout, device):
    """Return a PairEncoder of RoBERTa with random weights, drawn on the device."""
    from transformers import AutoModel, AutoModelForMaskedLM, RobertaConfig

    from recbole_blair.pretrain.model import PairEncoder, TokenHead

    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=514,
        type_vocab_size=1,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        **SHAPES[shape],
    )
    with device:
        body = AutoModel.from_config(config, dtype=torch.float32)
        body.pooler = None
        head = TokenHead(AutoModelForMaskedLM.from_config(config, dtype=torch.float32), body)
        return PairEncoder(body, "cls", head).to(device)


def build_batch(n_pairs, longest, chunk, device):
    """Return a batch as PairCollator makes it, with lengths like those of real pairs cut at 64 tokens.

    Contexts are uniform from an eighth to seven eighths of `longest`, metadata is cut at `longest` seven times in ten
    and uniform from three eighths otherwise: 32 and 58 tokens on average, as ../shared/data's pairs have.
    """
    generator = torch.Generator().manual_seed(1)
    contexts = torch.randint(longest // 8, longest * 7 // 8 + 1, (n_pairs,), generator=generator)
    metadata = torch.randint(longest * 3 // 8, longest + 1, (n_pairs,), generator=generator)
    metadata = torch.where(torch.rand(n_pairs, generator=generator) < 0.7, longest, metadata)
    lengths = torch.cat([contexts, metadata])
    ids = torch.randint(4, MASK_ID, (2 * n_pairs, longest), generator=generator)
    ids[:, 0] = 0
    inside = torch.arange(longest) < lengths[:, None]
    batch = {"ids": ids.masked_fill(~inside, PAD_ID), "lengths": lengths}
    batch |= {name: torch.arange(n_pairs) for name in ("row", "item_key", "metadata_key")}
    batch = {name: value.to(device) for name, value in batch.items()}
    order = torch.argsort(lengths, descending=True, stable=True).to(device)
    batch["chunks"] = list(order.split(chunk or len(order)))
    return batch


def build_step(model, device, precision, cache_chunk):
    """Return our step."""
    from recbole_blair.pretrain.step import Objective, Step, Vocabulary

    words = Vocabulary(size=VOCABULARY, mask_id=MASK_ID, special_ids=(0, 1, 2, 3, MASK_ID), pad_id=PAD_ID)
    autocast = contextlib.nullcontext
    if precision == "bf16":
        autocast = lambda: torch.autocast(device.type, dtype=torch.bfloat16)  # noqa: E731
    return Step(model, Objective(), words, cache_chunk, autocast)


def reference_step(model, step, batch, number):
    """Two clean forward passes, two masked ones, the head on every position, one backward pass."""
    n_pairs = len(batch["row"])
    inside = (torch.arange(batch["ids"].shape[1], device=batch["ids"].device) < batch["lengths"][:, None]).long()
    noisy, _, labels = step.noisy_batch(batch, number)
    sides = (slice(0, n_pairs), slice(n_pairs, None))
    clean = [model.body(input_ids=batch["ids"][s], attention_mask=inside[s]).last_hidden_state[:, 0] for s in sides]
    cosines = F.normalize(clean[0], dim=1) @ F.normalize(clean[1], dim=1).T / step.objective.temperature
    contrastive = F.cross_entropy(cosines, torch.arange(n_pairs, device=cosines.device))
    total = 0.0
    for s in sides:
        states = model.body(input_ids=noisy[s], attention_mask=inside[s]).last_hidden_state
        logits = model.token_head(states.flatten(0, 1))
        total = total + F.cross_entropy(logits, labels[s].flatten(), ignore_index=-100, reduction="sum")
    loss = contrastive + step.objective.mlm_weight * total / (labels != -100).sum()
    loss.backward()
    return loss.detach()


def check_agreement(args, device):
    """Assert that plain, cached and reference step give one loss and one gradient in fp32 without dropout."""
    found = {}
    for name, chunk in (("reference", 0), ("plain", 0), ("cached", 8)):
        model = build_model(args.shape, 0.0, device).train()
        batch = build_batch(min(args.pairs_per_step, 8), args.longest, 8, device)
        step = build_step(model, device, "fp32", chunk)
        loss = reference_step(model, step, batch, 1) if name == "reference" else step.run(batch, 1)["loss"]
        norm = torch.sqrt(sum((p.grad.double() ** 2).sum() for p in model.parameters() if p.grad is not None))
        found[name] = (float(loss), float(norm))
    for name in ("plain", "cached"):
        for ours, wanted in zip(found[name], found["reference"]):
            assert abs(ours - wanted) <= 2e-4 * abs(wanted), (name, found)


def measure(args, device):
    """Time one variant; return seconds a step (median, spread) and peak memory."""
    model = build_model(args.shape, 0.1, device).train()
    cached = "cached" in args.variant
    chunk = args.cache_chunk or args.chunk if cached else args.chunk
    batch = build_batch(args.pairs_per_step, args.longest, chunk, device)
    precision = "bf16" if args.variant.startswith("bf16") else "fp32"
    step = build_step(model, device, precision, chunk if cached else 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, fused=True)

    def one(number):
        if args.variant == "reference":
            reference_step(model, step, batch, number)
        else:
            step.run(batch, number)
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()

    one(0)
    seconds = []
    for number in range(1, args.repeats + 1):
        started = time.perf_counter()
        one(number)
        seconds.append(time.perf_counter() - started)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    body = sum(p.numel() for p in model.body.encoder.parameters())
    tokens = int(batch["lengths"].sum())
    flops = 6 * body * tokens * 2  # clean and masked pass, forward and backward; neither attention's own nor the head
    return {"s": statistics.median(seconds), "spread_s": max(seconds) - min(seconds), "peak_mb": peak, "flops": flops}


def main():
    """Check agreement, then run each variant in a process of its own and print a JSON line a case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--shape", default="base", choices=tuple(SHAPES))
    parser.add_argument("--pairs_per_step", type=int, default=32)
    parser.add_argument("--longest", type=int, default=64, help="tokens of the longest text")
    parser.add_argument("--chunk", type=int, default=16, help="texts a forward pass")
    parser.add_argument(
        "--cache_chunk", type=int, default=None, help="the same with gradient caching; empty: as --chunk"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--peak_tflops", type=float, default=None, help="the chip's bf16 peak, for the share of it")
    parser.add_argument("--variant", default=None, choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = torch.device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.variant:
        print(json.dumps(measure(args, device)))
        return
    check_agreement(args, device)
    found = {}
    for variant in VARIANTS:
        command = [sys.executable, __file__, *sys.argv[1:], f"--variant={variant}"]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[variant] = json.loads(output.strip().splitlines()[-1])
        print(json.dumps(case_line(args, variant, found)), flush=True)


def case_line(args, variant, found):
    """Return what is printed of one variant."""
    ours, reference = found[variant], found["reference"]
    line = {
        "case": variant,
        "ours_s": round(ours["s"], 4),
        "spread_s": round(ours["spread_s"], 4),
        "reference_s": round(reference["s"], 4),
        "ratio": round(reference["s"] / ours["s"], 2),
        "pairs_per_second": round(args.pairs_per_step / ours["s"], 2),
        "peak_mb": round(ours["peak_mb"]),
        "tflops": round(ours["flops"] / ours["s"] / 1e12, 3),
        "pairs_per_step": args.pairs_per_step,
        "longest_text": args.longest,
        "device": torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or "cpu",
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }
    if args.peak_tflops:
        line["share_of_peak"] = round(line["tflops"] / args.peak_tflops, 3)
    return line


if __name__ == "__main__":
    main()

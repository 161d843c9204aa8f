"""How long and in how much memory does search take at Amazon-C4's size, against the plain ways?

    python tests/bench/bench_search.py [--items=264604 --queries=1024 --repeats=3] [--documents=20000 --asked=500]

Dense: random unit vectors of width 768, exact best 100. Reference: the released way (the whole table normalised, 64
queries a product, torch.topk). BM25: generated documents with Zipf-like words. Reference: a loop over all documents
for each query, as the released script does, textbook formula. Each side runs in a process of its own, the two
alternate, agreement is checked before the times are reported. `full_s` is the time for 1,058,417 items x 21,223
queries by linear extrapolation: seconds / (items x queries) of this run, times the full product.
`cpu_s` is the processor time of all threads, which other work on the machine disturbs less; `full_cpu_s` likewise.
Peak memory is anonymous memory (what the system cannot drop; pages of the mapped vector file are not counted).
One JSON line a case.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

FULL_ITEMS, FULL_QUERIES = 1_058_417, 21_223  # Amazon-C4
WIDTH, DEPTH = 768, 100
ROOT = Path(__file__).resolve().parents[2]


class PeakMemory:
    """Highest anonymous memory of this process while the block runs, MB; sampled every 10 ms."""

    def __enter__(self):
        self.peak, self.end = 0.0, threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self):
        while not self.end.is_set():
            text = Path("/proc/self/status").read_text()
            kb = next(int(line.split()[1]) for line in text.splitlines() if line.startswith("RssAnon"))
            self.peak = max(self.peak, kb / 1024)
            self.end.wait(0.01)

    def __exit__(self, *_):
        self.end.set()
        self.thread.join()


class Clock:
    """Seconds since the last reading: (elapsed, of the processor)."""

    def __init__(self):
        self.last = time.perf_counter(), time.process_time()

    def read(self):
        now = time.perf_counter(), time.process_time()
        passed = now[0] - self.last[0], now[1] - self.last[1]
        self.last = now
        return passed


def make_vectors(folder, items, queries, seed):
    """Write random unit vectors, a chunk at a time."""
    rng = np.random.default_rng(seed)
    for name, n in (("items", items), ("queries", queries)):
        out = np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=np.float32, shape=(n, WIDTH))
        for start in range(0, n, 16384):
            part = rng.standard_normal((min(16384, n - start), WIDTH), dtype=np.float32)
            out[start : start + len(part)] = part / np.linalg.norm(part, axis=1, keepdims=True)
        out.flush()


def dense_ours(folder, precision):
    """Our search over the mapped file."""
    from recbole_blair.search import dense

    items, queries = np.load(folder / "items.npy", mmap_mode="r"), np.load(folder / "queries.npy")
    return dense.search(queries, items, DEPTH, precision=precision, progress=False)


def dense_reference(folder, _):
    """The released way."""
    import torch

    items = torch.nn.functional.normalize(torch.from_numpy(np.load(folder / "items.npy")), dim=-1)
    queries = torch.nn.functional.normalize(torch.from_numpy(np.load(folder / "queries.npy")), dim=-1)
    found = [torch.topk(queries[i : i + 64] @ items.T, DEPTH, dim=-1) for i in range(0, len(queries), 64)]
    return torch.cat([f.indices for f in found]).numpy(), torch.cat([f.values for f in found]).numpy()


def make_texts(n_documents, n_queries, seed):
    """Documents of about 45 words and queries of about 12, words drawn from 60,000 by Zipf's law."""
    rng = np.random.default_rng(seed)
    vocabulary = np.array([f"word{i}" for i in range(60_000)])
    weights = 1 / np.arange(3, 60_003)
    weights /= weights.sum()

    def draw(n, mean):
        lengths = rng.poisson(mean, n) + 1
        words = vocabulary[rng.choice(len(vocabulary), lengths.sum(), p=weights)]
        return [" ".join(part) for part in np.split(words, np.cumsum(lengths)[:-1])]

    return draw(n_documents, 45), draw(n_queries, 12)


def bm25_ours(documents, queries):
    """Index and rank; returns (positions, scores), seconds of each."""
    from recbole_blair.search.bm25 import BM25Index

    clock = Clock()
    index = BM25Index().build(documents, progress=False)
    built = clock.read()
    found = index.search(queries, DEPTH, progress=False)
    return found, (built, clock.read())


def bm25_reference(documents, queries):
    """Count words in dictionaries, then score every document for each query in Python."""
    from recbole_blair.search.bm25 import Analyser

    analyse = Analyser()
    clock = Clock()
    counts, df = [], {}
    for document in documents:
        tf: dict[str, int] = {}
        for word in analyse(document):
            tf[word] = tf.get(word, 0) + 1
        counts.append(tf)
        for word in tf:
            df[word] = df.get(word, 0) + 1
    lengths = [sum(tf.values()) for tf in counts]
    n, average = len(counts), sum(lengths) / len(counts)
    idf = {w: math.log(1 + (n - f + 0.5) / (f + 0.5)) for w, f in df.items()}
    built = clock.read()
    positions, values = [], []
    for query in queries:
        words, scores = analyse(query), np.zeros(n)
        for i, tf in enumerate(counts):
            score = 0.0
            for word in words:
                if word in tf:
                    score += idf[word] * tf[word] / (tf[word] + 1.5 * (0.25 + 0.75 * lengths[i] / average))
            scores[i] = score
        best = np.argsort(-scores, kind="stable")[:DEPTH]
        positions.append(best)
        values.append(scores[best])
    return (np.array(positions), np.array(values)), (built, clock.read())


def child(args):
    """Run one side and leave its result in the folder."""
    folder = Path(args.folder)
    if args.side.startswith("dense"):
        import torch

        torch.randn(256, 256) @ torch.randn(256, 256)  # start the thread pool outside the clock
        work = dense_reference if args.side == "dense_reference" else dense_ours
        with PeakMemory() as memory:
            clock = Clock()
            positions, scores = work(folder, args.side.removeprefix("dense_"))
            seconds = [clock.read()]
    else:
        documents, queries = make_texts(args.documents, args.asked, args.seed)
        work = bm25_reference if args.side == "bm25_reference" else bm25_ours
        with PeakMemory() as memory:
            (positions, scores), seconds = work(documents, queries[: args.limit] if args.limit else queries)
    np.save(folder / f"{args.side}.positions.npy", positions)
    np.save(folder / f"{args.side}.scores.npy", scores)
    print(json.dumps({"seconds": list(seconds), "peak_mb": memory.peak}))


def run_child(folder, side, args, limit=0):
    """Run one side in a process of its own; returns its seconds and peak memory."""
    command = [sys.executable, __file__, f"--side={side}", f"--folder={folder}", f"--documents={args.documents}"]
    command += [f"--asked={args.asked}", f"--seed={args.seed}", f"--limit={limit}"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
    return json.loads(done.stdout.splitlines()[-1])


def agreement(folder, ours, reference):
    """Return the largest score difference by rank, and the share of ranks that hold the same item."""
    p, s = (np.load(folder / f"{ours}.{n}.npy") for n in ("positions", "scores"))
    q, t = (np.load(folder / f"{reference}.{n}.npy") for n in ("positions", "scores"))
    p, s = p[: len(q)], s[: len(q)]
    found = p >= 0
    return float(np.abs(s - t)[found].max()), float((p == q)[found].mean())


def report(case, ours, reference, difference, same, **more):
    """Print one JSON line."""
    import torch

    a, b = statistics.median(ours["seconds"]), statistics.median(reference["seconds"])
    line = {
        "case": case,
        "ours_s": float(f"{a:.4g}"),
        "reference_s": float(f"{b:.4g}"),
        "ratio": round(b / a, 2),
        "cpu_s": [float(f"{statistics.median(x['cpu']):.4g}") for x in (ours, reference)],
        "peak_mb": round(ours["peak_mb"]),
        "reference_peak_mb": round(reference["peak_mb"]),
        "spread_s": [round(max(x["seconds"]) - min(x["seconds"]), 3) for x in (ours, reference)],
        "max_score_difference": difference,
        "same_rank": round(same, 6),
        **more,
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()},
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(line), flush=True)
    return line


def extrapolate(ours, reference, scale):
    """Return both sides' median times `scale`, whole seconds."""
    sides = (("ours", ours), ("reference", reference))
    return {
        f"full_{key}": {name: round(scale * statistics.median(runs[what])) for name, runs in sides}
        for key, what in (("s", "seconds"), ("cpu_s", "cpu"))
    }


def collect(runs, part):
    """Merge repeats: one step's seconds, the highest peak."""
    return {
        "seconds": [r["seconds"][part][0] for r in runs],
        "cpu": [r["seconds"][part][1] for r in runs],
        "peak_mb": max(r["peak_mb"] for r in runs),
    }


def measure_dense(args):
    """Time exact search, fp32 and bf16 candidates."""
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_vectors(folder, args.items, args.queries, args.seed)
        sides = ("dense_fp32", "dense_bf16", "dense_reference")
        runs = {side: [] for side in sides}
        for _ in range(args.repeats):
            for side in sides:
                runs[side].append(run_child(folder, side, args))
        scale = FULL_ITEMS * FULL_QUERIES / (args.items * args.queries)
        reference = collect(runs["dense_reference"], 0)
        for side in sides[:2]:
            ours = collect(runs[side], 0)
            sizes = {"items": args.items, "queries": args.queries, "width": WIDTH, "depth": DEPTH}
            sizes |= extrapolate(ours, reference, scale)
            lines.append(report(f"exact {side[6:]}", ours, reference, *agreement(folder, side, sides[2]), **sizes))
    return lines


def measure_bm25(args):
    """Time BM25 indexing and ranking; the loop answers a tenth of the queries."""
    limit = max(1, args.asked // 10)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours, naive = [], []
        for _ in range(args.repeats):
            ours.append(run_child(folder, "bm25_ours", args))
            naive.append(run_child(folder, "bm25_reference", args, limit))
        checked = agreement(folder, "bm25_ours", "bm25_reference")
        lines = [report("BM25 index", collect(ours, 0), collect(naive, 0), *checked, documents=args.documents)]
        asked, loop = collect(ours, 1), collect(naive, 1)
        for key in ("seconds", "cpu"):
            asked[key] = [s / args.asked for s in asked[key]]
            loop[key] = [s / limit for s in loop[key]]
        scale = FULL_QUERIES * FULL_ITEMS / args.documents
        more = {"documents": args.documents, "queries": args.asked, "reference_queries": limit}
        more |= extrapolate(asked, loop, scale)
        lines.append(report("BM25 a query", asked, loop, *checked, **more))
    return lines


def parse(argv=None):
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=FULL_ITEMS // 4)
    parser.add_argument("--queries", type=int, default=1024)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--asked", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


@pytest.mark.bench
def test_search_bench():
    """`make bench`: small sizes. Asserts agreement, no time."""
    args = parse(["--items=20000", "--queries=256", "--documents=2000", "--asked=50", "--repeats=1"])
    for line in measure_dense(args) + measure_bm25(args):
        assert line["max_score_difference"] < 1e-4
        assert line["same_rank"] > 0.98


def main():
    """Measure both, or run one side."""
    args = parse()
    if args.side:
        child(args)
        return
    measure_dense(args)
    measure_bm25(args)


if __name__ == "__main__":
    main()

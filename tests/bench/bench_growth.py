"""Does cost grow linearly with rows (loading, batches, evaluation) and with items (training step)?

Usage: `python tests/bench/bench_growth.py --scale=games --svg=docs/growth.svg`. Each case is timed at a quarter, half
and the whole of the scale; a ratio of at most 4.5 for four times the size counts as linear.
"""

import argparse
import contextlib
import shutil
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import measure
import torch
from bench_evaluation import Batches
from bench_loading import NAME, write_files
from bench_training_step import FakeDataset, make_batch, make_model, step_of

from recbole_blair import compat

SHARES = (0.25, 0.5, 1.0)


def time_items(size, device):
    """Seconds of a training step at each share of the items, in bf16 where the chip has it."""
    precision, points = measure.precisions(device)[-1], []
    for share in SHARES:
        n_items = int(size["n_items"] * share)
        model, _ = make_model(FakeDataset(n_items, size["width"]), precision, device)
        batch = make_batch(n_items, size["batch"]).to(torch.device(device))
        model.train()
        seconds, _, _ = measure.timed(step_of(model, precision, device, batch), 3)
        points.append((n_items, seconds))
    return points


def time_rows(size):
    """Seconds to read a build from text, and to make every batch of an epoch, at each share of the rows."""
    from recbole_blair.data.dataset import BlairDataset
    from recbole_blair.data.loader import RowLoader

    load, epoch = [], []
    for share in SHARES:
        folder = Path(tempfile.mkdtemp())
        try:
            rows = write_files(folder, int(size["n_rows"] * share), size["n_items"])
            seconds, _, _ = measure.timed(lambda f=folder: BlairDataset(f / NAME, use_cache=False), 1, 0)
            load.append((rows, seconds))
            loader = RowLoader(BlairDataset(folder / NAME), "train", size["batch"], shuffle=True)
            seconds, _, _ = measure.timed(lambda it=loader: sum(1 for _ in it), 3)
            epoch.append((rows, seconds))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return load, epoch


def time_evaluation(size, device):
    """Seconds of a float32 evaluation at each share of eight batches."""
    from recbole_blair.train.evaluation import Evaluator

    dataset = FakeDataset(size["n_items"], size["width"])
    model, config = make_model(dataset, "fp32", device)
    model.eval()
    batches = [make_batch(size["n_items"], size["batch"], seed=i) for i in range(8)]
    points = []
    for share in SHARES:
        loader = Batches(dataset, batches[: int(8 * share)])
        evaluator = Evaluator(loader, config.replace(show_progress=False), torch.device(device), contextlib.nullcontext)
        seconds, _, _ = measure.timed(lambda e=evaluator: e.ranks(model), 1)
        points.append((len(loader.rows), seconds))
    return points


def draw(lines, path):
    """Write the curves as an SVG: both axes relative to the smallest size, the diagonal is linear growth."""
    width, height, margin = 520, 340, 50
    top = max(4.6, *(s / points[0][1] for points in lines.values() for _, s in points))

    def place(x, y):
        return margin + (x - 1) / 3 * (width - 2 * margin), height - margin - (y - 1) / (top - 1) * (
            height - 2 * margin
        )

    colours = ("#1b6ca8", "#c8553d", "#588157", "#7b2d8b")
    box = f"0 0 {width} {height}"
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" font-family="sans-serif" font-size="12">']
    (x0, y0), (x1, y1) = place(1, 1), place(4, 4)
    parts.append(f'<line x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}" stroke="#999" stroke-dasharray="5 4"/>')
    parts.append(f'<text x="{x1 - 50}" y="{y1 - 8}" fill="#777">linear</text>')
    for i, (name, points) in enumerate(lines.items()):
        spots = [place(n / points[0][0], s / points[0][1]) for n, s in points]
        path_points = " ".join(f"{x:.0f},{y:.0f}" for x, y in spots)
        parts.append(f'<polyline points="{path_points}" fill="none" stroke="{colours[i]}" stroke-width="2"/>')
        parts.append(f'<text x="{margin + 8}" y="{margin + 16 * i}" fill="{colours[i]}">{name}</text>')
    parts.append(f'<text x="{width / 2 - 60}" y="{height - 12}">size, smallest = 1 … 4</text>')
    parts.append(f'<text x="8" y="20">time, smallest = 1 … {top:.1f}</text></svg>')
    Path(path).write_text("\n".join(parts) + "\n", encoding="utf-8")


def report(name, lines):
    """Print one case as soon as it is known: all of them take a quarter of an hour at full size."""
    points = lines[name]
    measure.emit(
        f"growth of {name}", sizes=[n for n, _ in points], seconds=[round(s, 4) for _, s in points],
        ratio=points[-1][1] / points[0][1], times=points[-1][0] / points[0][0],
    )  # fmt: skip


def main():
    """Time every case and print one JSON line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="small", choices=measure.SCALES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--svg", help="write the plot there")
    args = parser.parse_args()
    compat.apply()
    size = measure.SCALES[args.scale]
    lines = {"training step by items": time_items(size, args.device)}
    report("training step by items", lines)
    lines["evaluation by rows"] = time_evaluation(size, args.device)
    report("evaluation by rows", lines)
    lines["loading from text by rows"], lines["batches of an epoch by rows"] = time_rows(size)
    report("loading from text by rows", lines)
    report("batches of an epoch by rows", lines)
    if args.svg:
        draw(lines, args.svg)


if __name__ == "__main__":
    main()

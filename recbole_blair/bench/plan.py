"""`bench --dry_run`: every cell with its state, disk, memory and time; nothing is started or written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from recbole_blair.bench.cells import Cell
from recbole_blair.bench.run import Bench, check_same_bench, load_same_cell
from recbole_blair.parallel.ray_cluster import local_gpus
from recbole_blair.runs.dry_run import FLOPS_PER_S
from recbole_blair.schema import TFIDF_SVD
from recbole_blair.text.encoders import resolve_plm
from recbole_blair.text.weights import weight_files

TOKENS = 20  # of a title
BASE_BYTES, BASE_WIDTH = 4 * 125e6, 768  # of an encoder whose weights are not here: base-sized
WIDTHS = ((60e6, 384), (400e6, 768), (1e12, 1024))  # about, by bytes of the weights
CORES_OF_GPU = 50  # cores that a GPU replaces in training, a guess
BYTES = {"train": 14, "search": 8}  # bytes of memory per number of the item vectors
OVERHEAD_S = 15  # of a cell: loading, evaluating, writing


class Estimate(NamedTuple):
    """What a cell takes, roughly."""

    disk_mb: float
    memory_gb: float
    hours: float


def plan_lines(bench: Bench, device: str = "auto") -> Iterator[str]:
    """Yield one line per cell, then the sum of what is not done.

    Raises:
        InputError: a folder of another suite, or a damaged cell.
    """
    if bench.folder.is_dir():
        check_same_bench(bench)
    kind = "cuda" if device.startswith("cuda") or (device == "auto" and local_gpus()) else "cpu"
    encoded: set[tuple[Any, ...]] = set()
    total = Estimate(0.0, 0.0, 0.0)
    for cell in bench.cells:
        done = bench.folder.is_dir() and load_same_cell(cell, cell.folder(bench.folder)) is not None
        key = (cell.encoder.id, cell.part.dataset if cell.part.task.command == "train" else cell.part.items)
        takes = estimate_cell(cell, kind, key not in encoded)
        encoded.add(key)
        state = "done" if done else "begun" if cell.folder(bench.folder).is_dir() else "to do"
        yield (
            f"{state:6} {cell.id:60} {cell.part.runs:2} runs  {takes.disk_mb:7,.0f} MB  {takes.memory_gb:4.1f} GB  "
            f"{takes.hours:6.2f} h"
        )
        if not done:
            memory = max(total.memory_gb, takes.memory_gb)
            total = Estimate(total.disk_mb + takes.disk_mb, memory, total.hours + takes.hours)
    yield (
        f"to do: {total.disk_mb:,.0f} MB of disk, {total.memory_gb:.1f} GB of memory, {total.hours:.2f} hours of one "
        f"{'CPU core' if kind == 'cpu' else 'GPU'}, a rough estimate"
    )


def estimate_cell(cell: Cell, kind: str, encodes: bool) -> Estimate:
    """Estimate a cell; `encodes` tells whether its texts are encoded for it."""
    part, (n_bytes, width) = cell.part, encoder_size(cell.encoder.plm)
    texts = (part.items if encodes else 0) + (part.rows if part.task.command == "search" else 0)
    # 2 multiplications and additions per weight and token; half of FLOPS_PER_S, which is two cores'
    flops = 2 * n_bytes / 4 * TOKENS * texts
    rate = FLOPS_PER_S[kind] / (2 if kind == "cpu" else 1)
    training = part.hours * part.runs / (CORES_OF_GPU if kind == "cuda" else 1)
    hours = flops / rate / 3600 + training + OVERHEAD_S / 3600
    disk = (4 * part.items * width * encodes + part.runs * 4e6) / 2**20
    per_number = BYTES[part.task.command]
    memory = 1.2 + n_bytes / 2**30 + part.items * width * per_number / 2**30
    return Estimate(disk, memory, hours)


def encoder_size(plm: str) -> tuple[float, int]:
    """Return the bytes of an encoder's weights and its width, about; base-sized where they are not here."""
    kind, value = resolve_plm(plm)
    if kind == TFIDF_SVD:
        return 0.0, 256
    if kind != "folder":
        return BASE_BYTES if kind == "hub" else 0.0, BASE_WIDTH
    n_bytes = float(sum(Path(path).stat().st_size for path in weight_files(value)))
    return n_bytes, next(width for limit, width in WIDTHS if n_bytes <= limit or limit == WIDTHS[-1][0])

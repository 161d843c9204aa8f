"""`bench --engine=ray`: cells over a cluster. Cells that read the same features are one task, so none is encoded twice.

The bench's folder, `data_path` and `raw_dir` must be on storage that all nodes see under the same path. Nothing is lost
with a task: its cells are kept as they end, and a task that is done again goes on after them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from recbole_blair.bench.cells import Cell, load_about
from recbole_blair.bench.data import make_data
from recbole_blair.bench.run import Bench, OnCell, absolute, run_here
from recbole_blair.cluster.pool import first_line, refusal
from recbole_blair.parallel.ray_cluster import RayOptions
from recbole_blair.train.display import say

MAX_RETRIES = 3  # of a task whose process or node was lost


def cells_over_cluster(options: RayOptions) -> Callable[[Bench, Sequence[Cell], OnCell], None]:
    """Return what makes cells on a cluster; see `run_bench`."""

    def run_cells(bench: Bench, cells: Sequence[Cell], finished: OnCell) -> None:
        """Make the data here, then the cells there."""
        if not cells:
            return
        bench = with_absolute_paths(bench)
        for part in {cell.part.id: cell.part for cell in cells}.values():
            make_data(part, bench.places, bench.folder / "data")
        with options.open() as cluster:
            import ray  # heavy

            groups = group_cells(cells)
            say(f"{cluster.describe()}; {len(cells)} cells in {len(groups)} tasks")
            gpus = 1 if cluster.gpus and (bench.places.train or {}).get("device") != "cpu" else 0
            cpus = (bench.places.train or {}).get("threads") or 1
            task = ray.remote(make_cells).options(
                num_cpus=cpus, num_gpus=gpus, max_retries=MAX_RETRIES, retry_exceptions=False
            )
            running = {task.remote(bench, group): group for group in groups}
            while running:
                (ref,), _ = ray.wait(list(running), num_returns=1)
                report_task(ref, running.pop(ref), bench, finished)

    return run_cells


def with_absolute_paths(bench: Bench) -> Bench:
    """Return the bench with paths that hold in any process."""
    own = bench.places
    places = replace(
        own,
        raw_dir=str(Path(own.raw_dir).resolve()),
        data_path=str(Path(own.data_path).resolve()),
        output_dir=str(Path(own.output_dir).resolve()),
        measuring=str(Path(own.measuring).resolve()) if own.measuring else None,
        progress=False,
    )
    return replace(bench, places=places, encoders=tuple(map(absolute, bench.encoders)))


def group_cells(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Return cells by encoder and data: training cells of one data set, and all searches, which may share a pool."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        shared = cell.part.dataset if cell.part.task.command == "train" else "search"
        moved = replace(cell, encoder=absolute(cell.encoder))
        groups.setdefault((cell.encoder.id, shared), []).append(moved)
    return list(groups.values())


def make_cells(bench: Bench, cells: Sequence[Cell]) -> dict[str, str]:
    """Make cells in a task; returns the errors of those that failed, by their ids."""
    errors: dict[str, str] = {}

    def finished(cell: Cell, about: dict[str, Any] | None, error: str | None) -> None:
        if about is None:
            errors[cell.id] = error or ""

    open_cells = [cell for cell in cells if load_about(cell.folder(bench.folder)) is None]
    run_here(bench, open_cells, finished)
    return errors


def report_task(ref: Any, cells: Sequence[Cell], bench: Bench, finished: OnCell) -> None:
    """Report the cells of a task that has ended."""
    import ray  # heavy

    try:
        errors = ray.get(ref)
    except ray.exceptions.RayError as error:
        cause = refusal(error) if isinstance(error, ray.exceptions.RayTaskError) else error
        errors = {cell.id: first_line(cause) for cell in cells}
    for cell in cells:
        about = load_about(cell.folder(bench.folder))
        lost = "its files are not seen from here; put --output_dir on storage all nodes share"
        finished(cell, about, None if about else errors.get(cell.id, lost))

"""The bench: which cells there are, which are missing, and how the missing ones are made."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import Timeout

from recbole_blair.bench.cells import (
    FORMAT,
    Cell,
    CellResult,
    EncoderChoice,
    choose_encoders,
    load_about,
    load_cell,
    public_plm,
    save_cell,
)  # fmt: skip
from recbole_blair.bench.data import make_data, require_same
from recbole_blair.bench.encoder_cost import measure_encoder
from recbole_blair.bench.leaderboard import render
from recbole_blair.bench.results import PAGE, Board, build_board, write_results
from recbole_blair.bench.statistics import SAMPLES
from recbole_blair.bench.suite import Suite, load_suite
from recbole_blair.bench.tasks import run_task
from recbole_blair.errors import InputError
from recbole_blair.figures import fraction
from recbole_blair.files.output import check_output_folder
from recbole_blair.files.own_json import read_own_json, write_own_json
from recbole_blair.files.write import locked_folder, write_text
from recbole_blair.schema import VERSION
from recbole_blair.steps.commands import STEP_FILE
from recbole_blair.steps.step import Places
from recbole_blair.train.display import say
from recbole_blair.train.progress import progress_bar

BENCH, LOCK = "bench.json", ".lock"
STEP_SAMPLES = 1000  # of a step, whose intervals nobody reads
LIBRARIES = ("torch", "transformers", "numpy", "scikit-learn")
Failure = tuple[str, str]  # a cell's id and its error


@dataclass(frozen=True)
class Bench:
    """A suite with encoders, in a folder.

    Args:
        suite: the parts that are asked for.
        encoders: to compare.
        places: `output_dir` is the bench's folder.
        command: as others may repeat it; stands in the results.
    """

    suite: Suite
    encoders: tuple[EncoderChoice, ...]
    places: Places
    command: str
    samples: int = SAMPLES

    @property
    def folder(self) -> Path:
        """Return the folder."""
        return Path(self.places.output_dir)

    @property
    def cells(self) -> list[Cell]:
        """Return all cells, encoder by encoder: what an encoder gave is in memory while its other cells are made."""
        return [Cell(part, encoder) for encoder in self.encoders for part in self.suite.parts]


OnCell = Callable[[Cell, "dict[str, Any] | None", "str | None"], object]
RunCells = Callable[[Bench, Sequence[Cell], OnCell], None]


def run_bench(bench: Bench, run_cells: RunCells | None = None) -> tuple[Board, list[Failure]]:
    """Make the cells that are missing, then the results of all that are there.

    Args:
        bench: what is asked for.
        run_cells: makes cells; None: one after the other, here.

    Returns:
        The leaderboard, and the cells that failed: one that fails stops no other.

    Raises:
        InputError: a folder of another suite, a damaged cell, data that are not there, or no cell that could be made.
    """
    with only_bench(check_output_folder(bench.folder)):
        check_same_bench(bench)
        missing = [cell for cell in bench.cells if load_same_cell(cell, cell.folder(bench.folder)) is None]
        write_own_json(bench.folder / BENCH, {"suite": bench.suite.name})
        failures: list[Failure] = []
        bar = progress_bar(len(bench.cells), "bench", "cells", bench.places.progress)
        done = len(bench.cells) - len(missing)
        bar.update(done)

        def finished(cell: Cell, about: dict[str, Any] | None, error: str | None) -> None:
            nonlocal done
            done += 1
            bar.update(1)
            if about is None:
                failures.append((cell.id, error or ""))
            result = f"{about['metric']} {fraction(about['value'])}" if about else f"failed: {error}"
            say(f"cell {done} of {len(bench.cells)}  {cell.id}  {result}")

        (run_cells or run_here)(bench, missing, finished)
        bar.close()
        return conclude(bench.folder, bench.suite.name, bench.samples, failures), failures


def run_here(bench: Bench, cells: Sequence[Cell], finished: OnCell) -> None:
    """Make cells one after the other."""
    for cell in cells:
        try:
            about = run_cell(bench, cell)
        except (InputError, ArithmeticError, RuntimeError) as error:
            finished(cell, None, f"{type(error).__name__}: {' '.join(str(error).split())}")
        else:
            finished(cell, about, None)


def run_cell(bench: Bench, cell: Cell) -> dict[str, Any]:
    """Make one cell: its data, its encoder's cost, its task; returns cell.json's content."""
    started, folder = time.perf_counter(), cell.folder(bench.folder)
    data = make_data(cell.part, bench.places, bench.folder / "data")
    first = make_data(bench.suite.parts[0], bench.places, bench.folder / "data")
    cost_folder = bench.folder / "encoders" / cell.encoder.id
    cost = measure_encoder(cell.encoder.plm, Path(first["folder"]), bench.places, cost_folder)
    for other in bench.folder.glob(f"cells/{cell.part.id}/*/cell.json"):
        about = load_about(other.parent)
        if about:
            require_same(cell.part.id, about["data"]["sha256"], data["sha256"])
    outcome = run_task(cell, {**data, "others": other_builds(bench, cell)}, bench.places, folder)
    task = cell.part.task
    values = [outcome.metrics[str(seed)][task.metric] for seed in task.seeds]
    about = {
        "format": FORMAT,
        "suite": bench.suite.name,
        "part_sha256": cell.part.sha256,
        "encoder": {
            "id": cell.encoder.id, "label": cell.encoder.label, "plm": public_plm(cell.encoder.plm), **cost,
        },
        "task": task.name,
        "dataset": cell.part.dataset,
        "model": task.model,
        "metric": task.metric,
        "data": {"sha256": data["sha256"], **data["counts"]},
        "seeds": list(task.seeds),
        "setting": outcome.setting,
        "grid": outcome.grid,
        "metrics": outcome.metrics,
        "value": sum(values) / len(values),
        **outcome.about,
        "seconds": round(time.perf_counter() - started, 1),
        "versions": library_versions(),
        "command": bench.command,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip
    save_cell(folder, about, outcome.table)
    return about


def other_builds(bench: Bench, cell: Cell) -> list[Path]:
    """Return the builds that this bench has made of a cell's data set, of any protocol."""
    steps = sorted(bench.folder.glob(f"data/{cell.part.dataset}-*/{STEP_FILE}"))
    read = [read_own_json(path, "the result of a step", "delete it to make it again", ("result",)) for path in steps]
    return [Path(step["result"]["folder"]) for step in read]


def library_versions() -> dict[str, str]:
    """Return the versions that the numbers depend on."""
    found = {"recbole_blair": VERSION}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


@contextlib.contextmanager
def only_bench(folder: Path) -> Iterator[None]:
    """Hold a bench's folder.

    Raises:
        InputError: another process is at work there.
    """
    try:
        with locked_folder(folder, LOCK, timeout_s=0):
            yield
    except Timeout as error:
        raise InputError(f"another process is at work on {folder}; wait for it or stop it") from error


def check_same_bench(bench: Bench) -> None:
    """Refuse a folder of another suite.

    Raises:
        InputError: names both.
    """
    path = bench.folder / BENCH
    if not path.exists():
        return
    fix = "restore it, or choose another --output_dir"
    name = read_own_json(path, "a bench's description", fix, ("suite",))["suite"]
    if name != bench.suite.name:
        raise InputError(
            f"{bench.folder} holds a bench of suite {name}, not {bench.suite.name}; choose another --output_dir"
        )


def load_same_cell(cell: Cell, folder: Path) -> dict[str, Any] | None:
    """Return cell.json's content of a finished cell, or None.

    Raises:
        InputError: it was made with other settings or other seeds than are asked for.
    """
    about = load_about(folder)
    if about is None:
        return None
    other = None
    if about["part_sha256"] != cell.part.sha256:
        other = "with other settings of the suite"
    elif about["seeds"] != list(cell.part.task.seeds):
        other = f"with the seeds {','.join(map(str, about['seeds']))}"
    if other:
        raise InputError(f"{folder} was made {other}; choose another --output_dir, or delete that folder")
    return about


def load_cells(folder: Path) -> list[CellResult]:
    """Return the finished cells of a bench's folder, by task, data set and encoder.

    Raises:
        InputError: a damaged cell.
    """
    found = (load_cell(path.parent) for path in sorted(folder.glob("cells/*/*/*/cell.json")))
    return [cell for cell in found if cell is not None]


def conclude(folder: Path, name: str, samples: int, failures: Sequence[Failure] = ()) -> Board:
    """Write the results of all finished cells of a folder, in the order of the suite; returns the leaderboard.

    Raises:
        InputError: there is none.
    """
    suite = load_suite(name)
    order = {part.id: number for number, part in enumerate(suite.parts)}
    cells = sorted(load_cells(folder), key=lambda cell: order.get(cell.part, len(order)))
    if not cells:
        reason = f": {failures[0][0]}: {failures[0][1]}" if failures else ""
        raise InputError(f"{folder} has no finished cell{reason}")
    titles = {part.task.name: part.task.title for part in suite.parts}
    board = build_board(suite.title, cells, titles, samples)
    write_results(folder, cells)
    write_text(folder / PAGE, render(board))
    return board


def run_bench_step(keys: dict[str, Any], places: Places, folder: Path) -> dict[str, Any]:
    """Run one encoder on some tasks of a suite as a step of `reproduce`; the mean over data sets is measured.

    Args:
        keys: `suite`, `tasks` (names), `plm`, perhaps `seeds`.
        places: where files are.
        folder: of the bench.
    """
    suite = load_suite(keys["suite"]).select(keys["tasks"], None, keys.get("seeds"))
    own = replace(places, output_dir=str(folder), seeds=None)
    command = f"recbole-blair bench --suite={keys['suite']} --tasks={','.join(keys['tasks'])}"
    bench = Bench(suite, tuple(choose_encoders(keys["plm"])), own, command, samples=STEP_SAMPLES)
    board, failures = run_bench(bench)
    if failures:
        raise InputError(f"{failures[0][0]}: {failures[0][1]}")
    metrics = {
        task["metric"].split("@")[0]: mean["value"] for task in board["tasks"] for mean in task["means"].values()
    }
    return {"metrics": metrics, "runs": [str(folder)]}


def absolute(choice: EncoderChoice) -> EncoderChoice:
    """Return an encoder whose folder is named from the root: cells may run in other processes."""
    path = Path(choice.plm).expanduser()
    return replace(choice, plm=str(path.resolve())) if path.is_dir() else choice

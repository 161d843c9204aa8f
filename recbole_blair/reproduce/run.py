"""Reproduce rows: run their steps, compare with the source or with what a small run must show, write the results."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_blair.errors import InputError, nearest
from recbole_blair.files.own_json import read_own_json, write_own_json
from recbole_blair.report.paired import holm
from recbole_blair.reproduce.orders import (
    ABOVE,
    BELOW,
    HOLDS,
    NOT_SHOWN,
    REVERSED,
    UNDECIDED,
    Order,
    compare_values,
    judge,
    load_values,
)
from recbole_blair.reproduce.steps import Planner
from recbole_blair.reproduce.tables import UNITS, Row, find_orders, find_rows, load_smoke
from recbole_blair.schema import VERSION
from recbole_blair.steps.step import Places

if TYPE_CHECKING:
    from recbole_blair.reproduce.checks import Check
    from recbole_blair.reproduce.runner import Runner
    from recbole_blair.steps.world import World

SCALES = ("smoke", "full")
WITHIN, OUTSIDE, NOT_COMPARABLE = "within tolerance", "outside", "not comparable"
VERDICTS = (OUTSIDE, REVERSED, NOT_SHOWN, WITHIN, HOLDS, BELOW, ABOVE, UNDECIDED)  # the worst first
PASS, FAIL = "pass", "FAIL"
Result = dict[str, Any]  # of a step, a figure or a row, as the results files hold it
OnRow = Callable[[Result], object]


def reproduce(spec: str, places: Places, scale: str = "smoke", on_row: OnRow | None = None) -> list[Result]:
    """Reproduce the rows that ids name.

    Args:
        spec: see `tables.find_rows`.
        places: where files are.
        scale: smoke or full.
        on_row: gets each finished row's result.

    Raises:
        InputError: an unknown id or scale; in full whatever a command refuses, after the rows before it were saved.
    """
    if scale not in SCALES:
        raise InputError(f"--scale={scale} is not one of {', '.join(SCALES)}.{nearest(scale, SCALES)}")
    rows = find_rows(spec)
    return (run_smoke if scale == "smoke" else run_full)(rows, places, on_row)


def run_full(rows: Sequence[Row], places: Places, on_row: OnRow | None = None) -> list[Result]:
    """Run rows as the source did; see `reproduce`."""
    from recbole_blair.reproduce.runner import Runner  # heavy: loads the rooms of all commands

    planner = Planner(places)
    names = {row.id: planner.steps_of(row) for row in rows}  # the errors of all rows are raised before anything runs
    folder = Path(places.output_dir) / "full"
    runner, results = Runner(planner, places, folder / "steps"), []

    def finish(table: str, result: Result) -> None:
        result["verdict"] = verdict(result["figures"])
        save(folder, table, result)
        results.append(result)
        if on_row:
            on_row(result)

    measured: dict[str, Result] = {}  # by the row's id
    for row in rows:
        started = time.perf_counter()
        measured[row.id] = [runner.run(name) for name in names[row.id]][-1]
        result: Result = {
            **describe(row, planner, names[row.id]),
            "figures": compare(row, measured[row.id]),
            "runs": measured[row.id]["runs"],
            **{key: measured[row.id][key] for key in ("setting", "grid") if key in measured[row.id]},
            "seconds": round(time.perf_counter() - started, 1),
        }
        finish(row.table, result)
    orders = find_orders(rows)
    compared = [compare_order(order, measured[order.above.id], measured[order.below.id]) for order in orders]
    correct_p_values(compared)
    for order, result in zip(orders, compared):
        finish(order.above.table, result)
    return results


def correct_p_values(results: Sequence[Result]) -> None:
    """Add to each p-value of orders the one corrected for their number (Holm): all orders of one invocation."""
    figures = [figure for result in results for figure in result["figures"] if "p_value" in figure]
    for figure, p in zip(figures, holm([figure["p_value"] for figure in figures])):
        figure["p_value_holm"] = p


def compare_order(order: Order, above: Result, below: Result) -> Result:
    """Return the result of an order from those of its two rows."""
    started, command = time.perf_counter(), order.above.commands[-1][0]
    figures = []
    for metric, published in order.published.items():
        sides = ((order.above, above), (order.below, below))
        values = [load_values(command, result["runs"], row.metric_name(metric)) for row, result in sides]
        if values[0] is None or values[1] is None:
            why = f"the runs of {command} leave no {metric} of each user or query"
            figures.append({"metric": metric, "paper": published, "ours": None, "verdict": NOT_COMPARABLE, "why": why})
            continue
        found = compare_values(values[0], values[1], UNITS[order.above.unit])
        figure = judge(order, metric, found["difference"], found["low"], found["high"])
        figures.append({**figure, "seeds": found["seeds"], "p_value": found["p_value"]})
    return {
        "id": order.id, "source": order.above.source, "unit": order.above.unit, "figures": figures,
        "runs": [*above["runs"], *below["runs"]], "note": "", "version": VERSION, "time": now(),
        "seconds": round(time.perf_counter() - started, 1),
    }  # fmt: skip


def describe(row: Row, planner: Planner, names: Sequence[str]) -> Result:
    """Return the fields that identify the run of a result."""
    steps = [planner.steps[name] for name in names]
    return {
        "id": row.id,
        "source": row.source,
        "unit": row.unit,
        "encoder": row.encoder,
        "model": row.model,
        "tolerance": row.tolerance,
        "commands": [{step.command: step.keys} for step in steps],
        "note": row.note,
        "version": VERSION,
        "time": now(),
    }


def now() -> str:
    """Return the time of a result, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def compare(row: Row, result: Result) -> list[Result]:
    """Return one dict per published figure: metric, paper, ours, difference, verdict, why."""
    return [compare_figure(row, metric, paper, result) for metric, paper in row.published.items()]


def compare_figure(row: Row, metric: str, paper: float | str | None, result: Result) -> Result:
    """Compare one figure; numbers in the row's unit, months and the like as they are."""
    ours = result["metrics"].get(metric)
    if isinstance(ours, int | float) and is_share(metric):
        ours = ours * UNITS[row.unit]
    figure = {"metric": metric, "paper": paper, "ours": ours, "difference": None}
    spread = result.get("deviation", {}).get(metric)
    if spread is not None:
        figure["deviation"] = spread * UNITS[row.unit]
    if paper is None or metric in row.reasons:
        return figure | {"verdict": NOT_COMPARABLE, "why": row.reasons.get(metric, "no value is published")}
    if ours is None:
        return figure | {"verdict": NOT_COMPARABLE, "why": f"the run has no {metric}"}
    if isinstance(paper, str):
        same = str(ours) == paper
        return figure | {"verdict": WITHIN if same else OUTSIDE, "why": "" if same else "must be equal"}
    allowed = max(row.tolerance["absolute"], row.tolerance["relative"] * abs(paper))
    difference = ours - paper
    near = abs(difference) <= allowed * (1 + 1e-9)
    why = f"{'' if near else 'more than '}{allowed:.4g} allowed"
    return figure | {"difference": difference, "verdict": WITHIN if near else OUTSIDE, "why": why}


def is_share(metric: str) -> bool:
    """Return whether a metric is a share, which a table in per cent holds times 100."""
    return metric not in ("queries", "items", "candidates")


def verdict(figures: Iterable[Result]) -> str:
    """Return the verdict of a row or order: the worst of its figures', not comparable if none can be compared."""
    verdicts = {figure["verdict"] for figure in figures}
    return next((one for one in VERDICTS if one in verdicts), NOT_COMPARABLE)


def run_smoke(rows: Sequence[Row], places: Places, on_row: OnRow | None = None) -> list[Result]:
    """Run rows on generated data; nothing of earlier runs is reused, equal steps run once; see `reproduce`."""
    folder = Path(places.output_dir) / "smoke"
    folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="work-", dir=folder))
    try:
        return run_smoke_in(work, rows, folder, on_row)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def run_smoke_in(work: Path, rows: Sequence[Row], folder: Path, on_row: OnRow | None = None) -> list[Result]:
    """Run rows on a world made in `work`; results go to `folder`."""
    from recbole_blair.reproduce.runner import Runner  # heavy: loads the rooms of all commands
    from recbole_blair.reproduce.smoke import SmokePlanner
    from recbole_blair.steps.world import World

    settings = load_smoke()
    world = World(work, settings)
    planner = SmokePlanner(world, settings)
    runner, results = Runner(planner, planner.places, work / "steps"), []
    for row in rows:
        started = time.perf_counter()
        names = planner.steps_of(row)
        checks = check_row(row, runner, names, world, settings)
        result: Result = {
            **describe(row, planner, names),
            "checks": [{"name": c.name, "verdict": PASS if c.ok else FAIL, "says": c.says} for c in checks],
            "verdict": PASS if checks and all(c.ok for c in checks) else FAIL,
            "seconds": round(time.perf_counter() - started, 1),
        }
        save(folder, row.table, result)
        results.append(result)
        if on_row:
            on_row(result)
    return results


def check_row(row: Row, runner: Runner, names: Sequence[str], world: World, settings: dict[str, Any]) -> list[Check]:
    """Return the Checks of one row; one that cannot be run has failed."""
    from recbole_blair.reproduce import checks, ranking_checks  # heavy: load models

    try:
        step_results = [runner.run(name) for name in names]
    except (InputError, ArithmeticError, RuntimeError) as error:
        return [checks.Check("runs", False, f"{type(error).__name__}: {' '.join(str(error).split())}")]
    context = checks.Context(world, settings, runner.planner, names, step_results)
    results = []
    for name in row.checks:
        key = f"check {name}"
        if key not in context.result:  # rows that share a run share its checks
            function = getattr(checks, name, None) or getattr(ranking_checks, name)
            context.result[key] = function(context, settings["checks"][name])
        results.append(context.result[key])
    return results


def results_path(folder: Path | str, table: str) -> Path:
    """Return the results file of one table."""
    return Path(folder) / "results" / f"{table}.json"


def save(folder: Path, table: str, result: Result) -> None:
    """Put one row's result into its table's file."""
    path = results_path(folder, table)
    results = load_results(path)
    results[result["id"]] = result
    write_own_json(path, results, ensure_ascii=True, default=str)


def load_results(path: Path) -> dict[str, Result]:
    """Return a results file, empty where there is none.

    Raises:
        InputError: it is damaged.
    """
    if not Path(path).exists():
        return {}
    return read_own_json(path, "the results of a table", "delete it, and reproduce makes it again")

"""Reproduce rows: run their steps, compare with the source or with what a small run must show, write the results."""

import json
import shutil
import tempfile
import time
from pathlib import Path

from recbole_blair.errors import InputError, nearest
from recbole_blair.files.write import write_text
from recbole_blair.reproduce.steps import Planner, Runner
from recbole_blair.reproduce.tables import UNITS, find_rows, load_smoke
from recbole_blair.schema import VERSION

SCALES = ("smoke", "full")
WITHIN, OUTSIDE, NOT_COMPARABLE = "within tolerance", "outside", "not comparable"
PASS, FAIL = "pass", "FAIL"


def reproduce(spec, places, scale="smoke", on_row=None):
    """Reproduce the rows that ids name.

    Args:
        spec (str): see `tables.find_rows`.
        places (Places)
        scale (str): smoke or full.
        on_row (callable): gets each finished row's result.

    Returns:
        list of dict: as the results files hold them.

    Raises:
        InputError: an unknown id or scale; in full whatever a command refuses, after the rows before it were saved.
    """
    if scale not in SCALES:
        raise InputError(f"--scale={scale} is not one of {', '.join(SCALES)}.{nearest(scale, SCALES)}")
    rows = find_rows(spec)
    return (run_smoke if scale == "smoke" else run_full)(rows, places, on_row)


def run_full(rows, places, on_row=None):
    """Run rows as the source did; see `reproduce`."""
    planner = Planner(places)
    plans = {row.id: planner.plan(row) for row in rows}  # what is wrong with one is said before anything runs
    folder = Path(places.output_dir) / "full"
    runner, results = Runner(planner, places, folder / "steps"), []
    for row in rows:
        started = time.perf_counter()
        found = [runner.run(name) for name in plans[row.id]]
        result = {
            **describe(row, planner, plans[row.id]),
            "figures": compare(row, found[-1]),
            "runs": found[-1]["runs"],
            "seconds": round(time.perf_counter() - started, 1),
        }
        result["verdict"] = verdict(result["figures"])
        save(folder, row.table, result)
        results.append(result)
        if on_row:
            on_row(result)
    return results


def describe(row, planner, names):
    """Return what says which run a result is of."""
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
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def compare(row, result):
    """Return one dict a published figure: metric, paper, ours, difference, verdict, why."""
    return [compare_figure(row, metric, paper, result) for metric, paper in row.published.items()]


def compare_figure(row, metric, paper, result):
    """Compare one figure; numbers in the row's unit, months and the like as they are."""
    ours = result["metrics"].get(metric)
    if isinstance(ours, int | float) and metric_scales(metric):
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


def metric_scales(metric):
    """Tell whether a metric is a share, which per cent multiplies."""
    return metric not in ("queries", "items", "candidates")


def verdict(figures):
    """Return the row's verdict: outside if any figure is, not comparable if none can be compared."""
    found = {figure["verdict"] for figure in figures}
    return OUTSIDE if OUTSIDE in found else WITHIN if WITHIN in found else NOT_COMPARABLE


def run_smoke(rows, places, on_row=None):
    """Run rows on generated data; every run is made afresh, equal ones once; see `reproduce`."""
    folder = Path(places.output_dir) / "smoke"
    folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="work-", dir=folder))
    try:
        return smoke_in(work, rows, folder, on_row)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def smoke_in(work, rows, folder, on_row=None):
    """Run rows on a world made in `work`; results go to `folder`."""
    from recbole_blair.reproduce.smoke import SmokePlanner
    from recbole_blair.reproduce.world import World

    settings = load_smoke()
    world = World(work, settings)
    planner = SmokePlanner(world, settings)
    runner, results = Runner(planner, planner.places, work / "steps"), []
    for row in rows:
        started = time.perf_counter()
        names = planner.plan(row)
        checks = check_row(row, runner, names, world, settings)
        result = {
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


def check_row(row, runner, names, world, settings):
    """Return the Checks of one row; one that cannot be run has failed."""
    from recbole_blair.reproduce import checks, ranking_checks

    try:
        found = [runner.run(name) for name in names]
    except (InputError, ArithmeticError, RuntimeError) as error:
        return [checks.Check("runs", False, f"{type(error).__name__}: {' '.join(str(error).split())}")]
    context = checks.Context(world, settings, runner.planner, names, found)
    results = []
    for name in row.checks:
        key = f"check {name}"
        if key not in context.result:  # rows that share a run share its checks
            function = getattr(checks, name, None) or getattr(ranking_checks, name)
            context.result[key] = function(context, settings["checks"][name])
        results.append(context.result[key])
    return results


def results_path(folder, table):
    """Return the results file of one table."""
    return Path(folder) / "results" / f"{table}.json"


def save(folder, table, result):
    """Put one row's result into its table's file."""
    path = results_path(folder, table)
    found = load_results(path)
    found[result["id"]] = result
    write_text(path, json.dumps(found, indent=1, default=str) + "\n")


def load_results(path):
    """Return a results file, empty where there is none.

    Raises:
        InputError: it is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); delete it, and reproduce makes it again") from error

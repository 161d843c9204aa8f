"""The results of a sweep: the best trial on the test rows, a table, results.parquet, best.yaml, a page."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from recbole_blair.figures import fraction
from recbole_blair.files.own_json import write_own_json
from recbole_blair.files.write import whole_file, write_text
from recbole_blair.registry import use_plugins
from recbole_blair.runs.evaluate_run import evaluate_run
from recbole_blair.train.display import say, shown_metrics
from recbole_blair.tune import sweep_dir as files
from recbole_blair.tune.page import write_page
from recbole_blair.tune.sweep_dir import Trial

if TYPE_CHECKING:
    from rich.table import Table

    from recbole_blair.tune.run import Sweep

RESULTS, BEST, PAGE = "results.parquet", "best.yaml", "report.html"
NOT_METRICS = ("epoch", "loss", "seconds", "time", "pid", "opened")


def conclude(sweep: Sweep, resources: dict[str, float], started: float) -> dict[str, Any]:
    """Choose the best trial by its best validation, evaluate its weights on the test rows once, write the files.

    Args:
        sweep: with its trials as they ended.
        resources: CPUs and GPUs of a trial.
        started: time.perf_counter() at the start.

    Returns:
        dict: `best` (best.json's content, or None), `trials` (list of Trial), `seconds`.
    """
    best = choose_best(sweep)
    record = None
    if best is not None:
        record = test_best(sweep, best, resources)
        write_best_yaml(sweep, best, record)
    write_results(sweep)
    write_page(sweep, record, sweep.folder / PAGE)
    return {"best": record, "trials": sweep.trials, "seconds": time.perf_counter() - started}


def choose_best(sweep: Sweep) -> Trial | None:
    """Return the trial with the best validation; failed ones do not count, of equals the first wins."""
    able = [t for t in sweep.trials if t.status != files.FAILED and t.best(sweep.metric) is not None]
    return max(able, key=lambda t: t.best_value(sweep.metric), default=None)


def test_best(sweep: Sweep, trial: Trial, resources: dict[str, float]) -> dict[str, Any]:
    """Evaluate the best trial's best weights on the test rows, unless best.json says that this was done.

    Where the sweep runs on a cluster, this is a task of it with a trial's resources.
    """
    path, line = sweep.folder / files.BEST_RUN, trial.best(sweep.metric)
    assert line is not None  # chosen for it
    saved = files.read_json(path)
    chosen = {"trial": trial.number, "epoch": line["epoch"], "point": trial.point}
    if saved and all(saved[key] == value for key, value in chosen.items()):
        return saved
    folder = files.trial_dir(sweep.folder, trial.number).resolve()
    if sweep.settings["ray_address"]:
        import ray  # heavy

        task = ray.remote(evaluate_trial).options(num_cpus=resources["CPU"], num_gpus=resources["GPU"])
        test = ray.get(task.remote(str(folder), sweep.keys.get("plugin")))
    else:
        test = evaluate_trial(folder, sweep.keys.get("plugin"))
    record = {
        "model": sweep.info.name, "dataset": sweep.dataset, "metric": sweep.metric, **chosen,
        "valid": {k: v for k, v in line.items() if k not in NOT_METRICS}, "test": test,
        "trials": count_by_status(sweep.trials), "run": str(folder.relative_to(sweep.folder.resolve())),
    }  # fmt: skip
    write_own_json(path, record, ensure_ascii=True)
    return record


def evaluate_trial(folder: Path | str, plugin: Any = None) -> dict[str, float]:
    """Return the test metrics of a trial's best weights."""
    use_plugins(plugin)
    return evaluate_run(folder, "test")[0]


def count_by_status(trials: Sequence[Trial]) -> dict[str, int]:
    """Return how many trials ended how."""
    return {status: sum(t.status == status for t in trials) for status in dict.fromkeys(t.status for t in trials)}


def write_best_yaml(sweep: Sweep, trial: Trial, record: dict[str, Any]) -> None:
    """Write the best configuration as a file that `run_recbole.py --config_files=best.yaml` runs."""
    keys = {
        "model": sweep.info.name, "dataset": sweep.dataset, **sweep.keys, "valid_metric": sweep.metric, "seeds": None,
        "baselines": None, **trial.point,
    }  # fmt: skip
    n, value = len(sweep.trials), fraction(record["valid"][sweep.metric])
    head = (
        f"# Trial {trial.number} of {n}: {sweep.metric} {value} on the validation rows, after epoch {record['epoch']}."
    )
    if trial.adopted:
        head += (
            "\n# Its numbers changed while it trained (PBT); these are the last. The trained weights: best.json, run."
        )
    text = yaml.safe_dump(keys, sort_keys=False, allow_unicode=True)
    write_text(sweep.folder / BEST, f"{head}\n# python run_recbole.py --config_files=<this file>\n{text}")


def write_results(sweep: Sweep) -> None:
    """Write results.parquet: one row per trial, with its keys (lists as JSON) and its best epoch's metrics."""
    import pyarrow as pa  # heavy
    import pyarrow.parquet as pq

    rows = [trial_row(trial, sweep) for trial in sweep.trials]
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})
    with whole_file(sweep.folder / RESULTS) as temporary:
        pq.write_table(table, temporary)


def trial_row(trial: Trial, sweep: Sweep) -> dict[str, Any]:
    """Return one trial as a flat row; a key it did not try has no value."""
    last, best = (trial.lines[-1] if trial.lines else {}), trial.best(sweep.metric) or {}
    row = {
        "trial": trial.number, "status": trial.status, "epochs": last.get("epoch", 0), "best_epoch": best.get("epoch"),
        "seconds": last.get("seconds"), "error": trial.error,
    }  # fmt: skip
    shown = sweep.space.shown(trial.point)
    for entry in sweep.space.entries:
        key, value = entry.key, shown.get(entry.key)
        plain = all(isinstance(v, int | float) and not isinstance(v, bool) for v in entry.values)
        row[key] = value if plain or value is None else json.dumps(value) if not isinstance(value, str) else value
    row.update({f"valid/{k}": v for k, v in best.items() if k not in NOT_METRICS})
    return row


def print_sweep(sweep: Sweep, result: dict[str, Any]) -> None:
    """Print the table of trials, best first, then the best one's test metrics and the files."""
    from rich.console import Console  # slow to load

    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    console.print(build_table(sweep))
    best = result["best"]
    if best is not None:
        names = shown_metrics(best["test"])
        console.print(
            f"best: trial {best['trial']}, epoch {best['epoch']}; its test rows: "
            + "  ".join(f"{name} {fraction(best['test'][name])}" for name in names)
        )
    counts = ", ".join(f"{n} {status}" for status, n in count_by_status(sweep.trials).items())
    console.print(f"{len(sweep.trials)} trials ({counts}) in {result['seconds']:.0f} s")
    for trial in sweep.trials:
        if trial.status == files.FAILED:
            say(f"trial {trial.number} failed: {trial.error} ({files.trial_dir(sweep.folder, trial.number)}/log.txt)")
    for name in (BEST, RESULTS, PAGE):
        if (sweep.folder / name).is_file():
            console.print(f"  {Path(sweep.folder) / name}", soft_wrap=True)
    if any(t.status in (files.UNFINISHED, files.PLANNED) for t in sweep.trials):
        console.print(f"  some trials are unfinished; they go on with --resume={sweep.folder}", soft_wrap=True)


def build_table(sweep: Sweep) -> Table:
    """Build the table: one line per trial, best validation first."""
    from rich import box  # slow to load
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("trial", "status", "epochs", f"valid {sweep.metric}", "s"):
        table.add_column(name, justify="left" if name == "status" else "right", no_wrap=True)
    table.add_column("keys", overflow="fold")  # one column: most spaces have more keys than a screen has room for

    for trial in sorted(sweep.trials, key=lambda t: (-t.best_value(sweep.metric), t.number)):
        last = trial.lines[-1] if trial.lines else {}
        value = fraction(trial.best_value(sweep.metric)) if trial.best(sweep.metric) else "-"
        keys = " ".join(f"{key}={value}" for key, value in sweep.space.shown(trial.point).items())
        keys = keys if trial.point else f"the defaults: {keys}"
        seconds = f"{last['seconds']:.0f}" if last else "-"
        table.add_row(str(trial.number), trial.status, str(last.get("epoch", 0)), value, seconds, escape(keys))
    return table

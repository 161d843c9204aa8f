"""`evaluate --by`: a run's metrics on a split, whole and in parts, as text, JSON or Parquet."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recbole_blair.errors import InputError
from recbole_blair.figures import fraction
from recbole_blair.files.output import check_output_file
from recbole_blair.files.write import whole_file, write_json
from recbole_blair.report.breakdown import breakdown, split_rows
from recbole_blair.runs.evaluate_run import evaluate_opened
from recbole_blair.runs.open_run import PLACES, Places, open_run
from recbole_blair.train.display import shown_metrics
from recbole_blair.train.results import TIES, USER_TIES

if TYPE_CHECKING:
    from rich.table import Table

SUFFIXES = (".json", ".parquet")
ALL_ROWS = "all"


def check_output(path: Path | str) -> None:
    """Refuse an output that could not be written at the end.

    Raises:
        InputError: a folder, or neither JSON nor Parquet.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise InputError(f"--output={path}: expected a file that ends in {' or '.join(SUFFIXES)}")
    check_output_file(path)


def evaluate_by(run_dir: Path | str, by: Sequence[str] = (), split: str = "test", **changes: Any) -> dict[str, Any]:
    """Evaluate a run's best weights and break the metrics down.

    Args:
        run_dir: a run's folder.
        by: of `breakdown.BREAKDOWNS`.
        split: train, valid or test.
        changes: as of `evaluate_run`.

    Returns:
        `run`, `split`, `rows`, `history_masked`, `ties`, `metrics` of all rows, and `by`: name -> `note` and
        `table`, a list as `breakdown` returns.

    Raises:
        InputError: no run, or a build that lacks what a breakdown reads.
    """
    places = Places(**{key: changes.pop(key) for key in PLACES if key in changes})
    run = open_run(run_dir, places, make_missing=True)
    buckets = [split_rows(name, run.dataset, split) for name in by]  # what is lacking shows before the evaluation
    config = run.config.replace(**changes)
    metrics, rank = evaluate_opened(run, split, **changes)
    user = None if run.dataset.has_histories else np.asarray(run.dataset.rows[split].user)
    tables = {
        b.by: {"note": b.note, "table": breakdown(rank, b, config["metrics"], config["topk"], user)} for b in buckets
    }
    return {
        "run": str(run_dir),
        "split": split,
        "rows": len(rank),
        "history_masked": config["mask_history"],
        "ties": TIES if user is None else USER_TIES,
        "metrics": metrics,
        "by": tables,
    }


def breakdown_table(name: str, part: dict[str, Any], overall: dict[str, float], rows: int) -> Table:
    """Build one breakdown's table for the screen; its last line holds all rows."""
    from rich import box  # heavy, as Table
    from rich.table import Table

    columns = shown_metrics({k: v for k, v in part["table"][0].items() if k not in ("bucket", "rows", "share")})
    title = f"by {name}: {part['note']}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(name)
    for column in ("rows", "share", *columns):
        table.add_column(column, justify="right", no_wrap=True)
    whole = {"bucket": ALL_ROWS, "rows": rows, "share": 1.0, **overall}
    for number, row in enumerate([*part["table"], whole]):
        cells = [fraction(row[column]) for column in columns]
        last = number == len(part["table"]) - 1
        table.add_row(row["bucket"], f"{row['rows']:,}", f"{100 * row['share']:.1f} %", *cells, end_section=last)
    return table


def print_result(result: dict[str, Any]) -> None:
    """Print the metrics of all rows, then one table per breakdown."""
    from rich.console import Console  # heavy

    masked = "masked" if result["history_masked"] else "not masked"
    print(f"{result['split']}: {result['rows']} rows, history {masked}")
    for name, value in result["metrics"].items():
        print(f"{name:12} {fraction(value)}")
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    for name, part in result["by"].items():
        console.print()
        console.print(breakdown_table(name, part, result["metrics"], result["rows"]))


def write_result(result: dict[str, Any], path: Path | str) -> None:
    """Write a result: JSON as it is; Parquet with one row per bucket (`by`, `bucket`, `rows`, `share`, metrics)."""
    if Path(path).suffix.lower() == ".json":
        write_json(path, result, ensure_ascii=True)
        return
    rows = [{"by": ALL_ROWS, "bucket": ALL_ROWS, "rows": result["rows"], "share": 1.0, **result["metrics"]}]
    rows += [{"by": name, **row} for name, part in result["by"].items() for row in part["table"]]
    about = {key: json.dumps(result[key]) for key in ("run", "split", "history_masked", "ties")}
    table = pa.Table.from_pylist(rows).replace_schema_metadata(about)
    with whole_file(path) as temporary:
        pq.write_table(table, temporary)

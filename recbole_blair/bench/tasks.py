"""What a cell runs: training with a choice of settings by the validation rows, or dense retrieval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_blair.bench.cells import Cell, to_table
from recbole_blair.bench.features import encode_texts
from recbole_blair.files.checksum import check_recorded
from recbole_blair.files.read import read_parquet
from recbole_blair.search.runs import PER_QUERY_FILE
from recbole_blair.steps.commands import run_search, train_best
from recbole_blair.steps.step import Places
from recbole_blair.text.encoders import resolve_plm
from recbole_blair.train.metrics import metric_values
from recbole_blair.train.run_folder import RANKS

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Outcome:
    """What a cell gives: the values of its rows, the chosen setting and what it was chosen from."""

    table: pa.Table
    metrics: dict[str, dict[str, float]]  # seed -> metric -> mean over rows
    setting: dict[str, Any]
    grid: list[dict[str, Any]]  # each point with its `valid` value
    about: dict[str, Any]  # rows, items, epochs


def run_task(cell: Cell, data: dict[str, Any], places: Places, folder: Path) -> Outcome:
    """Run a cell's task in its folder; what was finished before is read, what was begun goes on."""
    return TASKS[cell.part.task.command](cell, data, places, folder)


def run_training(cell: Cell, data: dict[str, Any], places: Places, folder: Path) -> Outcome:
    """Train each point of the grid with the first seed, then the best on the validation rows with all seeds."""
    task = cell.part.task
    keys = {**text_keys(cell), **data["keys"], "model": task.model, "plm": cell.encoder.plm, "save_ranks": True}
    encode_texts(str(task.model), without(keys, "model"), Path(data["folder"]), data["others"], places)
    choice = train_best(keys, task.grid, task.seeds, task.metric, places, folder)
    metrics = {str(seed): run["test"] for seed, run in zip(task.seeds, choice.runs)}
    rows = [read_values(Path(run["output_dir"]), run) for run in choice.runs]
    table = to_table(list(task.seeds), rows[0][0], {name: [values[name] for _, values in rows] for name in rows[0][1]})
    best = choice.runs[0]
    about = {
        "rows": best["rows"]["test"],
        "items": best["n_items"],
        "epochs": [run["epochs"] for run in choice.runs],
        "device": best.get("device"),
        "precision": best.get("precision"),
    }
    return Outcome(table, metrics, choice.setting, choice.grid, about)


def without(keys: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the keys but one."""
    return {key: value for key, value in keys.items() if key != name}


def text_keys(cell: Cell) -> dict[str, Any]:
    """Return the part's keys; ready-made vectors have their texts behind them."""
    ready = resolve_plm(cell.encoder.plm)[0] == "vectors"
    return {key: value for key, value in cell.part.keys.items() if not (ready and key == "text_fields")}


def read_values(folder: Path, run: dict[str, Any]) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return the user and, for each metric, the value of every test row; of pairs, of every user."""
    check_recorded(folder / RANKS, "delete the run to train it again")
    ranks = read_parquet(folder / RANKS, ["user_id", "rank"], "the ranks of a run")
    rank, users = ranks.column("rank").to_numpy(), ranks.column("user_id").to_numpy(zero_copy_only=False)
    number = None
    if "users" in run:  # protocol=random: a user's metrics are of all of the user's pairs
        users, number = np.unique(users.astype(str), return_inverse=True)
    return users.tolist(), {name: metric_values(rank, name, number) for name in run["test"]}


def run_retrieval(cell: Cell, data: dict[str, Any], places: Places, folder: Path) -> Outcome:
    """Rank the pool by the cosine of the encoder's vectors for each query."""
    own = folder / "search"
    keys = {**cell.part.keys, **data["keys"], "retriever": cell.encoder.plm, "bootstrap": 0}
    done = run_search(keys, places, own)
    check_recorded(own / PER_QUERY_FILE, "delete the search to run it again")
    queries = read_parquet(own / PER_QUERY_FILE, expected="the values per query of a search")
    names = [name for name in queries.column_names if "@" in name]
    values = {name: queries.column(name).to_numpy().astype(float) for name in names}
    groups = [str(group) for group in queries.column("group").to_pylist()]
    seeds = list(cell.part.task.seeds)
    table = to_table(seeds, groups, {name: [column] * len(seeds) for name, column in values.items()})
    metrics = {str(seed): {name: float(column.mean()) for name, column in values.items()} for seed in seeds}
    about = {"rows": len(groups), "items": int(done["metrics"]["items"]), "epochs": []}
    return Outcome(table, metrics, {}, [], about)


TASKS: dict[str, Callable[[Cell, dict[str, Any], Places, Path], Outcome]] = {
    "train": run_training,
    "search": run_retrieval,
}

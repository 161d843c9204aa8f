"""What a bench found: the numbers of the leaderboard from its finished cells, and the files that hold them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from recbole_blair.bench import statistics
from recbole_blair.bench.cells import CellResult
from recbole_blair.errors import InputError
from recbole_blair.files.write import whole_file, write_text
from recbole_blair.schema import VERSION

RESULTS, LINES, PAGE = "results.parquet", "results.jsonl", "leaderboard.html"
Board = dict[str, Any]  # what `build_board` returns; JSON can hold it


def build_board(title: str, cells: Sequence[CellResult], titles: dict[str, str], n_samples: int) -> Board:
    """Return the leaderboard of finished cells.

    Only encoders that have every part are compared: a mean over fewer data sets is another quantity. The others are
    listed with the parts they lack.

    Args:
        title: of the suite.
        cells: at least one.
        titles: task -> what people see.
        n_samples: of the bootstrap.

    Returns:
        `title`, `version`, `encoders` (best first: label, cost, tasks, Borda points …), `tasks`, `parts`, `pairs`.

    Raises:
        InputError: cells of one part with other data or rows.
    """
    by_part: dict[str, dict[str, CellResult]] = {}
    for cell in cells:
        by_part.setdefault(cell.part, {})[cell.about["encoder"]["id"]] = cell
    for part, own in by_part.items():
        require_alike(part, list(own.values()))
    encoders = {cell.about["encoder"]["id"]: cell.about["encoder"] for cell in cells}
    whole = [name for name in encoders if all(name in own for own in by_part.values())]
    samples = {
        part: statistics.bootstrap_part({name: c.main for name, c in own.items()}, any_cell(own).groups, n_samples)
        for part, own in by_part.items()
    }
    tasks = [describe_task(task, titles, by_part, samples, whole) for task in group_parts(by_part)]
    points = statistics.borda_points([{name: own[name].about["value"] for name in whole} for own in by_part.values()])
    shares = {name: share_of_best(name, by_part, whole) for name in whole}
    order = sorted(whole, key=lambda name: (-points[name], -shares[name]))
    lacking = [name for name in encoders if name not in whole]
    return {
        "title": title,
        "version": VERSION,
        "samples": n_samples,
        "encoders": [
            {
                **encoders[name],
                "borda": points.get(name),
                "rank": 1 + sum(points[other] > points[name] for other in whole) if name in whole else None,
                "share": shares.get(name),
                "lacks": [part for part, own in by_part.items() if name not in own],
            }
            for name in [*order, *lacking]
        ],
        "tasks": tasks,
        "parts": [describe_part(part, own, samples[part]) for part, own in by_part.items()],
    }


def any_cell(own: dict[str, CellResult]) -> CellResult:
    """Return one cell of a part: data, rows and metric are those of all."""
    return next(iter(own.values()))


def require_alike(part: str, cells: Sequence[CellResult]) -> None:
    """Refuse cells of one part that were not measured on the same rows in the same way.

    Raises:
        InputError: names the two encoders and what differs.
    """
    first, *others = cells
    for other in others:
        names = f"{first.about['encoder']['label']} and {other.about['encoder']['label']}"
        if first.about["data"]["sha256"] != other.about["data"]["sha256"]:
            raise InputError(
                f"{part}: {names} were measured on other data (SHA-256 {first.about['data']['sha256'][:12]}… and "
                f"{other.about['data']['sha256'][:12]}…); measure one of them again on the other's data"
            )
        same = first.about["metric"] == other.about["metric"] and np.array_equal(first.groups, other.groups)
        if not same:
            raise InputError(f"{part}: {names} were measured on other rows, or by another metric; measure one again")


def group_parts(by_part: dict[str, dict[str, CellResult]]) -> dict[str, list[str]]:
    """Return task -> its parts, in order."""
    groups: dict[str, list[str]] = {}
    for part, own in by_part.items():
        groups.setdefault(any_cell(own).about["task"], []).append(part)
    return groups


def describe_task(
    task: str, titles: dict[str, str], by_part: dict[str, dict[str, CellResult]],
    samples: dict[str, dict[str, np.ndarray]], names: list[str],
) -> dict[str, Any]:  # fmt: skip
    """Return one task: means over its data sets with intervals, the pairs, who is like the best."""
    parts = group_parts(by_part)[task]
    means = {name: float(np.mean([by_part[p][name].about["value"] for p in parts])) for name in names}
    drawn = statistics.task_means([samples[p] for p in parts], names)
    pairs = statistics.compare_encoders(means, drawn)
    return {
        "task": task,
        "title": titles.get(task, task),
        "metric": any_cell(by_part[parts[0]]).about["metric"],
        "parts": parts,
        "means": {name: asdict(statistics.estimate(means[name], drawn[name])) for name in names},
        "best": statistics.like_the_best(means, pairs) if names else [],
        "pairs": [{**asdict(pair), "certain": pair.certain} for pair in pairs],
    }


def describe_part(part: str, own: dict[str, CellResult], samples: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return one part: its data, and each encoder's mean with its interval, seeds and chosen setting."""
    about = any_cell(own).about
    return {
        "part": part,
        "task": about["task"],
        "dataset": about["dataset"],
        "metric": about["metric"],
        "data": about["data"],
        "rows": len(any_cell(own).groups),
        "units": len(np.unique(any_cell(own).groups)),
        "cells": {
            name: {
                **asdict(statistics.estimate(cell.about["value"], samples[name])),
                "seeds": {seed: cell.about["metrics"][str(seed)][cell.about["metric"]] for seed in cell.about["seeds"]},
                "setting": cell.about["setting"],
                "seconds": cell.about["seconds"],
            }
            for name, cell in own.items()
        },
    }


def share_of_best(name: str, by_part: dict[str, dict[str, CellResult]], names: list[str]) -> float:
    """Return the mean over parts of an encoder's value, as a share of the best encoder's there."""
    shares = []
    for own in by_part.values():
        best = max(own[other].about["value"] for other in names)
        shares.append(own[name].about["value"] / best if best else 1.0)
    return float(np.mean(shares))


def write_results(folder: Path, cells: Sequence[CellResult]) -> None:
    """Write results.parquet, one row per cell, seed and metric, and results.jsonl, one line per cell."""
    import pyarrow as pa  # heavy
    import pyarrow.parquet as pq

    rows = [
        {
            "encoder": cell.about["encoder"]["label"],
            "plm": cell.about["encoder"]["plm"],
            "task": cell.about["task"],
            "dataset": cell.about["dataset"],
            "seed": seed,
            "metric": metric,
            "value": value,
            "setting": json.dumps(cell.about["setting"]),
        }
        for cell in cells
        for seed in cell.about["seeds"]
        for metric, value in cell.about["metrics"][str(seed)].items()
    ]
    with whole_file(folder / RESULTS) as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary)
    write_text(folder / LINES, "".join(json.dumps(cell.about) + "\n" for cell in cells))

"""Measured rows of a table in parts, by how often training holds the target; and what the rows cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from recbole_blair.data.dataset import BlairDataset
from recbole_blair.errors import InputError
from recbole_blair.figures import fraction
from recbole_blair.report.breakdown import name_ranges, targets, train_events
from recbole_blair.reproduce.orders import load_values
from recbole_blair.reproduce.run import Result
from recbole_blair.reproduce.tables import Row
from recbole_blair.train.run_folder import load_metrics

MEMORY = "peak_memory_mb"  # of metrics.json
PART_STARTS = (0, 1, 6, 21)  # events of the target in training: cold, rare, known, common; few, so that each is large


def trained(rows: Iterable[Row], measured: dict[str, Result]) -> dict[str, list[Row]]:
    """Return the measured rows that train, by the label of their data."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.id in measured and row.commands[-1][0] == "train":
            found.setdefault(row.label, []).append(row)
    return found


def part_lines(rows: Sequence[Row], measured: dict[str, Result], data_path: Path | str) -> Iterator[str]:
    """Yield a Markdown table per data set: the mean over seeds of its first metric, of the test rows in each part.

    Raises:
        InputError: a run's ranks are not of the build's test rows.
    """
    for label, own in trained(rows, measured).items():
        metric = next(iter(own[0].published))
        ranked = {row.name: load_values("train", measured[row.id]["runs"], metric) for row in own}
        values = {name: found.values for name, found in ranked.items() if found is not None}
        if not values or "users" in (load_metrics(measured[own[0].id]["runs"][0]) or {}):
            continue  # without ranks, or of protocol=random, where a value is of a user and has no target
        dataset = BlairDataset(Path(data_path) / own[0].data["dataset"])
        events = train_events(dataset)[targets(dataset, "test")]  # (R,)
        for name, of_rows in values.items():
            if len(of_rows) != len(events):
                raise InputError(
                    f"{label}: {name} ranked {len(of_rows):,} test rows, the build holds {len(events):,}; "
                    "--data_path must name the builds that the runs were trained on"
                )
        part = np.searchsorted(PART_STARTS, events, side="right") - 1  # (R,)
        yield from ("", f"| {label}: {metric} by events of the target in training | rows | {' | '.join(values)} |")
        yield "|---" * (len(values) + 2) + "|"
        for number, name in enumerate(name_ranges(PART_STARTS)):
            inside = part == number
            if inside.any():
                cells = " | ".join(fraction(float(of_rows[inside].mean())) for of_rows in values.values())
                yield f"| {name} | {inside.mean():.0%} | {cells} |"


def cost_lines(rows: Sequence[Row], measured: dict[str, Result]) -> Iterator[str]:
    """Yield a Markdown table, means over seeds: the first metric's best validation, which choices among rows go by,
    epochs, seconds of training and peak memory.
    """
    by_label = trained(rows, measured)
    if not by_label:
        return
    metric = next(iter(next(iter(by_label.values()))[0].published))
    yield from (
        "",
        f"| data | row | valid {metric} | epochs | seconds of training | peak memory, MB |",
        "|---" * 6 + "|",
    )
    for label, own in by_label.items():
        for row in own:
            runs = [load_metrics(run) or {} for run in measured[row.id]["runs"]]
            valid = mean_of([run.get("best_valid", {}).get(metric) for run in runs], fraction)
            epochs, memory = (mean_of([run.get(key) for run in runs], "{:,.0f}".format) for key in ("epochs", MEMORY))
            seconds = mean_of([run.get("seconds", {}).get("train") for run in runs], "{:,.0f}".format)
            yield f"| {label} | {row.name} | {valid} | {epochs} | {seconds} | {memory} |"


def mean_of(values: Sequence[float | None], shown: Callable[[float], str]) -> str:
    """Return the mean as a table's cell; a dash where a value is missing."""
    found = [value for value in values if value is not None]
    return shown(float(np.mean(found))) if found and len(found) == len(values) else "–"

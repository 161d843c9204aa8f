"""What `reproduce` prints: the list of rows, the status, and each row's verdict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from recbole_blair.reproduce.run import PASS, SCALES, WITHIN, load_results, results_path
from recbole_blair.reproduce.tables import Row


def format_value(value: object) -> str:
    """Return a value in a few characters; - for none."""
    if value is None:
        return "-"
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.4g}"
    return f"{value:,.0f}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def list_lines(rows: Iterable[Row]) -> Iterator[str]:
    """Yield the table of rows: id, encoder, model, seeds, commands, published, tolerance, hours."""
    table = None
    for row in rows:
        if row.table != table:
            table = row.table
            yield f"\n{table}: {row.source}; values in {row.unit}"
            yield f"  cost, an estimate for one A100 or H200: {row.cost['derived']}"
        who = " · ".join(part for part in (row.model, row.encoder) if part and part != "none")
        values = ", ".join(f"{metric} {format_value(value)}" for metric, value in row.published.items())
        allowed = f"± {row.tolerance['relative']:.3g} x value" if row.tolerance["relative"] else "±"
        allowed += (
            f" or {row.tolerance['absolute']:g}" if row.tolerance["relative"] else f" {row.tolerance['absolute']:g}"
        )
        run = " ".join(command for command, _ in row.commands)
        seeds = f" · seeds {','.join(map(str, row.seeds))}" if row.seeds else ""
        yield f"  {row.id}"
        who = f" · {who}" if who else ""
        yield f"    data {row.data['dataset']}{who}{seeds} · {run} · about {row.cost['hours']:g} h"
        yield f"    {values} ({allowed}: {row.tolerance['why']})"
        for metric, why in row.reasons.items():
            yield f"    {metric}: not comparable, {why}"


def status_lines(rows: Sequence[Row], output_dir: Path | str) -> Iterator[str]:
    """Yield which rows have results, what they say and where they are."""
    results = {
        (scale, row.table): load_results(results_path(f"{output_dir}/{scale}", row.table))
        for scale in SCALES
        for row in rows
    }
    for row in rows:
        cells = []
        for scale in SCALES:
            result = results[scale, row.table].get(row.id)
            where = results_path(f"{output_dir}/{scale}", row.table)
            cells.append(f"{scale}: {result['verdict']}, {result['time']}, {where}" if result else f"{scale}: none")
        yield f"{row.id:60}  " + "  ".join(cells)
    for scale in SCALES:
        there = sum(row.id in results[scale, row.table] for row in rows)
        yield f"{scale}: {there} of {len(rows)} rows have results"


def result_lines(result: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of one finished row."""
    yield f"{result['verdict']:17} {result['id']}  ({result['seconds']:.0f} s)"
    for check in result.get("checks", ()):
        yield f"    {check['verdict']:4} {check['name']}: {check['says']}"
    for figure in result.get("figures", ()):
        spread = f" ± {format_value(figure['deviation'])}" if "deviation" in figure else ""
        ours = f"ours {format_value(figure['ours'])}{spread}"
        yield (
            f"    {figure['metric']:28} published {format_value(figure['paper']):>12}  {ours:>22}  "
            f"difference {format_value(figure['difference']):>10}  {figure['verdict']} ({figure['why']})"
        )
    if result.get("note"):
        yield f"    note: {result['note']}"


def is_success(result: dict[str, Any]) -> bool:
    """Return whether a row's verdict is no failure."""
    return result["verdict"] in (PASS, WITHIN, "not comparable")

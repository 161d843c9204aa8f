"""What `reproduce` prints: the list of rows, the status, and each row's verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from recbole_blair.figures import fraction, p_text
from recbole_blair.reproduce.orders import ABOVE, BELOW, HOLDS, UNDECIDED
from recbole_blair.reproduce.run import PASS, SCALES, WITHIN, load_results, results_path
from recbole_blair.reproduce.tables import Row, find_orders


def format_value(value: object) -> str:
    """Return a value in a few characters; - for none."""
    if value is None:
        return "-"
    if isinstance(value, float) and 0 < abs(value) < 1:
        return fraction(value)
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.4g}"
    return f"{value:,.0f}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def list_lines(rows: Sequence[Row]) -> Iterator[str]:
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
    for order in find_orders(rows):
        claims = ", ".join(f"{metric} by {format_value(value)}" for metric, value in order.published.items())
        yield f"  {order.id}: {claims}"


def status_lines(rows: Sequence[Row], output_dir: Path | str) -> Iterator[str]:
    """Yield which rows have results, what they say and where they are."""
    results = {
        (scale, row.table): load_results(results_path(f"{output_dir}/{scale}", row.table))
        for scale in SCALES
        for row in rows
    }
    ids: list[tuple[str, str, tuple[str, ...]]] = [(row.table, row.id, SCALES) for row in rows]
    ids += [(order.above.table, order.id, SCALES[1:]) for order in find_orders(rows)]  # of the full scale alone
    for table, name, scales in ids:
        cells = []
        for scale in scales:
            result = results[scale, table].get(name)
            where = results_path(f"{output_dir}/{scale}", table)
            cells.append(f"{scale}: {result['verdict']}, {result['time']}, {where}" if result else f"{scale}: none")
        yield f"{name:60}  " + "  ".join(cells)
    for scale in SCALES:
        there = sum(row.id in results[scale, row.table] for row in rows)
        yield f"{scale}: {there} of {len(rows)} rows have results"


def result_lines(result: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of one finished row."""
    yield f"{result['verdict']:17} {result['id']}  ({result['seconds']:.0f} s)"
    for check in result.get("checks", ()):
        yield f"    {check['verdict']:4} {check['name']}: {check['says']}"
    for figure in result.get("figures", ()):
        if "low" in figure:
            yield order_line(figure)
            continue
        spread = f" ± {format_value(figure['deviation'])}" if "deviation" in figure else ""
        ours = f"ours {format_value(figure['ours'])}{spread}"
        yield (
            f"    {figure['metric']:28} published {format_value(figure['paper']):>12}  {ours:>22}  "
            f"difference {format_value(figure.get('difference')):>10}  {figure['verdict']} ({figure['why']})"
        )
    if result.get("grid"):
        tried = ", ".join(f"{format_setting(point)} gave {format_value(point['valid'])}" for point in result["grid"])
        yield f"    chosen by the validation rows: {format_setting(result['setting'])}; {tried}"
    if result.get("note"):
        yield f"    note: {result['note']}"


def format_setting(setting: dict[str, Any]) -> str:
    """Return a point of a grid as `key=value`, without its validation value."""
    return " ".join(f"{key}={value}" for key, value in setting.items() if key != "valid")


def order_line(figure: dict[str, Any]) -> str:
    """Return the line of a difference with its interval."""
    low, high = format_value(figure["low"]), format_value(figure["high"])
    ours = f"ours {format_value(figure['ours'])} [{low}, {high}], above in {figure['seeds']} seeds"
    published = f"published {format_value(figure['paper']):>12}"
    holm = figure.get("p_value_holm")
    corrected = "" if holm is None else f", p {p_text(holm)} by Holm"
    return f"    {figure['metric']:28} {published}  {ours}{corrected}  {figure['verdict']} ({figure['why']})"


def is_success(result: dict[str, Any]) -> bool:
    """Return whether a row's verdict is no failure."""
    return result["verdict"] in (PASS, WITHIN, HOLDS, ABOVE, BELOW, UNDECIDED, "not comparable")

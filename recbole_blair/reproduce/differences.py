"""What the orders of a table say, over what their data sets or rows differ in: Markdown tables and a figure.

    figure:
      metric: ndcg@10
      orders: [hstublair-over-hstu, unisrec-over-sasrecid-strong]
      by: [cold_share, characters, rows_per_item]

`by` names properties of the data (PROPERTIES), or a number that the rows above state as `x: {pairs: 1000}`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dataset_tools.builds.statistics_file import require_stats
from recbole_blair.config import load_yaml
from recbole_blair.data.dataset import BlairDataset
from recbole_blair.errors import InputError
from recbole_blair.figures import fraction, p_text, signed
from recbole_blair.files.paths import props_dir
from recbole_blair.report.breakdown import targets
from recbole_blair.report.paired import holm
from recbole_blair.report.svg import interval_chart, standalone
from recbole_blair.reproduce.orders import Order
from recbole_blair.reproduce.run import Result, load_results, results_path
from recbole_blair.reproduce.tables import FOLDER, UNITS, Row, find_orders

PROPERTIES = {
    "cold_share": "test targets that training never saw, %",
    "characters": "characters of an item's text, mean",
    "rows_per_item": "training rows per item",
}
LOGARITHMIC = ("characters", "rows_per_item")


@dataclass(frozen=True)
class Difference:
    """A measured order by one metric, in fractions."""

    order: Order
    metric: str
    above: float  # the mean over the seeds
    below: float
    difference: float
    low: float
    high: float
    p_value: float | None  # of `find_differences`: corrected by Holm over all that it returns
    seeds: str

    @property
    def scale(self) -> float:
        """Return 100 / the better of both means: it turns a difference into per cent of the better model's value."""
        return 100 / (max(self.above, self.below) or 1.0)


def describe_build(build: Path) -> dict[str, float]:
    """Return a build's test rows, items, and the PROPERTIES."""
    stats, dataset = require_stats(build), BlairDataset(build)
    seen = dataset.seen_items("train")[targets(dataset, "test")]
    return {
        "rows": stats["splits"]["test"]["rows"],
        "items": stats["items"],
        "cold_share": 100 * float(1 - np.mean(seen)),
        "characters": stats["table3"]["avg_item_chars"],
        "rows_per_item": stats["splits"]["train"]["rows"] / stats["items"],
    }


def load_measured(rows: Sequence[Row], output_dir: Path | str) -> dict[str, Result]:
    """Return the results of the full scale by id: of rows, and of their orders.

    Raises:
        InputError: there are none.
    """
    folder = Path(output_dir) / "full"
    measured: dict[str, Result] = {}
    for table in dict.fromkeys(row.table for row in rows):
        measured |= load_results(results_path(folder, table))
    if not any(row.id in measured for row in rows):
        raise InputError(f"{folder}/results holds no results of these rows; run them first with --scale=full")
    return measured


def find_differences(rows: Sequence[Row], measured: dict[str, Result]) -> list[Difference]:
    """Return the measured orders between rows.

    Raises:
        InputError: a row of a measured order has no value of its metric.
    """
    found: list[Difference] = []
    for order in find_orders(rows):
        unit = UNITS[order.above.unit]
        for figure in measured.get(order.id, {}).get("figures", ()):
            if "low" not in figure:
                continue
            metric = figure["metric"]
            above, below = (value_of(measured, row, metric) for row in (order.above, order.below))
            difference, low, high = (figure[key] / unit for key in ("ours", "low", "high"))
            numbers = above / unit, below / unit, difference, low, high, figure.get("p_value")
            found.append(Difference(order, metric, *numbers, seeds=figure["seeds"]))
    corrected = holm([one.p_value for one in found])
    return [replace(one, p_value=p) for one, p in zip(found, corrected)]


def value_of(measured: dict[str, Result], row: Row, metric: str) -> float:
    """Return a row's measured value, in its unit; without one the difference would have nothing to be relative to.

    Raises:
        InputError: it has none.
    """
    name, figures = row.metric_name(metric), measured.get(row.id, {}).get("figures", ())
    value = next((figure["ours"] for figure in figures if figure["metric"] == name), None)
    if value is None:
        raise InputError(
            f"the results hold an order by {name} but no {name} of its row {row.id}; run both rows of the order again "
            "with --scale=full"
        )
    return value


def markdown_lines(rows: Sequence[Row], measured: dict[str, Result], builds: dict[str, dict[str, float]],
                   differences: Sequence[Difference]) -> Iterator[str]:  # fmt: skip
    """Yield the tables: the data, the rows with the chosen settings, the differences.

    Args:
        builds: label of the data -> `describe_build`; empty where rows have no build.
    """
    if builds:
        yield "| data | test rows | items | cold test targets | characters per item | training rows per item |"
        yield "|---|---|---|---|---|---|"
    for label, about in builds.items():
        yield (
            f"| {label} | {about['rows']:,} | {about['items']:,} | {about['cold_share']:.1f} % | "
            f"{about['characters']:.0f} | {about['rows_per_item']:.1f} |"
        )
    done = [row for row in rows if row.id in measured]
    metrics = list(dict.fromkeys(metric for row in done for metric in row.published))
    yield from ("", f"| data | row | seeds | {' | '.join(metrics)} | chosen by validation |")
    yield "|---" * (len(metrics) + 4) + "|"
    for row in sorted(done, key=lambda row: list(dict.fromkeys(r.label for r in done)).index(row.label)):
        result = measured[row.id]
        figures = {figure["metric"]: figure for figure in result["figures"]}
        cells = [value_cell(figures.get(metric), UNITS[row.unit]) for metric in metrics]
        setting = ", ".join(f"{key} {value}" for key, value in result.get("setting", {}).items()) or "–"
        tried = f" of {len(result['grid'])}" if result.get("grid") else ""
        yield f"| {row.label} | {row.name} | {len(result['runs'])} | {' | '.join(cells)} | {setting}{tried} |"
    if differences:
        yield from ("", "| data | difference | metric | mean | 95 % interval | p (Holm) | above in seeds |")
        yield "|---|---|---|---|---|---|---|"
    for one in differences:
        above, below = one.order.above, one.order.below
        yield (
            f"| {above.label} | {above.name} − {below.name} | {one.metric} | {signed(one.difference)} | "
            f"{signed(one.low)} to {signed(one.high)} | {p_text(one.p_value)} | {one.seeds} |"
        )


def value_cell(figure: dict[str, Any] | None, unit: int) -> str:
    """Return a mean with its deviation over the seeds."""
    if figure is None or figure["ours"] is None:
        return "–"
    spread = f" ± {fraction(figure['deviation'] / unit)}" if "deviation" in figure else ""
    return fraction(figure["ours"] / unit) + spread


def draw_differences(table: str, differences: Sequence[Difference], builds: dict[str, dict[str, float]]) -> str:
    """Return the figure of a table as an SVG file's content.

    Raises:
        InputError: the table states no figure, or none of its orders is measured.
    """
    stated = load_yaml(props_dir() / FOLDER / f"{table}.yaml").get("figure")
    if not stated:
        raise InputError(f"{table}.yaml states no `figure`; --output=tables.md writes its tables")
    charts: list[str] = []
    for wanted in stated if isinstance(stated, list) else [stated]:
        chosen = [
            (name, one)
            for name in wanted["orders"]
            for one in differences
            if one.metric == wanted["metric"] and one.order.id.startswith(f"{table}/{name}/")
        ]
        charts += [draw_panel(by, wanted["metric"], chosen, builds) for by in wanted["by"] if chosen]
    if not charts:
        raise InputError(f"none of the orders that the figure of {table} shows is measured yet")
    return standalone(charts, f"{table}: differences of orders")


def draw_panel(
    by: str, metric: str, chosen: Sequence[tuple[str, Difference]], builds: dict[str, dict[str, float]]
) -> str:
    """Return the chart of differences over one property: a series per order, or per data set where rows state x."""
    own = by not in PROPERTIES
    series: dict[str, list[dict[str, Any]]] = {}
    for name, one in chosen:
        row = one.order.above
        x = row.x[by] if own else builds[row.label][by]
        title = f"{row.label}, against {one.order.below.name}" if own else name.replace("-over-", " − ")
        place = series.setdefault(title, [])
        values = {key: getattr(one, key) * one.scale for key in ("difference", "low", "high")}
        place.append({"x": x, "name": "" if own else row.label, **values})
    lines = [
        {"name": name, "colour": n, "points": points, "joined": own} for n, (name, points) in enumerate(series.items())
    ]
    y_label = f"difference of {metric}, % of the better model's"
    return interval_chart(lines, PROPERTIES.get(by, by.replace("_", " ")), y_label, log=own or by in LOGARITHMIC)


def describe_builds(rows: Sequence[Row], data_path: Path | str) -> dict[str, dict[str, float]]:
    """Return `describe_build` of each data set of rows that train, by its label."""
    names = {row.label: row.data["dataset"] for row in rows if row.commands[-1][0] == "train"}
    return {label: describe_build(Path(data_path) / name) for label, name in names.items()}

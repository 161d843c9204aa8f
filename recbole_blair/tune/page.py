"""The page of a sweep: parallel coordinates, learning curves and the trials, in one HTML file that needs no network."""

from __future__ import annotations

import html
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_blair.errors import require
from recbole_blair.figures import fraction
from recbole_blair.files.write import write_text
from recbole_blair.tune.space import Entry
from recbole_blair.tune.sweep_dir import Trial

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from recbole_blair.tune.run import Sweep

TICKS = 5  # of a logarithmic axis
STYLE = """body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:1200px;color:#222;padding:0 1em}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13px}td,th{padding:.2em .8em;
text-align:right;border-bottom:1px solid #ddd}h1{font-size:1.4em}h2{font-size:1.1em;margin-top:2em}"""


def write_page(sweep: Sweep, best: dict[str, Any] | None, path: Path) -> None:
    """Write the page.

    Args:
        sweep: with its trials as they ended.
        best: best.json's content, or None.
        path: of the page.

    Raises:
        InputError: Plotly is not installed.
    """
    require("the page of a sweep", "plotly")
    import plotly.io as pio  # heavy, and an extra

    measured = [trial for trial in sweep.trials if trial.best(sweep.metric)]
    sections = []
    if measured:
        drawings = {"Trials by their keys": draw_coordinates, "Learning curves": draw_curves}
        for i, (title, draw) in enumerate(drawings.items()):
            figure = draw(sweep, measured)
            drawn = pio.to_html(figure, full_html=False, include_plotlyjs=i == 0, default_height=480)
            sections.append(f"<h2>{title}</h2>\n{drawn}")
    title = html.escape(f"{sweep.info.name} on {sweep.dataset}: {len(sweep.trials)} trials")
    body = "\n".join([f"<h1>{title}</h1>", summarise(sweep, best), *sections, write_table(sweep)])
    write_text(
        path,
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"</head>\n<body>{body}</body></html>\n",
    )


def summarise(sweep: Sweep, best: dict[str, Any] | None) -> str:
    """Return one paragraph about the search and its best trial."""
    options = sweep.settings
    text = f"search {options['search']}, scheduler {options['scheduler']}, by {sweep.metric} of the validation rows."
    if best:
        test = ", ".join(f"{k} {fraction(v)}" for k, v in best["test"].items())
        text += (
            f" Best: trial {best['trial']} with {fraction(best['valid'][sweep.metric])} after epoch {best['epoch']}. "
            f"Test rows, evaluated once: {test}."
        )
    return f"<p>{html.escape(text)}</p>"


def draw_coordinates(sweep: Sweep, trials: list[Trial]) -> Figure:
    """Return parallel coordinates: one axis per key, the metric last and as colour."""
    import plotly.graph_objects as go  # heavy, and an extra

    values = [trial.best_value(sweep.metric) for trial in trials]
    shown = [sweep.space.shown(trial.point) for trial in trials]
    axes = [build_axis(entry, [point.get(entry.key) for point in shown]) for entry in sweep.space.entries]
    axes.append({"label": f"valid {sweep.metric}", "values": values})
    return go.Figure(
        go.Parcoords(dimensions=axes, line={"color": values, "colorscale": "Viridis", "showscale": True}),
        layout={"margin": {"l": 80, "r": 60, "t": 60, "b": 30}},
    )


def build_axis(entry: Entry, values: list) -> dict[str, Any]:
    """Return one axis; a trial that did not try the key is at the bottom, marked `-`."""
    if entry.kind == "choice":
        others = [v for v in values if v is not None and v not in entry.values]  # a default that is no choice
        names = list(dict.fromkeys(str(v) for v in [*entry.values, *others]))
        places: list[float] = [-1 if v is None else names.index(str(v)) for v in values]
        ticks: list[float] = list(range(len(names)))
    else:
        log = entry.kind == "loguniform"
        place = math.log10 if log else float
        low, high = (place(v) for v in entry.values)
        missing = low - 0.15 * (high - low)
        places = [missing if v is None else place(v) for v in values]
        ticks = [low + i * (high - low) / (TICKS - 1) for i in range(TICKS)]
        names = [f"{10**t if log else t:.3g}" for t in ticks]
    if None in values:
        lowest = min(places)
        ticks, names = [lowest, *ticks], ["-", *names]
    label = f"{entry.key} (log)" if entry.kind == "loguniform" else entry.key
    return {"label": label, "values": places, "tickvals": ticks, "ticktext": names}


def draw_curves(sweep: Sweep, trials: list[Trial]) -> Figure:
    """Return one line per trial: the metric of the validation rows by epoch."""
    import plotly.graph_objects as go  # heavy, and an extra

    figure = go.Figure(layout={"xaxis": {"title": "epoch"}, "yaxis": {"title": f"valid {sweep.metric}"}})
    for trial in trials:
        lines = [line for line in trial.lines if sweep.metric in line]
        keys = "<br>".join(html.escape(f"{k}={v}") for k, v in trial.point.items())
        figure.add_trace(
            go.Scatter(
                x=[line["epoch"] for line in lines],
                y=[line[sweep.metric] for line in lines],
                mode="lines+markers",
                name=f"{trial.number} ({trial.status})",
                hovertemplate=f"%{{x}}: %{{y:.4f}}<br>{keys}",
            )
        )
    return figure


def write_table(sweep: Sweep) -> str:
    """Return the trials as an HTML table, by number."""
    keys = [entry.key for entry in sweep.space.entries]
    head = "".join(f"<th>{html.escape(h)}</th>" for h in ("trial", "status", "epochs", f"valid {sweep.metric}", *keys))
    rows = []
    for trial in sweep.trials:
        best = trial.best(sweep.metric)
        cells = [trial.number, trial.status, trial.lines[-1]["epoch"] if trial.lines else 0]
        shown = sweep.space.shown(trial.point)
        cells += [fraction(best[sweep.metric]) if best else "-", *(shown.get(key, "-") for key in keys)]
        rows.append("".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells))
    lines = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f"<h2>Trials</h2>\n<table><tr>{head}</tr>\n{lines}</table>"

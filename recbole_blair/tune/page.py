"""The page of a sweep: parallel coordinates, learning curves and the trials, in one HTML file that needs no network."""

import html
import math

from recbole_blair.errors import InputError
from recbole_blair.files.write import write_text
from recbole_blair.train.display import fraction

TICKS = 5  # of a logarithmic axis
STYLE = """body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:1200px;color:#222;padding:0 1em}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13px}td,th{padding:.2em .8em;
text-align:right;border-bottom:1px solid #ddd}h1{font-size:1.4em}h2{font-size:1.1em;margin-top:2em}"""


def write_page(sweep, best, path):
    """Write the page.

    Args:
        sweep (Sweep)
        best (dict): best.json's content, or None.
        path (Path)

    Raises:
        InputError: Plotly is not installed.
    """
    try:
        import plotly.io as pio
    except ImportError as error:
        raise InputError(f"the page of a sweep needs Plotly ({error}); pip install 'recbole-blair[tune]'") from error
    measured = [trial for trial in sweep.trials if trial.best(sweep.metric)]
    parts = []
    if measured:
        figures = [("Trials by their keys", coordinates(sweep, measured)), ("Learning curves", curves(sweep, measured))]
        for i, (title, figure) in enumerate(figures):
            drawn = pio.to_html(figure, full_html=False, include_plotlyjs=i == 0, default_height=480)
            parts.append(f"<h2>{title}</h2>\n{drawn}")
    title = html.escape(f"{sweep.info.name} on {sweep.dataset}: {len(sweep.trials)} trials")
    body = "\n".join([f"<h1>{title}</h1>", summary(sweep, best), *parts, table(sweep)])
    write_text(
        path,
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"</head>\n<body>{body}</body></html>\n",
    )


def summary(sweep, best):
    """One paragraph on how it was done and what came out."""
    options = sweep.settings
    text = f"search {options['search']}, scheduler {options['scheduler']}, by {sweep.metric} of the validation rows."
    if best:
        test = ", ".join(f"{k} {fraction(v)}" for k, v in best["test"].items())
        text += (
            f" Best: trial {best['trial']} with {fraction(best['valid'][sweep.metric])} after epoch {best['epoch']}. "
            f"Test rows, evaluated once: {test}."
        )
    return f"<p>{html.escape(text)}</p>"


def coordinates(sweep, trials):
    """Parallel coordinates: an axis a key, the metric last and as colour."""
    import plotly.graph_objects as go

    values = [trial.best(sweep.metric)[sweep.metric] for trial in trials]
    shown = [sweep.space.shown(trial.point) for trial in trials]
    axes = [axis(entry, [point.get(entry.key) for point in shown]) for entry in sweep.space.entries]
    axes.append({"label": f"valid {sweep.metric}", "values": values})
    return go.Figure(
        go.Parcoords(dimensions=axes, line={"color": values, "colorscale": "Viridis", "showscale": True}),
        layout={"margin": {"l": 80, "r": 60, "t": 60, "b": 30}},
    )


def axis(entry, values):
    """One axis; a trial that did not try the key is at the bottom, marked `-`."""
    if entry.kind == "choice":
        others = [v for v in values if v is not None and v not in entry.values]  # a default that is no choice
        names = list(dict.fromkeys(str(v) for v in [*entry.values, *others]))
        places = [-1 if v is None else names.index(str(v)) for v in values]
        ticks = list(range(len(names)))
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


def curves(sweep, trials):
    """One line a trial: the metric of the validation rows by epoch."""
    import plotly.graph_objects as go

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


def table(sweep):
    """The trials as an HTML table, by number."""
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

"""The page of a sweep, in the style of a report: the best trial, keys, learning curves, all trials in one HTML file."""

from __future__ import annotations

import json
import time
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_blair.figures import fraction
from recbole_blair.files.write import write_text
from recbole_blair.report import svg
from recbole_blair.report.page import stand_alone
from recbole_blair.report.sections import count, metric_name, note, shown_value, table, value_cell
from recbole_blair.schema import VERSION
from recbole_blair.tune.coordinates import draw_coordinates, key_axis, look, metric_axis, shade
from recbole_blair.tune.importance import key_importances, why_none
from recbole_blair.tune.sweep_dir import FAILED, FINISHED, PLANNED, STOPPED, Trial, trial_dir

if TYPE_CHECKING:
    from recbole_blair.tune.run import Sweep

DRAWN = 200  # trials with a line, the best ones: more would hide each other
PARTS = (("best", "Best trial"), ("keys", "Keys"), ("learning", "Learning"), ("trials", "Trials"))


def write_page(sweep: Sweep, best: dict[str, Any] | None, path: Path) -> None:
    """Write the page.

    Args:
        sweep: with its trials as they ended.
        best: best.json's content, or None.
        path: of the page, in the sweep's folder: trials are linked from there.
    """
    write_text(path, render(sweep, best))


def render(sweep: Sweep, best: dict[str, Any] | None) -> str:
    """Return the page; arguments as of `write_page`."""
    ranked = rank_trials(sweep)
    measured = [trial for trial in ranked if trial.best(sweep.metric)]
    over = [trial for trial in measured if trial.status in (FINISHED, STOPPED)]
    epoch = min((curve(trial, sweep.metric)[-1][0] for trial in over), default=0)
    points = [sweep.space.shown(trial.point) for trial in over]
    values = [max(value for at, value in curve(trial, sweep.metric) if at <= epoch) for trial in over]
    shares = key_importances(sweep.space, points, values)
    remark = why_none(points, values)
    if shares:
        remark = f"Importance is a rough guide. It compares the trials after epoch {epoch:.0f}, the last that all have."
    drawn = [draw_best(sweep, best), "", "", draw_table(sweep, ranked)]
    if measured:
        drawn[1] = draw_keys(sweep, measured[:DRAWN], shares, remark)
        drawn[2] = draw_learning(sweep, measured[:DRAWN])
    body = "\n".join(
        f'<section id="{name}"><h2 style="margin-top:0">{label}</h2>\n{part}</section>'
        for (name, label), part in zip(PARTS, drawn) if part
    )  # fmt: skip
    links = "".join(f'<a href="#{name}">{label}</a>' for (name, label), part in zip(PARTS, drawn) if part)
    statuses = ", ".join(f"{n} {status}" for status, n in (best or {}).get("trials", {}).items())
    options, numbers = sweep.settings, collect_numbers(sweep, ranked, best, shares)
    summary = f"{count(len(ranked), 'trial')}{f' ({statuses})' if statuses else ''}, search {options['search']}, "
    summary += f"scheduler {options['scheduler']}, {numbers['created']}"
    title = f"Sweep: {sweep.info.name} on {sweep.dataset}"
    return stand_alone(title, summary, links, body, "Metrics are fractions;", numbers)


def rank_trials(sweep: Sweep) -> list[Trial]:
    """Return the trials, best first; then failed ones, which cannot be chosen, then those without a value."""

    def place(trial: Trial) -> tuple:
        return trial.best(sweep.metric) is None, trial.status == FAILED, -trial.best_value(sweep.metric), trial.number

    return sorted(sweep.trials, key=place)


def collect_numbers(
    sweep: Sweep, ranked: list[Trial], best: dict[str, Any] | None, shares: dict[str, float]
) -> dict[str, Any]:
    """Return what the page shows as JSON can hold it."""
    trials = [
        {"trial": trial.number, "status": trial.status, "error": trial.error, "keys": sweep.space.shown(trial.point),
         "valid": curve(trial, sweep.metric)}
        for trial in ranked
    ]  # fmt: skip
    about = {"created": time.strftime("%Y-%m-%d %H:%M"), "version": VERSION, "metric": sweep.metric}
    return {**about, "best": best, "importance": shares, "trials": trials}


def curve(trial: Trial, metric: str) -> list[list[float]]:
    """Return [epoch, metric] of a trial; of an epoch that was repeated the last."""
    latest = {line["epoch"]: line[metric] for line in trial.lines if metric in line}
    return [[epoch, latest[epoch]] for epoch in sorted(latest)]


def draw_best(sweep: Sweep, best: dict[str, Any] | None) -> str:
    """One sentence, the keys and the metrics of the best trial."""
    if best is None:
        return "<p>No trial has a value.</p>"
    metric, folder = sweep.metric, f"{escape(best['run'], quote=True)}/"
    lead = (
        f'<p class="lead"><a href="{folder}">Trial {best["trial"]}</a> has the highest {escape(metric_name(metric))} '
        f"of the validation rows: {fraction(best['valid'][metric])}, after epoch {best['epoch']}.</p>"
    )
    shown = sweep.space.shown(best["point"])
    keys = [[f"<td>{escape(key)}</td>", f'<td class="wrap">{escape(shown_value(v))}</td>'] for key, v in shown.items()]
    valid, test = best["valid"], best["test"]
    figures = [
        [f"<td>{escape(metric_name(m))}</td>", value_cell(valid.get(m), fraction(valid.get(m))),
         value_cell(v, fraction(v))]
        for m, v in test.items()
    ]  # fmt: skip
    more = (
        "Chosen on the validation rows; the test rows were evaluated once, for this trial alone. With its seed alone: "
        "others need not rank the trials alike. Train it again by <code>recbole-blair train "
        "--config_files=best.yaml</code>, with <code>--seeds=1,2,3</code> to see how much training varies."
    )
    tables = f"<div>{table(['metric', 'valid', 'test'], figures)}</div><div>{table(['key', 'value'], keys)}</div>"
    return f'{lead}<div class="charts">{tables}</div><p class="soft">{more}</p>'


def draw_keys(sweep: Sweep, trials: list[Trial], shares: dict[str, float], remark: str) -> str:
    """How much each key mattered, and one line per trial over all keys."""
    metric = metric_name(sweep.metric)
    figures = []
    if shares:
        bars = {"name": "importance", "colour": 0, "values": list(shares.values()), "deviations": [None] * len(shares)}
        chart = svg.bar_chart(list(shares), [bars], f"importance of each key for {metric}", "share of the variance")
        caption = f"Importance: the share of the variance of {escape(metric)} that a key explains (fANOVA)"
        figures.append(f'<figure data-chart="importance"><figcaption>{caption}</figcaption>{chart}</figure>')
        left_out = [entry.key for entry in sweep.space.entries if entry.key not in shares]
        remark += f" Not every trial has {', '.join(left_out)}, so nothing is said of it." if left_out else ""
    points = [sweep.space.shown(trial.point) for trial in trials]
    axes = [key_axis(entry, [point.get(entry.key) for point in points]) for entry in sweep.space.entries]
    axes.append(metric_axis(f"valid {sweep.metric}", [trial.best_value(sweep.metric) for trial in trials]))
    chart = draw_coordinates(axes, [describe(trial, sweep) for trial in trials], "the trials by their keys")
    caption = "One line per trial through its keys to its value; the best is on top and darkest"
    figures.append(f'<figure data-chart="trials"><figcaption>{caption}</figcaption>{chart}</figure>')
    return f'<div class="charts">{"".join(figures)}</div><p class="soft">{escape(remark)}</p>'


def describe(trial: Trial, sweep: Sweep) -> str:
    """Return a trial in one line."""
    keys = ", ".join(f"{key}={value}" for key, value in sweep.space.shown(trial.point).items())
    return f"trial {trial.number} ({trial.status}): {fraction(trial.best_value(sweep.metric))}; {keys}"


def draw_learning(sweep: Sweep, trials: list[Trial]) -> str:
    """The metric of the validation rows by epoch, one line per trial."""
    chosen = trials[0].best(sweep.metric) or {}
    series = [
        {"points": curve(trial, sweep.metric), "colour": 0, "title": describe(trial, sweep), "look": look(number),
         "opacity": shade(number, len(trials)), "mark": None if number else chosen.get("epoch")}
        for number, trial in enumerate(trials)
    ]  # fmt: skip
    chart = svg.line_chart(series[::-1], f"{metric_name(sweep.metric)} by epoch, one line per trial", "epoch")
    caption = f"{escape(metric_name(sweep.metric))} of the validation rows; the best trial is on top and darkest"
    figure = f'<figure data-chart="learning"><figcaption>{caption}</figcaption>{chart}</figure>'
    return f'<div class="charts">{figure}</div>'


def draw_table(sweep: Sweep, ranked: list[Trial]) -> str:
    """The trials, best first; numbers link to their folders."""
    keys = [entry.key for entry in sweep.space.entries]
    rows = []
    for place, trial in enumerate(ranked):
        best, last = trial.best(sweep.metric), trial.lines[-1] if trial.lines else {}
        kind = "best" if place == 0 and best else ""
        folder = f"{trial_dir('', trial.number)}/"
        name = str(trial.number) if trial.status == PLANNED else f'<a href="{folder}">{trial.number}</a>'
        value, seconds = (best or {}).get(sweep.metric), last.get("seconds")
        cells = [value_cell(trial.number, name, kind=kind), f'<td class="left">{escape(trial.status)}</td>']
        cells.append(value_cell(value, fraction(value), f' data-trial="{trial.number}"', kind))
        cells.append(value_cell(last.get("epoch", 0), str(last.get("epoch", 0))))
        cells.append(value_cell(seconds, "–" if seconds is None else f"{seconds:,.0f}"))
        shown = sweep.space.shown(trial.point)
        cells += [key_cell(shown.get(key), kind) for key in keys]
        rows.append(cells)
    failed = [f"trial {t.number}: {t.error or 'no reason was kept'}" for t in ranked if t.status == FAILED]
    head = ["trial", "status", escape(f"valid {metric_name(sweep.metric)}"), "epochs", "seconds", *map(escape, keys)]
    return note("Failed", failed) + table(head, rows, sortable=True)


def key_cell(value: Any, kind: str) -> str:
    """Return the cell of a key's value."""
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
    shown = value if isinstance(value, str | int | float | None) else json.dumps(value)
    return value_cell(number, escape(shown_value(shown)), kind=kind)

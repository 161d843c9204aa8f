"""The parts of a report's page: each takes one panel of `collect` and gives HTML."""

from __future__ import annotations

from html import escape
from typing import Any

from recbole_blair.figures import fraction, p_text, signed
from recbole_blair.report import svg
from recbole_blair.report.paired import TESTS

Panel = dict[str, Any]  # as `collect.collect_panel` returns

CERTAIN = 0.05
LOSSES_APART = 2.0  # losses of different kinds would be flat lines on one scale
BREAKDOWN_TITLES = {
    "new_item": "New and known items",
    "popularity": "Popularity of the target",
    "history_length": "Length of the history",
    "category": "Category of the target",
    "time": "Time of the target",
}


def metric_name(metric: str) -> str:
    """`NDCG@10`, `Recall@10`."""
    return metric.upper() if metric.startswith(("ndcg", "mrr")) else metric.capitalize()


def count(n: int, noun: str) -> str:
    """`1 run`, `1,200 runs`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def panel_title(panel: Panel) -> str:
    """Name a panel by what makes it differ from others."""
    masked = ", history masked" if panel["history_masked"] else ""
    return f"{panel['dataset']} ({panel['protocol']}{masked})"


def note(title: str, lines: list[str]) -> str:
    """A box of remarks; nothing when there are none."""
    lines = list(dict.fromkeys(lines))
    if not lines:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in lines)
    return f'<div class="note"><b>{escape(title)}</b><ul>{items}</ul></div>'


def key(index: int) -> str:
    """The coloured square before a model's name."""
    return f'<span class="key {svg.colour(index)}"></span>'


def legend(panel: Panel) -> str:
    """Colours and names."""
    names = (f"<li>{key(i)}{escape(group['label'])}</li>" for i, group in enumerate(panel["groups"]))
    return f'<ul class="legend">{"".join(names)}</ul>'


def table(head: list[str], rows: list[list[str]], sortable: bool = False) -> str:
    """Build a table that scrolls inside its place.

    Args:
        head: HTML of the column heads.
        rows: of whole `td` elements.
    """
    sort = ' data-sort=""' if sortable else ""
    texts = ('<td class="left"', '<td class="wrap"')  # their heads are above them, at the left
    looks = [' class="left"' * cell.startswith(texts) for cell in rows[0]] if rows else [""] * len(head)
    heads = "".join(f"<th{sort}{look}>{cell}</th>" for cell, look in zip(head, looks))
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    whole = f"<table><thead><tr>{heads}</tr></thead><tbody>\n{body}\n</tbody></table>"
    return f'<div class="scroll" tabindex="0">{whole}</div>'


def value_cell(value: float | None, shown: str, extra: str = "", kind: str = "") -> str:
    """A number with its unrounded value beside it."""
    data = "" if value is None else f' data-value="{value!r}"'
    look = f' class="{kind}"' if kind else ""
    return f"<td{data}{extra}{look}>{shown}</td>"


def results(panel: Panel, metric: str) -> str:
    """The table of models, the chart of seeds, and each run."""
    groups, rows = panel["groups"], panel["rows"]
    masked = "items of the history are taken out" if panel["history_masked"] else "items of the history stay in"
    encoders = sorted({g["encoder"] for g in groups if g["encoder"]})
    users = f" of {panel['users']:,} users, over whom metrics are averaged" if panel["users"] else ""
    facts = (
        f"{rows['test']:,} test rows{users}, each target ranked among all {panel['n_items']:,} items; {masked} the "
        "ranking. "
        f"Trained on {rows['train']:,} rows, best epoch chosen on {rows['valid']:,}. Protocol {panel['protocol']}; "
        f"{panel['ties']}. Item text by: {', '.join(encoders) or 'no encoder'}."
    )
    parts = [f'<p class="lead">{headline(panel, metric)}</p>', note("Weights", panel["missing"]["runs"])]
    parts.append(model_table(panel, metric))
    parts.append('<p class="soft">Mean over seeds, and below it the sample deviation. Click a head to sort.</p>')
    charts = seed_chart(panel, metric) + seed_chart(panel, second_metric(panel, metric))
    parts.append(f'<div class="charts">{charts}</div>')
    parts.append(f'<p class="soft">{escape(facts)}</p>')
    parts.append(configuration_table(panel))
    parts.append(f"<details><summary>Every run</summary>{run_table(panel)}</details>")
    return "\n".join(parts)


def headline(panel: Panel, metric: str) -> str:
    """One sentence on who is first, and how surely."""
    groups = panel["groups"]
    first = groups[0]
    seeds = count(len(first["runs"]), "seed")
    spread = first["deviation"][metric]
    value = fraction(first["mean"][metric]) + (f" ± {fraction(spread)}" if spread is not None else "")
    text = f"<b>{escape(first['label'])}</b> has the highest {metric_name(metric)}: {value} over {seeds}"
    if len(groups) == 1:
        return f"<b>{escape(first['label'])}</b>: {metric_name(metric)} {value} over {seeds}."
    second = groups[1]
    if second["mean"][metric] > 0:
        text += f", {100 * (first['mean'][metric] / second['mean'][metric] - 1):+.1f} % over {escape(second['label'])}"
    pairs = panel["comparisons"]["pairs"] if panel["comparisons"] else []
    tested = next((p for p in pairs if {p["a"], p["b"]} == {first["label"], second["label"]}), None)
    if tested is None:
        return text + "; the difference was not tested."
    single = [group["label"] for group in (first, second) if of_one_seed(group)]
    if certain(tested):
        verdict = "these trained models differ over users" if single else "a clear difference over users"
    else:
        verdict = "no clear difference over users"
    text += f"; {verdict} (bootstrap p {p_text(tested['p_value_bootstrap_holm'])}, corrected)"
    if single:
        names = " and ".join(map(escape, single))
        return text + f", but {names} {'has' if len(single) == 1 else 'have'} one seed: others may turn it round."
    over_seeds = max(group["deviation"][metric] or 0 for group in (first, second))
    if over_seeds >= first["mean"][metric] - second["mean"][metric]:
        text += f", but no larger than the deviation over seeds, {fraction(over_seeds)}: other seeds may turn it round"
    return text + "."


def of_one_seed(group: dict[str, Any]) -> bool:
    """True where nobody knows how much training varies: one run, of a model that trains."""
    return len(group["runs"]) == 1 and group["runs"][0].get("epochs") != 0


def model_table(panel: Panel, metric: str) -> str:
    """A row a configuration: mean and deviation of every test metric."""
    names = [metric, *(m for m in panel["metrics"] if m != metric)]
    means = {m: [g["mean"][m] for g in panel["groups"] if g["mean"].get(m) is not None] for m in names}
    best = {m: max(values, default=None) for m, values in means.items()}
    rows = []
    for i, group in enumerate(panel["groups"]):
        cells = [f"<td>{key(i)}{escape(group['label'])}<small>{count(len(group['runs']), 'seed')}</small></td>"]
        for m in names:
            mean, deviation = group["mean"].get(m), group["deviation"].get(m)
            spread = "" if deviation is None else f"<small>± {fraction(deviation)}</small>"
            where = f' data-group="{escape(group["label"], quote=True)}" data-metric="{m}"'
            cells.append(value_cell(mean, fraction(mean) + spread, where, "best" if mean == best[m] else ""))
        seconds = sum(sum((run["seconds"] or {}).values()) for run in group["runs"]) / len(group["runs"])
        epochs = sum(run["epochs"] or 0 for run in group["runs"]) / len(group["runs"])
        cells += [value_cell(epochs, f"{epochs:.0f}"), value_cell(seconds, f"{seconds:,.0f}")]
        rows.append(cells)
    return table(["model", *map(metric_name, names), "epochs", "seconds"], rows, sortable=True)


def second_metric(panel: Panel, metric: str) -> str | None:
    """Another metric worth a chart: the recall of the longest list, or None."""
    recalls = [m for m in panel["metrics"] if m.startswith("recall@") and m != metric]
    common = [m for m in recalls if all(g["mean"].get(m) is not None for g in panel["groups"])]
    return max(common, key=lambda m: int(m.split("@")[1]), default=None)


def seed_chart(panel: Panel, metric: str | None) -> str:
    """One metric of every seed; nothing without a metric."""
    if metric is None:
        return ""
    rows = []
    for i, group in enumerate(panel["groups"]):
        points, mean = [run["test"][metric] for run in group["runs"]], group["mean"][metric]
        rows.append(
            {"name": group["label"], "colour": i, "value": mean, "low": min(points), "high": max(points),
             "points": points, "text": fraction(mean)}
        )  # fmt: skip
    chart = svg.range_chart(rows, f"{metric} of every seed and its mean, by model")
    return f"<figure><figcaption>{metric_name(metric)} on test: mean (large) and each seed</figcaption>{chart}</figure>"


def configuration_table(panel: Panel) -> str:
    """The keys in which the configurations differ."""
    if not panel["differing"]:
        return ""
    labels = [group["label"] for group in panel["groups"]]
    rows = [
        [f"<td>{escape(name)}</td>", *(f'<td class="wrap">{escape(shown_value(row[label]))}</td>' for label in labels)]
        for name, row in panel["differing"].items()
    ]
    inner = table(["key", *map(escape, labels)], rows)
    return f"<details><summary>Configuration: {count(len(rows), 'key')} that differ</summary>{inner}</details>"


def shown_value(value: object) -> str:
    """A configuration value for people."""
    return "–" if value is None else str(value)


def run_table(panel: Panel) -> str:
    """A row a run, with every test metric as in its metrics.json."""
    metrics = panel["metrics"]
    rows = []
    for i, group in enumerate(panel["groups"]):
        for run in group["runs"]:
            where = f' data-run="{escape(run["folder"], quote=True)}"'
            cells = [f"<td>{key(i)}{escape(group['label'])}</td>", value_cell(run["seed"], str(run["seed"]))]
            for m in metrics:
                value = run["test"].get(m)
                cells.append(value_cell(value, fraction(value), f'{where} data-metric="{m}"'))
            stop = "stopped early" if run["stopped_early"] else "all epochs"
            epochs = f"{run['best_epoch']} of {run['epochs']}<small>{stop}</small>"
            seconds = sum((run["seconds"] or {}).values())
            cells += [
                value_cell(run["best_epoch"], epochs),
                value_cell(seconds, f"{seconds:,.0f}"),
                value_cell(run["peak_memory_mb"], f"{run['peak_memory_mb'] or 0:,.0f}"),
                value_cell(run["parameters"], f"{run['parameters'] or 0:,}"),
                f"<td>{escape(str(run['device']))}, {escape(str(run['precision']))}</td>",
                f'<td class="left">{escape(run["folder"])}</td>',
            ]
            rows.append(cells)
    last = ("best epoch", "seconds", "peak MB", "parameters", "device", "folder")
    return table(["model", "seed", *map(metric_name, metrics), *last], rows, sortable=True)


def certain(pair: dict[str, Any]) -> bool:
    """True when every test that is defined agrees."""
    return all(pair[f"{test}_holm"] is None or pair[f"{test}_holm"] < CERTAIN for test in TESTS)


def differences(panel: Panel, metric: str) -> str:
    """Every pair of models: the difference, its interval, three tests."""
    comparisons = panel["comparisons"]
    remarks = note("About these tests", panel["missing"]["comparisons"])
    if comparisons is None:
        return f"<p>No models to compare.</p>{remarks}"
    colours = {group["label"]: i for i, group in enumerate(panel["groups"])}
    single = {group["label"] for group in panel["groups"] if of_one_seed(group)}
    rows, chart = [], []
    for pair in comparisons["pairs"]:
        verdict = '<span class="yes">yes</span>' if certain(pair) else "no"
        if certain(pair) and single & {pair["a"], pair["b"]}:
            verdict = "yes<small>one seed</small>"
        cells = [f"<td>{key(colours[pair['a']])}{escape(pair['a'])}<small>over {escape(pair['b'])}</small></td>"]
        interval = f"<small>{signed(pair['low'])} to {signed(pair['high'])}</small>"
        cells.append(value_cell(pair["difference"], f"{signed(pair['difference'])}{interval}"))
        for test in TESTS:
            raw = f"<small>{p_text(pair[test])} alone</small>"
            cells.append(value_cell(pair[f"{test}_holm"], p_text(pair[f"{test}_holm"]) + raw))
        cells.append(f"<td>{verdict}</td>")
        cells.append(f"<td>{pair['wins']:,} / {pair['losses']:,} / {pair['ties']:,}</td>")
        rows.append(cells)
        chart.append(
            {"name": f"{pair['a']} over {pair['b']}", "colour": colours[pair["a"]], "value": pair["difference"],
             "low": pair["low"], "high": pair["high"], "points": [], "text": signed(pair["difference"])}
        )  # fmt: skip
    head = ["pair", "difference<br>95 % interval", "bootstrap p", "randomisation p", "t-test p", "all below .05"]
    head.append(f"{'users' if panel['users'] else 'rows'} better<br>/ worse / equal")
    figure = svg.range_chart(chart, f"differences in {metric_name(metric)} with their 95 % intervals", zero=True)
    unit = "users" if panel["users"] else "test rows"
    drawn = "" if panel["users"] else f"Rows of one user are drawn together: {comparisons['users']:,} users. "
    explained = (
        f"{metric_name(metric)} of each of the {comparisons['rows']:,} {unit}, averaged over a model's seeds, "
        f"paired by {unit.split()[-1][:-1]}. {drawn}Paired bootstrap and "
        f"sign flips, {comparisons['samples']:,} samples each, and a paired t-test; every p-value is corrected by Holm "
        f"for {count(len(rows), 'pair')}. They say whether other users would show the same difference between these "
        "trained models; how much training itself varies is the deviation over seeds above."
    )
    caption = f"<figcaption>Difference in {metric_name(metric)}, 95 % bootstrap interval</figcaption>"
    return (
        f'<p class="soft">{escape(explained)}</p>{table(head, rows)}'
        f'<div class="charts"><figure>{caption}{figure}</figure></div>{remarks}'
    )


def learning(panel: Panel, metric: str) -> str:
    """Loss and validation metric by epoch, one line per run."""
    curves = panel["curves"]
    remarks = note("Not shown", panel["missing"]["curves"])
    if not curves:
        return f"<p>No learning curves.</p>{remarks}"
    colours = {group["label"]: i for i, group in enumerate(panel["groups"])}
    figures = []
    metrics = ", ".join(dict.fromkeys(metric_name(one["metric"]) for one in curves))
    losses = [value for one in curves for _, value in one["loss"]]
    share = min(losses) > 0 and max(losses) > LOSSES_APART * min(losses)
    loss = "Training loss, divided by the first epoch's" if share else "Training loss"
    captions = {"valid": f"{metrics} on validation; the dot is the epoch that was kept", "loss": loss}
    for name, caption in captions.items():
        series = [
            {"points": of_first(one[name]) if share and name == "loss" else one[name], "colour": colours[one["label"]],
             "title": f"{one['label']}, seed {one['seed']}", "mark": one["best"] if name == "valid" else None}
            for one in curves if one[name]
        ]  # fmt: skip
        if series:
            chart = svg.line_chart(series, f"{caption}, by epoch", "epoch")
            figures.append(f"<figure><figcaption>{escape(caption)}</figcaption>{chart}</figure>")
    return (
        f'{legend(panel)}<div class="charts">{"".join(figures)}</div>'
        '<p class="soft">One line per run. Losses of different models, or of one with other settings, need not compare.'
        f"</p>{remarks}"
    )


def of_first(points: list[list[float]]) -> list[list[float]]:
    """Divide a curve by its first value."""
    return [[epoch, value / points[0][1]] for epoch, value in points]


def breakdowns(panel: Panel, metric: str) -> str:
    """Each breakdown as bars and as a table."""
    remarks = note("Not shown", panel["missing"]["breakdowns"])
    if not panel["breakdowns"]:
        return f"<p>No breakdown.</p>{remarks}"
    figures = []
    for part in panel["breakdowns"]:
        title = BREAKDOWN_TITLES.get(part["by"], part["by"])
        names = [f"{b['bucket']}  ({count(b['rows'], 'row')}, {100 * b['share']:.0f} %)" for b in part["buckets"]]
        series = [
            {"name": group["label"], "colour": i, "values": [c["mean"] for c in part["groups"][group["label"]]],
             "deviations": [c["deviation"] for c in part["groups"][group["label"]]]}
            for i, group in enumerate(panel["groups"]) if group["label"] in part["groups"]
        ]  # fmt: skip
        own_scale = len(series) > 1 and far_apart([max(values) for values in zip(*(one["values"] for one in series))])
        chart = svg.bar_chart(
            names, series, f"{metric_name(metric)} by {title.lower()}", metric_name(metric), own_scale
        )
        caption = part["note"] + ("; every part has a scale of its own, said below it" if own_scale else "")
        figures.append(
            f'<figure data-by="{part["by"]}"><h4>{escape(title)}</h4><figcaption>{escape(caption)}</figcaption>'
            f"{chart}</figure>"
        )
    return (
        f'<p class="soft">{metric_name(metric)} on test, mean over seeds; the thin line is the deviation. Small parts '
        f'vary more.</p>{legend(panel)}<div class="charts">{"".join(figures)}</div>{remarks}'
    )


def far_apart(highest: list[float]) -> bool:
    """True where one scale would hide the small parts."""
    return max(highest) > 10 * min(highest)


def examples(panel: Panel, metric: str) -> str:
    """Histories, what came next, and each model's first items."""
    remarks = note("Not shown", panel["missing"]["examples"])
    shown = panel["examples"]
    if not shown:
        return f"<p>No examples.</p>{remarks}"
    hits = sum(example["from_hits"] for example in shown)
    chosen = f"{len(shown) - hits} of these test rows are drawn at random"
    if hits:
        chosen += f", {hits} at random from the rows that some model answers in its first five"
    text = f"{chosen}. Every model is shown with its lowest seed."
    colours = {group["label"]: i for i, group in enumerate(panel["groups"])}
    body = "\n".join(draw_example(example, colours) for example in shown)
    return f'<p class="soft">{escape(text)}</p>{remarks}{body}'


def draw_example(example: dict[str, Any], colours: dict[str, int]) -> str:
    """One test row."""
    more = example["history_length"] - len(example["history"])
    earlier = f'<li class="soft">and {count(more, "item")} before</li>' if more else ""
    history = "".join(f"<li>{title(item)}</li>" for item in example["history"])
    columns = [f"<div><h4>History, latest first</h4><ul>{history}{earlier}</ul></div>"]
    for one in example["lists"]:
        marks = [' class="hit"' if item["hit"] else "" for item in one["items"]]
        items = "".join(f"<li{mark}>{title(item)}{tags(item)}</li>" for mark, item in zip(marks, one["items"]))
        rank = f"{one['rank']:,.1f}".removesuffix(".0")
        columns.append(
            f"<div><h4>{key(colours[one['label']])}{escape(one['label'])}</h4><ol>{items}</ol>"
            f'<p class="soft">the target is at rank {rank}</p></div>'
        )
    target = example["target"]
    seen = f"{count(target['trained'], 'event')} in training" if target["trained"] else "new: never in training"
    return (
        f'<div class="example"><p class="tag">User {escape(example["user"])}, took next ({seen})</p>'
        f'<p class="target">{title(target)}</p>'
        f'<div class="cols">{"".join(columns)}</div></div>'
    )


def title(item: dict[str, Any]) -> str:
    """An item's title, at most two lines of it; one without says so."""
    full = escape(item["title"] or f"untitled ({item['id']})", quote=True)
    return f'<span class="clip" title="{full}">{full}</span>'


def tags(item: dict[str, Any]) -> str:
    """What a reader looks for in a list."""
    words = [word for word, on in (("taken next", item["hit"]), ("in the history", item["known"])) if on]
    return f' <span class="tag">{", ".join(words)}</span>' if words else ""

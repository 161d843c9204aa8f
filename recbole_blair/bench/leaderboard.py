"""The leaderboard as one HTML page that stands alone, in the style of a report, and as a table on the screen."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from recbole_blair.figures import fraction, p_text, signed
from recbole_blair.report import svg
from recbole_blair.report.page import stand_alone
from recbole_blair.report.sections import count, key, metric_name, note, table, value_cell

if TYPE_CHECKING:
    from rich.table import Table

    from recbole_blair.bench.results import Board

LIKE_BEST = "≈ best"
READ = (
    "A task's column is the mean over its data sets; below it the 95 % interval, by a bootstrap over users or queries "
    f"and over seeds. “{LIKE_BEST}”: not certainly different from the best encoder of the task (paired test, corrected "
    "by Holm for the number of pairs). Borda points: per data set one for each encoder it is ahead of. Of best: its "
    "value as a share of the best one’s, mean over data sets. Click a head, or press Enter on it, to sort."
)


def render(board: Board) -> str:
    """Return the page of a leaderboard."""
    title = f"Leaderboard: {board['title']}"
    parts = (
        ("board", "Encoders", leaderboard),
        ("charts", "Quality and cost", charts),
        ("datasets", "Data sets", datasets),
        ("pairs", "Differences", differences),
    )
    links = "".join(f'<a href="#{name}">{label}</a>' for name, label, _ in parts)
    body = "\n".join(
        f'<section id="{name}"><h2 style="margin-top:0">{label}</h2>\n{draw(board)}</section>'
        for name, label, draw in parts
    )
    return stand_alone(title, summary_line(board), links, body, "Metrics are fractions;", board)


def summary_line(board: Board) -> str:
    """Say how much there is."""
    encoders, parts, tasks = (len(board[key]) for key in ("encoders", "parts", "tasks"))
    return f"{count(encoders, 'encoder')}, {count(tasks, 'task')}, {count(parts, 'data set')} in all"


def ranked(board: Board) -> list[dict[str, Any]]:
    """Return the encoders that have every part, best first."""
    return [encoder for encoder in board["encoders"] if not encoder["lacks"]]


def leaderboard(board: Board) -> str:
    """The table of encoders."""
    tasks = board["tasks"]
    broken = [escape(task["title"]).replace(" ", "<br>", 1) for task in tasks]  # four tasks fit a screen of 1280
    head = ["encoder", "Borda", *(f"{title}<br>{metric_name(t['metric'])}" for title, t in zip(broken, tasks))]
    head += ["of best", "parameters", "ms per<br>text"]
    rows = []
    for number, encoder in enumerate(ranked(board)):
        name = encoder["id"]
        cells = [f"<td>{key(number)}{escape(encoder['label'])}<small>rank {encoder['rank']}</small></td>"]
        cells.append(value_cell(encoder["borda"], f"{encoder['borda']:g}", cell_of(name, "borda")))
        for task in tasks:
            mean = task["means"][name]
            like = f'<small class="yes">{LIKE_BEST}</small>' if name in task["best"][1:] else ""
            shown = f"{fraction(mean['value'])}<small>{fraction(mean['low'])} … {fraction(mean['high'])}</small>{like}"
            best = "best" if name == task["best"][0] else ""
            cells.append(value_cell(mean["value"], shown, cell_of(name, task["task"]), best))
        cells.append(value_cell(encoder["share"], f"{100 * encoder['share']:.1f} %", cell_of(name, "share")))
        size, speed = encoder.get("parameters"), encoder.get("ms_per_text")
        cells.append(value_cell(size, "–" if size is None else f"{size / 1e6:,.1f} M"))
        cells.append(value_cell(speed, "–" if speed is None else f"{speed:.3g}"))
        rows.append(cells)
    lacking = [f"{e['label']} lacks {', '.join(e['lacks'])}" for e in board["encoders"] if e["lacks"]]
    left_out = note("Not compared, since not every cell is there", lacking)
    return f'{headline(board)}{left_out}{table(head, rows, sortable=True)}<p class="soft">{escape(READ)}</p>'


def cell_of(encoder: str, column: str) -> str:
    """Return the attributes that name a cell of the table of encoders."""
    return f' data-encoder="{escape(encoder, quote=True)}" data-column="{column}"'


def headline(board: Board) -> str:
    """One sentence per task on who is first, and how surely."""
    labels = {encoder["id"]: encoder["label"] for encoder in board["encoders"]}
    lines = []
    for task in board["tasks"]:
        if not task["best"]:
            continue
        first, *others = task["best"]
        text = f"{escape(task['title'])}: <b>{escape(labels[first])}</b> {fraction(task['means'][first]['value'])}"
        if others:
            text += f", not certainly ahead of {escape(', '.join(labels[name] for name in others))}"
        elif len(task["means"]) > 1:
            text += ", ahead of all others"
            text += " over users, but of one seed: other seeds may turn it round" * of_one_seed(board, task)
        lines.append(f"<li>{text}.</li>")
    return f'<ul class="lead">{"".join(lines)}</ul>'


def of_one_seed(board: Board, task: dict[str, Any]) -> bool:
    """True for a task that trains models, of which one seed alone was run: search trains none."""
    cells = [cell for part in board["parts"] if part["part"] in task["parts"] for cell in part["cells"].values()]
    return not task["task"].startswith("search") and any(len(cell["seeds"]) == 1 for cell in cells)


def charts(board: Board) -> str:
    """Quality against parameters and against encoding time."""
    drawn = []
    for field, x_label, unit in (
        ("parameters", "parameters", "parameters"),
        ("ms_per_text", "milliseconds per text", "ms"),
    ):
        points = [
            {"name": e["label"], "colour": n, "x": e[field], "y": 100 * e["share"],
             "text": f"{100 * e['share']:.1f} % of best, {e[field]:,.4g} {unit}"}
            for n, e in enumerate(ranked(board)) if e.get(field)
        ]  # fmt: skip
        if points:
            chart = svg.scatter_chart(points, f"quality by {x_label}, one point per encoder", x_label, "% of best")
            caption = f"Quality, as a share of the best, against {x_label}"
            drawn.append(f'<figure data-x="{field}"><figcaption>{caption}</figcaption>{chart}</figure>')
    if not drawn:
        return '<p class="soft">No encoder here has known parameters or a measured time.</p>'
    return f'<div class="charts">{"".join(drawn)}</div>'


def datasets(board: Board) -> str:
    """One table per task: each encoder on each data set, with what its data are."""
    encoders = board["encoders"]
    blocks = []
    for task in board["tasks"]:
        parts = [part for part in board["parts"] if part["part"] in task["parts"]]
        rows = [
            [f"<td>{key(n)}{escape(encoder['label'])}</td>", *(part_cell(part, encoder["id"]) for part in parts)]
            for n, encoder in enumerate(encoders)
        ]
        head = [
            "encoder",
            *(escape(p["dataset"]) for p in parts),
        ]
        facts = "; ".join(map(describe_rows, parts))
        blocks.append(
            f"<h3>{escape(task['title'])}, {metric_name(task['metric'])}</h3>{table(head, rows, sortable=True)}"
            f'<p class="soft">{escape(facts)}</p>'
        )
    return "\n".join(blocks)


def describe_rows(part: dict[str, Any]) -> str:
    """Say what a data set's values are of."""
    rows, data = f"{part['rows']:,} rows of {part['units']:,} users or queries", part["data"]["sha256"][:12]
    return f"{part['dataset']}: {rows}, SHA-256 of the data {data}…"


def part_cell(part: dict[str, Any], encoder: str) -> str:
    """An encoder's value on one data set, its interval, and the setting that was chosen."""
    cell = part["cells"].get(encoder)
    if cell is None:
        return value_cell(None, "–")
    setting = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in cell["setting"].items())
    chosen = f"<small>{escape(setting)}</small>" if setting else ""
    shown = f"{fraction(cell['value'])}<small>{fraction(cell['low'])} … {fraction(cell['high'])}</small>{chosen}"
    return value_cell(cell["value"], shown)


def differences(board: Board) -> str:
    """Every pair of encoders in each task."""
    labels = {encoder["id"]: encoder["label"] for encoder in board["encoders"]}
    blocks = []
    for task in board["tasks"]:
        if not task["pairs"]:
            continue
        rows = [
            [
                f'<td class="wrap">{escape(labels[p["better"]])} − {escape(labels[p["other"]])}</td>',
                value_cell(p["difference"], signed(p["difference"])),
                f"<td>{signed(p['low'])} … {signed(p['high'])}</td>",
                value_cell(p["p_value"], p_text(p["p_value"])),
                value_cell(p["p_value_holm"], p_text(p["p_value_holm"])),
                f'<td class="left">{verdict(p["certain"])}</td>',
            ]
            for p in task["pairs"]
        ]
        head = ["pair", "difference", "95 % interval", "p", "p (Holm)", "differ"]
        blocks.append(f"<h3>{escape(task['title'])}</h3>{table(head, rows, sortable=True)}")
    facts = f"Paired bootstrap of {board['samples']:,} samples: the same users or queries for both, seeds drawn apart."
    return "\n".join(blocks) + f'<p class="soft">{facts}</p>' if blocks else "<p>One encoder: nothing to compare.</p>"


def verdict(certain: bool) -> str:
    """Say whether two encoders differ."""
    return '<span class="yes">yes</span>' if certain else "not certain"


def board_table(board: Board) -> Table:
    """Build the table for the screen: one line per encoder."""
    from rich import box  # heavy, as Table
    from rich.table import Table

    drawn = Table(title=board["title"], title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    drawn.add_column("encoder")
    for column in ("Borda", *(task["task"] for task in board["tasks"]), "of best"):
        drawn.add_column(column, justify="right", no_wrap=True)
    for encoder in ranked(board):
        cells = []
        for task in board["tasks"]:
            mean, mark = task["means"][encoder["id"]], "*" if encoder["id"] in task["best"] else " "
            cells.append(rf"{fraction(mean['value'])}{mark} \[{fraction(mean['low'])}, {fraction(mean['high'])}]")
        drawn.add_row(encoder["label"], f"{encoder['borda']:g}", *cells, f"{100 * encoder['share']:.1f} %")
    return drawn

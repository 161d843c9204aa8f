"""Draws a report as one HTML page that stands alone: no file, font or address outside it."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from recbole_blair.report import sections
from recbole_blair.report.sections import Panel
from recbole_blair.report.style import CSS, SCRIPT

# The page forbids itself every request, so a browser would report one.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
PARTS = (
    ("results", "Results", sections.results),
    ("differences", "Differences", sections.differences),
    ("curves", "Learning", sections.learning),
    ("breakdowns", "Cold and warm", sections.breakdowns),
    ("examples", "Examples", sections.examples),
)


def render(report: dict[str, Any], title: str | None = None) -> str:
    """Draw a report.

    Args:
        report: as `collect` returns.
        title: empty: the data sets' names.

    Returns:
        An HTML document; the report's numbers stand in it once more as JSON.
    """
    title = title or "Report: " + ", ".join(dict.fromkeys(panel["dataset"] for panel in report["panels"]))
    panels = report["panels"]
    body = "\n".join(draw_panel(panel, number, report, len(panels) > 1) for number, panel in enumerate(panels))
    notes = f"{sections.note('Left out', report['notes'])}\n{mixed_note(panels)}"
    footer = "Metrics are fractions, over\na full ranking;"
    return stand_alone(title, summary_line(report), navigation(panels), f"{notes}\n{body}", footer, report)


def stand_alone(title: str, summary: str, links: str, body: str, footer: str, numbers: dict[str, Any]) -> str:
    """Return a whole page.

    Args:
        title, summary: text, at the head.
        links: HTML, of the navigation.
        body: HTML, of the main part.
        footer: HTML, before what is said of the saved numbers.
        numbers: stand in the page as JSON; `version` and perhaps `created` in the footer.
    """
    made = ", ".join(escape(numbers[name]) for name in ("version", "created") if name in numbers)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{CSS}</style>
</head>
<body>
<header><div class="in"><div><h1>{escape(title)}</h1><p class="soft">{escape(summary)}</p></div>
<div class="tools"><button id="save" type="button">Save numbers</button>
<button id="theme" type="button">Light / dark</button></div></div></header>
<nav aria-label="Parts"><div class="in">{links}</div></nav>
<main>
{body}
</main>
<footer class="soft">recbole-blair {made}. {footer} “Save numbers” gives every
number on this page unrounded, as JSON.</footer>
<script type="application/json" id="numbers">{embed(numbers)}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""


def embed(report: dict[str, Any]) -> str:
    """Write JSON that cannot end its script element."""
    return json.dumps(report, allow_nan=False).replace("<", "\\u003c")


def summary_line(report: dict[str, Any]) -> str:
    """Say how much there is."""
    runs = sum(len(group["runs"]) for panel in report["panels"] for group in panel["groups"])
    groups = sum(len(panel["groups"]) for panel in report["panels"])
    return f"{sections.count(runs, 'run')} of {sections.count(groups, 'configuration')}, {report['created']}"


def navigation(panels: list[Panel]) -> str:
    """Link the parts of a single panel, or the panels."""
    if len(panels) == 1:
        return "".join(f'<a href="#{name}-0">{label}</a>' for name, label, _ in PARTS)
    return "".join(f'<a href="#panel-{i}">{escape(sections.panel_title(p))}</a>' for i, p in enumerate(panels))


def mixed_note(panels: list[Panel]) -> str:
    """Say why runs stand apart."""
    if len(panels) < 2:
        return ""
    reason = (
        "These runs rank different rows or items, or treat the history differently. Each such setting has a part of "
        "its own; numbers of different parts do not compare."
    )
    return sections.note("Not comparable with each other", [reason])


def draw_panel(panel: Panel, number: int, report: dict[str, Any], titled: bool) -> str:
    """Draw one data set's parts."""
    head = f'<h2 id="panel-{number}">{escape(sections.panel_title(panel))}</h2>' if titled else ""
    parts = []
    for name, label, draw in PARTS:
        level = "h3" if titled else "h2"
        heading = f'<{level} style="margin-top:0">{label}</{level}>'
        parts.append(f'<section id="{name}-{number}">{heading}\n{draw(panel, report["metric"])}</section>')
    return head + "\n".join(parts)

"""Parallel coordinates as inline SVG: horizontal axes below each other, so that a phone has room for any number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import Any

from recbole_blair.figures import fraction
from recbole_blair.report import svg
from recbole_blair.tune.space import Entry

TICKS = 5
ROW, TOP, EDGE = 58, 30, 20  # height of an axis' row, of the first one's head, and space at both sides
GUTTER = 34  # at the left, for trials that did not try the key


@dataclass
class Axis:
    """One axis.

    `shares` says where on it each trial is, from 0 to 1 (None: it did not try the key); `ticks` are (share, text).
    """

    label: str
    shares: list[float | None]
    ticks: list[tuple[float, str]]


def key_axis(entry: Entry, values: list[Any]) -> Axis:
    """Return the axis of a key."""
    label = f"{entry.key} (log)" if entry.kind == "loguniform" else entry.key
    if entry.kind == "choice":
        others = [v for v in values if v is not None and v not in entry.values]  # a default that is no choice
        names = list(dict.fromkeys(str(v) for v in [*entry.values, *others]))
        step = 1 / max(1, len(names) - 1)
        shares = [None if v is None else names.index(str(v)) * step for v in values]
        return Axis(label, shares, [(i * step, name) for i, name in enumerate(names)])
    numbers = [*entry.values, *(v for v in values if v is not None)]  # a default may lie outside the bounds
    log = entry.kind == "loguniform" and min(numbers) > 0
    place = math.log10 if log else float
    low, high = place(min(numbers)), place(max(numbers))
    span = (high - low) or 1.0
    if entry.whole and not log:
        marks = [float(t) for t in svg.nice_ticks(low, high, TICKS) if t == int(t) and low <= t <= high]
    else:
        marks = [low + i * (high - low) / (TICKS - 1) for i in range(TICKS)]
    ticks = [((t - low) / span, f"{10**t if log else t:.3g}") for t in marks]
    return Axis(label, [None if v is None else (place(v) - low) / span for v in values], ticks)


def metric_axis(label: str, values: list[float]) -> Axis:
    """Return the axis of the metric."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    ticks = [(i / (TICKS - 1), fraction(low + i * (high - low) / (TICKS - 1))) for i in range(TICKS)]
    return Axis(label, [(v - low) / span for v in values], ticks if high > low else [(0, fraction(low))])


def draw_coordinates(axes: list[Axis], titles: list[str], label: str) -> str:
    """Draw one line per trial.

    Args:
        axes: each with a share per trial.
        titles: of the trials, shown under the pointer; best first: the first is drawn last, over the others, darkest.
        label: what the chart shows, for readers who do not see it.

    Returns:
        An svg element.
    """
    left = EDGE + (GUTTER if any(None in axis.shares for axis in axes) else 0)
    x = svg.scale(0, 1, left, svg.WIDTH - EDGE)
    heights = [TOP + i * ROW for i in range(len(axes))]
    parts = [svg.line(left, y, svg.WIDTH - EDGE, y, "zero") for y in heights]
    for number in reversed(range(len(titles))):
        places = [axis.shares[number] for axis in axes]
        points = " ".join(
            f"{svg.number(EDGE if place is None else x(place))},{svg.number(y)}" for place, y in zip(places, heights)
        )
        parts.append(
            f'<g class="{look(number)}" opacity="{shade(number, len(titles))}"><title>{escape(titles[number])}</title>'
            f'<polyline points="{points}" class="line"/></g>'
        )
    for axis, y in zip(axes, heights):
        parts.append(svg.text(EDGE, y - 9, svg.shorten(axis.label, 44), kind="name"))
        room = int((svg.WIDTH - left) / max(1, len(axis.ticks)) / svg.CHARACTER)
        for share, name in axis.ticks:
            anchor = "start" if share < 0.01 else "end" if share > 0.99 else "middle"
            parts.append(svg.text(x(share) + (0.5 - share) * 12, y + 16, svg.shorten(name, room), anchor, "halo"))
        if None in axis.shares:
            parts.append(svg.text(EDGE, y + 16, "–", "middle", "halo"))
    return svg.wrap(parts, heights[-1] + 26, label)


def look(number: int) -> str:
    """Return the classes of a trial's line: the best has the colour of text."""
    return "top" if number == 0 else svg.colour(0)


def shade(number: int, count: int) -> str:
    """Return a line's opacity: the better the trial, the darker."""
    return "1" if number == 0 else f"{0.15 + 0.55 * (1 - number / count):.2f}"

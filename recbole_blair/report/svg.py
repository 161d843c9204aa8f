"""Small charts as inline SVG. Colours are the page's classes c0 … c7, so light and dark follow the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from recbole_blair.figures import drop_zero, fraction
from recbole_blair.report.style import CSS

COLOURS = 8
WIDTH = 400
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 14, 40
ROW_HEIGHT, BAR_HEIGHT = 46, 13
BAR_TEXT = 60  # for a bar's value, at its end
CHARACTER = 6.6  # width of one, roughly, at the charts' 12 px


def number(value: float) -> str:
    """Format a coordinate."""
    return f"{value:.1f}".removesuffix(".0")


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Return round numbers that span low..high: steps of 1, 2 or 5 times a power of ten.

    Args:
        low, high: finite; equal values are widened.
        wanted: about how many ticks.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"ticks from {low} to {high}")
    if high <= low:
        spread = abs(low) * 0.1 or 1.0
        low, high = low - spread, high + spread
    raw = (high - low) / max(1, wanted - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s for s in (power, 2 * power, 5 * power, 10 * power) if s >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def tick_text(value: float) -> str:
    """Write a tick shortly."""
    return drop_zero(f"{value:.4g}").replace("-", "−", value < 0)


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Return the function that maps low..high to start..end."""
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def text(x: float, y: float, content: str, anchor: str = "start", kind: str = "") -> str:
    """One line of text."""
    return f'<text x="{number(x)}" y="{number(y)}" text-anchor="{anchor}" class="{kind}">{escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return f'<line x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}" class="{kind}"/>'


def colour(index: int) -> str:
    """Return the class of a series' colour; they repeat after eight."""
    return f"c{index % COLOURS}"


def wrap(parts: list[str], height: float, label: str) -> str:
    """Put parts into an SVG that takes the width of its place."""
    body = "\n".join(parts)
    name = escape(label, quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {number(height)}" role="img" aria-label="{name}">\n{body}\n</svg>'


def line_chart(series: list[dict[str, Any]], label: str, x_label: str, height: float = 250) -> str:
    """Draw lines over whole numbers such as epochs.

    Args:
        series: `points` [(x, y)], `colour` (int), `title` (str), and perhaps `mark`, an x whose point gets a dot,
            `look`, classes in place of the colour's, and `opacity`. The last is drawn over the others.
        label: what the chart shows, for readers who do not see it.

    Returns:
        An svg element.
    """
    points = [p for one in series for p in one["points"]]
    if not points:
        raise ValueError("a line chart without a point")
    y_ticks = nice_ticks(min(y for _, y in points), max(y for _, y in points))
    x_ticks = [t for t in nice_ticks(min(x for x, _ in points), max(x for x, _ in points), 6) if t == int(t)]
    x = scale(min(p[0] for p in points), max(p[0] for p in points), LEFT + 6, WIDTH - RIGHT - 6)
    y = scale(y_ticks[0], y_ticks[-1], height - BOTTOM, TOP)
    parts = []
    for tick in y_ticks:
        parts.append(line(LEFT, y(tick), WIDTH - RIGHT, y(tick), "grid"))
        parts.append(text(LEFT - 6, y(tick) + 4, tick_text(tick), "end"))
    for tick in x_ticks:
        if LEFT <= x(tick) <= WIDTH - RIGHT:
            parts.append(text(x(tick), height - BOTTOM + 17, tick_text(tick), "middle"))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, height - 4, x_label, "middle"))
    for one in series:
        path = " ".join(f"{number(x(a))},{number(y(b))}" for a, b in one["points"])
        dash = " dash" if one["colour"] >= COLOURS else ""
        marked = [(a, b) for a, b in one["points"] if a == one.get("mark") or len(one["points"]) == 1]
        dots = "".join(f'<circle cx="{number(x(a))}" cy="{number(y(b))}" r="3.5" class="dot"/>' for a, b in marked)
        parts.append(
            f'<g class="{one.get("look") or colour(one["colour"])}" opacity="{one.get("opacity", 1)}">'
            f'<title>{escape(one["title"])}</title><polyline points="{path}" class="line{dash}"/>{dots}</g>'
        )
    return wrap(parts, height, label)


def range_chart(rows: list[dict[str, Any]], label: str, zero: bool = False) -> str:
    """Draw a value with its interval and single points, one row each, the name above.

    Args:
        rows: `name`, `colour`, `value`, `low`, `high`, `points` (list of float), `text` (str, at the
            right).
        zero: draw a line at 0 and include it.
    """
    values = [v for row in rows for v in (row["value"], row["low"], row["high"], *row["points"])]
    values += [0.0] if zero else []
    ticks = nice_ticks(min(values), max(values))
    height = len(rows) * ROW_HEIGHT + BOTTOM - 10
    x = scale(ticks[0], ticks[-1], 14, WIDTH - 14)
    parts = []
    for tick in ticks:
        kind = "zero" if zero and tick == 0 else "grid"
        parts.append(line(x(tick), 4, x(tick), height - 24, kind))
        parts.append(text(x(tick), height - 8, tick_text(tick), "middle"))
    for i, row in enumerate(rows):
        top = i * ROW_HEIGHT + 18
        middle = top + 15
        room = int((WIDTH - 28 - CHARACTER * len(row["text"])) / CHARACTER) - 2
        parts.append(text(14, top, shorten(row["name"], room), kind="name"))
        parts.append(text(WIDTH - 14, top, row["text"], "end", "name"))
        dots = "".join(
            f'<circle cx="{number(x(p))}" cy="{number(middle)}" r="3.5" class="seed"/>' for p in row["points"]
        )
        parts.append(
            f'<g class="{colour(row["colour"])}"><title>{escape(row["name"])}: {escape(row["text"])}</title>'
            f"{line(x(row['low']), middle, x(row['high']), middle, 'interval')}{dots}"
            f'<circle cx="{number(x(row["value"]))}" cy="{number(middle)}" r="5.5" class="dot"/></g>'
        )
    return wrap(parts, height, label)


def bar_chart(
    buckets: list[str], series: list[dict[str, Any]], label: str, x_label: str, own_scale: bool = False
) -> str:
    """Draw horizontal bars: one block per bucket, one bar per series, over an axis that begins at 0.

    Args:
        buckets: names, with what else stands beside them.
        series: `name`, `colour`, `values` and `deviations` (None: no whisker), one per bucket.
        label: what the chart shows, for readers who do not see it.
        x_label: what the bars are.
        own_scale: every bucket has an axis of its own below its bars; else one axis below the chart is that of all.
    """
    bars = len(series) * (BAR_HEIGHT + 2)
    block = 24 + bars + (26 if own_scale else 8)
    bottom = len(buckets) * block
    reaches = [max(one["values"][i] + (one["deviations"][i] or 0) for one in series) for i in range(len(buckets))]
    parts = [] if own_scale else [axis(nice_ticks(0, max(reaches) or 1.0), 4, bottom + 2)]
    for i, bucket in enumerate(buckets):
        top = i * block + 18
        ticks = nice_ticks(0, (reaches[i] if own_scale else max(reaches)) or 1.0)
        if own_scale:
            parts.append(axis(ticks, top + 5, top + 9 + bars))
        x = scale(0, ticks[-1], 14, WIDTH - BAR_TEXT)
        parts.append(text(14, top, shorten(bucket, 56), kind="name"))
        for j, one in enumerate(series):
            y = top + 8 + j * (BAR_HEIGHT + 2)
            value, deviation = one["values"][i], one["deviations"][i]
            shown = fraction(value)
            end = x(value)
            whisker = ""
            if deviation:
                middle = y + BAR_HEIGHT / 2
                whisker = line(x(max(0, value - deviation)), middle, x(value + deviation), middle, "whisker")
                end = x(value + deviation)
            parts.append(
                f'<g class="{colour(one["colour"])}"><title>{escape(one["name"])}, {escape(bucket)}: {shown}</title>'
                f'<rect x="14" y="{number(y)}" width="{number(max(x(value) - 14, 1))}" height="{BAR_HEIGHT}" rx="2" '
                f'class="bar"/>{whisker}</g>'
            )
            parts.append(text(end + 6, y + BAR_HEIGHT - 2.5, shown, kind="name"))
    height = bottom + (20 if own_scale else 36)
    parts.append(text((14 + WIDTH - BAR_TEXT) / 2, height - 4, x_label, "middle"))
    return wrap(parts, height, label)


def axis(ticks: list[float], top: float, bottom: float) -> str:
    """Draw the ticks of bars: a line from `top` to `bottom` and the value below it."""
    x = scale(0, ticks[-1], 14, WIDTH - BAR_TEXT)
    return "\n".join(
        line(x(tick), top, x(tick), bottom, "grid") + text(x(tick), bottom + 14, tick_text(tick), "middle")
        for tick in ticks
    )


def scatter_chart(points: list[dict[str, Any]], label: str, x_label: str, y_label: str, height: float = 280) -> str:
    """Draw named points over a logarithmic x axis.

    Args:
        points: `name`, `colour`, `x` (above 0), `y`, `text` (with both values).
        label: what the chart shows, for readers who do not see it.
        x_label, y_label: of the axes.
    """
    powers = [math.log10(point["x"]) for point in points]
    first, last = math.floor(min(powers)), math.ceil(max(powers))
    last = max(last, first + 1)
    y_ticks = nice_ticks(min(point["y"] for point in points), max(point["y"] for point in points))
    x = scale(first, last, LEFT + 6, WIDTH - RIGHT - 6)
    y = scale(y_ticks[0], y_ticks[-1], height - BOTTOM, TOP + 14)
    parts = [text(LEFT - 40, TOP - 2, y_label)]
    for tick in y_ticks:
        parts.append(line(LEFT, y(tick), WIDTH - RIGHT, y(tick), "grid"))
        parts.append(text(LEFT - 6, y(tick) + 4, tick_text(tick), "end"))
    for exponent in range(first, last + 1):
        parts.append(line(x(exponent), TOP + 14, x(exponent), height - BOTTOM, "grid"))
        parts.append(text(x(exponent), height - BOTTOM + 17, short_number(10.0**exponent), "middle"))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, height - 4, x_label, "middle"))
    for point, power in zip(points, powers):
        left = x(power) > WIDTH / 2
        parts.append(
            f'<g class="{colour(point["colour"])}"><title>{escape(point["name"])}: {escape(point["text"])}</title>'
            f'<circle cx="{number(x(power))}" cy="{number(y(point["y"]))}" r="5.5" class="dot"/></g>'
        )
        place = x(power) + (-9 if left else 9)
        parts.append(text(place, y(point["y"]) - 7, shorten(point["name"], 24), "end" if left else "start", "name"))
    return wrap(parts, height, label)


def interval_chart(
    series: list[dict[str, Any]], x_label: str, y_label: str, log: bool = False, height: float = 300
) -> str:
    """Draw values with intervals over a number, a line at 0 between those above and those below.

    Args:
        series: `name`, `colour`, `joined` (bool: by lines), `points`: `x`, `difference`, `low`, `high`, `name` (written
            beside the first point of that name).
        x_label, y_label: of the axes; together they say what the chart shows.
        log: the x axis is logarithmic; x of 0 then stands where the smallest other x divided by 3 would.
    """
    points = [point for one in series for point in one["points"]]
    positive = [point["x"] for point in points if point["x"] > 0]
    floor = min(positive, default=1.0) / 3

    def place(value: float) -> float:
        return math.log10(max(value, floor)) if log else value

    lowest, highest = min(place(point["x"]) for point in points), max(place(point["x"]) for point in points)
    margin = (highest - lowest) * 0.06 or 0.5
    top = TOP + 16 * (len(series) + 1)  # below the legend
    y_ticks = nice_ticks(min(0.0, *(point["low"] for point in points)), max(0.0, *(point["high"] for point in points)))
    x = scale(lowest - margin, highest + margin, LEFT, WIDTH - RIGHT)
    y = scale(y_ticks[0], y_ticks[-1], height - BOTTOM, top)
    parts = [text(8, TOP, y_label)]
    for n, one in enumerate(series):
        parts.append(
            f'<circle cx="14" cy="{number(TOP + 16 * (n + 1) - 4)}" r="4.5" class="dot {colour(one["colour"])}"/>'
        )
        parts.append(text(24, TOP + 16 * (n + 1), one["name"], kind="name"))
    for tick in y_ticks:
        parts.append(line(LEFT, y(tick), WIDTH - RIGHT, y(tick), "zero" if tick == 0 else "grid"))
        parts.append(text(LEFT - 6, y(tick) + 4, tick_text(tick), "end"))
    if all(one["joined"] for one in series):
        shown = sorted({point["x"] for point in points})  # a curve's few points are what its axis names
    else:
        shown = log_ticks(lowest - margin, highest + margin) if log else nice_ticks(lowest, highest)
    for tick in shown:
        if LEFT <= x(place(tick)) <= WIDTH - RIGHT:
            anchor = "end" if x(place(tick)) > WIDTH - 28 else "middle"
            parts.append(text(x(place(tick)), height - BOTTOM + 17, f"{tick:,.6g}", anchor))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, height - 4, x_label, "middle"))
    drawn_series: list[str] = []
    named: dict[str, tuple[float, float]] = {}  # the first point of each name
    dots: list[tuple[float, float]] = []
    for n, one in enumerate(series):
        shift = 3.0 * (n - (len(series) - 1) / 2)  # so that the intervals of one x stand beside each other
        drawn = sorted(one["points"], key=lambda point: point["x"])
        body = []
        if one["joined"]:
            path = " ".join(f"{number(x(place(p['x'])) + shift)},{number(y(p['difference']))}" for p in drawn)
            body.append(f'<polyline points="{path}" class="line"/>')
        for point in drawn:
            left, value = x(place(point["x"])) + shift, point["difference"]
            about = (
                f"{point['name'] or tick_text(point['x'])}: {value:+.1f} [{point['low']:+.1f}, {point['high']:+.1f}]"
            )
            body.append(
                f"<g><title>{escape(one['name'])}, {escape(about)}</title>"
                f"{line(left, y(point['low']), left, y(point['high']), 'interval')}"
                f'<circle cx="{number(left)}" cy="{number(y(value))}" r="4" class="dot"/></g>'
            )
            if point["name"]:
                named.setdefault(point["name"], (left, y(value)))
            dots.append((left, y(value)))
        drawn_series.append(f'<g class="{colour(one["colour"])}">{"".join(body)}</g>')
    parts += [*place_names(named, top, dots), *drawn_series]  # a name covers no point
    return wrap(parts, height, f"{y_label}, by {x_label}")


def place_names(
    named: dict[str, tuple[float, float]], top: float, dots: Sequence[tuple[float, float]] = ()
) -> list[str]:
    """Write names beside their points (x, y), moved up or down until none covers another or a dot (x, y)."""
    parts: list[str] = []
    taken = [(x - 5, y + 4, 10.0) for x, y in dots]  # start, baseline, width
    for name, (x, y) in sorted(named.items(), key=lambda one: one[1]):
        width, right = CHARACTER * len(name), x < WIDTH * 0.7
        start = x + 8 if right else x - 8 - width
        for step in range(2 * len(named) + 1):
            at = y - 6 + (step + 1) // 2 * 13 * (-1 if step % 2 else 1)
            free = all(abs(at - v) >= 13 or start >= u + w or u >= start + width for u, v, w in taken)
            if free and at > top:
                break
        taken.append((start, at, width))
        parts.append(text(start if right else start + width, at, name, "start" if right else "end", "name"))
    return parts


def log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten from 10**low to 10**high; powers alone where these span more than two."""
    steps = (1, 2, 5) if high - low <= 2 else (1,)
    ticks = [step * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for step in steps]
    return [tick for tick in ticks if low <= math.log10(tick) <= high]


def standalone(charts: list[str], label: str) -> str:
    """Return charts, one above the other, as the content of an SVG file with its own colours for light and dark."""
    heights = [float(chart.split('"', 2)[1].split()[-1]) for chart in charts]
    parts, top = [], 0.0
    for chart, height in zip(charts, heights):
        size = f'<svg x="0" y="{number(top)}" width="{WIDTH}" height="{number(height)}" '
        parts.append(chart.replace("<svg ", size, 1))
        top += height + 12
    whole = wrap(
        [f"<style>{svg_style()}</style>", '<rect width="100%" height="100%" class="ground"/>', *parts], top, label
    )
    return whole.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"


def svg_style() -> str:
    """Return the part of the page's style sheet that charts need."""
    colours = CSS.split("*{", 1)[0]
    rules = [one for one in CSS.splitlines() if one.startswith(("svg text", "svg .", ".c0", ".c4"))]
    return colours + "\n".join([*rules, ".ground{fill:var(--card)}"])


def short_number(value: float) -> str:
    """Write a power of ten shortly: 10k, 100M, 0.01."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size * (1 - 1e-9):
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def shorten(content: str, characters: int) -> str:
    """Cut a text that is longer than its place."""
    return content if len(content) <= characters else content[: max(1, characters - 1)].rstrip() + "…"

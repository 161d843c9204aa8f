"""The charts: round ticks, points where they belong, no markup from a name."""

import re
from xml.etree import ElementTree

import pytest

from recbole_blair.report import svg


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.5, 1]),
        (0.003, 0.0171, [0, 0.005, 0.01, 0.015, 0.02]),
        (-0.2, 0.9, [-0.5, 0, 0.5, 1.0]),
        (1, 12, [0, 5, 10, 15]),
        (0, 0, [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_ticks_are_round_and_span_the_values(low, high, expected):
    assert svg.nice_ticks(low, high) == pytest.approx(expected)


def test_ticks_refuse_what_is_no_number():
    with pytest.raises(ValueError, match="ticks from nan"):
        svg.nice_ticks(float("nan"), 1)


def shapes(chart, tag):
    """All elements of a tag; parsing fails on broken markup."""
    return [e for e in ElementTree.fromstring(chart).iter() if e.tag == tag]


def test_a_line_runs_through_its_points():
    series = [
        {"points": [(1, 0.0), (2, 1.0), (3, 0.5)], "colour": 0, "title": "A <b>, seed 1", "mark": 2},
        {"points": [(1, 1.0)], "colour": 9, "title": "one epoch", "mark": None},
    ]
    chart = svg.line_chart(series, "ndcg by epoch", "epoch", height=250)
    lines = shapes(chart, "polyline")
    points = [tuple(map(float, p.split(","))) for p in lines[0].get("points").split()]
    low, high = 250 - svg.BOTTOM, svg.TOP
    assert [y for _, y in points] == pytest.approx([low, high, (low + high) / 2])
    assert points[1][0] - points[0][0] == pytest.approx(points[2][0] - points[1][0])
    dots = shapes(chart, "circle")
    assert (float(dots[0].get("cx")), float(dots[0].get("cy"))) == pytest.approx(points[1])
    assert len(dots) == 2  # a line of one point shows as a dot
    assert "dash" in lines[1].get("class") and [g.get("class") for g in shapes(chart, "g")] == ["c0", "c1"]
    assert [t.text for t in shapes(chart, "title")] == ["A <b>, seed 1", "one epoch"]
    inside = [float(t.get("x")) for t in shapes(chart, "text") if t.get("text-anchor") == "middle"]
    assert all(0 <= x <= svg.WIDTH for x in inside)


def test_a_chart_without_points_is_refused():
    with pytest.raises(ValueError, match="without a point"):
        svg.line_chart([], "x", "epoch")


def test_ranges_lie_around_their_value_and_zero_is_drawn():
    rows = [{"name": "A & B", "colour": 1, "value": 0.2, "low": 0.1, "high": 0.4, "points": [0.15], "text": "+0.2"}]
    chart = svg.range_chart(rows, "differences", zero=True)
    interval = next(e for e in shapes(chart, "line") if e.get("class") == "interval")
    seed, value = (float(c.get("cx")) for c in shapes(chart, "circle"))
    assert float(interval.get("x1")) < seed < value < float(interval.get("x2"))
    zero = next(e for e in shapes(chart, "line") if e.get("class") == "zero")
    assert zero.get("x1") == zero.get("x2") and float(zero.get("x1")) < float(interval.get("x1"))
    assert "A &amp; B" in chart


def test_bars_are_as_long_as_their_values():
    series = [
        {"name": "A", "colour": 0, "values": [0.02, 0.01], "deviations": [None, 0.002]},
        {"name": "B", "colour": 1, "values": [0.0, 0.005], "deviations": [None, None]},
    ]
    chart = svg.bar_chart(["new (3 rows)", "known"], series, "by novelty", "NDCG@10")
    width = [float(r.get("width")) for r in shapes(chart, "rect")]
    assert width[0] / width[2] == pytest.approx(2, rel=0.01) and width[0] / width[3] == pytest.approx(4, rel=0.01)
    assert width[1] == 1  # a bar of nothing is still seen
    ticks = {t.text: float(t.get("x")) for t in shapes(chart, "text") if t.get("text-anchor") == "middle"}
    assert list(ticks) == ["0", ".005", ".01", ".015", ".02", "NDCG@10"]
    assert ticks[".02"] - ticks["0"] == pytest.approx(width[0])  # the axis is that of the bars
    assert len([e for e in shapes(chart, "line") if e.get("class") == "whisker"]) == 1
    assert re.findall(r">(\.\d{4})<", chart) == [".0200", ".0000", ".0100", ".0050"]


def test_buckets_may_have_scales_of_their_own():
    series = [
        {"name": n, "colour": 0, "values": v, "deviations": [None, None]} for n, v in (("A", [8, 0.2]), ("B", [4, 0.1]))
    ]
    chart = svg.bar_chart(["x", "y"], series, "own", "NDCG@10", own_scale=True)
    width = [float(r.get("width")) for r in shapes(chart, "rect")]
    assert width[0] == width[2] == pytest.approx(2 * width[1]) and width[1] == width[3]
    ticks = [t.text for t in shapes(chart, "text") if t.get("text-anchor") == "middle"]
    assert ticks == ["0", "2", "4", "6", "8", "0", ".05", ".1", ".15", ".2", "NDCG@10"]  # each says its own scale


def test_bars_of_zeros_do_not_divide_by_zero():
    chart = svg.bar_chart(
        ["all"], [{"name": "A", "colour": 0, "values": [0.0], "deviations": [0.0]}], "zeros", "NDCG@10"
    )
    assert len(shapes(chart, "rect")) == 1


def test_long_names_are_cut():
    assert svg.shorten("abcdef", 4) == "abc…" and svg.shorten("abc", 4) == "abc"

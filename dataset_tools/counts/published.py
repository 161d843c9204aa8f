"""The published figures of Amazon Reviews 2023 beside counted ones, with what is known about the differences."""

from __future__ import annotations

import math
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from recbole_blair.files.paths import props_dir
from recbole_blair.schema import DOMAINS, UNKNOWN_DOMAIN

if TYPE_CHECKING:
    from collections.abc import Mapping

TABLE3 = ("items", "inters", "avg_history_length", "avg_item_chars")
UNITS = {"K": 1e3, "M": 1e6, "B": 1e9}
SLICE = 0.5  # raw files with less than this share of the published reviews are called a slice

NOTES = {
    "words": "tokens: ours are words between white space, of an item those of title, features, categories and "
    "description; the published ones come from a tokenizer the paper does not name, of an item from the whole "
    "dictionary of its attributes. So ours are lower.",
    "items": "items are counted in the reviews, as the paper does; those without metadata are in no build, so Table 3 "
    "and the metadata words leave them out (published: 48,185,153 items, 35,393,189 with metadata).",
    "inters": "#Inters counts the rows, and the rows with a one-item history once more: every interaction of a user "
    "with two or more items. Repeated reviews of an item by a user count once.",
    "baby": "the paper's text says Office where its tables say Baby: the row is that of Baby_Products.",
    "unknown": "the published total is that of 34 files, the 33 categories and Unknown (63.8M reviews); to compare "
    "with it: recbole-blair stats all Unknown",
    "slice": "these raw files are a part of the published ones, or another version: the differences say that.",
}


class Difference(NamedTuple):
    """One published figure beside ours; `equal` says whether ours rounds to it."""

    where: str  # a domain, or total
    table: int
    column: str
    ours: float | str  # a month is a text
    published: str
    equal: bool


def load_published() -> dict[str, Any]:
    """Return the published figures, as props/statistics/published.yaml holds them."""
    return yaml.safe_load((props_dir() / "statistics/published.yaml").read_text(encoding="utf-8"))


def parse_figure(text: str) -> tuple[float, float]:
    """Return (value, half a unit of its last digit) of a published figure such as 632.0K or 43982."""
    unit = UNITS.get(text[-1], 1.0)
    digits = text.rstrip("KMB")
    decimals = len(digits.partition(".")[2])
    return float(digits) * unit, 0.5 * 10**-decimals * unit


def rounds_to(ours: float, text: str) -> bool:
    """Tell whether a number rounds to a published figure."""
    value, half = parse_figure(text)
    return abs(ours - value) < half or math.isclose(abs(ours - value), half)


def month(time_ms: int) -> str:
    """Return `Jun 1996` of Unix milliseconds, UTC."""
    names = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()  # noqa: SIM905  not the locale's
    moment = datetime.fromtimestamp(time_ms / 1000, timezone.utc)
    return f"{names[moment.month - 1]} {moment.year}"


def compare(counts: Mapping[str, Any]) -> tuple[list[Difference], list[str]]:
    """Compare counts with what is published.

    Args:
        counts: result of `dataset_tools.counts.raw_counts.count_domains`.

    Returns:
        Every figure that has a published one; notes that explain differences.
    """
    published = load_published()
    differences: list[Difference] = []
    for one in counts["domains"]:
        figures = published["domains"].get(one["domain"])
        differences += _table1(one, dict(zip(published["columns"], figures or ())))
        if one["table3"] and one["table3"]["items"] is not None:
            row = zip(TABLE3, published["table3"].get(one["domain"], ()))
            differences += [_difference(one["domain"], 3, name, one["table3"][name], text) for name, text in row]
    if counts["total"] and covers_all(counts):
        differences += _table1(counts["total"], published["total"])
    return differences, _notes(counts, published)


def covers_all(counts: Mapping[str, Any]) -> bool:
    """Tell whether the domains are the 33 categories, with or without Unknown."""
    return {one["domain"] for one in counts["domains"]} >= set(DOMAINS)


def _table1(one: Mapping[str, Any], figures: Mapping[str, str]) -> list[Difference]:
    """Compare the columns of Table 1; first and last are months."""
    rows = []
    for name, text in figures.items():
        if name in ("first", "last"):
            if one[f"{name}_ms"] is not None:
                ours = month(one[f"{name}_ms"])
                rows.append(Difference(one["domain"], 1, name, ours, text, ours == text))
        else:
            rows.append(_difference(one["domain"], 1, name, one[name], text))
    return rows


def _difference(where: str, table: int, column: str, ours: float, text: str) -> Difference:
    return Difference(where, table, column, ours, text, rounds_to(ours, text))


def _notes(counts: Mapping[str, Any], published: Mapping[str, Any]) -> list[str]:
    """Choose the notes that these counts call for."""
    names = {one["domain"] for one in counts["domains"]}
    wanted = ["words"]
    if any(one["items"] > one["items_with_metadata"] for one in counts["domains"]):
        wanted.append("items")
    if any(one["table3"] for one in counts["domains"]):
        wanted.append("inters")
    if "Baby_Products" in names or "Office_Products" in names:
        wanted.append("baby")
    if covers_all(counts) and UNKNOWN_DOMAIN not in names:
        wanted.append("unknown")
    shares = [
        one["reviews"] / parse_figure(published["domains"][one["domain"]][0])[0]
        for one in counts["domains"]
        if one["domain"] in published["domains"]
    ]
    if shares and min(shares) < SLICE:
        wanted.append("slice")
    return [NOTES[name] for name in wanted]

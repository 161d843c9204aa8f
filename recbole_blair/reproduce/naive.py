"""The plain way to read raw files: lists and dicts, written from the rules of the papers, not from the converter.

Smoke rows compare the project's files with it. Nothing here is imported from dataset_tools.
"""

from __future__ import annotations

import ast
import datetime
import gzip
import html
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

SPLITS = ("train", "valid", "test")
CORE = 5
Event = tuple[str, str, int]  # user, item, time in ms
FirstEvents = dict[tuple[str, str, int], tuple[int, int]]  # (user, item, 0, or the line with repeats): (time, line)


def read_lines(path: Path | str) -> Iterator[dict[str, Any]]:
    """Yield the records of a file of JSON lines, plain or gzip."""
    opener = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)


def amazon_events(reviews: Iterable[dict[str, Any]]) -> list[Event]:
    """Return (user, item, time in ms) of raw reviews, in file order."""
    return [(r["user_id"], r["parent_asin"], r["timestamp"]) for r in reviews]


def steam_events(path: Path | str) -> list[Event]:
    """Return (user, item, time in ms) of Steam's reviews, in file order."""
    events = []
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            row = ast.literal_eval(line)
            day = datetime.datetime.fromisoformat(row["date"]).replace(tzinfo=datetime.timezone.utc)
            events.append((row["username"], row["product_id"], int(day.timestamp() * 1000)))
    return events


def first_of_each(events: Iterable[Event], keep_repeats: bool = False) -> FirstEvents:
    """Return a user's earliest event with an item, or every event."""
    first: FirstEvents = {}
    for line, (user, item, time) in enumerate(events):
        key = user, item, line if keep_repeats else 0
        first[key] = min(first.get(key, (time, line)), (time, line))
    return first


def keep_users(first: FirstEvents, items: set[str]) -> FirstEvents:
    """Keep items with metadata, then users with five events."""
    first = {p: t for p, t in first.items() if p[1] in items}
    users = Counter(p[0] for p in first)
    return {p: t for p, t in first.items() if users[p[0]] >= CORE}


def keep_core(first: FirstEvents, items: set[str]) -> FirstEvents:
    """Keep the iterated 5-core, then items with metadata, then those with five by counts taken once, then users."""
    while True:
        users, things = Counter(p[0] for p in first), Counter(p[1] for p in first)
        kept = {p: t for p, t in first.items() if users[p[0]] >= CORE and things[p[1]] >= CORE}
        if len(kept) == len(first):
            break
        first = kept
    first = {p: t for p, t in first.items() if p[1] in items}
    users, things = Counter(p[0] for p in first), Counter(p[1] for p in first)
    first = {p: t for p, t in first.items() if users[p[0]] >= CORE and things[p[1]] >= CORE}
    users = Counter(p[0] for p in first)
    return {p: t for p, t in first.items() if users[p[0]] >= CORE}


def naive_rows(
    events: list[Event], items: set[str], protocol: str, instants: Sequence[int], max_history: int,
    core: str = "5-core", keep_repeats: bool = False,
) -> dict[str, Counter]:  # fmt: skip
    """Return {split: Counter of rows}, a row being (user, history, item, time of each, time).

    Args:
        events: in file order.
        items: items with metadata.
        protocol: timestamp or last_out.
        instants: first of valid and of test, for timestamp.
        max_history: latest items kept.
        core: of last_out: 5-core or users.
        keep_repeats: a user's later events with an item count too.
    """
    first = first_of_each(events, keep_repeats)
    if protocol == "last_out":
        first = keep_core(first, items) if core == "5-core" else keep_users(first, items)
    users: dict[str, list[tuple[int, int, str]]] = {}
    for (user, item, _), (time, line) in first.items():
        if item in items:
            users.setdefault(user, []).append((time, line, item))
    rows: dict[str, Counter] = {split: Counter() for split in SPLITS}
    for user, mine in users.items():
        mine.sort()
        for n in range(1, len(mine)):
            time, _, item = mine[n]
            past = mine[max(0, n - max_history) : n]
            left = len(mine) - n
            if protocol == "last_out":
                split = {1: "test", 2: "valid"}.get(left, "train")
            else:
                split = SPLITS[(time >= instants[0]) + (time >= instants[1])]
            rows[split][user, tuple(e[2] for e in past), item, tuple(e[0] for e in past), time] += 1
    return rows


def file_rows(build: Path, split: str) -> Counter:
    """Return the rows of one `.inter` file as a Counter of the same tuples."""
    rows: Counter = Counter()
    with open(build / f"{build.name}.{split}.inter", encoding="utf-8") as file:
        next(file)
        for line in file:
            user, history, item, times, time = line.rstrip("\n").split("\t")
            rows[user, tuple(history.split()), item, tuple(map(int, times.split())), int(time)] += 1
    return rows


def naive_table3(rows: dict[str, Counter], metadata: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return Table 3's columns of `naive_rows`, and rows and users."""
    every = [row for split in SPLITS for row in rows[split].elements()]
    items = {row[2] for row in every} | {item for row in every for item in row[1]}
    chars = [len(naive_text(metadata[item])) for item in items]
    return {
        "items": len(items),
        "inters": len(every) + sum(len(row[1]) == 1 for row in every),
        "avg_history_length": sum(len(row[1]) for row in every) / len(every),
        "avg_item_chars": sum(chars) / len(chars),
        "rows": len(every),
        "users": len({row[0] for row in every}),
        **{split: sum(rows[split].values()) for split in SPLITS},
    }


def naive_text(meta: dict[str, Any]) -> str:
    """Return an item's text as recommenders read it: a field's parts joined by commas, each field a sentence."""
    fields = [[meta["title"]], meta["features"], meta["categories"], meta["description"]]
    cleaned = [", ".join(part for part in map(clean, field) if part) for field in fields]
    return " ".join(field if field[-1] in ".!?…。！？" else f"{field}." for field in cleaned if field)


def clean(text: str) -> str:
    """Return a text without tags and entities, its white space single."""
    return " ".join(re.sub(r"<[^>]*>", " ", html.unescape(text)).split())


def naive_counts(reviews: list[dict[str, Any]], metadata: list[dict[str, Any]]) -> dict[str, Any]:
    """Return Table 1's columns of raw records."""
    described, items = {m["parent_asin"] for m in metadata}, {r["parent_asin"] for r in reviews}
    months = sorted(datetime.datetime.fromtimestamp(r["timestamp"] / 1000, datetime.timezone.utc) for r in reviews)
    return {
        "reviews": len(reviews),
        "users": len({r["user_id"] for r in reviews}),
        "items": len(items),
        "items_with_metadata": len(items & described),
        "first_month": f"{months[0]:%Y-%m}",
        "last_month": f"{months[-1]:%Y-%m}",
    }

"""Metrics of parts of a split: by the target's popularity and novelty, by history length, category and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from recbole_blair.data.atomic import open_atomic
from recbole_blair.data.dataset import BlairDataset
from recbole_blair.errors import InputError, nearest
from recbole_blair.schema import ITEM_SUFFIX
from recbole_blair.train.metrics import compute_metrics

POPULARITY_STARTS = (0, 1, 5, 20, 100, 500, 2000)  # events in training; the first bucket is the new items
LENGTH_STARTS = (0, 1, 2, 4, 8, 16, 32)
TOP_CATEGORIES = 15
COMMON_SHARE = 0.8  # a level of the categories that gives most items one value says nothing
MONTHS_SHOWN = 24  # longer spans are shown in years
OTHER, NO_CATEGORY = "all others", "no category"

Parts = tuple[list[str], np.ndarray, str]  # names of buckets, each row's bucket (R,) int64, what the names mean


@dataclass
class Buckets:
    """A partition of a split's rows: `code` (R,) int64 indexes `names`; `note` says what the names mean."""

    by: str
    names: list[str]
    code: np.ndarray
    note: str


def parse_breakdowns(text: str) -> list[str]:
    """Split `popularity,time`.

    Raises:
        InputError: an unknown breakdown, or none.
    """
    names = [part.strip() for part in str(text).split(",") if part.strip()]
    for name in names:
        if name not in BREAKDOWNS:
            raise InputError(f"--by={name}: known are {', '.join(BREAKDOWNS)}.{nearest(name, BREAKDOWNS)}")
    if not names:
        raise InputError(f"--by is empty; give some of {', '.join(BREAKDOWNS)}")
    return list(dict.fromkeys(names))


def split_rows(by: str, dataset: BlairDataset, split: str = "test") -> Buckets:
    """Partition the rows of a split.

    Args:
        by: of BREAKDOWNS.

    Returns:
        Every row is in exactly one of the buckets.

    Raises:
        InputError: the build lacks what the breakdown reads: times, or categories.
    """
    names, code, note = BREAKDOWNS[by](dataset, split)
    return Buckets(by, names, code, note)


def breakdown(
    rank: np.ndarray, buckets: Buckets, metrics: Sequence[str], topk: Sequence[int], user: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """Average the metrics in each bucket that has rows.

    Args:
        rank (R,) float64, user: as `compute_metrics` takes; with users a bucket's value is the mean over those who have
            relevant items in it, of these items alone.

    Returns:
        `bucket`, `rows`, `share` of all rows, and the metrics; together they hold each row once.
    """
    if len(rank) != len(buckets.code):
        raise ValueError(f"{len(rank)} ranks for {len(buckets.code)} rows")
    table = []
    for number, name in enumerate(buckets.names):
        inside = buckets.code == number
        part = rank[inside]
        if len(part):
            head = {"bucket": name, "rows": len(part), "share": len(part) / len(rank)}
            of_users = None if user is None else user[inside]
            table.append({**head, **compute_metrics(part, metrics, topk, user=of_users)})
    return table


def targets(dataset: BlairDataset, split: str) -> np.ndarray:
    """Return the target item of each row, (R,)."""
    return dataset.seq_items[dataset.rows[split].target]


def train_events(dataset: BlairDataset) -> np.ndarray:
    """Count each item's events in the training part, (N,) int64, padding 0.

    The first item of a user is in no row's target, but it was learnt from as history: it counts. Rows that do not
    chain repeat their histories, so there only targets can be counted.
    """
    if not dataset.chained:
        return dataset.item_counts("train")
    rows = dataset.rows["train"]
    target = np.asarray(rows.target)
    edge = np.bincount(target - rows.length, minlength=len(dataset.seq_items) + 1)
    edge -= np.bincount(target + 1, minlength=len(dataset.seq_items) + 1)
    return np.bincount(dataset.seq_items[np.cumsum(edge[:-1]) > 0], minlength=dataset.n_items)


def name_ranges(starts: Sequence[int]) -> list[str]:
    """Name the buckets that begin at `starts`: `0`, `1–4` … `500 or more`."""
    ends = [str(a) if b == a + 1 else f"{a}–{b - 1}" for a, b in pairwise(starts)]
    return [*ends, f"{starts[-1]} or more"]


def by_popularity(dataset: BlairDataset, split: str) -> Parts:
    """By how often the target occurs in training."""
    counts = train_events(dataset)[targets(dataset, split)]
    what = "events" if dataset.chained else "targets"
    code = np.searchsorted(POPULARITY_STARTS, counts, side="right") - 1
    return name_ranges(POPULARITY_STARTS), code, f"the target's {what} in training"


def by_new_item(dataset: BlairDataset, split: str) -> Parts:
    """By whether training ever saw the target."""
    seen = dataset.seen_items("train")[targets(dataset, split)]
    note = "a new item is in no training row, neither as target nor in a history"
    return ["new item", "known item"], seen.astype(np.int64), note


def by_history_length(dataset: BlairDataset, split: str) -> Parts:
    """By the items before the target that the row keeps."""
    return length_buckets(dataset.history_lengths(split))


def length_buckets(length: np.ndarray) -> Parts:
    """Partition rows by their history length (R,); see `by_history_length`."""
    code = np.searchsorted(LENGTH_STARTS, length, side="right") - 1
    return name_ranges(LENGTH_STARTS), code, "items before the target that the row keeps"


def by_category(dataset: BlairDataset, split: str) -> Parts:
    """By the target's category: the first level of `.item`'s categories that tells items apart."""
    codes, names, level = item_categories(dataset)
    own = codes[targets(dataset, split)]
    count = np.bincount(own, minlength=len(names))
    order = np.argsort(-count, kind="stable")
    top = [int(c) for c in order[:TOP_CATEGORIES] if count[c]]
    number = np.full(len(names), len(top))
    number[top] = np.arange(len(top))
    shown = [names[c].replace("_", " ") for c in top]
    return [*shown, OTHER], number[own], f"level {level + 1} of the target's categories, the {TOP_CATEGORIES} largest"


def item_categories(dataset: BlairDataset) -> tuple[np.ndarray, list[str], int]:
    """Return each item's category code (N,) int64, the categories' names, and the level they are of, from 0.

    Raises:
        InputError: the build's `.item` has no categories.
    """
    path = dataset.build_dir / f"{dataset.name}{ITEM_SUFFIX}"
    if not path.is_file():
        raise InputError(f"{path} is absent, so items have no categories")
    lists = [text.as_py().split(" ") for b in open_atomic(path, ["categories"]) for text in b.column(0)]
    depth = max(map(len, lists), default=0)
    for level in range(depth):
        values = [part[level] if len(part) > level and part[level] else NO_CATEGORY for part in lists]
        names, codes, count = np.unique(values, return_inverse=True, return_counts=True)
        if count.max() <= COMMON_SHARE * len(values) or level == depth - 1:
            break
    if depth == 0 or names.tolist() == [NO_CATEGORY]:
        raise InputError(f"{path.name} gives no item a category")
    return np.concatenate([[0], codes]), names.tolist(), level


def by_time(dataset: BlairDataset, split: str) -> Parts:
    """By the month of the target, UTC; by the year where the split spans more than two years."""
    times = np.asarray(dataset.seq_times[dataset.rows[split].target])
    if not dataset.has_times:
        raise InputError(f"the rows of {dataset.name} carry no times, so --by=time is not possible")
    stamps = times.astype("datetime64[ms]")
    months = stamps.astype("datetime64[M]")
    span = int((months.max() - months.min()).astype(int)) + 1
    unit, kept = ("month", months) if span <= MONTHS_SHOWN else ("year", stamps.astype("datetime64[Y]"))
    names, code = np.unique(kept, return_inverse=True)
    return [str(name) for name in names], code, f"{unit} of the target, UTC"


BREAKDOWNS = {
    "new_item": by_new_item,
    "popularity": by_popularity,
    "history_length": by_history_length,
    "category": by_category,
    "time": by_time,
}

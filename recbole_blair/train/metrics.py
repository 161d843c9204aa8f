"""Ranking metrics from target ranks: of rows with one relevant item each, or of users with one or several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from recbole_blair.errors import InputError, nearest


def recall(rank: np.ndarray, k: int) -> np.ndarray:
    """1 where the target is among the first k; there is one relevant item per row, so hit and recall agree."""
    return (rank <= k).astype(np.float64)


def ndcg(rank: np.ndarray, k: int) -> np.ndarray:
    """1 / log2(rank + 1) where the target is among the first k; the ideal gain is 1."""
    return np.where(rank <= k, 1.0 / np.log2(rank + 1.0), 0.0)


def mrr(rank: np.ndarray, k: int | None) -> np.ndarray:
    """1 / rank where the target is among the first k; k None is the full ranking."""
    return 1.0 / rank if k is None else np.where(rank <= k, 1.0 / rank, 0.0)


def user_recall(rank: np.ndarray, user: np.ndarray, n_relevant: np.ndarray, k: int) -> np.ndarray:
    """The share of a user's relevant items that is among the first k."""
    return np.bincount(user, rank <= k) / n_relevant


def user_hit(rank: np.ndarray, user: np.ndarray, n_relevant: np.ndarray, k: int) -> np.ndarray:
    """1 where any relevant item is among the first k."""
    return (np.bincount(user, rank <= k) > 0).astype(np.float64)


def user_ndcg(rank: np.ndarray, user: np.ndarray, n_relevant: np.ndarray, k: int) -> np.ndarray:
    """The sum of 1 / log2(rank + 1) over the relevant items among the first k, over its value for a perfect ranking.

    That ranking has min(relevant items, k) of them at the ranks 1, 2, …
    """
    ideal = np.cumsum(1.0 / np.log2(np.arange(1, k + 1) + 1.0))  # (k,): of 1, 2, … relevant items
    return np.bincount(user, ndcg(rank, k)) / ideal[np.minimum(n_relevant, k) - 1]


def user_mrr(rank: np.ndarray, user: np.ndarray, n_relevant: np.ndarray, k: int | None) -> np.ndarray:
    """1 / rank of the first relevant item where it is among the first k; k None is the full ranking."""
    first = np.full(len(n_relevant), np.inf)
    np.minimum.at(first, user, rank)
    return mrr(first, k)


METRICS: dict[str, Callable[..., np.ndarray]] = {"recall": recall, "ndcg": ndcg, "hit": recall, "mrr": mrr}
USER_METRICS: dict[str, Callable[..., np.ndarray]] = {
    "recall": user_recall, "ndcg": user_ndcg, "hit": user_hit, "mrr": user_mrr,
}  # fmt: skip


def parse_metric(name: str) -> tuple[str, int | None]:
    """Split `ndcg@10` into its function name and k; `mrr` alone is the full ranking.

    Raises:
        InputError: no such metric.
    """
    base, _, k = str(name).lower().partition("@")
    if base not in METRICS:
        raise InputError(f"unknown metric {name!r}; known: {', '.join(METRICS)}.{nearest(base, METRICS)}")
    if not k and base == "mrr":
        return base, None
    if not k.isdigit() or int(k) < 1:
        raise InputError(f"metric {name!r} needs a k above 0, as in {base}@10")
    return base, int(k)


def metric_values(rank: np.ndarray, name: str, user: np.ndarray | None = None) -> np.ndarray:
    """Return one metric's value for each row, (R,) float64, or for each user, (U,), in the order of the user numbers.

    Args:
        rank (R,) float64: 1 is best.
        name: as in `ndcg@10`.
        user (R,) int64: each row's user, any number; None: each row stands for itself.
    """
    base, k = parse_metric(name)
    if user is None:
        return METRICS[base](rank, k)
    number = np.unique(user, return_inverse=True)[1].reshape(-1)  # (R,) from 0, without gaps
    return USER_METRICS[base](rank, number, np.bincount(number), k)


def part_ties(rank: np.ndarray, user: np.ndarray) -> np.ndarray:
    """Return the ranks (R,) with a user's own items that tie on neighbouring places around the middle of the tie.

    One rank for all of them would count more relevant items among the first k than there are places, and an NDCG above
    1. An item that ties with others than the user's relevant ones keeps the middle; so does the mean of several.

    Args:
        rank (R,) float64: the middle of the ties; equal ranks of a user are one tie.
        user (R,) int64.
    """
    order = np.lexsort((np.arange(len(rank)), rank, user))
    new = np.append(True, (np.diff(rank[order]) != 0) | (np.diff(user[order]) != 0))[: len(rank)]
    size = np.diff(np.append(np.flatnonzero(new), len(rank)))  # of each tie
    place = np.arange(len(rank)) - np.repeat(np.flatnonzero(new), size)  # 0, 1 … in it
    parted = rank.copy()
    parted[order] += place - (np.repeat(size, size) - 1) / 2
    return parted


def compute_metrics(
    rank: np.ndarray, metrics: Sequence[str], topk: Sequence[int], also: Iterable[str] = (),
    user: np.ndarray | None = None,
) -> dict[str, float]:  # fmt: skip
    """Average the metrics over rows, or over users.

    Args:
        rank (R,) float64: 1 is best; a target in ties holds the middle of them, so halves occur.
        metrics: of METRICS.
        also: further metrics such as the one for early stopping.
        user: see `metric_values`.

    Returns:
        `recall@10` … and `mrr` over the full ranking, unrounded fractions.

    Raises:
        InputError: no rows.
    """
    if len(rank) == 0:
        raise InputError("no rows to evaluate")
    names = [f"{m}@{k}" for k in topk for m in metrics]
    names += [n for n in also if n not in names]
    if "mrr" in metrics:
        names.append("mrr")
    return {name: float(metric_values(rank, name, user).mean()) for name in names}

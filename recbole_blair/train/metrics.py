"""Ranking metrics from target ranks: every metric is a function of the rank of one relevant item per row."""

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


METRICS: dict[str, Callable[..., np.ndarray]] = {"recall": recall, "ndcg": ndcg, "hit": recall, "mrr": mrr}


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


def compute_metrics(
    rank: np.ndarray, metrics: Sequence[str], topk: Sequence[int], also: Iterable[str] = ()
) -> dict[str, float]:
    """Average the metrics over rows.

    Args:
        rank (R,) float64: 1 is best; a target in ties holds the middle of them, so halves occur.
        metrics: of METRICS.
        also: further metrics such as the one for early stopping.

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
    values = {}
    for name in names:
        base, k = parse_metric(name)
        values[name] = float(METRICS[base](rank, k).mean())
    return values

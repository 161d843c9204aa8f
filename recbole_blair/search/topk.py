"""Keep the best k, equal scores in pool order: what every ranker of this room agrees on."""

from __future__ import annotations

import numpy as np

NOTHING = -1  # position where a ranking ends early


def top_k(scores: np.ndarray, k: int, floor: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best positions of one score vector, as a full stable sort would.

    Args:
        scores (N,) float: higher is better; equal scores rank by position.
        k: at most N are returned.
        floor: only scores above it count.

    Returns:
        positions (≤ k,) int64, their scores.
    """
    k = min(k, len(scores))
    if floor is not None:
        above = np.flatnonzero(scores > floor)
        if len(above) <= k:
            order = np.argsort(-scores[above], kind="stable")
            return above[order], scores[above[order]]
        best = above[_best(scores[above], k)]
    else:
        best = _best(scores, k)
    return best, scores[best]


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the positions of the k best, sorted; ties by position."""
    if k < len(scores):
        limit = np.partition(scores, len(scores) - k)[len(scores) - k]
        better = np.flatnonzero(scores > limit)
        equal = np.flatnonzero(scores == limit)[: k - len(better)]
        chosen = np.sort(np.concatenate([better, equal]))
    else:
        chosen = np.arange(len(scores))
    return chosen[np.argsort(-scores[chosen], kind="stable")]


def empty_ranking(n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return positions (n, k) filled with NOTHING and scores (n, k) with -inf."""
    return np.full((n, k), NOTHING, dtype=np.int64), np.full((n, k), -np.inf, dtype=np.float32)

"""Reciprocal rank fusion of rankings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from recbole_blair.search.topk import NOTHING, empty_ranking

if TYPE_CHECKING:
    from collections.abc import Sequence

RRF_K = 60  # the constant of the paper


def fuse(rankings: Sequence[np.ndarray], k: int, rrf_k: int = RRF_K) -> tuple[np.ndarray, np.ndarray]:
    """Fuse rankings: an item's score is the sum of 1 / (rrf_k + rank), ranks from 1.

    Args:
        rankings (list of (n, depth) int64): pool positions, best first, -1 = nothing; depths may differ.
        k: depth of the result.

    Returns:
        positions (n, k) int64, scores (n, k) float32; equal scores in pool order; -1, -inf where nothing is left.

    Source: Cormack, Clarke and Buettcher, SIGIR 2009.
    """
    positions, scores = empty_ranking(len(rankings[0]), k)
    for row in range(len(positions)):
        found = np.concatenate([r[row] for r in rankings])
        weight = np.concatenate([1.0 / (rrf_k + np.arange(1, r.shape[1] + 1)) for r in rankings])
        items, where = np.unique(found[found != NOTHING], return_inverse=True)
        total = np.bincount(where, weights=weight[found != NOTHING], minlength=len(items))
        best = np.argsort(-total, kind="stable")[:k]  # `items` ascends: ties keep pool order
        positions[row, : len(best)], scores[row, : len(best)] = items[best], total[best]
    return positions, scores

"""Is one model better than another on the same rows? Paired tests over users, corrected for their number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from recbole_blair.search.significance import compare_scores

TESTS = ("p_value_bootstrap", "p_value", "p_value_t")


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Correct p-values for their number, strictest first.

    Args:
        p_values: None is an undefined test; it is not counted and stays None.

    Returns:
        In the same order, each at least as large as before, at most 1.

    Source: Holm, Scandinavian Journal of Statistics 6(2), 1979.
    """
    defined = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for place, (p, i) in enumerate(defined):
        largest = max(largest, min(1.0, p * (len(defined) - place)))
        corrected[i] = largest
    return corrected


def compare_pairs(
    values: dict[str, np.ndarray],
    users: np.ndarray,
    n_samples: int = 10_000,
    seed: int = 0,
    on_pair: Callable[[], object] | None = None,
) -> list[dict[str, Any]]:
    """Compare every pair of models on the same rows.

    Rows of one user are not independent, so samples draw whole users and signs flip for whole users.

    Args:
        values: label -> (R,) float64, one metric of each row or user, averaged over the model's seeds.
        users (R,) int64: each row's user.
        n_samples: bootstrap samples, and sign flips of the randomisation test.
        on_pair: called after each pair, for a progress bar.

    Returns:
        `a`, `b` (the better mean first) and what `compare_scores` returns; each p-value has another
        that ends in `_holm`, corrected for the number of pairs. Most certain difference first.
    """
    labels = sorted(values, key=lambda label: -values[label].mean())
    pairs = [(a, b) for i, a in enumerate(labels) for b in labels[i + 1 :]]
    results: list[dict[str, Any]] = []
    for a, b in pairs:
        results.append({"a": a, "b": b, **compare_scores(values[a], values[b], users, n_samples, seed)})
        if on_pair:
            on_pair()
    for test in TESTS:
        for result, p in zip(results, holm([result[test] for result in results])):
            result[f"{test}_holm"] = p
    return sorted(results, key=lambda r: (r["p_value_bootstrap_holm"], -r["difference"]))

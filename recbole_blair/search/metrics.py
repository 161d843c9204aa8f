"""NDCG, Recall and MRR at k over ranked positions, a value a query; means, intervals over queries and domains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_blair.search.tasks import RELEVANT_GAIN

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

METRICS = ("ndcg", "recall", "mrr")
MEAN_QUERIES = "All (mean over queries)"
MEAN_DOMAINS = "All (mean over domains)"


def score_rankings(ranked: np.ndarray, gains: Sequence[Mapping[int, int]], ks: Iterable[int]) -> dict[str, np.ndarray]:
    """Score rankings against graded judgements.

    Args:
        ranked (n, depth) int64: pool positions, best first; -1 = nothing more was found.
        gains (list of n dicts): {pool position: gain}; an item that is not there has gain 0. Recall and MRR
            count items of gain RELEVANT_GAIN (Exact) only.
        ks: cut-offs, 1 to depth.

    Returns:
        dict: `ndcg@k`, `recall@k`, `mrr@k` -> (n,) float64 in 0..1. NDCG has linear gains and the discount
        log2(rank + 1), rank from 1; its ideal ranks all judged items. A target that was not found gives 0.

    Source: arXiv:2403.03952, section 3.3 (NDCG@100); arXiv:2206.06588 section 4 (graded gains).
    """
    ranked = np.asarray(ranked)
    n, depth = ranked.shape
    ks = sorted(set(ks))
    if ks[0] < 1 or ks[-1] > depth:
        raise ValueError(f"cut-offs {ks} are outside 1..{depth}, the depth of the ranking")
    found = np.zeros((n, depth))
    for i, judged in enumerate(gains):
        wanted = np.fromiter(judged, dtype=np.int64, count=len(judged))
        for column in np.flatnonzero(np.isin(ranked[i], wanted)):
            found[i, column] = judged[int(ranked[i, column])]
    return _scores_at(found, gains, ks)


def _scores_at(found: np.ndarray, gains: Sequence[Mapping[int, int]], ks: Iterable[int]) -> dict[str, np.ndarray]:
    """Turn gains by rank (n, depth) into metrics at each cut-off."""
    n, depth = found.shape
    discount = 1.0 / np.log2(np.arange(2, depth + 2))
    dcg = np.cumsum(found * discount, axis=1)
    hits = np.cumsum(found == RELEVANT_GAIN, axis=1)
    first = np.where(hits[:, -1] > 0, (found == RELEVANT_GAIN).argmax(axis=1), depth)
    n_relevant = np.array([sum(g == RELEVANT_GAIN for g in judged.values()) for judged in gains], dtype=float)
    scores = {}
    for k in ks:
        ideal = np.array([_ideal_dcg(judged.values(), k, discount) for judged in gains])
        scores[f"ndcg@{k}"] = np.divide(dcg[:, k - 1], ideal, out=np.zeros(n), where=ideal > 0)
        scores[f"recall@{k}"] = np.divide(hits[:, k - 1], n_relevant, out=np.zeros(n), where=n_relevant > 0)
        scores[f"mrr@{k}"] = np.where(first < k, 1.0 / (first + 1.0), 0.0)
    return scores


def _ideal_dcg(values: Collection[int], k: int, discount: np.ndarray) -> float:
    """Return the DCG of the best order of `values`, cut at k."""
    best = np.sort(np.fromiter(values, dtype=float))[::-1][:k]
    return float(best @ discount[: len(best)])


def summarise(
    scores: Mapping[str, np.ndarray], domains: Sequence[str], groups: np.ndarray | None = None, n_boot: int = 1000,
    seed: int = 0, interval: float = 0.95,
) -> list[dict[str, Any]]:  # fmt: skip
    """Average per-query values: over queries, over domains, and in each domain.

    Args:
        scores: metric -> (n,) float64.
        domains (list of n str): each row's domain.
        groups (n,) int64 or None: rows that stand or fall together (one query text); the bootstrap draws groups.
        n_boot: bootstrap samples for the percentile interval of the mean over queries; 0 = none.

    Returns:
        list of dicts, `All (mean over queries)`, `All (mean over domains)`, then the domains by name, with the
        keys `domain`, `queries` (rows), each metric and, with `n_boot`, `<metric>_low`, `<metric>_high`.
    """
    names, of_row = sorted(set(domains)), np.asarray(domains)
    groups = np.arange(len(domains)) if groups is None else np.asarray(groups)
    rows = [{"domain": MEAN_QUERIES, "queries": len(domains)}, {"domain": MEAN_DOMAINS, "queries": len(domains)}]
    rows += [{"domain": name, "queries": int((of_row == name).sum())} for name in names]
    for metric, values in scores.items():
        per_domain = [values[of_row == name].mean() for name in names]
        for row, mean in zip(rows, [values.mean(), np.mean(per_domain), *per_domain]):
            row[metric] = float(mean)
        if not n_boot:
            continue
        for row in (rows[0], *rows[2:]):
            mask = np.full(len(values), True) if row is rows[0] else of_row == row["domain"]
            low, high = bootstrap_interval(values[mask], groups[mask], n_boot, seed, interval)
            row[f"{metric}_low"], row[f"{metric}_high"] = low, high
    return rows


def bootstrap_interval(
    values: np.ndarray, groups: np.ndarray, n_boot: int = 1000, seed: int = 0, interval: float = 0.95
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean, whole groups drawn with replacement.

    Args:
        values (n,) float64; groups (n,) int64: rows of one group are drawn together.
    """
    return percentile_interval(bootstrap_means(values, groups, n_boot, seed), interval)


def bootstrap_means(values: np.ndarray, groups: np.ndarray, n_boot: int = 1000, seed: int = 0) -> np.ndarray:
    """Return the mean of each bootstrap sample, (n_boot,) float64; arguments as of `bootstrap_interval`."""
    sums, counts = _by_group(values, groups)
    rng = np.random.default_rng(seed)
    means = np.empty(n_boot)
    step = max(1, 4_000_000 // len(sums))  # at most 4 M draws held at once
    for start in range(0, n_boot, step):
        draw = rng.integers(0, len(sums), size=(min(step, n_boot - start), len(sums)))
        means[start : start + len(draw)] = sums[draw].sum(axis=1) / counts[draw].sum(axis=1)
    return means


def percentile_interval(means: np.ndarray, interval: float = 0.95) -> tuple[float, float]:
    """Return the central share of bootstrap means as (low, high)."""
    tail = 50 * (1 - interval)
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def _by_group(values: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each group's sum and size."""
    _, index = np.unique(groups, return_inverse=True)
    return np.bincount(index, weights=values), np.bincount(index).astype(float)

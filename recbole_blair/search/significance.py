"""Is one ranking better than another on the same queries? Paired tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_blair.errors import InputError
from recbole_blair.search.metrics import _by_group, bootstrap_means, percentile_interval

if TYPE_CHECKING:
    import pandas as pd


def compare_scores(
    ours: np.ndarray, base: np.ndarray, groups: np.ndarray, n_perm: int = 10_000, seed: int = 0
) -> dict[str, Any]:
    """Compare two columns of per-query values on the same rows.

    Args:
        ours, base (n,) float64: one metric, same rows in the same order.
        groups (n,) int64: rows with one query text; signs are flipped and samples drawn by whole groups, since
            such rows are not independent.
        n_perm: sign flips of the paired randomisation test, and bootstrap samples of the interval.

    Returns:
        dict: `difference` of the means, `low`, `high` (95 % bootstrap interval of the difference), `p_value`
        (two-sided randomisation test, (hits + 1) / (n_perm + 1)), `p_value_bootstrap` (two-sided: twice the share of
        bootstrap differences on the other side of 0, counted the same way), `p_value_t` (paired t-test over group
        sums; None where all differences are equal), `wins`, `losses`, `ties` (rows).

    Source: Smucker, Allan and Carterette, CIKM 2007 (randomisation test for paired retrieval runs).
    """
    ours, base = np.asarray(ours, dtype=float), np.asarray(base, dtype=float)
    if ours.shape != base.shape:
        raise ValueError(f"two runs of different size, {ours.shape} and {base.shape}")
    diff = ours - base
    sums, _ = _by_group(diff, groups)
    means = bootstrap_means(diff, groups, n_perm, seed)
    low, high = percentile_interval(means)
    return {
        "difference": float(diff.mean()),
        "low": low,
        "high": high,
        "p_value": _randomisation_p(sums, n_perm, seed),
        "p_value_bootstrap": bootstrap_p_value(means),
        "p_value_t": _t_test_p(sums),
        "wins": int((diff > 0).sum()),
        "losses": int((diff < 0).sum()),
        "ties": int((diff == 0).sum()),
    }


def _randomisation_p(sums: np.ndarray, n_perm: int, seed: int) -> float:
    """Return the two-sided p-value of the mean difference when each group's sign is a coin's toss."""
    rng = np.random.default_rng(seed)
    observed = abs(sums.sum())
    slack = 1e-12 * np.abs(sums).sum()  # sums in another order differ in the last bit: count those as reached
    hits = 0
    step = max(1, 4_000_000 // len(sums))
    for start in range(0, n_perm, step):
        signs = rng.integers(0, 2, size=(min(step, n_perm - start), len(sums)), dtype=np.int8) * 2 - 1
        hits += int((np.abs(signs @ sums) >= observed - slack).sum())
    return (hits + 1) / (n_perm + 1)


def bootstrap_p_value(means: np.ndarray) -> float:
    """Return the two-sided p-value of a difference of 0 from bootstrap means of the difference."""
    fewer = min((means <= 0).sum(), (means >= 0).sum())
    return float(min(1.0, 2 * (fewer + 1) / (len(means) + 1)))


def _t_test_p(sums: np.ndarray) -> float | None:
    """Return the p-value of a one-sample t-test on the groups' differences, None where it is undefined."""
    from scipy import stats  # heavy

    if len(sums) < 2 or np.ptp(sums) == 0:
        return None
    return float(stats.ttest_1samp(sums, 0.0).pvalue)


def align_runs(ours: pd.DataFrame, base: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return two per-query tables with the same rows in the same order.

    Args:
        ours, base: tables as `runs.load_per_query` returns, with `id` and `query`.

    Raises:
        InputError: the runs rank different queries.
    """
    base = base.set_index("id")
    ids = ours["id"].tolist()
    if set(ids) != set(base.index):
        only = next(iter(set(ids) ^ set(base.index)))
        raise InputError(
            f"the two runs hold different queries ({len(ids)} and {len(base)} rows; {only!r} is in one only); "
            "compare runs over the same data set and protocol"
        )
    base = base.loc[ids].reset_index()
    changed = ours["query"].to_numpy() != base["query"].to_numpy()
    if changed.any():
        raise InputError(f"query {ids[int(changed.argmax())]!r} has another text in the other run; compare like runs")
    return ours, base

"""How sure a bench is: means over data sets, intervals by bootstrap over users or queries and over seeds, paired tests.

All encoders of a part are drawn together: one sample holds the same users for each of them, so that what is hard for
all does not look like a difference between two. Seeds of two encoders have nothing in common and are drawn apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from recbole_blair.report.paired import holm
from recbole_blair.search.metrics import percentile_interval
from recbole_blair.search.significance import bootstrap_p_value

SAMPLES = 10_000
LEVEL = 0.05  # of a corrected p-value below which two encoders differ
DRAWS = 4_000_000  # numbers held at a time


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """`better` minus `other` in one task: the mean difference, its 95 % interval, p-value and corrected p-value."""

    better: str
    other: str
    difference: float
    low: float
    high: float
    p_value: float
    p_value_holm: float

    @property
    def certain(self) -> bool:
        """Return whether the two differ: both the interval and the corrected test say so."""
        return self.p_value_holm < LEVEL and self.low > 0


def bootstrap_part(
    values: Mapping[str, np.ndarray], groups: np.ndarray, n_samples: int = SAMPLES, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return the mean of each bootstrap sample of one part.

    Args:
        values: encoder -> (S, R) float64, one row per seed of that encoder.
        groups (R,): rows of one user or query text are drawn together.
        n_samples: N.
        seed: of the draws; the users drawn do not depend on which encoders there are.

    Returns:
        encoder -> (N,) float64.
    """
    _, index = np.unique(groups, return_inverse=True)
    n_groups = int(index.max()) + 1
    counts = np.bincount(index, minlength=n_groups).astype(float)  # (G,)
    sums = {  # (G, S): per group and seed
        name: np.stack([np.bincount(index, weights=row, minlength=n_groups) for row in rows], axis=1)
        for name, rows in values.items()
    }
    rng, means = np.random.default_rng(seed), {name: np.empty(n_samples) for name in values}
    seeds = {name: np.random.default_rng([seed, 1, *name.encode()]) for name in values}
    step = max(1, DRAWS // n_groups)
    for start in range(0, n_samples, step):
        n = min(step, n_samples - start)
        times = draw_groups(rng, n, n_groups)  # (n, G)
        rows = times @ counts  # (n,)
        for name, own in sums.items():
            per_seed = times @ own / rows[:, None]  # (n, S)
            n_seeds = per_seed.shape[1]
            chosen = seeds[name].integers(0, n_seeds, size=(n, n_seeds))
            means[name][start : start + n] = np.take_along_axis(per_seed, chosen, axis=1).mean(axis=1)
    return means


def draw_groups(rng: np.random.Generator, n: int, n_groups: int) -> np.ndarray:
    """Return how often each group is in each of n samples of n_groups draws with replacement, (n, G) float64."""
    drawn = rng.integers(0, n_groups, size=(n, n_groups)) + n_groups * np.arange(n)[:, None]
    return np.bincount(drawn.ravel(), minlength=n * n_groups).reshape(n, n_groups).astype(float)


def task_means(samples: Sequence[Mapping[str, np.ndarray]], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the samples of the mean over parts, encoder -> (N,); every data set counts the same."""
    return {name: np.mean([part[name] for part in samples], axis=0) for name in names}


def estimate(value: float, samples: np.ndarray) -> Estimate:
    """Return a mean with the central 95 % of its bootstrap samples."""
    low, high = percentile_interval(samples)
    return Estimate(value, low, high)


def compare_encoders(means: Mapping[str, float], samples: Mapping[str, np.ndarray]) -> list[Difference]:
    """Compare every pair of encoders in one task.

    Args:
        means: encoder -> mean.
        samples: encoder -> (N,), drawn together.

    Returns:
        Differences, the better mean first in each; p-values from the share of bootstrap differences on the other side
        of 0, corrected by Holm for the number of pairs.
    """
    order = sorted(means, key=lambda name: -means[name])
    pairs = list(combinations(order, 2))
    differences = [samples[a] - samples[b] for a, b in pairs]
    p_values = [bootstrap_p_value(one) for one in differences]
    return [
        Difference(a, b, means[a] - means[b], *percentile_interval(drawn), p, 1.0 if corrected is None else corrected)
        for (a, b), drawn, p, corrected in zip(pairs, differences, p_values, holm(p_values))
    ]


def like_the_best(means: Mapping[str, float], differences: Sequence[Difference]) -> list[str]:
    """Return the best encoder and those that do not certainly differ from it, best first."""
    order = sorted(means, key=lambda name: -means[name])
    behind = {one.other for one in differences if one.better == order[0] and one.certain}
    return [name for name in order if name not in behind]


def borda_points(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return each encoder's Borda points: per part one for every encoder it is ahead of, half for one it equals.

    Source: BLaIR-Bench, Table 6; its column adds up to 14 parts x 55, the points of 11 encoders.
    """
    points = dict.fromkeys(values[0] if values else (), 0.0)
    for part in values:
        for name, own in part.items():
            points[name] += sum(own > other for key, other in part.items() if key != name)
            points[name] += sum(own == other for key, other in part.items() if key != name) / 2
    return points

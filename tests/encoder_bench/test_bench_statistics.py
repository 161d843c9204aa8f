"""Intervals, paired tests and Borda points of a bench, by hand and against a plain loop."""

import numpy as np
import pytest

from recbole_blair.bench import statistics
from recbole_blair.bench.statistics import bootstrap_part, borda_points, compare_encoders, estimate, like_the_best

# Borda points of BLaIR-Bench, Table 6: 11 encoders on 14 data sets share 14 x (0 + 1 + ... + 10) points.
PUBLISHED_BORDA = [116, 105, 101, 98, 96.5, 69.5, 54, 42.5, 37, 35.5, 15]


def test_borda_points_by_hand():
    parts = [{"a": 0.3, "b": 0.2, "c": 0.1}, {"a": 0.1, "b": 0.1, "c": 0.5}]
    assert borda_points(parts) == {"a": 2.5, "b": 1.5, "c": 2.0}  # 2 + .5, 1 + .5, 0 + 2


def test_the_published_points_add_up_to_14_data_sets():
    assert sum(PUBLISHED_BORDA) == 14 * sum(range(11))
    parts = [{str(n): float(n) for n in range(11)}] * 14
    assert sum(borda_points(parts).values()) == sum(PUBLISHED_BORDA)


def naive_bootstrap(values, groups, n_samples, seed):
    """The same draws, one sample at a time."""
    names = sorted(set(groups.tolist()))
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(names), size=(n_samples, len(names)))
    means = {}
    for label, rows in values.items():
        own = np.random.default_rng([seed, 1, *label.encode()])
        chosen = own.integers(0, len(rows), size=(n_samples, len(rows)))
        means[label] = []
        for draw, seeds in zip(draws, chosen):
            picked = np.concatenate([np.flatnonzero(groups == names[g]) for g in draw])
            means[label].append(np.mean([rows[s][picked].mean() for s in seeds]))
    return means


def test_the_bootstrap_is_a_plain_loop_over_groups_and_seeds():
    rng = np.random.default_rng(1)
    groups = np.array(["u1", "u1", "u2", "u3", "u3", "u3", "u4"])
    values = {"a": rng.random((3, 7)), "b": rng.random((2, 7))}
    found, wanted = bootstrap_part(values, groups, 50, 7), naive_bootstrap(values, groups, 50, 7)
    for name in values:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-12)


def test_blocks_do_not_change_the_draws(monkeypatch):
    groups, values = np.arange(20), {"a": np.random.default_rng(0).random((2, 20))}
    whole = bootstrap_part(values, groups, 30)["a"]
    monkeypatch.setattr(statistics, "DRAWS", 7 * 20)
    np.testing.assert_allclose(bootstrap_part(values, groups, 30)["a"], whole)


def test_another_encoder_does_not_change_the_others_samples():
    rng, groups = np.random.default_rng(0), np.arange(30)
    a, b = rng.random((2, 30)), rng.random((2, 30))
    alone = bootstrap_part({"a": a}, groups, 40)["a"]
    np.testing.assert_array_equal(bootstrap_part({"b": b, "a": a}, groups, 40)["a"], alone)


def test_equal_encoders_do_not_differ_and_a_constant_shift_does():
    rng, groups = np.random.default_rng(0), np.arange(200)
    base = rng.random((1, 200))
    samples = bootstrap_part({"a": base + 0.1, "b": base, "c": base}, groups, 1000)
    means = {"a": float(base.mean()) + 0.1, "b": float(base.mean()), "c": float(base.mean())}
    pairs = {(d.better, d.other): d for d in compare_encoders(means, samples)}
    assert pairs["a", "b"].certain and pairs["a", "b"].low == pytest.approx(0.1)  # the same users for both
    assert not pairs["b", "c"].certain and pairs["b", "c"].p_value == 1.0
    assert pairs["a", "b"].p_value == pytest.approx(2 / 1001)
    assert pairs["a", "b"].p_value_holm == pytest.approx(3 * 2 / 1001)  # three pairs, the strictest first
    assert like_the_best(means, list(pairs.values())) == ["a"]
    assert like_the_best({"b": means["b"], "c": means["c"]}, [pairs["b", "c"]]) == ["b", "c"]


def test_the_interval_covers_the_deviation_over_seeds():
    """Users alone would give an interval of no width here: all have the same value with a seed."""
    values = {"a": np.array([[0.1] * 50, [0.2] * 50, [0.3] * 50])}
    found = estimate(0.2, bootstrap_part(values, np.arange(50), 2000)["a"])
    assert found.low == pytest.approx(0.1, abs=0.04) and found.high == pytest.approx(0.3, abs=0.04)

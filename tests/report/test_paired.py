"""Paired tests between models: Holm by hand, users as one, against a naive bootstrap."""

import numpy as np
import pytest
from scipy import stats

from recbole_blair.report.paired import compare_pairs, holm
from recbole_blair.train.metrics import metric_values


def test_holm_by_hand():
    # sorted .01 .02 .03 .5 times 4 3 2 1 = .04 .06 .06 .5; never below one before it
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_an_undefined_test_is_not_counted():
    assert holm([None, 0.02, 0.04]) == [None, pytest.approx(0.04), pytest.approx(0.04)]


def test_values_of_rows_by_hand():
    rank = np.array([1.0, 3.0, 11.0, 2.5])
    assert metric_values(rank, "ndcg@10") == pytest.approx([1.0, 0.5, 0.0, 1 / np.log2(3.5)])
    assert metric_values(rank, "recall@2").tolist() == [1.0, 0.0, 0.0, 0.0]
    assert metric_values(rank, "mrr") == pytest.approx([1.0, 1 / 3, 1 / 11, 0.4])


def models(seed=0, users=60):
    """Three models' values: `good` is better than the alike `one` and `two`."""
    rng = np.random.default_rng(seed)
    base = rng.random(users)
    return {
        "one": base + 0.05 * rng.standard_normal(users),
        "two": base + 0.05 * rng.standard_normal(users),
        "good": base + 0.3 + 0.05 * rng.standard_normal(users),
    }


def test_every_pair_is_compared_and_corrected():
    values = models()
    pairs = compare_pairs(values, np.arange(60), n_samples=2000)
    assert [(p["a"], p["b"]) for p in pairs][:2] != [("one", "two"), ("two", "one")] and len(pairs) == 3
    assert all(values[p["a"]].mean() >= values[p["b"]].mean() for p in pairs)
    assert {p["a"] for p in pairs[:2]} == {"good"} and {pairs[2]["a"], pairs[2]["b"]} == {"one", "two"}
    for pair in pairs:
        expected = stats.ttest_rel(values[pair["a"]], values[pair["b"]]).pvalue
        assert pair["p_value_t"] == pytest.approx(expected)
        assert pair["low"] < pair["difference"] < pair["high"]
    assert all(p["p_value_bootstrap_holm"] < 0.01 and p["p_value_holm"] < 0.01 for p in pairs[:2])
    assert pairs[2]["p_value_bootstrap_holm"] == pairs[2]["p_value_bootstrap"] > 0.05  # the largest is multiplied by 1
    assert pairs[0]["p_value_t_holm"] >= 2 * pairs[0]["p_value_t"]


def test_rows_of_one_user_are_one_witness():
    values = {name: np.repeat(own, 20) for name, own in models(users=8).items()}
    grouped = compare_pairs(values, np.repeat(np.arange(8), 20), n_samples=1000)
    alone = compare_pairs({k: v[::20] for k, v in values.items()}, np.arange(8), n_samples=1000)
    for a, b in zip(grouped, alone):
        assert (a["a"], a["p_value"]) == (b["a"], b["p_value"])
        assert a["p_value_t"] == pytest.approx(b["p_value_t"])
    loose = compare_pairs(values, np.arange(160), n_samples=1000)
    assert loose[2]["high"] - loose[2]["low"] < grouped[2]["high"] - grouped[2]["low"]


def test_equal_models_are_not_different():
    same = models()["one"]
    (pair,) = compare_pairs({"a": same, "b": same.copy()}, np.arange(60), n_samples=200)
    assert pair["p_value_bootstrap_holm"] == pair["p_value_holm"] == 1.0 and pair["p_value_t_holm"] is None

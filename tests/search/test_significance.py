"""Paired tests: against a full enumeration and SciPy, and what cannot be compared."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from recbole_blair.errors import InputError
from recbole_blair.search.significance import align_runs, compare_scores

OURS = np.array([0.9, 0.7, 0.8, 0.4, 0.6, 0.95, 0.3, 0.5])
BASE = np.array([0.5, 0.6, 0.9, 0.1, 0.2, 0.55, 0.3, 0.1])


def test_randomisation_agrees_with_all_sign_flips():
    diff = OURS - BASE
    flips = [abs(np.dot(s, diff)) for s in itertools.product([-1, 1], repeat=8)]
    exact = np.mean(np.array(flips) >= abs(diff.sum()) - 1e-12)
    result = compare_scores(OURS, BASE, np.arange(8), n_perm=40_000)
    assert result["p_value"] == pytest.approx(exact, abs=0.005)
    assert result["p_value_t"] == pytest.approx(stats.ttest_rel(OURS, BASE).pvalue)
    assert result["difference"] == pytest.approx(diff.mean())
    assert (result["wins"], result["losses"], result["ties"]) == (6, 1, 1)
    assert result["low"] < diff.mean() < result["high"]
    draws = np.random.default_rng(1).choice(diff, (40_000, 8)).mean(1)
    assert result["p_value_bootstrap"] == pytest.approx(2 * (draws <= 0).mean(), abs=0.003)


def test_rows_of_one_query_do_not_add_evidence():
    many = compare_scores(np.tile(OURS, 10), np.tile(BASE, 10), np.arange(80))
    grouped = compare_scores(np.tile(OURS, 10), np.tile(BASE, 10), np.tile(np.arange(8), 10))
    assert many["p_value"] < 0.001
    assert grouped["p_value"] == compare_scores(OURS, BASE, np.arange(8))["p_value"]


def test_equal_runs_are_not_different():
    result = compare_scores(OURS, OURS, np.arange(8))
    assert result["p_value"] == result["p_value_bootstrap"] == 1.0
    assert result["p_value_t"] is None


def test_runs_are_aligned_by_id_and_refused_when_they_differ():
    ours = pd.DataFrame({"id": ["1", "2"], "query": ["a", "b"], "m": [1, 2]})
    base = pd.DataFrame({"id": ["2", "1"], "query": ["b", "a"], "m": [20, 10]})
    assert align_runs(ours, base)[1]["m"].tolist() == [10, 20]
    with pytest.raises(InputError, match="different queries"):
        align_runs(ours, base.iloc[:1])
    with pytest.raises(InputError, match="'1' has another text"):
        align_runs(ours, base.assign(query=["b", "x"]))

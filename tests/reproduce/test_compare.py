"""Verdicts: units, tolerances, what cannot be compared."""

import dataclasses

import pytest

from recbole_blair.reproduce import tables
from recbole_blair.reproduce.run import NOT_COMPARABLE, OUTSIDE, WITHIN, compare, verdict


@pytest.fixture(scope="module")
def row():
    """A row of .35 .22 1.18 .39 per cent, ten per cent or .1 allowed."""
    return tables.find_rows("blair-table4/gru4rec/beauty")[0]


def metrics(*values):
    names = ("recall@10", "ndcg@10", "recall@50", "ndcg@50")
    return {"metrics": dict(zip(names, values)), "runs": []}


def test_fractions_are_compared_in_the_unit_of_the_source(row):
    figures = compare(row, metrics(0.0035, 0.0022, 0.0118 + 0.00117, 0.0039 + 0.0011))
    assert [figure["verdict"] for figure in figures] == [WITHIN, WITHIN, WITHIN, OUTSIDE]
    assert figures[2]["difference"] == pytest.approx(0.117)
    assert figures[3]["why"] == "more than 0.1 allowed"
    assert verdict(figures) == OUTSIDE


def test_the_edge_of_the_tolerance_is_within(row):
    assert compare(row, metrics(0.0045, 0.0022, 0.0118, 0.0039))[0]["verdict"] == WITHIN


def test_what_is_not_published_or_not_measured_is_not_comparable(row):
    bare = dataclasses.replace(row, published={"recall@10": None, "mrr": 1.0}, reasons={"recall@10": "illegible"})
    figures = compare(bare, metrics(0.0035))
    assert [figure["verdict"] for figure in figures] == [NOT_COMPARABLE] * 2
    assert [figure["why"] for figure in figures] == ["illegible", "the run has no mrr"]
    assert figures[0]["ours"] == pytest.approx(0.35)
    assert verdict(figures) == NOT_COMPARABLE


def test_months_must_be_equal_and_counts_are_not_scaled():
    row = tables.find_rows("blair-table1")[0]
    ours = {**row.published, "last_month": "2023-10", "users": row.published["users"] + 1}
    figures = {figure["metric"]: figure for figure in compare(row, {"metrics": ours, "runs": []})}
    assert figures["first_month"]["verdict"] == figures["users"]["verdict"] == WITHIN
    assert figures["last_month"]["verdict"] == OUTSIDE
    assert figures["reviews"]["difference"] == 0

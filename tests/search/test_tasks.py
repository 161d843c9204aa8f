"""From query rows to judgements: both protocols, missing items, domains."""

import pytest

from recbole_blair.errors import InputError
from recbole_blair.search import tasks
from recbole_blair.search.readers import Pool, Queries

POOL = Pool(["a", "b", "c", "d"], ["X", "X", "Y", "Unknown"], ["", "", "", ""], "pool.jsonl")


def test_rows_protocol_names_missing_items_and_numbers_shared_queries():
    queries = Queries(["1", "1", "2", "3"], ["red lamp", "red lamp", "cup", "cup"], ["a", "b", "zz", "c"], "test.csv")
    task = tasks.build_rows_task(queries, POOL)
    assert task.ids == ["1.0", "1.1", "3"]
    assert task.gains == [{0: 100}, {1: 100}, {2: 100}]
    assert task.domains == ["X", "X", "Y"]
    assert task.groups.tolist() == [0, 0, 1]
    assert task.missing == [("2", "zz")]
    assert task.left_out == ["2"]


def test_rows_protocol_takes_a_given_mapping_first():
    task = tasks.build_rows_task(Queries(["1"], ["q"], ["a"], "test.csv"), POOL, {"a": "Z"})
    assert task.domains == ["Z"]


def test_no_item_in_the_pool_is_refused():
    with pytest.raises(InputError, match=r"none of the 1 items asked for.*first: 'q9'"):
        tasks.build_rows_task(Queries(["1"], ["q"], ["q9"], "test.csv"), POOL)


def test_graded_protocol_counts_siblings_with_their_gains():
    judged = [
        ("7", "lamp", "c", "Exact"), ("7", "lamp", "a", "E"), ("7", "lamp", "b", "S"), ("7", "lamp", "d", "I"),
        ("7", "lamp", "zz", "C"), ("8", "cup", "a", "S"),
    ]  # fmt: skip
    task = tasks.build_graded_task(judged, POOL)
    assert task.ids == ["7"]
    assert task.gains == [{2: 100, 0: 100, 1: 10, 3: 0}]
    assert task.domains == ["X"]  # one Exact item each in X and Y: the earliest in the pool
    assert task.missing == [("7", "zz")]
    assert task.left_out == ["8"]


def test_graded_from_a_query_file_groups_rows_by_query():
    queries = Queries(["0", "1", "2"], ["lamp", "lamp", "cup"], ["a", "b", "c"], "test.csv")
    task = tasks.build_graded_task(tasks.judgements_of(queries), POOL)
    assert task.ids == ["0", "2"]
    assert task.gains == [{0: 100, 1: 100}, {2: 100}]


def test_unknown_label_is_refused():
    with pytest.raises(InputError, match=r"label 'Q'.*known labels: Exact"):
        tasks.build_graded_task([("1", "q", "a", "Q")], POOL)

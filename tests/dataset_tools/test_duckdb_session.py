"""A DuckDB session: work beside the main thread ends with it, and its failure is told."""

import time

import duckdb
import pyarrow as pa
import pytest

from dataset_tools.storage.duckdb_session import DuckDBSession, keep_buffers
from recbole_blair.errors import InputError


@pytest.fixture
def duck(tmp_path):
    with DuckDBSession(tmp_path, "200MB", 2, False) as session:
        yield session


def test_a_session_opens_where_duckdb_measures_no_progress(tmp_path, monkeypatch):
    """In a notebook without ipywidgets DuckDB refuses its settings of progress."""
    connect = duckdb.connect

    class Connection:
        def __init__(self, *args):
            self.real = connect(*args)

        def execute(self, sql, *rest):
            if "progress_bar" in sql:
                raise duckdb.InvalidInputException("required package 'ipywidgets' is missing")
            return self.real.execute(sql, *rest)

        def __getattr__(self, name):
            return getattr(self.real, name)

    monkeypatch.setattr(duckdb, "connect", Connection)
    with DuckDBSession(tmp_path, "200MB", 2, True) as session:
        assert session.run("SELECT 7", label="a bar") == [(7,)]


def test_work_beside_is_waited_for(duck):
    with duck.run_beside(lambda con, _: con.execute("CREATE TABLE made AS SELECT 7 AS x")) as made:
        made()
        assert duck.value("SELECT x FROM made") == 7


def test_work_beside_is_stopped_when_left(duck):
    seen = []

    def work(con, stopped):
        try:
            con.execute(
                "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range + b.range = 3"
            ).fetchall()
        finally:
            seen.append(stopped.is_set())

    begin = time.monotonic()
    with pytest.raises(ZeroDivisionError), duck.run_beside(work):
        time.sleep(0.2)
        raise ZeroDivisionError
    assert seen == [True] and time.monotonic() - begin < 30


def test_a_failure_beside_is_explained(duck):
    query = "CREATE TABLE big AS SELECT list(range) AS x FROM range(100000000)"
    with (
        pytest.raises(InputError, match="more than --memory_limit=200MB"),
        duck.run_beside(lambda con, _: con.execute(query)) as made,
    ):
        made()


def test_memory_limit_in_bytes(duck):
    assert abs(duck.memory_bytes() - 2 * 10**8) < 10**5


def test_blocks_are_kept_inside_and_arrow_has_its_own_pool_again_after():
    before = pa.default_memory_pool().backend_name
    with pytest.raises(RuntimeError, match="inside"), keep_buffers():
        assert pa.default_memory_pool().backend_name == "system"
        raise RuntimeError("inside")
    assert pa.default_memory_pool().backend_name == before

"""Rows that a stream brings, kept until all of them are needed: in memory while they are few, else in DuckDB."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from dataset_tools.storage.duckdb_session import DuckDBSession


class SpillBuffer:
    """Rows in the order they come. DuckDB takes them over, and spills to disk, once they are too many for memory.

    Args:
        session: the rows become its table `name`.
        name: of the table.
        schema: of the rows.
        most_rows, most_bytes: limits of what stays in memory.
    """

    def __init__(
        self, session: DuckDBSession, name: str, schema: pa.Schema, most_rows: float = float("inf"),
        most_bytes: float = float("inf"),
    ) -> None:  # fmt: skip
        self.name, self.rows, self.in_table = name, 0, False
        self.most_rows, self._most_bytes = most_rows, most_bytes
        self._session, self._con = session, session.con.cursor()  # a stream may be open on the session's own
        self._schema, self._bytes = schema, 0
        self._batches: list[pa.RecordBatch] = []

    def add(self, batches: list[pa.RecordBatch]) -> None:
        """Add Arrow record batches of the schema."""
        self.rows += sum(map(len, batches))
        self._bytes += sum(batch.nbytes for batch in batches)
        self._batches += batches
        if self.in_table or self.rows > self.most_rows or self._bytes > self._most_bytes:
            self._store()

    def _store(self) -> None:
        """Move what is in memory to the table."""
        start = f"INSERT INTO {self.name}" if self.in_table else f"CREATE OR REPLACE TABLE {self.name} AS"
        with registered(self._con, "buffered", self._table_in_memory()):
            try:
                self._con.execute(f"{start} SELECT * FROM buffered")
            except self._session.error as error:
                raise self._session.explain(error) from error
        self._batches, self.in_table = [], True

    def _table_in_memory(self) -> pa.Table:
        return pa.Table.from_batches(self._batches, self._schema)

    def pop_batches(self) -> list[pa.RecordBatch]:
        """Return the batches that are in memory, and drop them from the buffer."""
        batches, self._batches = self._batches, []
        return batches

    def as_relation(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which the session's SQL sees the rows as `name`, in memory or not."""
        if self.in_table:
            return contextlib.nullcontext()
        return registered(self._session.con, self.name, self._table_in_memory())


@contextlib.contextmanager
def registered(con: DuckDBPyConnection, name: str, table: pa.Table | pa.RecordBatchReader) -> Iterator[None]:
    """Let the SQL of a connection see an Arrow table as `name`, inside the block."""
    con.register(name, table)
    try:
        yield
    finally:
        con.unregister(name)

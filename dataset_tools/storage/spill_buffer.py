"""Rows that a stream brings, held for what needs all of them: in memory while they are few, else in DuckDB."""

import contextlib

import pyarrow as pa


class Held:
    """Rows in the order they come. DuckDB takes them over, and spills to disk, once they are too many for memory.

    Args:
        duck (Duck): session; the rows become its table `name`.
        name (str): of the table.
        schema (pa.Schema): of the rows.
        most_rows, most_bytes (float): in memory.
    """

    def __init__(self, duck, name, schema, most_rows=float("inf"), most_bytes=float("inf")):
        self.name, self.rows, self.in_table = name, 0, False
        self.most_rows, self._most_bytes = most_rows, most_bytes
        self._duck, self._con = duck, duck.con.cursor()  # a stream may be open on the session's own
        self._schema, self._bytes = schema, 0
        self._batches: list[pa.RecordBatch] = []

    def add(self, batches):
        """Add Arrow record batches of the schema."""
        self.rows += sum(map(len, batches))
        self._bytes += sum(batch.nbytes for batch in batches)
        self._batches += batches
        if self.in_table or self.rows > self.most_rows or self._bytes > self._most_bytes:
            self._store()

    def _store(self):
        """Move what is in memory to the table."""
        start = f"INSERT INTO {self.name}" if self.in_table else f"CREATE OR REPLACE TABLE {self.name} AS"
        with registered(self._con, "held", self._in_memory()):
            try:
                self._con.execute(f"{start} SELECT * FROM held")
            except self._duck.error as error:
                raise self._duck.explain(error) from error
        self._batches, self.in_table = [], True

    def _in_memory(self):
        return pa.Table.from_batches(self._batches, self._schema)

    def pop_batches(self):
        """Return the batches, which are in memory, and let go of them."""
        found, self._batches = self._batches, []
        return found

    def as_relation(self, con=None):
        """Return a context in which SQL, of the session or of `con`, sees the rows as `name`, wherever they are."""
        if self.in_table:
            return contextlib.nullcontext()
        return registered(con or self._duck.con, self.name, self._in_memory())


@contextlib.contextmanager
def registered(con, name, table):
    """Let the SQL of a connection see an Arrow table as `name`, inside."""
    con.register(name, table)
    try:
        yield
    finally:
        con.unregister(name)

"""The lines of all items, formatted while the users are sorted: most by DuckDB, the others by Python."""

from __future__ import annotations

import collections
import itertools
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from dataset_tools.items.item_lines import META_FIELDS, FormattedItems
from dataset_tools.items.item_lines_sql import item_lines_sql
from dataset_tools.items.item_workers import format_chunks
from dataset_tools.items.metadata import Metadata, item_records
from dataset_tools.storage.arrow import string_bytes, string_ends, to_arrow, to_strings
from dataset_tools.storage.spill_buffer import SpillBuffer
from recbole_blair.schema import ITEM_COLUMNS

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from dataset_tools.storage.duckdb_session import DuckDBSession

ITEMS_PER_BATCH = 2_048
CHUNKS_WITHOUT_WORKER = 1  # lists of `ITEMS_PER_BATCH` records that take less time than the start of a process
ITEMS_PER_WORKER = 300_000  # one record in six is left to Python
MOST_BYTES = 1 << 30  # of lines in memory, beside DuckDB's
TEXT_COLUMN = ITEM_COLUMNS.index("text:token")
LINE_SCHEMA = pa.schema(
    [
        ("item", pa.int32()),
        ("line", pa.string()),
        ("text_begin", pa.int32()),  # bytes of the line before the text
        ("text_end", pa.int32()),
        ("characters", pa.int32()),  # of the text, before quotes are rewritten
        ("bad_price", pa.bool_()),
    ]
)


def line_buffer(session: DuckDBSession) -> SpillBuffer:
    """Return an empty buffer for the items' lines, in any order."""
    return SpillBuffer(session, "formatted", LINE_SCHEMA, most_bytes=min(MOST_BYTES, session.memory_bytes() // 4))


def format_items_into(
    lines: SpillBuffer, metadata: Metadata, con: DuckDBPyConnection, stopped: threading.Event, ascii_only: bool,
    threads: int,
) -> None:  # fmt: skip
    """Format the items with metadata: most in DuckDB, the others in Python. The records are dropped.

    Args:
        lines: from `line_buffer`.
        metadata: from `read_metadata`.
        con: DuckDB connection.
        stopped: end early when it is set.
        ascii_only: see `recbole_blair.text.item_text.clean_text`.
        threads: bound of the processes that format.
    """
    with item_records(metadata, con) as source:
        batches = con.sql(item_lines_sql(source, META_FIELDS)).to_arrow_reader(ITEMS_PER_BATCH)
        _add_lines(lines, batches, stopped, ascii_only, threads)


def _add_lines(
    lines: SpillBuffer, batches: Iterable[pa.RecordBatch], stopped: threading.Event, ascii_only: bool, threads: int
) -> None:
    """Add the lines that DuckDB made, and those of the records that it left to Python."""
    in_work: collections.deque[pa.ChunkedArray] = collections.deque()  # item numbers of the chunks that are formatted

    def records() -> Iterator[list[str]]:
        for left in _take_formatted(lines, batches, stopped):
            in_work.append(left.column("item"))
            yield left.column("record").to_pylist()

    chunks = records()
    first = list(itertools.islice(chunks, CHUNKS_WITHOUT_WORKER + 1))
    workers = min(threads, 1 + lines.rows // ITEMS_PER_WORKER) if len(first) > CHUNKS_WITHOUT_WORKER else 0
    for formatted in format_chunks(itertools.chain(first, chunks), ascii_only, workers):
        lines.add([_to_batch(in_work.popleft(), formatted)])


def _take_formatted(
    lines: SpillBuffer, batches: Iterable[pa.RecordBatch], stopped: threading.Event
) -> Iterator[pa.Table]:
    """Add the lines that DuckDB made to `lines`; yield the other records, about `ITEMS_PER_BATCH` at a time."""
    left: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        if stopped.is_set():
            return
        lines.add([batch.select(LINE_SCHEMA.names)])
        left.append(batch.select(["item", "record"]).filter(batch.column("record").is_valid()))
        rows += len(left[-1])
        if rows >= ITEMS_PER_BATCH:
            yield pa.Table.from_batches(left).combine_chunks()
            left, rows = [], 0
    if rows:
        yield pa.Table.from_batches(left).combine_chunks()


def _to_batch(items: pa.ChunkedArray, formatted: FormattedItems) -> pa.RecordBatch:
    lines = to_strings(formatted.lines.split(b"\n"))
    characters, bad_prices = np.array(formatted.lengths, np.int32), np.array(formatted.bad_prices)
    counts = map(to_arrow, (*find_texts(lines), characters, bad_prices))
    return pa.record_batch([items.combine_chunks(), lines, *counts], schema=LINE_SCHEMA)


def find_texts(lines: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    """Return where the text column of each line (n,) begins and ends, in bytes of the line, int32."""
    tabs = np.flatnonzero(np.frombuffer(string_bytes(lines), np.uint8) == ord("\t")).reshape(len(lines), -1)
    ends = string_ends(lines)
    bounds = tabs[:, TEXT_COLUMN - 1 : TEXT_COLUMN + 1] - (ends[:-1] - ends[0])[:, None]
    return bounds[:, 0].astype(np.int32) + 1, bounds[:, 1].astype(np.int32)

"""The lines of the `.item` file, formatted beside the sorting of the users; `item_file` writes them."""

import collections
import itertools

import numpy as np
import pyarrow as pa

from dataset_tools.items.items import META_FIELDS, format_chunks
from dataset_tools.items.metadata import item_records
from dataset_tools.items.plain_items import plain_item_sql
from dataset_tools.storage.arrow import string_bytes, string_ends, to_arrow, to_strings
from dataset_tools.storage.spill_buffer import Held
from recbole_blair.schema import ITEM_COLUMNS

ITEMS_PER_BATCH = 2_048
CHUNKS_WITHOUT_WORKER = 1  # of as many records are formatted sooner than a process has started
ITEMS_A_WORKER = 300_000  # one record in six is left to Python
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


def held_lines(duck):
    """Return an empty Held for the items' lines, in any order."""
    return Held(duck, "formatted", LINE_SCHEMA, most_bytes=min(MOST_BYTES, duck.memory_bytes() // 4))


def format_items_into(lines, metadata, con, stopped, ascii_only, threads):
    """Format the items with metadata: most in DuckDB, in Python those that it leaves. The records are let go of.

    Args:
        lines (Held): from `held_lines`.
        metadata (Metadata): from `read_metadata`.
        con: DuckDB connection.
        stopped (threading.Event): give up when it is set.
        ascii_only (bool): see `recbole_blair.text.item_text.clean_text`.
        threads (int): bound of the processes that format.
    """
    with item_records(metadata, con) as source:
        batches = con.sql(plain_item_sql(source, META_FIELDS)).to_arrow_reader(ITEMS_PER_BATCH)
        _add_lines(lines, batches, stopped, ascii_only, threads)


def _add_lines(lines, batches, stopped, ascii_only, threads):
    """Add the lines that DuckDB made, and those of the records that it leaves."""
    under_way: collections.deque = collections.deque()  # item numbers of the chunks that are formatted

    def records():
        for left in _take_formatted(lines, batches, stopped):
            under_way.append(left.column("item"))
            yield left.column("record").to_pylist()

    chunks = records()
    first = list(itertools.islice(chunks, CHUNKS_WITHOUT_WORKER + 1))
    workers = min(threads, 1 + lines.rows // ITEMS_A_WORKER) if len(first) > CHUNKS_WITHOUT_WORKER else 0
    for chunk in format_chunks(itertools.chain(first, chunks), ascii_only, workers):
        lines.add([_chunk_batch(under_way.popleft(), chunk)])


def _take_formatted(lines, batches, stopped):
    """Add what DuckDB made to `lines`; yield tables of its records, some `ITEMS_PER_BATCH` rows at a time."""
    left, rows = [], 0
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


def _chunk_batch(items, chunk):
    lines = to_strings(chunk.lines.split(b"\n"))
    begin, end = text_bounds(lines)
    counts = (
        to_arrow(np.array(values)) for values in (begin, end, np.array(chunk.lengths, np.int32), chunk.bad_prices)
    )
    return pa.record_batch([items.combine_chunks(), lines, *counts], schema=LINE_SCHEMA)


def text_bounds(lines):
    """Return where the text column of each line (n,) begins and ends, in bytes of the line, int32."""
    tabs = np.flatnonzero(np.frombuffer(string_bytes(lines), np.uint8) == ord("\t")).reshape(len(lines), -1)
    ends = string_ends(lines)
    bounds = tabs[:, TEXT_COLUMN - 1 : TEXT_COLUMN + 1] - (ends[:-1] - ends[0])[:, None]
    return bounds[:, 0].astype(np.int32) + 1, bounds[:, 1].astype(np.int32)

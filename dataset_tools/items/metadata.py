"""The one pass over the metadata: items numbered by their first line, records buffered until they are formatted.

Cleaning rules, with their counts in `<build>.stats.json`:
- `broken_json`: the line is no JSON object, or has no field that is read;
- `empty_or_unusable_ids`: parent_asin is absent, null, empty or unusable;
- `repeated_item`: an earlier metadata line has the same parent_asin; the first is kept.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from dataset_tools.items.item_lines import META_FIELDS, TEXT_FIELDS
from dataset_tools.items.needs_cleaning import find_clean_records
from dataset_tools.raw.raw_files import check_broken, json_lines, reading
from dataset_tools.raw.unusable_ids import are_unusable
from dataset_tools.storage.arrow import string_ends, to_arrow, to_numpy, to_strings
from dataset_tools.storage.spill_buffer import SpillBuffer, registered

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from dataset_tools.storage.duckdb_session import DuckDBSession

LINES_PER_BATCH = 4_096
MOST_BYTES = 1 << 30  # of records in memory, beside DuckDB's
NO_ITEM = -1  # in place of the item, of a line that is not the first of one
NONE = to_strings([])
_SCHEMA = pa.schema([(column, pa.string()) for column in ("item_id", *META_FIELDS)])
_ITEM_SCHEMA = pa.schema([("item", pa.int32()), *_SCHEMA, ("clean", pa.bool_()), ("spaced", pa.bool_())])


class Metadata(NamedTuple):
    """Lines and items of the metadata."""

    records: SpillBuffer  # the lines: item_id and the JSON text of `META_FIELDS`
    item: np.ndarray  # (lines,) int32 item number, or `NO_ITEM`
    item_ids: pa.StringArray  # (items,) by item number
    counts: dict[str, int]  # lines by the name of the rule that they break
    first_broken: int | None  # line, from 0


def load_metadata(session: DuckDBSession, path: Path) -> Metadata:
    """Read a raw file of metadata; return its Metadata.

    Raises:
        InputError: it cannot be read, or is damaged.
    """
    columns = ", ".join(f"{field}: 'JSON'" for field in META_FIELDS)
    source = json_lines(path, f"{{parent_asin: 'VARCHAR', {columns}}}")
    source = f"(SELECT parent_asin AS item_id, * FROM {source})"
    with reading(session, path):
        metadata = read_metadata(session, source, f"metadata {Path(path).name}")
    check_broken(path, metadata.counts["broken_json"], metadata.records.rows, metadata.first_broken)
    return metadata


def read_metadata(session: DuckDBSession, source: str, label: str | None = None) -> Metadata:
    """Stream the metadata of a FROM clause, with the columns item_id and `META_FIELDS`, once; `label` is the bar's."""
    records = SpillBuffer(session, "record", _SCHEMA, most_bytes=min(MOST_BYTES, session.memory_bytes() // 4))
    fields = ", ".join(f"{field}::VARCHAR AS {field}" for field in META_FIELDS)
    id_batches, broken_batches = [NONE], [np.zeros(0, bool)]
    for batch in session.batches(f"SELECT item_id, {fields} FROM {source}", LINES_PER_BATCH, label=label):
        id_batches.append(pa.concat_arrays([NONE, batch.column("item_id")]))  # a copy, which outlives the batch
        broken_batches.append(_are_empty(batch))
        records.add([batch])
    ids, broken = pa.concat_arrays(id_batches), np.concatenate(broken_batches)
    item, usable = number_items(ids)
    n_broken, items = int(np.count_nonzero(broken)), int(np.count_nonzero(item != NO_ITEM))
    counts = {
        "broken_json": n_broken,
        "empty_or_unusable_ids": len(ids) - n_broken - usable,
        "repeated_item": usable - items,
    }
    first_broken = int(np.argmax(broken)) if n_broken else None
    return Metadata(records, item, ids.filter(to_arrow(item != NO_ITEM)), counts, first_broken)


def _are_empty(batch: pa.RecordBatch) -> np.ndarray:
    """Return which rows of a record batch (n,) are null in every column, (n,) bool."""
    empty = np.ones(len(batch), bool)
    for column in batch.columns:
        if not column.null_count:
            return np.zeros(len(batch), bool)
        empty &= to_numpy(column.is_null())
    return empty


@contextlib.contextmanager
def item_records(metadata: Metadata, con: DuckDBPyConnection) -> Iterator[str]:
    """Yield the name, for one statement of `con`, of a stream of the items' records.

    Its columns are item, item_id, `META_FIELDS` as JSON text, and clean and spaced from `find_clean_records`. Records
    in memory are dropped once they are read.
    """
    batches = map(_with_flags, _numbered(metadata, con))
    with registered(con, "item_record", pa.RecordBatchReader.from_batches(_ITEM_SCHEMA, batches)):
        yield "item_record"


def _numbered(metadata: Metadata, con: DuckDBPyConnection) -> Iterator[pa.RecordBatch]:
    """Yield record batches of item and the columns of `records`, the lines of items alone."""
    records = metadata.records
    if records.in_table:
        sql = f"""SELECT item, {", ".join(_SCHEMA.names)} FROM {records.name}
            JOIN item_line ON {records.name}.rowid = line WHERE item <> {NO_ITEM}"""
        lines = pa.table([to_arrow(np.arange(records.rows)), to_arrow(metadata.item)], ["line", "item"])
        own = con.cursor()
        with registered(own, "item_line", lines):
            yield from own.sql(sql).to_arrow_reader(LINES_PER_BATCH)
        return
    first, batches = 0, collections.deque(records.pop_batches())
    while batches:  # each is dropped once it is read
        batch = batches.popleft()
        item = metadata.item[first : first + len(batch)]
        first += len(batch)
        batch = pa.record_batch([to_arrow(item), *batch.columns], ["item", *_SCHEMA.names])
        yield batch if (item != NO_ITEM).all() else batch.filter(to_arrow(item != NO_ITEM))


def _with_flags(batch: pa.RecordBatch) -> pa.RecordBatch:
    flags = find_clean_records([batch.column(field) for field in TEXT_FIELDS])
    return pa.record_batch([*batch.columns, *map(to_arrow, flags)], schema=_ITEM_SCHEMA)


def number_items(ids: pa.StringArray) -> tuple[np.ndarray, int]:
    """Number the items by their first line.

    Args:
        ids: (lines,) item ids.

    Returns:
        item, usable: (lines,) int32 item number, or `NO_ITEM` where the id occurred before or cannot be used; number of
        lines whose id can.
    """
    usable = (np.diff(string_ends(ids)) > 0) & ~are_unusable(ids)
    code = to_numpy(ids.dictionary_encode().indices, NO_ITEM)  # by first occurrence
    first = usable & (code > np.maximum.accumulate(np.append(NO_ITEM, code))[:-1])
    item = np.where(first, np.cumsum(first, dtype=np.int32) - np.int32(1), np.int32(NO_ITEM))
    return item, int(np.count_nonzero(usable))

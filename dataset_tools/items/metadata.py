"""The one pass over the metadata: items numbered by their first line, records held until they are formatted."""

import collections
import contextlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from dataset_tools.conversion import cleaning_rules
from dataset_tools.conversion.unusable_ids import are_unusable
from dataset_tools.items.clean_records import clean_records
from dataset_tools.items.items import META_FIELDS, TEXT_FIELDS
from dataset_tools.raw.raw_files import check_broken, json_lines, reading
from dataset_tools.storage.arrow import string_ends, to_arrow, to_numpy, to_strings
from dataset_tools.storage.spill_buffer import Held, registered

LINES_A_BATCH = 4_096
MOST_BYTES = 1 << 30  # of records in memory, beside DuckDB's
NO_ITEM = -1  # in place of the item, of a line that is not the first of one
NONE = to_strings([])
_SCHEMA = pa.schema([(column, pa.string()) for column in ("item_id", *META_FIELDS)])
_ITEM_SCHEMA = pa.schema([("item", pa.int32()), *_SCHEMA, ("clean", pa.bool_()), ("spaced", pa.bool_())])


class Metadata(NamedTuple):
    """What the metadata holds."""

    records: Held  # its lines: item_id and the JSON text of `META_FIELDS`
    item: np.ndarray  # (lines,) int32 item number, or `NO_ITEM`
    item_ids: pa.StringArray  # (items,) by item number
    counts: dict  # lines by the name of the rule in `META_RULES` that they break
    first_broken: int | None  # line, from 0


def load_metadata(duck, path):
    """Read a raw file of metadata; return its Metadata.

    Raises:
        InputError: it cannot be read, or is damaged.
    """
    columns = ", ".join(f"{field}: 'JSON'" for field in META_FIELDS)
    source = json_lines(path, f"{{parent_asin: 'VARCHAR', {columns}}}")
    with reading(duck, path):
        found = read_metadata(duck, f"(SELECT parent_asin AS item_id, * FROM {source})", f"metadata {Path(path).name}")
    check_broken(path, found.counts["broken_json"], found.records.rows, found.first_broken)
    return found


def read_metadata(duck, source, label=None):
    """Stream the metadata of a FROM clause, with the columns item_id and `META_FIELDS`, once; `label` of the bar."""
    records = Held(duck, "record", _SCHEMA, most_bytes=min(MOST_BYTES, duck.memory_bytes() // 4))
    fields = ", ".join(f"{field}::VARCHAR AS {field}" for field in META_FIELDS)
    ids, broken = [NONE], [np.zeros(0, bool)]
    for batch in duck.batches(f"SELECT item_id, {fields} FROM {source}", LINES_A_BATCH, label=label):
        ids.append(pa.concat_arrays([NONE, batch.column("item_id")]))  # a copy, which outlives the batch
        broken.append(_are_empty(batch))
        records.add([batch])
    ids, broken = pa.concat_arrays(ids), np.concatenate(broken)
    item, usable = number_items(ids)
    n_broken, items = int(np.count_nonzero(broken)), int(np.count_nonzero(item != NO_ITEM))
    counts = dict(
        zip((rule.name for rule in cleaning_rules.META_RULES), (n_broken, len(ids) - n_broken - usable, usable - items))
    )
    first_broken = int(np.argmax(broken)) if n_broken else None
    return Metadata(records, item, ids.filter(to_arrow(item != NO_ITEM)), counts, first_broken)


def _are_empty(batch):
    """Tell which rows of a record batch hold nothing."""
    empty = np.ones(len(batch), bool)
    for column in batch.columns:
        if not column.null_count:
            return np.zeros(len(batch), bool)
        empty &= to_numpy(column.is_null())
    return empty


@contextlib.contextmanager
def item_records(metadata, con):
    """Yield the name, for one statement of `con`, of a stream of the items' records.

    Its columns are item, item_id, `META_FIELDS` as JSON text, and clean and spaced from `clean_records`. Records in
    memory are let go of as they stream by.
    """
    batches = map(_with_flags, _numbered(metadata, con))
    with registered(con, "item_record", pa.RecordBatchReader.from_batches(_ITEM_SCHEMA, batches)):
        yield "item_record"


def _numbered(metadata, con):
    """Yield record batches of item and the columns of `records`, the lines of items alone."""
    records = metadata.records
    if records.in_table:
        sql = f"""SELECT item, {", ".join(_SCHEMA.names)} FROM {records.name}
            JOIN item_line ON {records.name}.rowid = line WHERE item <> {NO_ITEM}"""
        lines = pa.table([to_arrow(np.arange(records.rows)), to_arrow(metadata.item)], ["line", "item"])
        own = con.cursor()
        with registered(own, "item_line", lines):
            yield from own.sql(sql).to_arrow_reader(LINES_A_BATCH)
        return
    first, batches = 0, collections.deque(records.pop_batches())
    while batches:  # none is held longer than it is needed
        batch = batches.popleft()
        item = metadata.item[first : first + len(batch)]
        first += len(batch)
        batch = pa.record_batch([to_arrow(item), *batch.columns], ["item", *_SCHEMA.names])
        yield batch if (item != NO_ITEM).all() else batch.filter(to_arrow(item != NO_ITEM))


def _with_flags(batch):
    flags = clean_records([batch.column(field) for field in TEXT_FIELDS])
    return pa.record_batch([*batch.columns, *map(to_arrow, flags)], schema=_ITEM_SCHEMA)


def number_items(ids):
    """Number the items by their first line.

    Args:
        ids (pa.StringArray): (lines,) item ids.

    Returns:
        item, usable: (lines,) int32 item number, or `NO_ITEM` where the id occurred before or cannot be used; number of
        lines whose id can.
    """
    usable = (np.diff(string_ends(ids)) > 0) & ~are_unusable(ids)
    code = to_numpy(ids.dictionary_encode().indices, NO_ITEM)  # by first occurrence
    first = usable & (code > np.maximum.accumulate(np.append(NO_ITEM, code))[:-1])
    item = np.where(first, np.cumsum(first, dtype=np.int32) - np.int32(1), np.int32(NO_ITEM))
    return item, int(np.count_nonzero(usable))

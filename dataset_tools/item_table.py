"""The lines of the `.item` file: formatted beside the sorting of the users, then written in the order of the file."""

import collections
import hashlib
import itertools

import numpy as np
import pyarrow as pa

from dataset_tools.arrow import string_bytes, string_ends, to_arrow, to_numpy, to_strings
from dataset_tools.held import Held
from dataset_tools.items import META_FIELDS, format_chunks
from dataset_tools.metadata import item_records
from dataset_tools.plain_items import plain_item_sql
from recbole_blair.memory import no_collection
from recbole_blair.schema import ITEM_COLUMNS

ITEMS_PER_BATCH = 2_048
CHUNKS_WITHOUT_WORKER = 1  # of as many records are formatted sooner than a process has started
ITEMS_A_WORKER = 300_000  # one record in six is left to Python
MOST_BYTES = 1 << 30  # of lines in memory, beside DuckDB's
TEXT_COLUMN = ITEM_COLUMNS.index("text:token")
_LINE_SCHEMA = pa.schema(
    [
        ("item", pa.int32()),
        ("line", pa.string()),
        ("text_begin", pa.int32()),  # bytes of the line before the text
        ("text_end", pa.int32()),
        ("characters", pa.int32()),  # of the text, before quotes are rewritten
        ("bad_price", pa.bool_()),
    ]
)


class ItemCounts:
    """What the `.item` file holds: number, hashes, and the characters of the text as Table 3 counts them."""

    def __init__(self):
        self.items = 0
        self.characters = 0  # of the first `table3_items` texts, before quotes are rewritten
        self.without_text = 0
        self.bad_prices = 0
        self._ids = hashlib.sha256()
        self._texts = hashlib.sha256()

    def add(self, ids, texts, characters, bad_prices, table3_items):
        """Count items: ids and texts (lists of bytes), characters and bad prices (n,), and feed both hashes."""
        lead = b"\n" if self.items else b""
        self._ids.update(lead + b"\n".join(ids))
        self._texts.update(lead + b"\n".join(texts))
        self.characters += int(characters[: max(0, table3_items - self.items)].sum())
        self.without_text += len(characters) - int(np.count_nonzero(characters))
        self.bad_prices += int(np.count_nonzero(bad_prices))
        self.items += len(characters)

    def hashes(self):
        """Return (ids hash, text hash), equal to those of `recbole_blair.text.item_text`."""
        return self._ids.hexdigest(), self._texts.hexdigest()


def held_lines(duck):
    """Return an empty Held for the items' lines, in any order."""
    return Held(duck, "formatted", _LINE_SCHEMA, most_bytes=min(MOST_BYTES, duck.memory_bytes() // 4))


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
        lines.add([batch.select(_LINE_SCHEMA.names)])
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
    return pa.record_batch([items.combine_chunks(), lines, *counts], schema=_LINE_SCHEMA)


def text_bounds(lines):
    """Return where the text column of each line (n,) begins and ends, in bytes of the line, int32."""
    tabs = np.flatnonzero(np.frombuffer(string_bytes(lines), np.uint8) == ord("\t")).reshape(len(lines), -1)
    ends = string_ends(lines)
    bounds = tabs[:, TEXT_COLUMN - 1 : TEXT_COLUMN + 1] - (ends[:-1] - ends[0])[:, None]
    return bounds[:, 0].astype(np.int32) + 1, bounds[:, 1].astype(np.int32)


class Lines:
    """Record batches of lines, some rows without one; taken by place, none is copied before it is written."""

    def __init__(self, batches):
        table = pa.Table.from_batches(batches, _LINE_SCHEMA)
        self.item, self.has_line = to_numpy(table.column("item")), to_numpy(table.column("line").is_valid())
        self._numbers = [to_numpy(table.column(name)) for name in ("text_begin", "text_end", "characters", "bad_price")]
        lines = [batch.column("line") for batch in batches]
        self._texts = [string_bytes(strings) for strings in lines]
        ends = [string_ends(strings) - string_ends(strings)[0] for strings in lines]
        self._chunk = np.repeat(np.arange(len(lines)), [len(strings) for strings in lines])
        self._begin = np.concatenate([e[:-1] for e in ends])
        self._end = np.concatenate([e[1:] for e in ends])

    def take(self, place):
        """Return lines and texts (lists of bytes), characters and bad prices (n,) at `place` (n,)."""
        at = (self._chunk[place], self._begin[place], self._end[place])
        lines = [self._texts[chunk][begin:end] for chunk, begin, end in zip(*(values.tolist() for values in at))]
        begin, end, characters, bad_prices = (values[place] for values in self._numbers)
        texts = [line[b:e] for line, b, e in zip(lines, begin.tolist(), end.tolist())]
        return lines, texts, characters, bad_prices


def taken_lines(duck, lines, order):
    """Yield what `Lines.take` returns of the items `order` (n,), in that order, some at a time; from a Held."""
    if lines.in_table:
        yield from _stored_lines(duck, lines.name, order)
        return
    found = Lines(lines.pop_batches())
    place = np.empty(len(found.item), np.int64)
    place[found.item[found.has_line]] = np.flatnonzero(found.has_line)
    for start in range(0, len(order), ITEMS_PER_BATCH):
        yield found.take(place[order[start : start + ITEMS_PER_BATCH]])


def _stored_lines(duck, name, order):
    ranks = pa.table([to_arrow(order.astype(np.int32)), to_arrow(np.arange(len(order)))], ["item", "position"])
    duck.con.register("ranks", ranks)
    columns = ", ".join(_LINE_SCHEMA.names)
    sql = f"SELECT {columns} FROM {name} JOIN ranks USING (item) WHERE line IS NOT NULL ORDER BY position"
    for batch in duck.batches(sql, ITEMS_PER_BATCH):
        yield Lines([batch]).take(np.arange(len(batch)))
    duck.con.unregister("ranks")


def write_items(taken, ids, file, table3_items, bar):
    """Write the `.item` file.

    Args:
        taken (iterable): from `taken_lines`.
        ids (pa.StringArray): (n,) of the same items.
        file: open for writing bytes.
        table3_items (int): leading items that occur in a row, over which the mean text length is taken.
        bar (tqdm): advanced by items.

    Returns:
        ItemCounts: see there.
    """
    counts = ItemCounts()
    file.write("\t".join(ITEM_COLUMNS).encode())
    with no_collection():  # a slice of a buffer is an object that it counts: a fifth of the time
        for lines, texts, characters, bad_prices in taken:
            file.write(b"\n")
            file.write(b"\n".join(lines))
            mine = ids[counts.items : counts.items + len(lines)].cast(pa.binary()).to_pylist()
            counts.add(mine, texts, characters, bad_prices, table3_items)
            bar.update(len(lines))
    file.write(b"\n")
    return counts

"""The lines of the `.item` file: formatted beside the reviews into a table, then written in the order of the file."""

import collections
import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataset_tools.arrow import to_arrow, to_numpy, to_string, to_strings
from dataset_tools.items import META_FIELDS, format_chunks
from dataset_tools.plain_items import plain_item_sql
from dataset_tools.rows import string_bytes
from recbole_blair.schema import ITEM_COLUMNS

ITEMS_PER_BATCH = 2_048
RECORDS_WITHOUT_WORKER = 2_000  # are formatted sooner than a process has started
TEXT_COLUMN = ITEM_COLUMNS.index("text:token")
RECORDS_A_WORKER = 50_000


class ItemCounts:
    """What the `.item` file holds: number, hashes, and the characters of the text as Table 3 counts them."""

    def __init__(self):
        self.items = 0
        self.characters = 0  # of the first `table3_items` texts, before quotes are rewritten
        self.without_text = 0
        self.bad_prices = 0
        self._ids = hashlib.sha256()
        self._texts = hashlib.sha256()

    def add(self, batch, table3_items):
        """Count the items of an Arrow record batch from `item_batches`; feed ids and texts into the hashes."""
        lead = b"\n" if self.items else b""
        for digest, column in ((self._ids, batch.column("item_id")), (self._texts, texts_of(batch.column("line")))):
            digest.update(lead)
            digest.update(join_lines(column))
        lengths = to_numpy(batch.column("characters"))
        self.characters += int(lengths[: max(0, table3_items - self.items)].sum())
        self.without_text += len(lengths) - int(np.count_nonzero(lengths))
        self.bad_prices += batch.column("bad_price").true_count
        self.items += len(lengths)

    def hashes(self):
        """Return (ids hash, text hash), equal to those of `recbole_blair.text.item_text`."""
        return self._ids.hexdigest(), self._texts.hexdigest()


def join_lines(strings):
    """Return the bytes of an Arrow string array, joined by newlines."""
    ends = np.array([0, len(strings)], np.int32)
    return pc.binary_join(pa.ListArray.from_arrays(to_arrow(ends), strings), to_string(b"\n"))[0].as_buffer()


def texts_of(lines):
    """Return the text column of lines (n,) as an Arrow string array."""
    data = string_bytes(lines)
    tabs = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\t")).reshape(len(lines), -1)
    ends = tabs[:, TEXT_COLUMN - 1 : TEXT_COLUMN + 1] + np.array([1, 0])  # of what precedes a text, of the text
    ends = np.append(np.int32(0), ends.astype(np.int32).ravel())
    cells = pa.StringArray.from_buffers(len(ends) - 1, pa.py_buffer(ends), pa.py_buffer(data))
    return cells.take(to_arrow(np.arange(1, len(cells), 2)))


def format_table(con, stopped, ascii_only, threads):
    """Make table `formatted` (item, item_id, line, characters, bad_price, record) of the items with metadata.

    Items that DuckDB did not format are there twice: with a record and no line, then with the line that Python made.

    Args:
        con: DuckDB connection with the tables `meta` and `item`.
        stopped (threading.Event): give up when it is set.
        ascii_only (bool): see `recbole_blair.text.item_text.clean_text`.
        threads (int): bound of the processes that format.
    """
    source = f"(SELECT item.item_id, item, {', '.join(META_FIELDS)} FROM meta JOIN item ON meta.rowid = item.line)"
    con.execute(f"CREATE TABLE formatted AS {plain_item_sql(source, META_FIELDS)}")
    left = con.sql("SELECT count(record) FROM formatted").fetchall()[0][0]
    workers = min(threads, 1 + left // RECORDS_A_WORKER) if left > RECORDS_WITHOUT_WORKER else 0
    held: collections.deque = collections.deque()  # item numbers of the chunks under way

    def records():
        for batch in (
            con.cursor()
            .sql("SELECT item, record FROM formatted WHERE record IS NOT NULL")
            .to_arrow_reader(ITEMS_PER_BATCH)
        ):
            if stopped.is_set():
                return
            held.append(batch.column("item"))
            yield batch.column("record").to_pylist()

    for chunk in format_chunks(records(), ascii_only, workers):
        con.register("rewritten", _chunk_table(held.popleft(), chunk))
        con.execute("INSERT INTO formatted BY NAME SELECT * FROM rewritten")
        con.unregister("rewritten")


def _chunk_table(items, chunk):
    lines, ids = (to_strings(column.split(b"\n")) for column in (chunk.lines, chunk.ids))
    counts = (to_arrow(np.array(values)) for values in (chunk.lengths, chunk.bad_prices))
    return pa.table([items, ids, lines, *counts], ["item", "item_id", "line", "characters", "bad_price"])


def item_batches(duck, order):
    """Yield the rows of table `formatted` of the items `order` (n,), in that order, as Arrow record batches."""
    ranks = pa.table([to_arrow(order.astype(np.int32)), to_arrow(np.arange(len(order)))], ["item", "position"])
    duck.con.register("ranks", ranks)
    yield from duck.batches(
        """SELECT item_id, line, characters::BIGINT AS characters, bad_price FROM formatted
        JOIN ranks USING (item) WHERE line IS NOT NULL ORDER BY position""",
        ITEMS_PER_BATCH,
    )
    duck.con.unregister("ranks")


def write_items(batches, file, table3_items, bar):
    """Write the `.item` file.

    Args:
        batches (iterable): from `item_batches`.
        file: open for writing bytes.
        table3_items (int): leading items that occur in a row, over which the mean text length is taken.
        bar (tqdm): advanced by items.

    Returns:
        ItemCounts: see there.
    """
    counts = ItemCounts()
    file.write("\t".join(ITEM_COLUMNS).encode())
    for batch in batches:
        file.write(b"\n")
        file.write(join_lines(batch.column("line")))
        counts.add(batch, table3_items)
        bar.update(len(batch))
    file.write(b"\n")
    return counts

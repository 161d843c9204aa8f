"""The `.item` file: its lines, in the order in which the rows show the items, written while rows are still made."""

import contextlib
import hashlib
import queue

import numpy as np
import pyarrow as pa

from dataset_tools.items.item_table import ITEMS_PER_BATCH, LINE_SCHEMA, format_items_into, held_lines
from dataset_tools.storage.arrow import string_bytes, string_ends, take_strings, to_arrow, to_numpy
from dataset_tools.storage.disk_file import DiskFile
from dataset_tools.storage.spill_buffer import registered
from recbole_blair.ops import no_collection
from recbole_blair.schema import ITEM_COLUMNS


class ItemWriter:
    """Formats the items and writes the `.item` file in a thread of its own, in the order in which they are named.

    Left without `finish`, it stops soon.

    Args:
        duck (Duck): session.
        metadata (Metadata): from `read_metadata`.
        path (Path): of the file.
        ascii_text (bool): see `recbole_blair.text.item_text.clean_text`.
    """

    def __init__(self, duck, metadata, path, ascii_text):
        self._duck, self._metadata, self._path, self._ascii_text = duck, metadata, path, ascii_text
        self._lines, self._counts = held_lines(duck), ItemCounts()
        self._named = 0  # items
        self._queue: queue.SimpleQueue = queue.SimpleQueue()  # of arrays of items; None is the end
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        self._wait = self._stack.enter_context(self._duck.beside(self._work))
        self._stack.callback(self._queue.put, None)
        return self

    def __exit__(self, *failure):
        return self._stack.__exit__(*failure)

    def _work(self, con, stopped):
        format_items_into(self._lines, self._metadata, con, stopped, self._ascii_text, self._duck.threads)
        if not stopped.is_set():
            with DiskFile(self._path) as file:
                taken = taken_lines(self._lines, con, self._order(stopped))
                write_items(taken, self._metadata.item_ids, file, self._counts)
                file.finish()

    def _order(self, stopped):
        while (items := self._queue.get()) is not None and not stopped.is_set():
            yield items

    def add(self, items):
        """Name the next items (n,), each once in all."""
        self._named += len(items)
        self._queue.put(items)

    def finish(self):
        """Write the rest; return the ItemCounts."""
        from tqdm import tqdm

        self._queue.put(None)
        counts = self._counts
        with tqdm(total=self._named, desc="item texts", unit="item", disable=not self._duck.progress) as bar:
            self._wait(lambda: bar.update(counts.items - bar.n))
            bar.update(counts.items - bar.n)
        return counts


class ItemCounts:
    """What the `.item` file holds: number, hashes, and the characters of the text as Table 3 counts them."""

    def __init__(self):
        self.items = 0
        self.without_text = 0
        self.bad_prices = 0
        self._characters: list[np.ndarray] = []  # of each text, before quotes are rewritten
        self._ids = hashlib.sha256()
        self._texts = hashlib.sha256()

    def add(self, ids, texts, characters, bad_prices):
        """Count items: ids and texts (lists of bytes), characters and bad prices (n,), and feed both hashes."""
        lead = b"\n" if self.items else b""
        self._ids.update(lead + b"\n".join(ids))
        self._texts.update(lead + b"\n".join(texts))
        self._characters.append(characters)
        self.without_text += len(characters) - int(np.count_nonzero(characters))
        self.bad_prices += int(np.count_nonzero(bad_prices))
        self.items += len(characters)

    def characters(self, items):
        """Return the characters of the first `items` texts."""
        return int(np.concatenate([*self._characters, np.zeros(0, np.int32)])[:items].sum())

    def hashes(self):
        """Return (ids hash, text hash), equal to those of `recbole_blair.text.item_text`."""
        return self._ids.hexdigest(), self._texts.hexdigest()


class Lines:
    """Record batches of lines, some rows without one; taken by place, none is copied before it is written."""

    def __init__(self, batches):
        table = pa.Table.from_batches(batches, LINE_SCHEMA)
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


def taken_lines(lines, con, order):
    """Yield items (n,) and what `Lines.take` returns of them, some at a time.

    Args:
        lines (Held): from `held_lines`; those in memory are let go of at the end.
        con: DuckDB connection.
        order (iterable of ndarray): numbers of the items, in the order of the file.
    """
    if lines.in_table:  # sorted once, so when the whole order is known
        yield from _stored_lines(lines, con, np.concatenate([np.zeros(0, np.int64), *order]))
        return
    found = Lines(lines.pop_batches())
    place = np.empty(len(found.item), np.int64)
    place[found.item[found.has_line]] = np.flatnonzero(found.has_line)
    for items in order:
        for start in range(0, len(items), ITEMS_PER_BATCH):
            some = items[start : start + ITEMS_PER_BATCH]
            yield some, *found.take(place[some])


def _stored_lines(lines, con, order):
    ranks = pa.table([to_arrow(order.astype(np.int32)), to_arrow(np.arange(len(order)))], ["item", "position"])
    columns = ", ".join(LINE_SCHEMA.names)
    sql = f"SELECT {columns} FROM {lines.name} JOIN ranks USING (item) WHERE line IS NOT NULL ORDER BY position"
    with registered(con, "ranks", ranks):
        for batch in con.sql(sql).to_arrow_reader(ITEMS_PER_BATCH):
            yield to_numpy(batch.column("item")), *Lines([batch]).take(np.arange(len(batch)))


def write_items(taken, item_ids, file, counts):
    """Write the `.item` file.

    Args:
        taken (iterable): from `taken_lines`.
        item_ids (pa.StringArray): (items,) by item number.
        file: open for writing bytes.
        counts (ItemCounts): of what is written.
    """
    file.write("\t".join(ITEM_COLUMNS).encode())
    with no_collection():  # a slice of a buffer is an object that it counts: a fifth of the time
        for items, lines, texts, characters, bad_prices in taken:
            file.write(b"\n")
            file.write(b"\n".join(lines))
            ids = take_strings(item_ids, items).cast(pa.binary()).to_pylist()
            counts.add(ids, texts, characters, bad_prices)
    file.write(b"\n")

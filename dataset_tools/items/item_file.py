"""The `.item` file: its lines, in the order in which the items occur in the rows, written while rows are still made."""

from __future__ import annotations

import contextlib
import hashlib
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from dataset_tools.items.format_items import ITEMS_PER_BATCH, LINE_SCHEMA, format_items_into, line_buffer
from dataset_tools.items.metadata import Metadata
from dataset_tools.storage.arrow import string_bytes, string_ends, to_arrow, to_numpy
from dataset_tools.storage.spill_buffer import SpillBuffer, registered
from dataset_tools.storage.synced_file import SyncedFile
from recbole_blair.ops import no_collection
from recbole_blair.schema import ITEM_COLUMNS

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from dataset_tools.storage.duckdb_session import DuckDBSession


class ItemWriter:
    """Formats the items and writes the `.item` file in a thread of its own, in the order in which they are added.

    A block that ends without `finish` stops the thread soon.

    Args:
        session: DuckDB session.
        metadata: from `read_metadata`.
        path: of the file.
        ascii_text: see `recbole_blair.text.item_text.clean_text`.
    """

    def __init__(self, session: DuckDBSession, metadata: Metadata, path: Path, ascii_text: bool) -> None:
        self._session, self._metadata, self._path, self._ascii_text = session, metadata, path, ascii_text
        self._lines, self._counts = line_buffer(session), ItemCounts()
        self._added = 0  # items
        self._queue: queue.SimpleQueue[np.ndarray | None] = queue.SimpleQueue()  # of arrays of items; None is the end
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> ItemWriter:
        self._wait = self._stack.enter_context(self._session.run_beside(self._work))
        self._stack.callback(self._queue.put, None)
        return self

    def __exit__(self, *failure: object) -> None:
        self._stack.__exit__(*failure)  # type: ignore[arg-type]

    def _work(self, con: DuckDBPyConnection, stopped: threading.Event) -> None:
        format_items_into(self._lines, self._metadata, con, stopped, self._ascii_text, self._session.threads)
        if not stopped.is_set():
            with SyncedFile(self._path) as file:
                lines = take_lines(self._lines, con, self._take_added(stopped))
                write_items(lines, self._metadata.item_ids, file, self._counts)
                file.finish()

    def _take_added(self, stopped: threading.Event) -> Iterator[np.ndarray]:
        while (items := self._queue.get()) is not None and not stopped.is_set():
            yield items

    def add(self, items: np.ndarray) -> None:
        """Append the next items (n,); no item may be added twice."""
        self._added += len(items)
        self._queue.put(items)

    def finish(self) -> ItemCounts:
        """Write the rest; return the counts."""
        self._queue.put(None)
        counts = self._counts
        with tqdm(total=self._added, desc="item texts", unit="item", disable=not self._session.progress) as bar:
            self._wait(lambda: bar.update(counts.items - bar.n))
            bar.update(counts.items - bar.n)
        return counts


class ItemCounts:
    """What the `.item` file holds: number, hashes, and the characters of the text as Table 3 counts them."""

    def __init__(self) -> None:
        self.items = 0
        self.without_text = 0
        self.bad_prices = 0
        self._characters: list[np.ndarray] = []  # of each text, before quotes are rewritten
        self._ids = hashlib.sha256()
        self._texts = hashlib.sha256()

    def add(self, ids: Sequence[bytes], texts: Sequence[bytes], characters: np.ndarray, bad_prices: np.ndarray) -> None:
        """Count n items and update both hashes; `characters` and `bad_prices` are (n,)."""
        lead = b"\n" if self.items else b""
        self._ids.update(lead + b"\n".join(ids))
        self._texts.update(lead + b"\n".join(texts))
        self._characters.append(characters)
        self.without_text += len(characters) - int(np.count_nonzero(characters))
        self.bad_prices += int(np.count_nonzero(bad_prices))
        self.items += len(characters)

    def characters(self, items: int) -> int:
        """Return the characters of the first `items` texts."""
        return int(np.concatenate([*self._characters, np.zeros(0, np.int32)])[:items].sum())

    def hashes(self) -> tuple[str, str]:
        """Return (ids hash, text hash), equal to those of `recbole_blair.text.item_text`."""
        return self._ids.hexdigest(), self._texts.hexdigest()


class Writable(Protocol):
    """What takes bytes: a file, a `SyncedFile`."""

    def write(self, data: bytes, /) -> object: ...


# Items (n,), their lines and texts (n each), characters and bad prices (n,)
ItemBatch = tuple[np.ndarray, list[bytes], list[bytes], np.ndarray, np.ndarray]


class Lines:
    """Record batches of lines, some rows without one; taken by position, none is copied before it is written."""

    def __init__(self, batches: Sequence[pa.RecordBatch]) -> None:
        table = pa.Table.from_batches(batches, LINE_SCHEMA)
        self.item, self.has_line = to_numpy(table.column("item")), to_numpy(table.column("line").is_valid())
        self._numbers = [to_numpy(table.column(name)) for name in ("text_begin", "text_end", "characters", "bad_price")]
        lines = [batch.column("line") for batch in batches]
        self._texts = [string_bytes(strings) for strings in lines]
        ends = [string_ends(strings) - string_ends(strings)[0] for strings in lines]
        self._chunk = np.repeat(np.arange(len(lines)), [len(strings) for strings in lines])
        self._begin = np.concatenate([e[:-1] for e in ends])
        self._end = np.concatenate([e[1:] for e in ends])

    def take(self, items: np.ndarray, position: np.ndarray) -> ItemBatch:
        """Return the ItemBatch of the items (n,), whose lines are at `position` (n,)."""
        at = (self._chunk[position], self._begin[position], self._end[position])
        lines = [self._texts[chunk][begin:end] for chunk, begin, end in zip(*(values.tolist() for values in at))]
        begin, end, characters, bad_prices = (values[position] for values in self._numbers)
        texts = [line[b:e] for line, b, e in zip(lines, begin.tolist(), end.tolist())]
        return items, lines, texts, characters, bad_prices


def take_lines(lines: SpillBuffer, con: DuckDBPyConnection, order: Iterable[np.ndarray]) -> Iterator[ItemBatch]:
    """Yield the items' lines, some at a time.

    Args:
        lines: from `line_buffer`; those in memory are dropped at the end.
        con: DuckDB connection.
        order: numbers of the items, in the order of the file.
    """
    if lines.in_table:  # sorted once, so when the whole order is known
        yield from _stored_lines(lines, con, np.concatenate([np.zeros(0, np.int64), *order]))
        return
    in_memory = Lines(lines.pop_batches())
    position = np.empty(len(in_memory.item), np.int64)
    position[in_memory.item[in_memory.has_line]] = np.flatnonzero(in_memory.has_line)
    for items in order:
        for start in range(0, len(items), ITEMS_PER_BATCH):
            some = items[start : start + ITEMS_PER_BATCH]
            yield in_memory.take(some, position[some])


def _stored_lines(lines: SpillBuffer, con: DuckDBPyConnection, order: np.ndarray) -> Iterator[ItemBatch]:
    ranks = pa.table([to_arrow(order.astype(np.int32)), to_arrow(np.arange(len(order)))], ["item", "position"])
    columns = ", ".join(LINE_SCHEMA.names)
    sql = f"SELECT {columns} FROM {lines.name} JOIN ranks USING (item) WHERE line IS NOT NULL ORDER BY position"
    with registered(con, "ranks", ranks):
        for batch in con.sql(sql).to_arrow_reader(ITEMS_PER_BATCH):
            yield Lines([batch]).take(to_numpy(batch.column("item")), np.arange(len(batch)))


def write_items(batches: Iterable[ItemBatch], item_ids: pa.StringArray, file: Writable, counts: ItemCounts) -> None:
    """Write the `.item` file.

    Args:
        batches: from `take_lines`.
        item_ids: (items,) by item number.
        file: open for writing bytes.
        counts: of what is written; updated here.
    """
    file.write("\t".join(ITEM_COLUMNS).encode())
    with no_collection():  # each slice of a buffer is an object that the collector counts: a fifth of the time
        for items, lines, texts, characters, bad_prices in batches:
            file.write(b"\n")
            file.write(b"\n".join(lines))
            ids = item_ids.take(to_arrow(items)).cast(pa.binary()).to_pylist()
            counts.add(ids, texts, characters, bad_prices)
    file.write(b"\n")

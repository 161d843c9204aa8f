"""Raw metadata in, the `.item` file out: one line an item, hashes and lengths gathered on the way."""

import collections
import contextlib
import hashlib
import json
import math
import re
from typing import NamedTuple

from dataset_tools.plain_items import RECIPE
from recbole_blair.schema import ITEM_COLUMNS
from recbole_blair.text.item_text import RECIPES, atomic_text, clean_list, join_fields

META_FIELDS = ("title", "features", "categories", "description", "store", "price")
DECIMAL_COMMA = re.compile(r"(\d+|\d{1,3}(\.\d{3})+),\d{1,2}")
TEXT_FIELDS = META_FIELDS[:-1]
TEXT_COLUMN = 2  # of a line
RECORDS_BEFORE_WORKERS = 20_000  # fewer are formatted sooner than processes have started


class Chunk(NamedTuple):
    """Some items, formatted; bytes, so that a process can hand them to another as they are."""

    lines: bytes  # of the file, each with its newline
    ids: bytes  # joined by newlines
    texts: bytes  # as the file holds them, joined by newlines
    lengths: list  # characters of each text before quotes are rewritten
    bad_prices: int  # prices that are no number


class ItemCounts:
    """What the `.item` file holds: number, hashes, and the characters of the text as Table 3 counts them."""

    def __init__(self):
        self.items = 0
        self.characters = 0  # of the first `table3_items` texts, before quotes are rewritten
        self.without_text = 0
        self.bad_prices = 0
        self._ids = hashlib.sha256()
        self._texts = hashlib.sha256()

    def add(self, chunk, table3_items):
        """Count the items of a `Chunk` and feed its ids and texts into the hashes (`ids_hash`, `text_hash`)."""
        if not chunk.lengths:
            return
        lead = b"\n" if self.items else b""
        for digest, text in ((self._ids, chunk.ids), (self._texts, chunk.texts)):
            digest.update(lead)
            digest.update(text)
        self.characters += sum(chunk.lengths[: max(0, table3_items - self.items)])
        self.without_text += chunk.lengths.count(0)
        self.bad_prices += chunk.bad_prices
        self.items += len(chunk.lengths)

    def hashes(self):
        """Return (ids hash, text hash), equal to those of `recbole_blair.text.item_text`."""
        return self._ids.hexdigest(), self._texts.hexdigest()


def parse_price(value):
    """Return (text, is_bad) of a raw price: "$1,299.00" gives 1299.0; what is no finite number gives "".

    A comma before one or two last digits is a decimal one: "1.299,00" gives 1299.0 too.
    """
    if value is None or value == "":
        return "", False
    text = str(value).replace("$", "").strip()
    if DECIMAL_COMMA.fullmatch(text):
        text = text.replace(".", "").replace(",", ".")
    try:
        price = float(text.replace(",", ""))
    except ValueError:
        return "", True
    return (repr(price), False) if math.isfinite(price) and price >= 0 else ("", True)


def format_item(item_id, meta, ascii_only, plain=False):
    """Return (line, text, characters, bad_price) of one item; the line has no newline.

    The words of one category are joined by `_`: a token holds no space.

    Args:
        item_id (str): token.
        meta (list): values of `META_FIELDS`.
        ascii_only (bool): see `recbole_blair.text.item_text.clean_text`.
        plain (bool): nothing in `meta` needs cleaning (`is_plain`); same result, sooner.
    """
    if plain:
        return _format_plain(item_id, *map(_strip_list, meta[:-1]), meta[-1])
    cleaned = {field: clean_list(value, ascii_only) for field, value in zip(TEXT_FIELDS, meta)}
    text = join_fields([cleaned[field] for field in RECIPES[RECIPE]])
    price, bad_price = parse_price(meta[-1])
    written = atomic_text(text)
    categories = " ".join([category.replace(" ", "_") for category in cleaned["categories"]])
    title, store = ", ".join(cleaned["title"]), ", ".join(cleaned["store"])
    line = f"{item_id}\t{atomic_text(title)}\t{written}\t{atomic_text(categories)}\t{atomic_text(store)}\t{price}"
    return line, written, len(text), bad_price


def _format_plain(item_id, title, features, categories, description, store, price):
    """Do the work of `format_item` for stripped fields without double quotes."""
    text = join_fields((title, features, categories, description))
    price, bad_price = parse_price(price)
    tokens = "\t".join(categories).replace(" ", "_").replace("\t", " ")
    return f"{item_id}\t{', '.join(title)}\t{text}\t{tokens}\t{', '.join(store)}\t{price}", text, len(text), bad_price


def is_plain(record):
    """Tell whether the strings of a JSON text are clean but for spaces at their ends; most records are.

    No escape (so no quote, control or hidden non-ASCII character), no tag, no entity: an ampersand before a space
    begins none.
    """
    return (
        record.isascii()
        and "\\" not in record
        and "<" not in record
        and "  " not in record
        and record.count("&") == record.count("& ")
        and "\x7f" not in record  # JSON holds every other control character as an escape
    )


def _strip_list(raw):
    """Do the work of `clean_list` for a value of a record that `is_plain`."""
    if raw is None:
        return []
    if isinstance(raw, str):
        raw = raw.strip()
        return [raw] if raw else []
    values = raw if isinstance(raw, list) else [raw]
    return [text for value in values if value is not None and (text := str(value).strip())]


def format_items(records, ascii_only):
    """Format one chunk.

    Args:
        records (list of str): JSON arrays `[item_id, *META_FIELDS]`, each on one line.
        ascii_only (bool): see `recbole_blair.text.item_text.clean_text`.

    Returns:
        Chunk: see there.
    """
    lines, ids, texts, lengths, bad = [], [], [], [], 0
    values = json.loads(f"[{','.join(records)}]")  # one call a chunk: most of a call is its start
    for record, (item_id, *meta) in zip(records, values):
        line, text, length, bad_price = format_item(item_id, meta, ascii_only, is_plain(record))
        lines.append(line)
        ids.append(item_id)
        texts.append(text)
        lengths.append(length)
        bad += bad_price
    lines.append("")
    return Chunk("\n".join(lines).encode(), "\n".join(ids).encode(), "\n".join(texts).encode(), lengths, bad)


def write_items(batches, file, ascii_only, table3_items, bar, workers=1):
    """Write the `.item` file.

    Args:
        batches (iterable of ItemBatch): in the order of the file.
        file: open for writing bytes.
        ascii_only (bool): see `recbole_blair.text.item_text.clean_text`.
        table3_items (int): leading items that occur in a row, over which the mean text length is taken.
        bar (tqdm): advanced by items.
        workers (int): processes that format; 1 formats in this one.

    Returns:
        ItemCounts: see there.
    """
    counts = ItemCounts()
    file.write(("\t".join(ITEM_COLUMNS) + "\n").encode())
    held: collections.deque = collections.deque()  # batches whose records are being formatted

    def records():
        for batch in batches:
            held.append(batch)
            yield batch.records

    with contextlib.closing(format_chunks(records(), ascii_only, workers)) as formatted:  # a failure ends the workers
        for chunk in formatted:
            chunk = merge(held.popleft(), chunk)
            file.write(chunk.lines)
            counts.add(chunk, table3_items)
            bar.update(len(chunk.lengths))
    return counts


def merge(batch, chunk):
    """Put the formatted records of an ItemBatch in their places; returns the Chunk of the whole batch."""
    lines = list(batch.lines)
    texts = [None if line is None else line.split(b"\t", 3)[TEXT_COLUMN] for line in lines]
    lengths = [0 if text is None else len(text) for text in texts]  # ASCII where DuckDB formatted it
    if chunk.lengths:
        places = (place for place, line in enumerate(batch.lines) if line is None)
        ready = zip(places, chunk.lines.split(b"\n"), chunk.texts.split(b"\n"), chunk.lengths)
        for place, line, text, length in ready:
            lines[place], texts[place], lengths[place] = line, text, length
    lines.append(b"")
    return Chunk(b"\n".join(lines), b"\n".join(batch.ids), b"\n".join(texts), lengths, chunk.bad_prices)


def format_chunks(chunks, ascii_only, workers):
    """Yield the `Chunk` of each list of records, in order; the first `RECORDS_BEFORE_WORKERS` are formatted here."""
    chunks, formatted = iter(chunks), 0
    for records in chunks:
        yield format_items(records, ascii_only)
        formatted += len(records)
        if workers > 1 and formatted >= RECORDS_BEFORE_WORKERS:
            break
    else:
        return
    from dataset_tools.item_workers import ItemWorkers

    with ItemWorkers(workers, ascii_only) as pool:
        yield from pool.map(chunks)

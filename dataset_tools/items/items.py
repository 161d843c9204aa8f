"""Raw metadata in, lines of the `.item` file out, in Python; `item_table` has DuckDB make what needs no cleaning."""

import json
import math
import re
from typing import NamedTuple

from dataset_tools.items.plain_items import RECIPE
from recbole_blair.text.item_text import RECIPES, atomic_text, clean_list, join_fields

META_FIELDS = ("title", "features", "categories", "description", "store", "price")
DECIMAL_COMMA = re.compile(r"(\d+|\d{1,3}(\.\d{3})+),\d{1,2}")
TEXT_FIELDS = META_FIELDS[:-1]


class Chunk(NamedTuple):
    """Some items, formatted; bytes, so that a process can hand them to another as they are."""

    lines: bytes  # of the file, joined by newlines
    lengths: list  # characters of each text before quotes are rewritten
    bad_prices: list  # of bool: the price is no number


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


def format_item(item_id, meta, ascii_only):
    """Return (line, text, characters, bad_price) of one item; the line has no newline.

    The words of one category are joined by `_`: a token holds no space.

    Args:
        item_id (str): token.
        meta (list): values of `META_FIELDS`.
        ascii_only (bool): see `recbole_blair.text.item_text.clean_text`.
    """
    cleaned = {field: clean_list(value, ascii_only) for field, value in zip(TEXT_FIELDS, meta)}
    text = join_fields([cleaned[field] for field in RECIPES[RECIPE]])
    price, bad_price = parse_price(meta[-1])
    written = atomic_text(text)
    categories = " ".join([category.replace(" ", "_") for category in cleaned["categories"]])
    title, store = ", ".join(cleaned["title"]), ", ".join(cleaned["store"])
    line = f"{item_id}\t{atomic_text(title)}\t{written}\t{atomic_text(categories)}\t{atomic_text(store)}\t{price}"
    return line, written, len(text), bad_price


def format_items(records, ascii_only):
    """Format one chunk.

    Args:
        records (list of str): JSON arrays `[item_id, *META_FIELDS]`, each on one line.
        ascii_only (bool): see `recbole_blair.text.item_text.clean_text`.

    Returns:
        Chunk: see there.
    """
    lines, lengths, bad = [], [], []
    values = json.loads(f"[{','.join(records)}]")  # one call a chunk: most of a call is its start
    for item_id, *meta in values:
        line, _, length, bad_price = format_item(item_id, meta, ascii_only)
        lines.append(line)
        lengths.append(length)
        bad.append(bad_price)
    return Chunk("\n".join(lines).encode(), lengths, bad)


def format_chunks(chunks, ascii_only, workers):
    """Yield the `Chunk` of each list of records, in order; 0 workers: formatted in this process."""
    if not workers:
        for records in chunks:
            yield format_items(records, ascii_only)
        return
    from dataset_tools.items.item_workers import ItemWorkers

    with ItemWorkers(workers, ascii_only) as pool:
        yield from pool.map(chunks)

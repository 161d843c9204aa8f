"""From raw metadata to lines of the `.item` file, in Python; `item_lines_sql` makes those that need no cleaning."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from recbole_blair.text.item_text import RECIPES, atomic_text, clean_list, join_fields

RECIPE = "recommendation"  # of the item texts
META_FIELDS = ("title", "features", "categories", "description", "store", "price")
DECIMAL_COMMA = re.compile(r"(\d+|\d{1,3}(\.\d{3})+),\d{1,2}")
TEXT_FIELDS = META_FIELDS[:-1]


class FormattedItems(NamedTuple):
    """Lines of some items; bytes, so that one process can send them to another without a conversion."""

    lines: bytes  # of the file, joined by newlines
    lengths: list[int]  # characters of each text before quotes are rewritten
    bad_prices: list[bool]  # the price is no number


def parse_price(value: object) -> tuple[str, bool]:
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


def format_item(item_id: str, meta: Sequence[Any], ascii_only: bool) -> tuple[str, str, int, bool]:
    """Return (line, text, characters, bad_price) of one item; the line has no newline.

    The words of one category are joined by `_`: a token holds no space.

    Args:
        item_id: token.
        meta: values of `META_FIELDS`.
        ascii_only: see `recbole_blair.text.item_text.clean_text`.
    """
    cleaned = {field: clean_list(value, ascii_only) for field, value in zip(TEXT_FIELDS, meta)}
    text = join_fields([cleaned[field] for field in RECIPES[RECIPE]])
    price, bad_price = parse_price(meta[-1])
    written = atomic_text(text)
    categories = " ".join([category.replace(" ", "_") for category in cleaned["categories"]])
    title, store = ", ".join(cleaned["title"]), ", ".join(cleaned["store"])
    line = f"{item_id}\t{atomic_text(title)}\t{written}\t{atomic_text(categories)}\t{atomic_text(store)}\t{price}"
    return line, written, len(text), bad_price


def format_items(records: Sequence[str], ascii_only: bool) -> FormattedItems:
    """Format the items of some records.

    Args:
        records: JSON arrays `[item_id, *META_FIELDS]`, each on one line.
        ascii_only: see `recbole_blair.text.item_text.clean_text`.
    """
    lines, lengths, bad_prices = [], [], []
    for item_id, *meta in json.loads(f"[{','.join(records)}]"):  # one call for all: most of a call's time is its start
        line, _, length, bad_price = format_item(item_id, meta, ascii_only)
        lines.append(line)
        lengths.append(length)
        bad_prices.append(bad_price)
    return FormattedItems("\n".join(lines).encode(), lengths, bad_prices)

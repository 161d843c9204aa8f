"""Lines of the items whose metadata needs no cleaning, in SQL: most items are such, and this takes a fifth of the time.

A test holds the lines equal to those of `item_lines.format_item`, which formats every record of which this is not sure;
`needs_cleaning` finds most of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from dataset_tools.items.item_lines import RECIPE
from recbole_blair.text.item_text import RECIPES

_LISTS = ("features", "categories", "description")
_STRINGS = ("title", "store")
_GAP = "chr(1)"  # stands between the strings of a list; JSON holds every control character as an escape
_MAX_PRICE_WIDTH = 11  # longer ones might be written with an exponent


def item_lines_sql(source: str, fields: Sequence[str]) -> str:
    """Return SQL that gives item, line, text_begin, text_end, characters and bad_price, or item and record alone.

    Args:
        source: FROM clause with the columns item, item_id, clean and spaced (from `find_clean_records`) and, as JSON
            text, the fields.
        fields: names of the metadata fields, in the order of a record.
    """
    raw = ", ".join(f"nullif({name}, 'null') AS {name}_raw" for name in fields)
    texts = [f"{_string_sql(name + '_raw')} AS {name}_text" for name in _STRINGS]
    texts += [f"{_list_sql(name + '_raw')} AS {name}_text" for name in _LISTS]
    shapes = [_string_shape(f"{name}_raw") for name in _STRINGS] + [_list_shape(f"{name}_raw") for name in _LISTS]
    shapes.append(_price_shape("price_raw"))
    trimmed = ", ".join(_trim_sql(f"{name}_raw") for name in (*_STRINGS, *_LISTS))
    sentences = ", ".join(_sentence_sql(name) for name in RECIPES[RECIPE])
    tokens = f"replace(replace(categories_text, ' ', '_'), {_GAP}, ' ')"
    record = ", ',', ".join(["to_json(item_id)", *(f"coalesce({name}, 'null')" for name in fields)])
    cells = ("item_id", "title_text", "item_text", tokens, "store_text", "price_raw")
    line = ", chr(9), ".join(f"coalesce({cell}, '')" for cell in cells)
    text, before = "strlen(coalesce(item_text, ''))", "strlen(item_id) + strlen(coalesce(title_text, '')) + 2"
    return f"""SELECT item, CASE WHEN plain THEN concat({line}) END AS line,
            CASE WHEN plain THEN {before} ELSE 0 END::INTEGER AS text_begin,
            CASE WHEN plain THEN {before} + {text} ELSE 0 END::INTEGER AS text_end,
            CASE WHEN plain THEN {text} ELSE 0 END::INTEGER AS characters, false AS bad_price,
            CASE WHEN NOT plain THEN concat('[', {record}, ']') END AS record FROM (
        SELECT * REPLACE (plain AND NOT contains(concat({", ".join(f"{name}_text" for name in _LISTS)}), '"') AS plain),
            concat_ws(' ', {sentences}) AS item_text FROM (
        SELECT *, {", ".join(texts)}, coalesce(clean AND {" AND ".join(shapes)}, false) AS plain FROM (
        SELECT * REPLACE ({trimmed}) FROM (
        SELECT *, {raw} FROM {source}))))"""


def _string_shape(field: str) -> str:
    return f"({field} IS NULL OR starts_with({field}, '\"'))"


def _string_sql(field: str) -> str:
    return f"substr({field}, 2, strlen({field}) - 2)"


def _list_shape(field: str) -> str:
    return f"({field} IS NULL OR {field} = '[]' OR (starts_with({field}, '[\"') AND ends_with({field}, '\"]')))"


def _list_sql(field: str) -> str:
    """Return SQL of a list's strings with `_GAP` between them; a quote is left if it holds anything but strings."""
    return f"CASE WHEN {field} <> '[]' THEN replace(substr({field}, 3, strlen({field}) - 4), '\",\"', {_GAP}) END"


def _trim_sql(field: str) -> str:
    """Return SQL of strings without the one space at either end; faster than `trim`, which reads characters."""
    return f"CASE WHEN spaced THEN replace(replace({field}, '\" ', '\"'), ' \"', '\"') ELSE {field} END AS {field}"


def _price_shape(field: str) -> str:
    """Return SQL that is true for a number that Python would write with the same characters."""
    return (
        f"({field} IS NULL OR (strlen({field}) <= {_MAX_PRICE_WIDTH} AND {field}[1] BETWEEN '0' AND '9' AND "
        f"NOT contains({field}, 'e') AND TRY_CAST({field} AS DOUBLE)::VARCHAR = {field}))"
    )


def _sentence_sql(name: str) -> str:
    text = f"replace({name}_text, {_GAP}, ', ')" if name in _LISTS else f"{name}_text"
    return f"CASE WHEN {name}_text[-1] IN ('.', '!', '?') THEN {text} ELSE {text} || '.' END"

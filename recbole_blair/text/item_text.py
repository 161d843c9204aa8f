"""Item text: one cleaning, three recipes, the released code's own, and the hashes that tie a feature file to its texts.

Source: arXiv:2403.03952, section 3 (which metadata fields stand for an item in each task). Intended
differences to the released cleaning: tags become a space instead of nothing, control and invisible characters
go, non-ASCII letters stay unless `ascii_only`, a field that already ends a sentence gets no second full stop,
and an empty field leaves no trace.
"""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Iterable, Mapping, Sequence

from recbole_blair.errors import InputError, nearest

# The metadata fields of each recipe, in the order they are written.
RECIPES = {
    "recommendation": ("title", "features", "categories", "description"),
    "pretraining": ("title", "features", "description"),
    "search": ("title", "description"),
}

_HIDDEN = re.compile(r"<(script|style)\b[^>]*>.*?</\1\s*>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"</?[a-zA-Z!?][^<>]*>")
# C0 and C1 controls, line and paragraph separators, lone surrogates become a space; zero-width marks go.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_INVISIBLE = re.compile("[\u200b\u200e\u200f\u202a-\u202e\u2060\ufeff\u00ad]")
_NON_ASCII = re.compile(r"[^\x00-\x7f]")
_RELEASED_TAG = re.compile(r"<[^>]+>")
_RELEASED_SPACES = re.compile(" +")
_SENTENCE_END = (".", "!", "?", "…", "。", "！", "？")


def clean_text(raw: str | float | None, ascii_only: bool = False) -> str:
    """Turn one raw metadata or review string into plain text on one line.

    Entities are resolved (twice: the source holds `&amp;amp;`), tags and comments become a space, control
    characters become a space, zero-width marks go, runs of white space become one space.

    Args:
        raw: None gives an empty string; numbers are written out.
        ascii_only: replace each non-ASCII character by a space, as the released code does.

    Returns:
        no tab, newline or control character; no white space at either end.
    """
    if raw is None:
        return ""
    text = raw if isinstance(raw, str) else str(raw)
    if text.isascii() and text.isprintable() and "&" not in text and "<" not in text and "  " not in text:
        return text.strip()  # most texts: nothing to clean
    if "&" in text:
        text = html.unescape(text)
        if "&" in text:
            text = html.unescape(text)
    if "<" in text:
        text = _TAG.sub(" ", _HIDDEN.sub(" ", text))
    if not text.isascii():
        text = _NON_ASCII.sub(" ", text) if ascii_only else _INVISIBLE.sub("", text)
    if not text.isprintable():  # every control character, and white space other than " ", is not printable
        text = _CONTROL.sub(" ", text)
    return " ".join(text.split())


def clean_list(raw: list | tuple | str | float | None, ascii_only: bool = False) -> list[str]:
    """Return the cleaned, non-empty strings of a field that is a list, one value or None."""
    if raw is None:
        return []
    values = raw if isinstance(raw, (list, tuple)) else [raw]
    return [text for value in values if (text := clean_text(value, ascii_only))]


def item_text(meta: Mapping, recipe: str = "recommendation", ascii_only: bool = False) -> str:
    """Build the text that stands for one item.

    Fields follow the recipe's order. The parts of a list are joined by ", "; each field is closed as a
    sentence; fields that are absent, null or empty after cleaning are left out.

    Args:
        meta: raw metadata; `title` is a string, `features`, `categories`, `description` are lists of
            strings (a plain string is taken as a list of one).
        recipe: a key of `RECIPES`.
        ascii_only: see `clean_text`.

    Returns:
        one line; empty when the item has none of the fields.

    Raises:
        InputError: unknown recipe.

    Source: arXiv:2403.03952, section 3.2.
    """
    if recipe not in RECIPES:
        raise InputError(f"unknown text recipe {recipe!r}; known: {', '.join(RECIPES)}.{nearest(recipe, RECIPES)}")
    return join_fields([clean_list(meta.get(field), ascii_only) for field in RECIPES[recipe]])


def released_text(meta: Mapping, fields: str | None = None) -> str:
    """Build an item's text to the byte as the papers' released code does for sequential recommendation.

    Each field is followed by a space, also the last. A string has no full stop after it, the parts of a list are joined
    by ", " and closed by one, an empty list leaves only the space.

    Args:
        meta: raw metadata. A field that is absent or null counts as an empty string; the released code stops there.
        fields: joined by commas; None: title, features, categories, description.

    Source: the published code of arXiv:2403.03952; the behaviour is restated here, not copied.
    """
    names = RECIPES["recommendation"] if fields is None else [name.strip() for name in fields.split(",")]
    return "".join(f"{_released_field(meta.get(name))} " for name in names)


def _released_field(value: object) -> str:
    """Return one field of `released_text`."""
    if isinstance(value, float):
        return f"{value}."
    if isinstance(value, (list, tuple)) and value:
        return ", ".join(map(_released_clean, value)) + "."
    return _released_clean(value)


def _released_clean(value: object) -> str:
    """Clean one string: entities once, tags to nothing, line breaks and tabs to spaces, runs of spaces to one.

    What is not ASCII becomes a space only then, so runs of spaces may stand where such characters were.
    """
    parts = value if isinstance(value, (list, tuple)) else [value]
    text = html.unescape(", ".join("" if part is None else str(part) for part in parts)).strip()
    text = _RELEASED_SPACES.sub(" ", _RELEASED_TAG.sub("", text).replace("\n", " ").replace("\t", " "))
    return _NON_ASCII.sub(" ", text)


def join_fields(fields: Iterable[Sequence[str]]) -> str:
    """Join cleaned fields (lists of strings) into one text; see `item_text`."""
    sentences = []
    for parts in fields:
        if parts:
            text = ", ".join(parts)
            sentences.append(text if text.endswith(_SENTENCE_END) else text + ".")
    return " ".join(sentences)


def text_of_columns(rows: Sequence[Mapping[str, str]], fields: str | None) -> list[str]:
    """Return the texts of items given by their columns of an `.item` file.

    Args:
        rows: column -> value, already cleaned, for each item.
        fields: columns joined by commas, each closed as a sentence; None: `text` as it is.

    Raises:
        InputError: a field that the rows do not have.
    """
    if fields is None:
        return [row["text"] for row in rows]
    names = [name.strip() for name in fields.split(",")]
    absent = next((name for name in names if rows and name not in rows[0]), None)
    if absent is not None:
        raise InputError(f"text_fields={fields}: items have no column {absent!r}; they have {', '.join(rows[0])}")
    return [join_fields([_column_parts(name, row[name]) for name in names]) for row in rows]


def _column_parts(name: str, value: str) -> list[str]:
    """Return the parts of a column: a category's words are joined by `_` there, categories by spaces."""
    if name == "categories":
        return [category.replace("_", " ") for category in value.split()]
    return [value] if value else []


def atomic_text(text: str) -> str:
    """Write a cleaned text so that every reader of an atomic file sees the same line.

    A double quote starts a quoted field under pandas' default quoting, which merges rows, while readers
    without quoting would show doubled quotes. So it is written as two apostrophes (15" becomes 15'').
    """
    return text.replace('"', "''")


def _sha256_of_lines(lines: Iterable[str]) -> str:
    """Hash lines joined by newlines."""
    digest = hashlib.sha256()
    first = True
    for line in lines:
        digest.update((line if first else "\n" + line).encode("utf-8"))
        first = False
    return digest.hexdigest()


def ids_hash(ids: Iterable[str]) -> str:
    """Return the SHA-256 (hex) of item ids joined by newlines, in `.item` order."""
    return _sha256_of_lines(ids)


def text_hash(texts: Iterable[str]) -> str:
    """Return the SHA-256 (hex) of item texts joined by newlines, as the `.item` file holds them."""
    return _sha256_of_lines(texts)

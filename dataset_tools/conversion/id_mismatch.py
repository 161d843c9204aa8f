"""Why item ids of the interactions are not among those of the items: both are compared in likelier spellings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SPELLINGS: tuple[tuple[str, Callable[[str], str]], ...] = (  # (what is likely wrong, the id without it)
    (
        "one file writes ids as decimals, as pandas does with a column that has gaps; write them as whole numbers",
        lambda text: re.sub(r"\.0+$", "", text),
    ),
    ("they differ in upper and lower case; write both alike", str.lower),
    ("one file has lost the zeros in front; read the column as text where that file is made", lambda t: t.lstrip("0")),
    ("one file has spaces or quotes around them; remove those", lambda text: unquote(text).strip(" \t'\"")),
)


def describe_mismatch(wanted: Sequence[str], known: Sequence[str]) -> str:
    """Return one id of each file and the likely cause.

    Args:
        wanted: some item ids of the interactions, none of which is known.
        known: the ids of the items.
    """
    if not known:
        return "the items hold no usable id; check the column of their ids"
    twin = find_spelling(wanted, known)
    if twin:
        return twin
    return (
        f"an item is {wanted[0]!r} there, {known[0]!r} is one of the items: the two files do not belong together; "
        "check that both are of the same domain, and which columns hold the ids"
    )


def find_spelling(wanted: Sequence[str], known: Sequence[str]) -> str | None:
    """Return, for the first of `wanted` that is another spelling of a known id, both and the likely cause; or None."""
    for cause, plain in _SPELLINGS:
        by_plain = {plain(item): item for item in known}
        for item in wanted:
            if plain(item) in by_plain:
                return f"an item is {item!r} there and {by_plain[plain(item)]!r} among the items: {cause}"
    return None

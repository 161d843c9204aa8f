"""Conditions on item columns: `categories=Cables and (price<20 or store in ("Acme", Bolt))`, parsed here, never run.

    condition  = term {"or" term}
    term       = factor {"and" factor}
    factor     = "not" factor | "(" condition ")" | comparison
    comparison = column ("=" | "!=" | "<" | "<=" | ">" | ">=" | "contains") value
               | column "in" "(" value {"," value} ")"
    value      = a word, or text in quotation marks

A column of lists (`categories`) equals each of its entries. `contains` looks for a part of the text in any case. A
comparison with a value that an item lacks is unknown (null), as in SQL: neither it nor its negation picks the item.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_blair.errors import InputError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LONGEST = 2000  # characters of a condition
DEEPEST = 32  # brackets and `not` in each other: the parser recurses
TOKEN = re.compile(r"""\s*(?:(?P<text>"[^"]*"|'[^']*')|(?P<sign><=|>=|!=|==|[=<>(),])|(?P<word>[^\s=<>!(),"']+))""")
ORDER: dict[str, Callable[..., pa.BooleanArray]] = {
    "<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal,
}  # fmt: skip
SIGNS = ("=", "==", "!=", *ORDER, "in", "contains")
EXAMPLE = 'where="categories=Cables and price<20"'


class Column(NamedTuple):
    """A column of the items: its type in the `.item` file's header, and N - 1 texts, empty where there is none."""

    kind: str
    values: pa.StringArray


class Token(NamedTuple):
    """A word, a sign, or a text in quotation marks (which is never a keyword)."""

    kind: str
    value: str

    def says(self, *words: str) -> bool:
        """True for one of these signs or keywords."""
        return self.kind != "text" and self.value.lower() in words


END = Token("end", "the end")


def select_items(condition: str, columns: Sequence[str], load: Callable[[str], Column]) -> np.ndarray:
    """Return which items meet a condition, (N - 1,) bool.

    Args:
        condition: see the module.
        columns: names that may stand in it.
        load: gives a column by its name; asked for those in the condition alone.

    Raises:
        InputError: not a condition; an unknown column; an order of texts.
    """
    if len(condition) > LONGEST:
        raise InputError(f"where has {len(condition):,} characters; at most {LONGEST:,} are read")
    parser = Parser(condition, tokens_of(condition), columns, load)
    mask = parser.condition()
    if parser.next != END:
        parser.refuse("expected and, or, or the end")
    return pc.fill_null(mask, False).to_numpy(zero_copy_only=False)


def tokens_of(condition: str) -> list[Token]:
    """Split a condition."""
    tokens, at, text = [], 0, condition.rstrip()
    while at < len(text):
        found = TOKEN.match(text, at)
        if found is None:
            raise InputError(f"where={condition!r}: {text[at : at + 20]!r} cannot be read here; example: {EXAMPLE}")
        at, kind = found.end(), found.lastgroup or ""
        tokens.append(Token(kind, found[kind][1:-1] if kind == "text" else found[kind]))
    return tokens


@dataclass
class Parser:
    """Reads a condition from left to right and evaluates it on the way."""

    text: str
    tokens: list[Token]
    columns: Sequence[str]
    load: Callable[[str], Column]
    at: int = 0
    depth: int = 0

    @property
    def next(self) -> Token:
        """The token that has not been read yet."""
        return self.tokens[self.at] if self.at < len(self.tokens) else END

    def take(self) -> Token:
        """Read a token."""
        token, self.at = self.next, self.at + 1
        return token

    def refuse(self, expected: str) -> None:
        """Refuse the condition at the next token."""
        raise InputError(f"where={self.text!r}: found {self.next.value!r}; {expected}; example: {EXAMPLE}")

    def condition(self) -> pa.BooleanArray:
        """Read terms joined by `or`."""
        mask = self.term()
        while self.next.says("or"):
            self.take()
            mask = pc.or_kleene(mask, self.term())
        return mask

    def term(self) -> pa.BooleanArray:
        """Read factors joined by `and`."""
        mask = self.factor()
        while self.next.says("and"):
            self.take()
            mask = pc.and_kleene(mask, self.factor())
        return mask

    def factor(self) -> pa.BooleanArray:
        """Read a negation, a condition in brackets, or a comparison."""
        if not self.next.says("not", "("):
            return self.comparison()
        self.depth += 1
        if self.depth > DEEPEST:
            raise InputError(f"where has more than {DEEPEST} brackets and negations in each other")
        if self.take().says("not"):
            mask = pc.invert(self.factor())
        else:
            mask = self.condition()
            if not self.next.says(")"):
                self.refuse("expected )")
            self.take()
        self.depth -= 1
        return mask

    def comparison(self) -> pa.BooleanArray:
        """Read a column, a sign and its value."""
        if self.next.kind != "word" or self.next.says("and", "or", "in", "contains"):
            self.refuse(f"expected a column ({', '.join(self.columns)})")
        name = self.column_name(self.take().value)
        if not self.next.says(*SIGNS):
            self.refuse(f"expected one of {' '.join(SIGNS)}")
        sign = self.take().value.lower()
        values = self.values() if sign == "in" else [self.value()]
        return compare(name, self.load(name), sign, values)

    def column_name(self, word: str) -> str:
        """Return the column a word names; `category` is `categories`."""
        name = "categories" if word == "category" and word not in self.columns else word
        if name not in self.columns:
            raise InputError(
                f"where: the items have no column {word!r}; they have {', '.join(self.columns)}."
                f"{nearest(word, self.columns)}"
            )
        return name

    def value(self) -> str:
        """Read a value."""
        if self.next.kind not in ("word", "text"):
            self.refuse("expected a value")
        return self.take().value

    def values(self) -> list[str]:
        """Read values in brackets."""
        if not self.next.says("("):
            self.refuse("expected ( after in")
        found, self.at = [], self.at + 1
        while True:
            found.append(self.value())
            if not self.next.says(",", ")"):
                self.refuse("expected , or )")
            if self.take().says(")"):
                return found


def compare(name: str, column: Column, sign: str, values: list[str]) -> pa.BooleanArray:
    """Compare a column with a value, or for `in` with several; null where an item has none."""
    texts = pc.if_else(pc.equal(column.values, ""), pa.scalar(None, pa.string()), column.values)
    if sign == "contains":
        return pc.match_substring(texts, values[0], ignore_case=True)
    if sign in ORDER:
        return ORDER[sign](numbers_of(name, texts), number_of(name, sign, values[0]))
    if column.kind == "float":
        found = pc.is_in(numbers_of(name, texts), pa.array([number_of(name, sign, value) for value in values]))
    elif column.kind == "token_seq":  # entries stand between spaces, their own spaces as underscores
        entries = [f" {'_'.join(value.split())} " for value in values]
        padded = pc.binary_join_element_wise(" ", texts, " ", "")
        masks = [pc.match_substring(padded, entry) for entry in entries]
        found = masks[0]
        for mask in masks[1:]:
            found = pc.or_(found, mask)
    else:
        found = pc.is_in(texts, pa.array(values, pa.string()))
    found = pc.if_else(pc.is_valid(texts), found, pa.scalar(None, pa.bool_()))  # `is_in` knows no unknown
    return pc.invert(found) if sign == "!=" else found


def number_of(name: str, sign: str, value: str) -> float:
    """Return a value as a number."""
    try:
        return float(value)
    except ValueError:
        raise InputError(f"where: {name}{sign}{value}: expected a number behind {sign}") from None


def numbers_of(name: str, texts: pa.StringArray) -> pa.DoubleArray:
    """Return a column as numbers."""
    try:
        return pc.cast(texts, pa.float64())
    except pa.ArrowInvalid:
        raise InputError(f"where: {name} holds text, which has no order; use =, in or contains") from None

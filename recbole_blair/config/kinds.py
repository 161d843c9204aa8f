"""Kinds: the type, range and legal values of one key or option, written as people read them.

    epochs: 300          # (int, >=0, <=1e6) at most                 in a YAML file of defaults, beside the default
    Kind.parse("int, >=0, <=1e6")                                    for an option of a command

    kind   = ["list of "] type {", " limit}
    type   = int | float | bool | str | name | path | size           name: of a file or folder; size: 4GB
    limit  = >N | >=N | <N | <=N | a|b|c | length N | may be empty   N: a number, or cores: the CPU cores here

Limits of a list hold for each of its items. In a|b|c an `N` after `:` or `@` stands for a whole number from 0, a `K`
for one from 1. Numbers are finite, and whole numbers have at most 15 digits, unless a limit says less.
"""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import yaml

from recbole_blair.errors import nearest
from recbole_blair.files.yaml_loader import YamlLoader

if TYPE_CHECKING:
    from pydantic import TypeAdapter

TYPES = ("int", "float", "bool", "str", "name", "path", "size")
TEXTS = ("str", "name", "path", "size")
BOUNDS = {">": "gt", ">=": "ge", "<": "lt", "<=": "le"}  # pydantic's names
WORDS = {">": "above ", ">=": "at least ", "<": "below ", "<=": "at most "}
MAX_INT = 10**15 - 1  # Unix milliseconds have 13 digits; floats hold every whole number of this size
MAX_ITEMS = 1000  # of a list
NAME_BYTES, PATH_BYTES = 255, 4095  # what Linux takes
OWN_NAME_BYTES = 150  # of a name that suffixes are added to, as in <dataset>.<encoder>.feature.json
BOOLEANS = {"1": "true", "0": "false"}  # what RecBole's command lines write, too
SHOWN = 60  # characters of a value in a message


def usable_cores() -> int:
    """Return the CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parse_value(text: str) -> Any:
    """Parse one `--key=value` value as YAML: numbers, booleans, lists, `~`; anything else stays text."""
    try:
        value = yaml.load(text, Loader=YamlLoader)
    except yaml.YAMLError:
        return text
    return None if text == "" else value


def split_list(value: object, texts: bool = False) -> list[Any]:
    """Return a list, `a,b` or one value as a list; the parts of `a,b` are YAML unless `texts`."""
    if isinstance(value, str):
        value = [part.strip() if texts else parse_value(part.strip()) for part in value.split(",")]
    return list(value) if isinstance(value, list | tuple) else [value]


def shorten(value: object) -> str:
    """Return a value's repr, cut where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text):,} characters)"


class KindError(ValueError):
    """A value that is not of its kind: `is out of range; expected …`, to be put after the key and the value.

    Args:
        value: the value, or the item of the list, that is refused.
    """

    def __init__(self, value: object, reason: str) -> None:
        super().__init__(reason)
        self.value = value


@dataclass(frozen=True)
class Kind:
    """The type and range of a value; see the module."""

    type: str
    is_list: bool = False
    bounds: tuple[tuple[str, float | str], ...] = ()
    choices: tuple[str, ...] = ()
    length: int | None = None
    may_be_empty: bool = False
    text: str = field(default="", compare=False)

    @classmethod
    def parse(cls, text: str) -> Kind:
        """Read a kind.

        Raises:
            ValueError: not of the grammar above.
        """
        head, *limits = [part.strip() for part in text.split(",")]
        is_list, name = head.startswith("list of "), head.removeprefix("list of ")
        if name not in TYPES:
            raise ValueError(f"{name!r} is not one of {', '.join(TYPES)}")
        bounds: list[tuple[str, float | str]] = []
        choices: tuple[str, ...] = ()
        length, may_be_empty = None, False
        for limit in limits:
            if found := re.fullmatch(r"(>=|<=|>|<)(cores|-?[0-9.]+(?:e-?[0-9]+)?)", limit):
                bounds.append((found[1], found[2] if found[2] == "cores" else parse_number(found[2])))
            elif found := re.fullmatch(r"length (\d+)", limit):
                length = int(found[1])
            elif limit == "may be empty":
                may_be_empty = True
            elif "|" in limit and name == "str":
                choices = tuple(limit.split("|"))
            else:
                raise ValueError(f"{limit!r} is no limit of {head}")
        return cls(name, is_list, tuple(bounds), choices, length, may_be_empty, text)

    @classmethod
    def of_default(cls, default: object) -> Kind | None:
        """Return the kind that a default without a comment shows: its type, no range; None where it shows none."""
        items = default if isinstance(default, list) else [default]
        names = {type(item).__name__ for item in items}
        if len(names) != 1 or not names < {"int", "float", "bool", "str"}:
            return None
        return cls(names.pop(), isinstance(default, list), may_be_empty=True)

    def check(self, value: object) -> Any:
        """Return a value as this kind: an int passes for a float, one value or `a,b` for a list.

        Raises:
            KindError: it is none.
        """
        if not self.is_list:
            return self.check_one(value)
        value = split_list(value, texts=self.type in TEXTS)
        if len(value) > MAX_ITEMS or (self.length is not None and len(value) != self.length):
            raise KindError(value, f"has {len(value)} values; expected {self.describe()}")
        if not value and not self.may_be_empty:
            raise KindError(value, f"is an empty list; expected {self.describe()}")
        return [self.check_one(item) for item in value]

    def check_one(self, value: object) -> Any:
        """Check one value, or one item of a list, by pydantic."""
        from pydantic import ValidationError  # heavy: 0.1 s, which --help does without

        if self.type in TEXTS and isinstance(value, int | float) and not isinstance(value, bool):
            value = self.text_of(value)
        try:
            found = _adapter(self.type, self.bounds).validate_python(value)
        except ValidationError as error:
            raise KindError(value, f"{_reason(error, value)}; expected {self.describe()}") from None
        return self.choose(found) if self.choices else found

    def text_of(self, value: float) -> str:
        """Return a number of a YAML file as text, where no other text could have given it."""
        text = str(value)
        if isinstance(value, float) and not re.fullmatch(r"-?[0-9]+\.[0-9]+", text):
            raise KindError(value, "is a float; expected text: put it into quotation marks")
        return text

    def choose(self, value: str) -> str:
        """Return the legal value that `value` is, in any case.

        Raises:
            KindError: none.
        """
        for candidate in (value, value.lower()):
            for choice in self.choices:
                pattern = re.escape(choice)
                pattern = re.sub(r"(?<=[:@])N$", "[0-9]{1,4}", re.sub(r"(?<=[:@])K$", "[1-9][0-9]{0,6}", pattern))
                if re.fullmatch(pattern, candidate):
                    return candidate
        hint = nearest(value[:SHOWN], [choice for choice in self.choices if choice[-2:] not in (":N", "@K")])
        raise KindError(value, f"is not one of {', '.join(self.choices)}{'.' if hint else ''}{hint}")

    def read(self, text: str) -> Any:
        """Read what was typed on a command line: text stays as it is where text is expected; empty and `~` are None."""
        if text in ("", "~"):
            return None
        if self.type in TEXTS and not (self.is_list and text.startswith("[")):
            return text
        return parse_value(text)

    def describe(self) -> str:
        """Say what is expected, for messages and docs."""
        name = {"name": "a name", "path": "a path", "size": "a size above 0 such as 4GB"}.get(self.type, self.type)
        parts = [f"list of {self.type}" if self.is_list else name]
        if self.choices:
            parts = [f"{'list of' if self.is_list else 'one of'} {', '.join(self.choices)}"]
        limits = dict(self.bounds)
        if ">=" in limits and "<=" in limits:
            low, high = (_shown_bound(limits.pop(sign)) for sign in (">=", "<="))
            parts.append(f"{low} to {high}")
        parts += [f"{WORDS[sign]}{_shown_bound(bound)}" for sign, bound in limits.items()]
        if self.length is not None:
            parts.append(f"{self.length} of them")
        return ", ".join(parts)


class Option:
    """A kind as the `type=` of an argparse option.

    Args:
        kind: written as in a YAML file of defaults.
    """

    def __init__(self, kind: str) -> None:
        self.kind = Kind.parse(kind)

    def __call__(self, text: str) -> Any:
        """Read and check what was typed."""
        from argparse import ArgumentTypeError

        try:
            typed = self.kind.type in TEXTS and not self.kind.is_list and text != ""  # `~` may be a separator
            value = text if typed else self.kind.read(BOOLEANS.get(text, text) if self.kind.type == "bool" else text)
            if value is None:
                raise KindError(text, f"is empty; expected {self.kind.describe()}, or leave it out")
            return self.kind.check(value)
        except KindError as error:
            # `cli.main.Parser` puts the option's name before the equals sign
            raise ArgumentTypeError(f"={shorten(text).strip(chr(39))} {error}") from None


def parse_number(text: str) -> float:
    """Return a bound: whole where it is written without a point, 1e6 included."""
    return float(text) if "." in text or "e-" in text else int(float(text))


def bound_of(value: float | str) -> float:
    """Return a bound as a number. Two processes on one core are slow, but work: `cores` is at least 2."""
    return max(2, usable_cores()) if value == "cores" else float(value)


def _shown_bound(value: float | str) -> str:
    """Return a bound as messages show it."""
    if value == "cores":
        return f"{bound_of(value):g} (the cores of this machine)"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


@functools.cache
def _adapter(name: str, bounds: tuple[tuple[str, float | str], ...]) -> TypeAdapter[Any]:
    """Return pydantic's validator of a type within bounds."""
    from pydantic import AfterValidator, Field, StrictBool, StrictStr, TypeAdapter  # heavy: see `check_one`

    limits: dict[str, Any] = {BOUNDS[sign]: bound_of(bound) for sign, bound in bounds}
    if name == "int":
        limits = {"le": MAX_INT, "ge": -MAX_INT, **limits}
        return TypeAdapter(Annotated[int, Field(strict=True, **{k: int(v) for k, v in limits.items()})])
    if name == "float":
        return TypeAdapter(Annotated[float, Field(strict=True, allow_inf_nan=False, **limits)])
    if name == "bool":
        return TypeAdapter(StrictBool)
    checks = {"str": check_text, "name": check_name, "path": check_path, "size": check_size}
    return TypeAdapter(Annotated[StrictStr, AfterValidator(checks[name])])


def _reason(error: Any, value: object) -> str:
    """Say in our words what pydantic found."""
    first = error.errors()[0]
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    if first["type"] == "finite_number":
        return "is not finite"
    return "is out of range" if "than" in first["type"] else f"is a {type(value).__name__}"


def check_text(text: str) -> str:
    """Return a text that files and other programs take.

    Raises:
        ValueError: it holds a NUL or half a surrogate pair, or is very long.
    """
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("holds a character that no file can hold (NUL or half a surrogate pair)")
    if len(text.encode()) > PATH_BYTES:
        raise ValueError(f"is {len(text.encode()):,} bytes long, more than {PATH_BYTES:,}")
    return text


def check_path(text: str, longest: int = NAME_BYTES) -> str:
    """Return a path that a file system takes; see `check_text`."""
    for part in check_text(text).split("/"):
        if len(part.encode()) > longest:
            raise ValueError(f"has a name of {len(part.encode()):,} bytes, more than {longest}")
    return text


def check_name(text: str) -> str:
    """Return a path whose last name leaves room for suffixes; see `check_text`."""
    if any(ord(letter) < 32 for letter in text):
        raise ValueError("holds a control character")
    return check_path(text, OWN_NAME_BYTES)


def check_size(text: str) -> str:
    """Return a size of memory as DuckDB takes it; see `check_text`."""
    found = re.fullmatch(r"\s*([0-9]{1,6}(?:\.[0-9]{1,6})?)\s*([KMGT]i?B)\s*", text, re.IGNORECASE)
    if found is None or float(found[1]) == 0:
        raise ValueError("is no size of memory")
    return text

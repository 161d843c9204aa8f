"""Dataset names: official, short and generated ones; a name can never leave the folder it is joined to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_blair.errors import InputError, nearest
from recbole_blair.files.read import shown
from recbole_blair.schema import ALIASES, DOMAINS, SAMPLE, SAMPLE_PATTERN, UNKNOWN_DOMAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ALL = "all"
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SAMPLE_NAME = re.compile(SAMPLE_PATTERN)
PUBLISHED = (*DOMAINS, UNKNOWN_DOMAIN)  # the files of the hub's repository
DEFAULT_USERS, DEFAULT_ITEMS = 2_000, 1_500  # of the sample
MIN_USERS, MIN_ITEMS = 50, 50
MOST_SHOWN = 10  # builds in a message


def known_names() -> tuple[str, ...]:
    """Return every name that needs no file: official, short, `sample`."""
    return (*PUBLISHED, *ALIASES, SAMPLE)


def check_name(name: str) -> str:
    """Return `name` if it is a plain file name.

    Raises:
        InputError: empty, or with separators, `..`, or characters outside letters, digits, `_`, `.` and `-`.
    """
    if not isinstance(name, str) or not _SAFE_NAME.fullmatch(name) or ".." in name:
        raise InputError(
            f"dataset name {name!r} is not a plain name (letters, digits, _ . -, no folders); "
            f"known: {', '.join(known_names())}"
        )
    return name


def parse_sample_name(name: str) -> tuple[int, int] | None:
    """Return (users, items) of `sample-u<users>-i<items>`, or None for any other name."""
    match = _SAMPLE_NAME.fullmatch(name)
    return (int(match.group(1)), int(match.group(2))) if match else None


def is_sample(name: str) -> bool:
    """Tell whether `name` is the generated dataset, at its own or another size."""
    return name == SAMPLE or parse_sample_name(name) is not None


def sample_name(users: int, items: int) -> str:
    """Return the name of the generated dataset at a size: `sample` at its own."""
    return SAMPLE if (users, items) == (DEFAULT_USERS, DEFAULT_ITEMS) else f"{SAMPLE}-u{users}-i{items}"


def sample_sizes(name: str, users: int | None = None, items: int | None = None) -> tuple[int | None, int | None]:
    """Return (users, items) of the generated dataset `name`, (None, None) for any other name.

    Raises:
        InputError: sizes for a dataset that is not generated, that contradict its name, or that are too small to be
            cut into train, valid and test.
    """
    if not is_sample(name):
        if users is not None or items is not None:
            raise InputError(f"sample_users and sample_items need dataset=sample, not {name!r}")
        return None, None
    named = parse_sample_name(name)
    if named and ((users or named[0]), (items or named[1])) != named:
        raise InputError(f"dataset={name} contradicts sample_users={users}, sample_items={items}")
    users, items = named or (int(users or DEFAULT_USERS), int(items or DEFAULT_ITEMS))
    if users < MIN_USERS or items < MIN_ITEMS:
        raise InputError(
            f"sample_users={users}, sample_items={items} is too small; at least {MIN_USERS} users and "
            f"{MIN_ITEMS} items are needed for three splits"
        )
    return users, items


def resolve_domain(
    name: str, raw_dir: Path | str | None = None, builds: Callable[[], Sequence[str]] | None = None
) -> str:
    """Return the official name of a dataset.

    Args:
        name: official name, a paper's short name, `sample`, `sample-u<users>-i<items>`, or the name of raw
            files of your own under `raw_dir`.
        raw_dir: where raw files of an unpublished name may lie.
        builds: finds the names of the builds at hand, for the message; None: not looked for.

    Raises:
        InputError: no such dataset; names the nearest known one, and the builds at hand.
    """
    check_name(name)
    if name in ALIASES:
        return ALIASES[name]
    if name in PUBLISHED or is_sample(name):
        return name
    if raw_dir is not None and find_raw_file(raw_dir, "review", name) is not None:
        return name
    found = None if builds is None else builds()
    names = [build.split()[0] for build in found or ()]
    hint = nearest(name, (*names, *known_names()))
    where = f" and no raw files of that name under {shown(raw_dir)}" if raw_dir is not None else ""
    more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
    at_hand = "" if found is None else f" Builds at hand: {', '.join(found[:MOST_SHOWN]) or 'none'}{more}."
    raise InputError(f"unknown dataset {name!r}{where}.{hint}{at_hand} Known: {', '.join(known_names())}")


def resolve_datasets(spec: str, raw_dir: Path | str | None = None) -> list[str]:
    """Return the official names of `A,B` or of `all` (the 33 categories), each once, order kept."""
    names = [part.strip() for part in str(spec).split(",") if part.strip()]
    if not names:
        raise InputError("no dataset given; pass --dataset=<name>[,<name>] or --dataset=all")
    resolved: list[str] = []
    for name in names:
        resolved.extend(DOMAINS if name == ALL else [resolve_domain(name, raw_dir)])
    return list(dict.fromkeys(resolved))


def raw_root(raw_dir: Path | str) -> Path:
    """Return the folder that holds `review_categories/`: `raw_dir` itself if it does, else `raw_dir/raw`."""
    raw_dir = Path(raw_dir)
    return raw_dir if (raw_dir / "review_categories").is_dir() else raw_dir / "raw"


def raw_relative(kind: str, name: str) -> str:
    """Return the published place of a raw file below `raw/`, without `.gz`. `kind` is review or meta."""
    return f"review_categories/{name}.jsonl" if kind == "review" else f"meta_categories/meta_{name}.jsonl"


def find_raw_file(raw_dir: Path | str, kind: str, name: str) -> Path | None:
    """Return the path of a raw file, `.jsonl` before `.jsonl.gz`, or None."""
    plain = raw_root(raw_dir) / raw_relative(kind, check_name(name))
    for path in (plain, plain.with_name(plain.name + ".gz")):
        if path.is_file():
            return path
    return None

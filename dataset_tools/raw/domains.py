"""Dataset names: official, short and generated ones; a name can never leave the folder it is joined to."""

import re
from pathlib import Path

from recbole_blair.errors import InputError, nearest
from recbole_blair.schema import ALIASES, DOMAINS, SAMPLE, UNKNOWN_DOMAIN

ALL = "all"
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SAMPLE_NAME = re.compile(rf"{SAMPLE}-u(\d+)-i(\d+)")
PUBLISHED = (*DOMAINS, UNKNOWN_DOMAIN)  # the files of the hub's repository


def known_names():
    """Return every name that needs no file: official, short, `sample`."""
    return (*PUBLISHED, *ALIASES, SAMPLE)


def check_name(name):
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


def parse_sample_name(name):
    """Return (users, items) of `sample-u<users>-i<items>`, or None for any other name."""
    match = _SAMPLE_NAME.fullmatch(name)
    return (int(match.group(1)), int(match.group(2))) if match else None


def is_sample(name):
    """Tell whether `name` is the generated dataset, at its own or another size."""
    return name == SAMPLE or parse_sample_name(name) is not None


def resolve_domain(name, raw_dir=None):
    """Return the official name of a dataset.

    Args:
        name (str): official name, a paper's short name, `sample`, `sample-u<users>-i<items>`, or the name of raw
            files of your own under `raw_dir`.
        raw_dir (path | None): where raw files of an unpublished name may lie.

    Raises:
        InputError: no such dataset; names the nearest known one.
    """
    check_name(name)
    if name in ALIASES:
        return ALIASES[name]
    if name in PUBLISHED or is_sample(name):
        return name
    if raw_dir is not None and find_raw_file(raw_dir, "review", name) is not None:
        return name
    hint = nearest(name, known_names())
    where = f" and no raw files of that name under {raw_dir}" if raw_dir is not None else ""
    raise InputError(f"unknown dataset {name!r}{where}.{hint} Known: {', '.join(known_names())}")


def resolve_datasets(spec, raw_dir=None):
    """Return the official names of `A,B` or of `all` (the 33 categories), each once, order kept."""
    names = [part.strip() for part in str(spec).split(",") if part.strip()]
    if not names:
        raise InputError("no dataset given; pass --dataset=<name>[,<name>] or --dataset=all")
    resolved = []
    for name in names:
        resolved.extend(DOMAINS if name == ALL else [resolve_domain(name, raw_dir)])
    return list(dict.fromkeys(resolved))


def raw_root(raw_dir):
    """Return the folder that holds `review_categories/`: `raw_dir` itself if it does, else `raw_dir/raw`."""
    raw_dir = Path(raw_dir)
    return raw_dir if (raw_dir / "review_categories").is_dir() else raw_dir / "raw"


def raw_relative(kind, name):
    """Return the published place of a raw file below `raw/`, without `.gz`. `kind` is review or meta."""
    return f"review_categories/{name}.jsonl" if kind == "review" else f"meta_categories/meta_{name}.jsonl"


def find_raw_file(raw_dir, kind, name):
    """Return the path of a raw file, `.jsonl` before `.jsonl.gz`, or None."""
    plain = raw_root(raw_dir) / raw_relative(kind, check_name(name))
    for path in (plain, plain.with_name(plain.name + ".gz")):
        if path.is_file():
            return path
    return None

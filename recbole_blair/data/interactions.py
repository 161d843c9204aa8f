"""Loads the interactions of a build as flat arrays: from its binary copy where that is good, else from the text."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from recbole_blair.data import binary_copy
from recbole_blair.data.atomic import catalogue_of, encode_items, read_inter, read_item_tokens
from recbole_blair.data.sequences import chain_rows, slice_rows
from recbole_blair.errors import InputError
from recbole_blair.files.write import remove_leftovers
from recbole_blair.schema import ITEM_SUFFIX, SPLITS


def load_interactions(build_dir: Path | str, use_cache: bool = True) -> dict[str, Any]:
    """Load a build's rows, from its binary copy when that is undamaged and was made from these very files.

    Args:
        build_dir: folder of `<build>.{train,valid,test}.inter` and `<build>.item`.
        use_cache: False reads the text and writes no copy.

    Returns:
        `events` (S, 2) int64: item ids from 1, times in ms; `<split>_rows` (R, 3) int32: the target's position
        among them, history items before it, user from 1; `user_start` (U + 1,) int64: where a user's sequence starts
        (-1: rows not chained); `item_tokens` and `user_tokens`: pyarrow string arrays.

    Raises:
        InputError: a missing file, a column that is absent, an item that `.item` does not hold, an empty split, more
            than 2 ** 31 events.
    """
    build_dir = Path(build_dir)
    sources = source_files(build_dir)
    if not use_cache:
        return read_tables(build_dir)
    folder = binary_copy.copy_folder(build_dir)
    stamp = binary_copy.make_stamp(sources)
    remove_leftovers(folder.parent)  # of commands that were killed while they wrote a copy
    copied = binary_copy.open_copy(folder, stamp)
    if copied is not None:
        return copied
    tables = read_tables(build_dir)
    try:
        binary_copy.write_copy(folder, tables, stamp)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return tables  # a read-only build still works, from memory
    return binary_copy.map_copy(folder)


def source_files(build_dir: Path) -> list[Path]:
    """Return the text files of a build; `.item` may be absent in other tools' builds."""
    name = build_dir.name
    paths = [build_dir / f"{name}.{split}.inter" for split in SPLITS]
    missing = [p.name for p in paths if not p.is_file()]
    if missing:
        raise InputError(f"{build_dir} lacks {', '.join(missing)}; make it with `recbole-blair prepare`")
    item = build_dir / f"{name}{ITEM_SUFFIX}"
    return [*paths, item] if item.is_file() else paths


def read_tables(build_dir: Path) -> dict[str, Any]:
    """Read the text files into the flat arrays."""
    name = build_dir.name
    item_tokens = read_item_tokens(build_dir / f"{name}{ITEM_SUFFIX}")
    parts = {s: read_inter(build_dir / f"{name}.{s}.inter") for s in SPLITS}
    for split, part in parts.items():
        if len(part["item"]) == 0:
            raise InputError(f"{name}.{split}.inter has no row: choose other instants or another dataset")
    users = pa.chunked_array([c for s in SPLITS for c in parts[s]["user"].chunks]).unify_dictionaries()
    user_codes = np.concatenate([c.indices.to_numpy(zero_copy_only=False) for c in users.chunks]).astype(np.int32) + 1
    user_tokens = users.chunk(users.num_chunks - 1).dictionary.cast(pa.string())
    if item_tokens is None:
        item_tokens = catalogue_of(parts)
    for split, part in parts.items():
        encode_items(part, item_tokens, f"{name}.{split}.inter")
    bounds = np.cumsum([0] + [len(parts[s]["item"]) for s in SPLITS])  # a split's rows are bounds[i] : bounds[i + 1]
    length = np.concatenate([parts[s]["length"] for s in SPLITS])
    rows = {
        "user": user_codes,
        "split": np.repeat(np.arange(len(SPLITS)), np.diff(bounds)),
        "item": np.concatenate([parts[s]["item"] for s in SPLITS]),
        "time": np.concatenate([parts[s]["time"] for s in SPLITS]),
        "length": length,
        "offset": np.cumsum(length) - length,  # where each row's history starts
        "history": np.concatenate([parts[s]["history"] for s in SPLITS]),
        "history_time": np.concatenate([parts[s]["history_time"] for s in SPLITS]),
    }
    tables = chain_rows(rows, len(user_tokens)) or slice_rows(rows, len(user_tokens))
    target = tables.pop("target")
    if len(tables["events"]) > np.iinfo(np.int32).max:
        raise InputError(f"{name} has {len(tables['events'])} events; more than 2 ** 31 are not supported")
    for i, split in enumerate(SPLITS):
        columns = (x[bounds[i] : bounds[i + 1]] for x in (target, rows["length"], user_codes))
        tables[f"{split}_rows"] = np.stack([x.astype(np.int32) for x in columns], 1)  # (R, 3)
    return {**tables, "item_tokens": item_tokens, "user_tokens": user_tokens}

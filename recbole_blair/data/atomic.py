"""Reads atomic files: tab-separated text whose header names each column as `field:type`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from recbole_blair.errors import InputError
from recbole_blair.files.build_files import check_build_file
from recbole_blair.schema import ITEM_ID, ITEM_SEQ, SPLITS, TIMESTAMP, TIMESTAMP_SEQ, USER_ID

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

BLOCK_BYTES = 32 << 20  # text read at a time


def read_header(path: Path) -> dict[str, str]:
    """Return `{field: column name as written}` of an atomic file, which is compared with the build's checksums."""
    check_build_file(path)
    with open(path, encoding="utf-8") as file:
        columns = file.readline().rstrip("\n").split("\t")
    return {column.split(":")[0]: column for column in columns}


def open_atomic(path: Path, fields: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Stream the chosen fields of an atomic file as record batches of strings."""
    header = read_header(path)
    lacking = [f for f in fields if f not in header]
    if lacking:
        raise InputError(f"{path.name} lacks the column {', '.join(lacking)}; it has {', '.join(header)}")
    names = [header[f] for f in fields]
    try:
        yield from pacsv.open_csv(
            path,
            read_options=pacsv.ReadOptions(block_size=BLOCK_BYTES),
            parse_options=pacsv.ParseOptions(delimiter="\t", quote_char=False),
            convert_options=pacsv.ConvertOptions(
                include_columns=names,
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV" not in str(error):
            raise InputError(f"{path} cannot be read: {error}") from error


def read_item_tokens(path: Path) -> pa.StringArray | None:
    """Item ids of `.item` in file order; None when the build has no such file."""
    if not path.is_file():
        return None
    batches = [batch.column(0) for batch in open_atomic(path, [ITEM_ID])]
    if not batches:
        raise InputError(f"{path} holds no item; make the build again with `recbole-blair prepare`")
    tokens = pa.concat_arrays(batches)
    if len(pc.unique(tokens)) != len(tokens):
        raise InputError(f"{path.name} holds an item twice; make the build again with `recbole-blair prepare`")
    return tokens


def read_inter(path: Path) -> dict[str, Any]:
    """Read one split of R rows, whose histories hold H items together.

    Returns:
        `user`, `item` (R,) and `history` (H,): chunked dictionary arrays of raw ids; `length` (R,) int: history items
        of each row, all 0 in a file of pairs; `time` (R,) and `history_time` (H,) int64 ms, zeros where the file has no
        times.
    """
    header = read_header(path)
    if ITEM_SEQ not in header and ITEM_ID in header:
        return read_pairs(path, TIMESTAMP in header)
    has_times = {TIMESTAMP, TIMESTAMP_SEQ} <= header.keys()
    fields = [USER_ID, ITEM_SEQ, ITEM_ID] + ([TIMESTAMP_SEQ, TIMESTAMP] if has_times else [])
    user: list[pa.DictionaryArray] = []
    item: list[pa.DictionaryArray] = []
    history: list[pa.DictionaryArray] = []
    length: list[np.ndarray] = []
    time: list[np.ndarray] = []
    history_time: list[np.ndarray] = []
    for batch in open_atomic(path, fields):
        user.append(batch.column(0).dictionary_encode())
        item.append(batch.column(2).dictionary_encode())
        lists = pc.split_pattern(batch.column(1), " ")  # "a b c" -> [a, b, c]
        length.append(np.diff(lists.offsets.to_numpy()))
        history.append(lists.flatten().dictionary_encode())
        if has_times:
            time.append(whole_ms(batch.column(4), path))
            history_time.append(whole_ms(pc.split_pattern(batch.column(3), " ").flatten(), path))
    dictionary = pa.dictionary(pa.int32(), pa.string())
    part = {
        "user": pa.chunked_array(user, dictionary),
        "item": pa.chunked_array(item, dictionary),
        "history": pa.chunked_array(history, dictionary),
        "length": np.concatenate(length) if length else np.zeros(0, np.int64),
    }
    if has_times and sum(map(len, history_time)) != len(part["history"]):
        raise InputError(f"{path.name}: {TIMESTAMP_SEQ} and {ITEM_SEQ} differ in length")
    part["time"] = np.concatenate(time) if time else np.zeros(len(part["item"]), np.int64)
    part["history_time"] = np.concatenate(history_time) if history_time else np.zeros(len(part["history"]), np.int64)
    return part


def read_pairs(path: Path, has_times: bool) -> dict[str, Any]:
    """Read one split of R pairs; returns what `read_inter` does, the histories empty."""
    batches = list(open_atomic(path, [USER_ID, ITEM_ID, TIMESTAMP][: 2 + has_times]))
    dictionary = pa.dictionary(pa.int32(), pa.string())
    user, item = (
        pa.chunked_array([batch.column(place).dictionary_encode() for batch in batches], dictionary) for place in (0, 1)
    )
    zeros = np.zeros(len(item), np.int64)
    times = [whole_ms(batch.column(2), path) for batch in batches] if has_times else []
    return {
        "user": user,
        "item": item,
        "history": pa.chunked_array([], dictionary),
        "length": zeros,
        "time": np.concatenate(times) if times else zeros,
        "history_time": np.zeros(0, np.int64),
    }


def has_histories(path: Path) -> bool:
    """Tell whether the rows of an `.inter` file carry a history; those of protocol=random are pairs without."""
    return ITEM_SEQ in read_header(path)


def whole_ms(strings: pa.StringArray, path: Path) -> np.ndarray:
    """Parse times as int64 milliseconds; they never pass through a float."""
    try:
        return pc.cast(strings, pa.int64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path.name} holds a time that is not whole milliseconds: {error}") from error


def catalogue_of(parts: Mapping[str, Mapping[str, Any]]) -> pa.StringArray:
    """Items in order of first occurrence, for a build without `.item`."""
    chunks = [c.dictionary for s in SPLITS for key in ("history", "item") for c in parts[s][key].chunks]
    return pc.unique(pa.concat_arrays(chunks))


def encode_items(part: dict[str, Any], item_tokens: pa.StringArray, name: str) -> None:
    """Replace the item tokens of a split by ids from 1, (R,) and (H,) int32, in place; each distinct one is looked up
    once per chunk."""
    for key in ("item", "history"):
        codes = []
        for chunk in part[key].chunks:
            ids = pc.index_in(chunk.dictionary, value_set=item_tokens)
            if ids.null_count:
                token = chunk.dictionary.filter(pc.is_null(ids))[0].as_py()
                raise InputError(
                    f"{name} holds the item {token!r}, which the .item file beside it lacks; make the build again with "
                    "`recbole-blair prepare`"
                )
            codes.append(ids.to_numpy()[chunk.indices.to_numpy()].astype(np.int32) + 1)
        part[key] = np.concatenate(codes) if codes else np.zeros(0, np.int32)

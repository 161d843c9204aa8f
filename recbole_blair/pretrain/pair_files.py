"""The files of `--pairs`: JSONL (plain or gzip) or Parquet, or a folder of either, read row by row and checked."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recbole_blair.errors import InputError, nearest
from recbole_blair.files.read import iter_jsonl, reading, shown, why_no_file, why_no_folder
from recbole_blair.schema import MATCHED_REVIEWS

FIELDS = ("context", "metadata", "item_id", "timestamp")
HISTORY = "history_id"  # a fifth field of collaborative pairs: whose history the pair is of
PAIRS = f"one pair per line or row: {', '.join(FIELDS)}"
BATCH_ROWS = 10_000
_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")


def pair_files(path: Path | str) -> list[Path]:
    """Return the files of `--pairs`: the file itself, or what a folder holds, by name.

    Raises:
        InputError: nothing there, or nothing of a known kind.
    """
    path = Path(path).expanduser()
    reason = why_no_file(path)
    if reason is None:
        files = [path]
    elif why_no_folder(path) is None:
        if (path / ".unfinished").exists():
            raise InputError(
                f"--pairs={path} is not finished: the command that makes its pairs was stopped; run it again"
            )
        pairs = (p for p in path.iterdir() if p.is_file() and p.name.endswith(_SUFFIXES))
        files = sorted(p for p in pairs if p.name != MATCHED_REVIEWS)  # the contamination report's, beside the pairs
    else:
        reason = reason.replace("file", "file or folder")
        raise InputError(f"--pairs={shown(path)}: {reason}; expected JSONL, JSONL.gz or Parquet")
    if not files or not files[0].name.endswith(_SUFFIXES):
        raise InputError(f"--pairs={path} holds no pairs; expected files ending in {', '.join(_SUFFIXES)}")
    return files


@functools.lru_cache(maxsize=4)
def pairs_hash(path: Path | str) -> str:
    """Return the SHA-256 of the pairs' files, one after the other, hex."""
    digest = hashlib.sha256()
    for file in pair_files(path):
        with open(file, "rb") as handle:
            while block := handle.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def read_pairs(path: Path) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yield (place, rows) of one file; `place` is its name and the first row's 1-based number.

    Raises:
        InputError: a corrupt file, a line that is no pair, a column that is missing.
    """
    return _read_parquet(path) if path.name.endswith(".parquet") else _read_jsonl(path)


def _read_parquet(path: Path) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    import pyarrow.parquet as pq  # heavy

    number = 1
    with reading(path, PAIRS), pq.ParquetFile(path) as file:
        missing = [name for name in FIELDS if name not in file.schema_arrow.names]
        if missing:
            found = ", ".join(file.schema_arrow.names)
            raise InputError(f"{path} has no column {missing[0]!r} (it has {found}); pairs need {', '.join(FIELDS)}")
        columns = [*FIELDS, *(name for name in (HISTORY,) if name in file.schema_arrow.names)]
        for batch in file.iter_batches(BATCH_ROWS, columns=columns):
            yield number, batch.to_pylist()
            number += batch.num_rows


def _read_jsonl(path: Path) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    rows: list[dict[str, Any]] = []
    first = 1
    for number, row in iter_jsonl(path, PAIRS):
        for name in FIELDS[:3]:
            if name not in row:
                raise InputError(
                    f"{path} line {number} has no {name!r}.{nearest(name, row)} Pairs need {', '.join(FIELDS)}"
                )
        if not rows:
            first = number
        rows.append(row)
        if len(rows) == BATCH_ROWS:
            yield first, rows
            rows = []
    if rows:
        yield first, rows


def check_row(path: Path, number: int, row: dict[str, Any]) -> tuple[str, str, str, int | None, str | None]:
    """Return (context, metadata, item id, time in ms or None, history id or None) of one pair.

    Raises:
        InputError: a value of the wrong kind.
    """
    context, metadata, item_id, time = row["context"], row["metadata"], row["item_id"], row.get("timestamp")
    history = row.get(HISTORY)
    if not isinstance(history, str | None):
        raise InputError(f"{path} row {number}: {HISTORY} is {history!r}; expected text or null")
    for name, value in (("context", context), ("metadata", metadata), ("item_id", item_id)):
        if not isinstance(value, str):
            raise InputError(f"{path} row {number}: {name} is {value!r}; expected text")
    if time is not None and (isinstance(time, bool) or not isinstance(time, int | float) or not math.isfinite(time)):
        raise InputError(f"{path} row {number}: timestamp is {time!r}; expected Unix milliseconds or null")
    return context, metadata, item_id, None if time is None else int(time), history

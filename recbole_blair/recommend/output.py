"""Writes recommendations chunk by chunk: a table for people, JSON lines, CSV, Parquet; files are renamed when whole."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from recbole_blair.errors import InputError
from recbole_blair.files.write import whole_file
from recbole_blair.recommend.selection import POPULARITY
from recbole_blair.schema import ITEM_ID

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("table", "jsonl", "csv", "parquet")


def choose_format(name: str | None, output: Path | str | None) -> str:
    """Return the format: as named, else by the ending of `output`, else table.

    Raises:
        InputError: an unknown one, or Parquet without a file.
    """
    by_ending = {".jsonl": "jsonl", ".json": "jsonl", ".csv": "csv", ".parquet": "parquet"}
    name = name or by_ending.get(Path(output or "").suffix, "table")
    if name not in FORMATS:
        raise InputError(f"format={name} is not one of {', '.join(FORMATS)}")
    if name == "parquet" and not output:
        raise InputError("format=parquet needs a file: --output=recommendations.parquet")
    return name


def write_recommendations(frames: Iterable[pd.DataFrame], name: str, output: Path | str | None = None) -> int:
    """Write frames of `Recommender.iter_recommendations` or of `Recommender.similar`.

    Args:
        name: of `FORMATS`.
        output: None prints; never with parquet.

    Returns:
        The number of rows written.
    """
    with contextlib.nullcontext() if output is None else whole_file(output) as path:
        return WRITERS[name](frames, path)


def text_file(path: Path | None) -> AbstractContextManager[TextIO]:
    """Open a text file for writing; standard output for None."""
    return contextlib.nullcontext(sys.stdout) if path is None else open(path, "w", encoding="utf-8", newline="")


def write_table(frames: Iterable[pd.DataFrame], path: Path | None) -> int:
    """Write one block per user, or per item: rank, score, item, title, cut to the terminal's width."""
    width = max(shutil.get_terminal_size((120, 24)).columns, 60) if path is None else 120
    rows, wide = 0, 0
    with text_file(path) as file:
        for frame in frames:
            wide = max(wide, frame.iloc[:, 2].str.len().max() if len(frame) else 0)
            for name, rank, item, title, score, *source in frame.itertuples(index=False):
                if rank == 1:
                    note = "  (no history: the most popular items)" if source == [POPULARITY] else ""
                    file.write(f"{'' if not rows else chr(10)}{name}{note}\n")
                short = textwrap.shorten(title, max(20, width - wide - 19), placeholder=" …")
                file.write(f"{rank:>5}  {score:>8.4f}  {item:<{wide}}  {short}".rstrip() + "\n")
                rows += 1
    return rows


def write_jsonl(frames: Iterable[pd.DataFrame], path: Path | None) -> int:
    """Write one line per user, or per item: `{user_id, source, items: [{item_id, title, score}, …]}`, best first."""
    rows = 0
    with text_file(path) as file:
        for frame in frames:
            line: dict[str, Any] = {}
            for name, rank, item, title, score, *source in frame.itertuples(index=False):
                if rank == 1:
                    if line:
                        file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    line = {frame.columns[0]: name, **dict(zip(frame.columns[5:], source)), "items": []}
                line["items"].append({ITEM_ID: item, "title": title, "score": round(float(score), 6)})
            if line:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            rows += len(frame)
    return rows


def write_csv(frames: Iterable[pd.DataFrame], path: Path | None) -> int:
    """Write the columns of the frames, one line per row."""
    rows = 0
    with text_file(path) as file:
        for number, frame in enumerate(frames):
            frame.to_csv(file, index=False, header=number == 0, float_format="%.6f", lineterminator="\n")
            rows += len(frame)
    return rows


def write_parquet(frames: Iterable[pd.DataFrame], path: Path) -> int:
    """Write the same columns as Parquet, one row group per chunk."""
    types = {"rank": pa.int32(), "score": pa.float32()}
    rows, writer = 0, None
    with contextlib.ExitStack() as stack:
        for frame in frames:
            schema = pa.schema([(name, types.get(name, pa.string())) for name in frame.columns])
            writer = writer or stack.enter_context(pq.ParquetWriter(path, schema))
            writer.write_table(pa.Table.from_pandas(frame, schema, preserve_index=False))
            rows += len(frame)
    return rows


WRITERS: dict[str, Callable[..., int]] = {
    "table": write_table,
    "jsonl": write_jsonl,
    "csv": write_csv,
    "parquet": write_parquet,
}

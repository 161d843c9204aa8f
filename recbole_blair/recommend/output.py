"""Writes recommendations chunk by chunk: a table for people, JSON lines, CSV, Parquet; files are renamed when whole."""

import contextlib
import json
import shutil
import sys
import textwrap
from pathlib import Path

from recbole_blair.errors import InputError
from recbole_blair.files.write import whole_file
from recbole_blair.schema import ITEM_ID, USER_ID

FORMATS = ("table", "jsonl", "csv", "parquet")


def choose_format(name, output):
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


def write_recommendations(frames, name, output=None):
    """Write frames of `Recommender.iter_recommendations`.

    Args:
        frames (iterable of DataFrame)
        name (str): of `FORMATS`.
        output (path | None): None prints; never with parquet.

    Returns:
        int: rows written.
    """
    if output is None:
        return WRITERS[name](frames, None)
    with whole_file(output) as path:
        return WRITERS[name](frames, path)


def text_file(path):
    """Open a text file for writing; standard output for None."""
    return contextlib.nullcontext(sys.stdout) if path is None else open(path, "w", encoding="utf-8", newline="")


def write_table(frames, path):
    """Write a block a user: rank, score, item, title, cut to the terminal's width."""
    width = max(shutil.get_terminal_size((120, 24)).columns, 60) if path is None else 120
    rows, wide = 0, 0
    with text_file(path) as file:
        for frame in frames:
            wide = max(wide, frame[ITEM_ID].str.len().max() if len(frame) else 0)
            for user, rank, item, title, score in frame.itertuples(index=False):
                if rank == 1:
                    file.write(f"{'' if not rows else chr(10)}{user}\n")
                short = textwrap.shorten(title, max(20, width - wide - 19), placeholder=" …")
                file.write(f"{rank:>5}  {score:>8.4f}  {item:<{wide}}  {short}".rstrip() + "\n")
                rows += 1
    return rows


def write_jsonl(frames, path):
    """Write a line a user: `{user_id, items: [{item_id, title, score}, …]}`, best first."""
    rows = 0
    with text_file(path) as file:
        for frame in frames:
            line = None
            for user, rank, item, title, score in frame.itertuples(index=False):
                if rank == 1:
                    if line:
                        file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    line = {USER_ID: user, "items": []}
                line["items"].append({ITEM_ID: item, "title": title, "score": round(float(score), 6)})
            if line:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            rows += len(frame)
    return rows


def write_csv(frames, path):
    """Write `user_id,rank,item_id,title,score`, a line a recommendation."""
    rows = 0
    with text_file(path) as file:
        for number, frame in enumerate(frames):
            frame.to_csv(file, index=False, header=number == 0, float_format="%.6f", lineterminator="\n")
            rows += len(frame)
    return rows


def write_parquet(frames, path):
    """Write the same columns as Parquet, a row group a chunk."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    strings = {USER_ID, ITEM_ID, "title"}
    types = {"rank": pa.int32(), "score": pa.float32()}
    columns = (USER_ID, "rank", ITEM_ID, "title", "score")
    schema = pa.schema([(c, pa.string() if c in strings else types[c]) for c in columns])
    rows = 0
    with pq.ParquetWriter(path, schema) as writer:
        for frame in frames:
            writer.write_table(pa.Table.from_pandas(frame, schema, preserve_index=False))
            rows += len(frame)
    return rows


WRITERS = {"table": write_table, "jsonl": write_jsonl, "csv": write_csv, "parquet": write_parquet}

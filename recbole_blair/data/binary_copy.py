"""The binary copy of a build's interactions below `.cache/`: NumPy and Arrow files that are memory-mapped."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from recbole_blair.files.paths import file_stamps
from recbole_blair.files.write import whole_folder
from recbole_blair.schema import CACHE_DIR, SPLITS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

COPY_VERSION = 2  # raised when the layout changes: copies of another version are made again
ARRAYS = ("events", *(f"{split}_rows" for split in SPLITS), "user_start")
TOKENS = ("item_tokens", "user_tokens")
STAMP = "stamp.json"


def copy_folder(build_dir: Path) -> Path:
    """Return the folder of the copy."""
    return build_dir / CACHE_DIR / "interactions"


def make_stamp(sources: Sequence[Path]) -> dict[str, Any]:
    """Return what a copy of these text files must have been made from."""
    return {"version": COPY_VERSION, "sources": file_stamps(sources)}


def read_stamp(folder: Path) -> dict[str, Any] | None:
    """Return what the binary copy was made from; None when there is none."""
    try:
        return json.loads((folder / STAMP).read_text())
    except (OSError, ValueError):
        return None


def map_copy(folder: Path) -> dict[str, Any]:
    """Memory-map the binary copy."""
    tables: dict[str, Any] = {a: np.load(folder / f"{a}.npy", mmap_mode="r", allow_pickle=False) for a in ARRAYS}
    for name in TOKENS:
        with pa.memory_map(str(folder / f"{name}.arrow")) as source:
            tables[name] = pa.ipc.open_file(source).read_all().column(0).combine_chunks()
    return tables


def write_copy(folder: Path, tables: Mapping[str, Any], stamp: Mapping[str, Any]) -> None:
    """Write the binary copy; it can be made again, so nothing waits for the disk."""
    with whole_folder(folder, sync=False) as temporary:
        for name in ARRAYS:
            np.save(temporary / f"{name}.npy", tables[name], allow_pickle=False)
        for name in TOKENS:
            batch = pa.record_batch([tables[name]], names=[name])
            with (
                pa.OSFile(str(temporary / f"{name}.arrow"), "wb") as sink,
                pa.ipc.new_file(sink, batch.schema) as out,
            ):
                out.write_batch(batch)
        (temporary / STAMP).write_text(json.dumps(stamp))

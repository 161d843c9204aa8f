"""The binary copy of a build's interactions below `.cache/`: NumPy and Arrow files that are memory-mapped.

`stamp.json`, written last, says what the copy was made from, and the size and the checksums of its files. A map of a
file that is cut short ends the process when it is read, and a flipped bit is another item; so all of it is checked
before it is mapped, and a damaged copy is made again from the text.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from recbole_blair.errors import InputError
from recbole_blair.files.checksum import crc32_blocks
from recbole_blair.files.own_json import read_own_json, write_own_json
from recbole_blair.files.paths import file_stamps
from recbole_blair.files.write import whole_folder
from recbole_blair.parallel.launch import is_first_process
from recbole_blair.schema import CACHE_DIR, SPLITS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

COPY_VERSION = 3  # raised when the layout changes: copies of another version are made again
ARRAYS = ("events", *(f"{split}_rows" for split in SPLITS), "user_start")
TOKENS = ("item_tokens", "user_tokens")
FILES = (*(f"{name}.npy" for name in ARRAYS), *(f"{name}.arrow" for name in TOKENS))
STAMP = "stamp.json"


def copy_folder(build_dir: Path) -> Path:
    """Return the folder of the copy."""
    return build_dir / CACHE_DIR / "interactions"


def make_stamp(sources: Sequence[Path]) -> dict[str, Any]:
    """Return what a copy of these text files must have been made from."""
    return {"version": COPY_VERSION, "sources": file_stamps(sources)}


def open_copy(folder: Path, stamp: Mapping[str, Any]) -> dict[str, Any] | None:
    """Memory-map the copy.

    Returns:
        The tables; None when there is no copy, it was made from other files, or it is damaged, which is said in one
        line: it must then be made.
    """
    if not os.path.lexists(folder):
        return None
    try:
        recorded = read_own_json(folder / STAMP, "the record of a binary copy", "")
        if {key: recorded.get(key) for key in stamp} != stamp:
            return None
        fault = find_fault(folder, recorded["files"])
        if fault is None:
            return map_copy(folder)
    except InputError as error:
        fault = str(error)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        fault = f"{STAMP}: {type(error).__name__}"
    if is_first_process():
        print(f"{folder} is damaged ({fault}); it is made again from the text files", file=sys.stderr)
    if not folder.is_dir():
        folder.unlink(missing_ok=True)
    return None


def find_fault(folder: Path, recorded: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return which file of the copy is not as it was written, and why; None when all are."""
    for name in FILES:
        try:
            size, checksums = (folder / name).stat().st_size, recorded[name]["crc32"]
            if size != recorded[name]["bytes"]:
                return f"{name} has {size:,} bytes, {recorded[name]['bytes']:,} were written"
            if crc32_blocks(folder / name) != checksums:
                return f"{name} has another checksum than when it was written"
        except OSError as error:
            return f"{name}: {error.strerror}"
    return None


def map_copy(folder: Path) -> dict[str, Any]:
    """Memory-map the files of the copy as they are."""
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
        files = {
            name: {"bytes": (temporary / name).stat().st_size, "crc32": crc32_blocks(temporary / name)}
            for name in FILES
        }
        write_own_json(temporary / STAMP, {**stamp, "files": files}, indent=None)

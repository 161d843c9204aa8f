"""SHA-256 of raw files, kept in a build's `.cache/` by size, time and inode, so that a file is read once per change."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_blair.errors import InputError
from recbole_blair.files.checksum import file_sha256
from recbole_blair.files.own_json import read_own_json, write_own_json
from recbole_blair.schema import CACHE_DIR

if TYPE_CHECKING:
    from collections.abc import Sequence

DIGESTS = "raw_files.json"  # {"sources": {absolute path: [bytes, modification time in ns, inode, SHA-256]}}


RawFile = tuple[Path, list]  # and its entry: bytes, modification time in ns, inode, SHA-256


def file_state(path: Path) -> list[int]:
    """Return what changes when a file is written: bytes, modification time in ns, inode."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def load_digests(folder: Path | str) -> dict[str, list]:
    """Return the digests that a build's folder keeps; empty where it keeps none that can be read."""
    try:
        value = read_own_json(Path(folder) / CACHE_DIR / DIGESTS, "digests of raw files", "", ("sources",))["sources"]
    except InputError:
        return {}
    whole = isinstance(value, dict) and all(isinstance(entry, list) and len(entry) == 4 for entry in value.values())
    return value if whole else {}


def read_raw_file(path: Path) -> RawFile:
    """Return a file with its state, and its SHA-256, which is read afterwards."""
    return path, [*file_state(path), file_sha256(path)]


def remember_digests(folder: Path | str, files: Sequence[RawFile]) -> None:
    """Keep the digests of files; nothing where the folder cannot be written."""
    known = {str(path.resolve()): entry for path, entry in files}
    with contextlib.suppress(OSError):
        (Path(folder) / CACHE_DIR).mkdir(exist_ok=True)
        write_own_json(Path(folder) / CACHE_DIR / DIGESTS, {"sources": {**load_digests(folder), **known}})


def raw_digest(folder: Path | str, path: Path) -> str:
    """Return a raw file's SHA-256, from the build's folder where the file is as it was when it was read last."""
    state, known = file_state(path), load_digests(folder).get(str(path.resolve()))
    if known and known[:3] == state:
        return known[3]
    file = read_raw_file(path)
    remember_digests(folder, [file])
    return file[1][3]

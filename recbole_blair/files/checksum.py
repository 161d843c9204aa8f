"""SHA-256 checksums: recorded beside the files that we write, compared before they are used again.

`checksums.json` in a folder holds {file name: its digest, or a list of digests}. Two digests stand there while a file
is replaced: the new one is recorded first, so that a kill between the two writes leaves a file that is still known.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_blair.errors import InputError
from recbole_blair.files.read import shown
from recbole_blair.files.write import whole_file, write_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

CHECKSUMS = "checksums.json"
CHECKSUM_LINE = "# SHA-256 of the lines below: "  # the first line of YAML that we wrote
BLOCK_BYTES = 1 << 22  # read at a time
CRC_BLOCK_BYTES = 4 << 20  # of one CRC-32: blocks are checked side by side, which takes .35 s of a core per GiB
MAX_THREADS = 8


def file_sha256(path: Path | str) -> str:
    """Return a file's SHA-256, hex; what `sha256sum` prints."""
    digest, block = hashlib.sha256(), memoryview(bytearray(BLOCK_BYTES))
    with open(path, "rb", buffering=0) as file:
        while n_read := file.readinto(block):
            digest.update(block[:n_read])
    return digest.hexdigest()


def check_sha256(path: Path | str, recorded: str | Iterable[str], fix: str) -> None:
    """Refuse a file that is not the one whose digest was recorded.

    Args:
        recorded: hex digest, or several of which the file must have one.
        fix: what to do, the end of the message.

    Raises:
        InputError: the file cannot be read, or has another digest.
    """
    recorded = [recorded] if isinstance(recorded, str) else list(recorded)
    try:
        found = file_sha256(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); {fix}") from error
    if found not in recorded:
        raise InputError(f"{path} is damaged: its SHA-256 is {found}, {CHECKSUMS} has {recorded[0]}; {fix}")


def read_checksums(folder: Path | str, fix: str) -> dict[str, list[str]] | None:
    """Return the digests recorded in a folder by file name; None where no file of them is there.

    Raises:
        InputError: `checksums.json` is damaged.
    """
    path = Path(folder) / CHECKSUMS
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        lists = {name: [one] if isinstance(one, str) else list(one) for name, one in value.items()}
        if not all(isinstance(digest, str) for digests in lists.values() for digest in digests):
            raise ValueError("a digest is no text")
        if any(Path(name).is_absolute() or ".." in Path(name).parts for name in lists):
            raise ValueError("a name leads out of the folder")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({str(error)[:100]}); {fix}") from error
    return lists


def check_recorded(path: Path | str, fix: str) -> bool:
    """Compare a file with the digest that `checksums.json` beside it records.

    Returns:
        bool: False where the folder has no `checksums.json`: it was made by a version that wrote none.

    Raises:
        InputError: the file has another digest, none is recorded for it, or `checksums.json` is damaged.
    """
    path = Path(path)
    recorded = read_checksums(path.parent, fix)
    if recorded is None:
        return False
    if not recorded.get(path.name):
        raise InputError(f"{path.parent / CHECKSUMS} is damaged: it records nothing of {path.name}; {fix}")
    check_sha256(path, recorded[path.name], fix)
    return True


def check_folder(folder: Path | str, fix: str, may_lack: bool = False) -> bool:
    """Compare every file that `checksums.json` in a folder records, files of its subfolders among them.

    Args:
        fix: what to do, the end of the message.
        may_lack: files may be missing; those that are there are compared.

    Returns:
        bool: False where the folder has no `checksums.json`.

    Raises:
        InputError: a file is missing or has another digest, or `checksums.json` is damaged.
    """
    recorded = read_checksums(folder, fix)
    for name, digests in (recorded or {}).items():
        if not may_lack or (Path(folder) / name).exists():
            check_sha256(Path(folder) / name, digests, fix)
    return recorded is not None


def write_checksums(folder: Path, names: Iterable[str]) -> None:
    """Record files of a folder, by their paths in it."""
    digests = {name: file_sha256(folder / name) for name in names if name != CHECKSUMS}
    write_text(folder / CHECKSUMS, checksums_text(digests))


@contextlib.contextmanager
def recorded_file(path: Path | str) -> Iterator[Path]:
    """Yield the temporary path of a file that is written whole; record its digest before it has its name."""
    path = Path(path)
    # The inner file is in place when its block ends: the list before the file.
    with whole_file(path) as temporary, whole_file(path.parent / CHECKSUMS) as listing:
        yield temporary
        try:
            recorded: dict[str, list[str]] = read_checksums(path.parent, "") or {}
        except InputError:  # a damaged list: what it said of other files is lost, they are written anew as well
            recorded = {}
        former = [file_sha256(path)] if path.is_file() else []
        former = [digest for digest in former if digest in recorded.get(path.name, former)]
        digests = {**recorded, path.name: list(dict.fromkeys([file_sha256(temporary), *former]))}
        listing.write_text(checksums_text(digests), encoding="utf-8")
    if len(digests[path.name]) > 1:  # the former file is gone
        write_text(path.parent / CHECKSUMS, checksums_text({**digests, path.name: digests[path.name][:1]}))


def checksums_text(digests: Mapping[str, str | list[str]]) -> str:
    """Return the content of `checksums.json` for digests by file name."""
    return json.dumps(digests, indent=1, sort_keys=True) + "\n"


def file_crc32(path: Path | str) -> str:
    """Return what is recorded of a large file that can be made again: 8 hex digits of CRC-32 per block."""
    return "".join(f"{checksum:08x}" for checksum in crc32_blocks(path))


def known_crc32(path: Path) -> str:
    """Return `file_crc32`, for which a process reads a file once, as long as it stays the same."""
    stat = path.stat()
    return _known_crc32(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=32)
def _known_crc32(path: Path, inode: int, size: int, time_ns: int) -> str:
    return file_crc32(path)


def with_checksum_line(text: str) -> str:
    """Return YAML with a first line, a comment, that holds the checksum of the others."""
    return f"{CHECKSUM_LINE}{hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def check_checksum_line(path: Path) -> None:
    """Refuse YAML of another content than its first line says; a file without such a line is taken as it is.

    Raises:
        InputError: names the file.
    """
    first, _, text = path.read_bytes().partition(b"\n")
    recorded = first.decode("utf-8", "replace")
    if recorded.startswith(CHECKSUM_LINE) and recorded != CHECKSUM_LINE + hashlib.sha256(text).hexdigest():
        raise InputError(
            f"{shown(path)} is damaged or was changed: its lines have another SHA-256 than its first line says; copy "
            "the folder again, or, if you changed it on purpose, delete the first line"
        )


def crc32_blocks(path: Path | str) -> list[int]:
    """Return the CRC-32 of each `CRC_BLOCK_BYTES` of a file: for large files that are made again when damaged."""

    def checksum(start: int) -> int:  # reading and CRC-32 both release the interpreter
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            return zlib.crc32(file.read(CRC_BLOCK_BYTES))

    starts = range(0, os.stat(path).st_size, CRC_BLOCK_BYTES)
    if len(starts) < 2:
        return list(map(checksum, starts))
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        return list(pool.map(checksum, starts))

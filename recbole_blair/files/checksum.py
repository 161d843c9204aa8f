"""SHA-256 checksums: recorded beside the files that we write, compared before they are used again.

`checksums.json` in a folder holds {file name: its digest, or a list of digests}. Two digests stand there while a file
is replaced: the new one is recorded first, so that a kill between the two writes leaves a file that is still known.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_blair.errors import InputError
from recbole_blair.files.write import write_bytes, write_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CHECKSUMS = "checksums.json"
BLOCK_BYTES = 1 << 22  # read at a time


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
        raise InputError(
            f"{path} is damaged: its SHA-256 is {found[:12]}…, when it was written it was {recorded[0][:12]}…; {fix}"
        )


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


def write_recorded(path: Path | str, data: bytes) -> None:
    """Write a file whole and record its digest in `checksums.json` beside it, before the file has its name."""
    path = Path(path)
    try:
        recorded: dict[str, list[str]] = read_checksums(path.parent, "") or {}
    except InputError:  # a damaged list: what it said of other files is lost, they are written anew as well
        recorded = {}
    former = [file_sha256(path)] if path.is_file() else []
    former = [digest for digest in former if digest in recorded.get(path.name, former)]
    digests = {**recorded, path.name: list(dict.fromkeys([hashlib.sha256(data).hexdigest(), *former]))}
    write_text(path.parent / CHECKSUMS, checksums_text(digests))
    write_bytes(path, data)


def checksums_text(digests: Mapping[str, str | list[str]]) -> str:
    """Return the content of `checksums.json` for digests by file name."""
    return json.dumps(digests, indent=1, sort_keys=True) + "\n"

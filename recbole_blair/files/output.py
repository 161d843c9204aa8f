"""Outputs that cannot be written are refused before any work is done, and the check leaves nothing behind."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from recbole_blair.files.write import WriteError, check_is_file, describe, explained, sync_to_disk, work_folder

PROBE_BYTES = 4096  # a full disk still takes names; it refuses a block
PROBES = 20  # of a folder that other processes check at the same moment


def check_output_folder(path: Path | str) -> Path:
    """Return a folder's path, `~` written out, after a file was written there and removed again.

    Folders that are missing are made for the test alone.

    Raises:
        WriteError: a file is where a folder should be, or the folder cannot be made or written.
    """
    path = Path(os.path.expanduser(path))
    with explained(path):
        _probe(path, path)
    return path


def check_output_file(path: Path | str) -> Path:
    """Return a file's path, `~` written out, after it was found that it can be written; an old one stays as it is.

    Raises:
        WriteError: it is a folder or a device, or cannot be written.
    """
    path = Path(os.path.expanduser(path))
    with explained(path):
        check_is_file(path)
        _probe(path, path.parent)
    return path


def _probe(path: Path, folder: Path) -> None:
    """Write a file into a folder and remove it; `path` is asked for, since the file system knows how long one may be.

    Another process that checks the same folder may remove what it made of it in between: then once more.
    """
    for attempt in range(PROBES):
        try:
            with work_folder(folder / "probe") as place:
                with contextlib.suppress(FileNotFoundError):
                    os.lstat(path)
                (place / "block").write_bytes(b"\0" * PROBE_BYTES)
                sync_to_disk(place / "block")
            return
        except OSError as error:
            if error.errno == errno.ENOENT and attempt < PROBES - 1:
                continue
            if isinstance(error, WriteError) and error.errno is not None:  # it names the file of this check
                raise WriteError(describe(error.errno, path), error.errno) from error
            raise

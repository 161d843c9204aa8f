"""A file that is flushed to the disk while it is written, so that little is left to flush at its end."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

SYNC_BYTES = 32 << 20  # written since the last flush: the next one starts


class SyncedFile:
    """A new file for bytes, written by one thread at a time.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "wb", buffering=1 << 20)  # noqa: SIM115  closed at the end of the block
        self._pool = ThreadPoolExecutor(1)  # waits for the disk
        self._new_bytes = 0
        self._syncing: Future[None] | None = None

    def write(self, data: bytes | memoryview) -> None:
        """Write bytes; some of them stay in a buffer."""
        self._file.write(data)
        self._new_bytes += len(data)
        if self._new_bytes >= SYNC_BYTES and (self._syncing is None or self._syncing.done()):
            self._new_bytes, self._syncing = 0, self._pool.submit(os.fsync, self._file.fileno())

    def finish(self) -> None:
        """Wait until all bytes are on the disk.

        Raises:
            OSError: they cannot be written; ENOSPC when the disk is full.
        """
        self._file.flush()
        if self._syncing:
            self._syncing.result()
        os.fsync(self._file.fileno())

    def __enter__(self) -> SyncedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        self._file.close()

"""A file that goes to the disk while it is written, so that little is left to wait for once it is whole."""

import os
from concurrent.futures import ThreadPoolExecutor

SYNC_BYTES = 32 << 20


class DiskFile:
    """A new file for bytes, written by one thread at a time.

    Args:
        path (Path): of the file.
    """

    def __init__(self, path):
        self._file = open(path, "wb", buffering=1 << 20)  # noqa: SIM115  closed at the end of the block
        self._pool = ThreadPoolExecutor(1)  # waits for the disk
        self._new_bytes, self._syncing = 0, None

    def write(self, data):
        """Write bytes; some of them stay in a buffer."""
        self._file.write(data)
        self._new_bytes += len(data)
        if self._new_bytes >= SYNC_BYTES and (self._syncing is None or self._syncing.done()):
            self._new_bytes, self._syncing = 0, self._pool.submit(os.fsync, self._file.fileno())

    def finish(self):
        """Wait until all of it is on the disk.

        Raises:
            OSError: it cannot be, ENOSPC when the disk is full.
        """
        self._file.flush()
        if self._syncing:
            self._syncing.result()
        os.fsync(self._file.fileno())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._pool.shutdown()
        self._file.close()

"""The partial file of one feature file: written chunk by chunk, resumable at any moment, renamed when whole.

Beside the final name stand, while the work goes on, `<feature>.partial` (rows in `.item` order) and
`<feature>.partial.json` (what is being made, and which chunks are in). A chunk is written down only after its
rows are on disk. At the end: old header away, rows renamed, new header written, progress removed; so a feature
file with a header and no progress file is whole, and a kill between any two of these steps is picked up by the
next run.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from recbole_blair.errors import InputError
from recbole_blair.files.checksum import file_crc32
from recbole_blair.files.own_json import read_own_json, write_own_json
from recbole_blair.files.write import explained, put_in_place
from recbole_blair.schema import VERSION
from recbole_blair.text.features import CHECKSUM_KEY, PROGRESS_SUFFIX, read_header

if TYPE_CHECKING:
    from recbole_blair.text.encoders import Encoder

# Header keys that must agree for rows of two runs to go into one file.
SAME_ROWS = (
    "format",
    "encoder",
    "source",
    "endpoint",
    "tokeniser",
    "revision",
    "weights_sha256",
    "pooling",
    "modules",
    "prompt",
    "text_fields",
    "recipe_text_sha256",
    "file_sha256",
    "max_length",
    "precision",
    "ids_sha256",
    "text_sha256",
    "rows",
    "width",
)


class PartialFeatures:
    """The partial file of one feature file and its progress; a lock keeps a second process out.

    Args:
        path: the final feature file.
        about: what goes into the header.
        n_chunks: chunks of the encoder's plan.
        encoder: its device and batch size are part of what a resumed run must share.
        batch_tokens: as asked for.
        reused: rows that are carried over from another file: the chunks are then others.
    """

    def __init__(
        self, path: Path | str, about: dict[str, Any], n_chunks: int, encoder: Encoder, batch_tokens: int | None,
        reused: int = 0,
    ) -> None:  # fmt: skip
        self.path = Path(path)
        self.header_path = Path(f"{path}.json")
        self.partial = Path(f"{path}.partial")
        self.progress = Path(f"{path}{PROGRESS_SUFFIX}")
        self.about = about
        self.n_chunks, self.reused = n_chunks, reused
        self.run = {"device": encoder.device_type, "batch_tokens": batch_tokens or encoder.batch_tokens}
        found = encoder.libraries  # names, or, from processes elsewhere, names and versions
        self.libraries = dict(found) if isinstance(found, dict) else {name: version(name) for name in found}
        self.done: set[int] = set()
        self.handle: BinaryIO | None = None

    def __enter__(self) -> PartialFeatures:
        left = self._read_progress()
        if left is not None:
            self.done = left
        if not self.partial.exists():
            if len(self.done) == self.n_chunks and self._rows_were_renamed():
                return self
            self.done = set()
        with explained(self.partial):
            self.handle = open(self.partial, "r+b" if self.partial.exists() else "w+b")
        try:
            self._lock(self.handle)
            if not self.done:
                write_own_json(self.progress, self._state())  # from now on the partial file is this run's
                self.handle.truncate(0)
            if self.about["width"]:
                self._reserve(self.handle)
        except BaseException:
            self.handle.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close; what was refused before a chunk was in, or is read from a file at once, leaves nothing."""
        if kind is not None and issubclass(kind, InputError) and (not self.done or self.run["device"] == "file"):
            self.progress.unlink(missing_ok=True)  # first: from now on an earlier file counts as whole again
            self.partial.unlink(missing_ok=True)
        if self.handle is not None:
            self.handle.close()

    def add(self, number: int, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Write a chunk's rows, wait until they are on disk, then write down that they are."""
        assert self.handle is not None
        if self.about["width"] is None:  # known only after the fit
            self.about["width"] = int(vectors.shape[1])
            self._reserve(self.handle)
        row_bytes = 4 * self.about["width"]
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        order = np.argsort(rows, kind="stable")
        with explained(self.partial):
            for run in np.split(order, np.flatnonzero(np.diff(rows[order]) != 1) + 1):  # runs of neighbouring rows
                self.handle.seek(int(rows[run[0]]) * row_bytes)
                self.handle.write(vectors[run].tobytes())
            self.handle.flush()
            os.fsync(self.handle.fileno())
        self.done.add(number)
        write_own_json(self.progress, self._state())

    def finish(self) -> None:
        """Put rows and header in place, in an order that a kill cannot turn into a false whole."""
        if len(self.done) != self.n_chunks:
            raise RuntimeError(f"{len(self.done)} of {self.n_chunks} chunks of {self.path.name} were encoded")
        if self.handle is not None:
            self.header_path.unlink(missing_ok=True)
            put_in_place(self.partial, self.path)
        header = {
            **self.about,
            "dtype": "float32",
            "order": "row-major",
            "normalised": bool(self.about.get("normalised")),
            CHECKSUM_KEY: file_crc32(self.path),
            **self._tools(),
        }
        write_own_json(self.header_path, header)
        self.progress.unlink(missing_ok=True)

    def _tools(self) -> dict[str, Any]:
        """Return the versions the rows depend on."""
        return {
            "tool": f"recbole_blair {VERSION}",
            "libraries": self.libraries,
            **self.run,
        }

    def _size(self) -> int:
        """Return the bytes of the rows."""
        return 4 * self.about["rows"] * self.about["width"]

    def _state(self) -> dict[str, Any]:
        """Return the progress file: what is being made, and the chunks that are in, as ranges."""
        return {
            "about": self.about, "run": self.run, "chunks": self.n_chunks, "reused": self.reused,
            "done": _to_ranges(self.done),
        }  # fmt: skip

    def _read_progress(self) -> set[int] | None:
        """Return the chunks an earlier run of the same work left; None when there is none."""
        try:
            state = read_own_json(self.progress, "the progress of encoding", "", ("about", "done"))
            before, done = state["about"], _from_ranges(state["done"])
        except (InputError, ValueError, TypeError):
            return None
        if self.about["width"] is None:  # a lexical fit is one chunk: nothing to go on with
            return None
        same = all(before.get(key) == self.about.get(key) for key in SAME_ROWS)
        if not same or state.get("run") != self.run or state.get("chunks") != self.n_chunks:
            return None
        if state.get("reused", 0) != self.reused:
            return None
        if self.partial.exists() and done and self.partial.stat().st_size != self._size():
            return None
        return done

    def _rows_were_renamed(self) -> bool:
        """Tell whether the earlier run was killed after the rows were in place: before or after their header was."""
        if not self.path.is_file() or self.path.stat().st_size != self._size():
            return False
        if not self.header_path.exists():
            return True
        header = read_header(self.header_path)
        return all(header.get(key) == self.about.get(key) for key in SAME_ROWS)

    def _reserve(self, handle: BinaryIO) -> None:
        """Take the disk space now, so that a disk that is too small is known before the hours of encoding."""
        size = self._size()
        if os.fstat(handle.fileno()).st_size == size:
            return
        with explained(self.partial):
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle.fileno(), 0, size)
            handle.truncate(size)

    def _lock(self, handle: BinaryIO) -> None:
        """Keep a second process off the partial file; the system lets go when this one ends."""
        with contextlib.suppress(ImportError):  # no such lock on Windows
            import fcntl

            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InputError(
                    f"another process is writing {self.path.name}; wait for it, then run the same command again"
                ) from None
        try:
            same = os.path.samestat(os.fstat(handle.fileno()), os.stat(self.partial))
        except FileNotFoundError:
            same = False
        if not same:
            raise InputError(f"another process has just finished {self.path.name}; run the same command again")


def _to_ranges(numbers: Iterable[int]) -> list[list[int]]:
    """{0, 1, 2, 5} -> [[0, 2], [5, 5]]."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ranges


def _from_ranges(ranges: Iterable[Sequence[int]]) -> set[int]:
    """[[0, 2], [5, 5]] -> {0, 1, 2, 5}."""
    return {number for first, last in ranges for number in range(first, last + 1)}

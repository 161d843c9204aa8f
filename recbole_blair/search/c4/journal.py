"""Every finished call, one JSON line, on disk before the next step: a kill costs the calls in flight and no other."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import Any

from recbole_blair.errors import InputError
from recbole_blair.files.own_json import read_line, write_line


class Journal:
    """The journal of one build, locked against a second process.

    Args:
        path: made if missing.
        about: what the replies depend on; a journal of something else is refused.

    `entries` holds what an earlier run finished, in order: dicts with at least `key` and `status`. `torn` is 1 when
    the last line was cut by a kill; it is dropped.

    Raises:
        InputError: another process writes it; made with other settings; damaged before its last line.
    """

    def __init__(self, path: Path | str, about: dict[str, Any]) -> None:
        self.path, self.about = Path(path), about
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.path, "a+b")  # noqa: SIM115 (closed by close())
        self.mutex = threading.Lock()
        self.entries: list[dict] = []
        self.torn = 0
        try:
            self._lock()
            self._load()
        except BaseException:
            self.file.close()
            raise

    def _lock(self) -> None:
        """Take the file for this process; the system gives it back when the process ends."""
        with contextlib.suppress(ImportError):  # no such lock on Windows
            import fcntl

            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InputError(
                    f"another process is writing {self.path}; wait for it or choose another folder"
                ) from None

    def _load(self) -> None:
        """Read what is there; cut a torn last line off; start an empty journal with its header."""
        self.file.seek(0)
        lines = self.file.read().split(b"\n")
        tail = lines.pop()  # empty when the last line is whole
        if tail:
            self.torn = 1
            self.file.truncate(self.file.tell() - len(tail))
        rows = [self._parse(number, line) for number, line in enumerate(lines, 1)]
        if not rows:
            self._append({"about": self.about})
            return
        before = rows[0].get("about")
        if before != self.about:
            keys = [k for k in self.about if not isinstance(before, dict) or before.get(k) != self.about[k]]
            raise InputError(
                f"{self.path} was made with other settings ({', '.join(keys) or 'unknown'} changed); finish it with "
                "those or choose another --output_dir"
            )
        self.entries = rows[1:]

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        """Return a line's object."""
        row = read_line(line)
        if row is not None and ("about" in row if number == 1 else "key" in row and "status" in row):
            return row
        raise InputError(f"{self.path}, line {number}: damaged; remove that line or choose another --output_dir")

    def add(self, entry: dict[str, Any]) -> None:
        """Append an entry and wait until it is on disk."""
        with self.mutex:
            self._append(entry)
            self.entries.append(entry)

    def _append(self, row: dict[str, Any]) -> None:
        """Write one line through to the disk."""
        self.file.write(write_line(row).encode("utf-8", "surrogatepass"))
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Close the file, which unlocks it."""
        self.file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

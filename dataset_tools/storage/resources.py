"""What a command may use of the machine: DuckDB's memory and threads, and whether it draws progress bars."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dataset_tools.storage.duckdb_session import DuckDBSession
from recbole_blair.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

MAX_THREADS = 1024
_SIZE = re.compile(r"\s*([0-9]{1,6}(?:\.[0-9]{1,6})?)\s*([KMGT])(i?)B\s*", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Resources:
    """What one command may use.

    Args:
        memory_limit: DuckDB's limit, as in "4GB"; tables beyond it spill to disk.
        threads: None takes the cores, at most 8.
        progress: draw progress bars.

    Raises:
        InputError: a limit that is no size of memory, or threads outside 1…`MAX_THREADS`.
    """

    memory_limit: str = "4GB"
    threads: int | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        parse_bytes(self.memory_limit)
        whole = isinstance(self.threads, int) and not isinstance(self.threads, bool)
        if self.threads is not None and not (whole and 1 <= self.threads <= MAX_THREADS):
            raise InputError(f"--threads={self.threads}: expected a whole number from 1 to {MAX_THREADS}, or none")

    def open_session(self, folder: Path | str, progress: bool = True) -> DuckDBSession:
        """Open a DuckDB session that spills into `folder`; `progress=False` draws no bars in any case."""
        return DuckDBSession(folder, self.memory_limit, self.threads, self.progress and progress)


def parse_bytes(text: str) -> int:
    """Return the bytes of a size as DuckDB reads it: 4GB, 512MB, 2GiB.

    Raises:
        InputError: something else, or zero.
    """
    match = _SIZE.fullmatch(str(text))
    if match is None or not float(match[1]):
        raise InputError(f"--memory_limit={str(text)[:100]!r} is no size; write it as 2GB or 512MB")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** (1 + "KMGT".index(match[2].upper())))

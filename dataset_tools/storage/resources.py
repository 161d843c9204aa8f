"""What a command may use of the machine: DuckDB's memory and threads, and whether it draws progress bars."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dataset_tools.storage.duckdb_session import DuckDBSession
from recbole_blair.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


@dataclass(frozen=True)
class Resources:
    """What one command may use.

    Args:
        memory_limit: DuckDB's limit, as in "4GB"; tables beyond it spill to disk.
        threads: None takes the cores, at most 8.
        progress: draw progress bars.
    """

    memory_limit: str = "4GB"
    threads: int | None = None
    progress: bool = True

    def open_session(self, folder: Path | str, progress: bool = True) -> DuckDBSession:
        """Open a DuckDB session that spills into `folder`; `progress=False` draws no bars in any case."""
        return DuckDBSession(folder, self.memory_limit, self.threads, self.progress and progress)


def parse_bytes(text: str) -> int:
    """Return the bytes of a size as DuckDB reads it: 4GB, 512MB, 2GiB.

    Raises:
        InputError: something else.
    """
    match = re.fullmatch(r"\s*([\d.]+)\s*([KMGT]?)(i?)B?\s*", str(text), re.IGNORECASE)
    if not match or match[1].count(".") > 1 or match[1] == ".":
        raise InputError(f"--memory_limit={text} is no size; write it as 2GB or 512MB")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** _UNITS[match[2].upper()])

"""Raw files: read as lines of JSON; is the gzip whole, are lines broken, and which is the first."""

from __future__ import annotations

import contextlib
import errno
import gzip
import json
import threading
import zlib
from typing import TYPE_CHECKING

from dataset_tools.storage.duckdb_session import quote
from recbole_blair.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dataset_tools.storage.duckdb_session import DuckDBSession

MAX_BROKEN_SHARE = 0.001  # above 0.1 % broken lines a file is damaged, not dirty
_READ_BYTES = 1 << 20
_GZIP_WBITS = 31  # zlib: a gzip member, its check sum verified


def is_gzip(path: Path | str) -> bool:
    """Tell whether the name of `path` ends in .gz."""
    return str(path).endswith(".gz")


def gzip_fault(path: Path | str) -> str | None:
    """Return what is wrong with a gzip file, or None. Reads it whole; the check sums are verified."""
    with open(path, "rb") as file:
        data = file.read(_READ_BYTES)
        if not data:
            return "it is empty"
        while data:
            member = zlib.decompressobj(_GZIP_WBITS)
            try:
                while data and not member.eof:
                    member.decompress(data)
                    data = member.unused_data if member.eof else file.read(_READ_BYTES)
            except zlib.error as error:
                return f"it is damaged ({error})"
            if not member.eof:
                return "it ends too early"
            data = data or file.read(_READ_BYTES)
    return None


def gzip_error(path: Path | str, fault: str) -> InputError:
    """Build the error for a gzip file that cannot be read."""
    return InputError(
        f"{path} is not a whole gzip file: {fault}. Fetch it again (delete it and run the same command, "
        "or copy it once more from where it came)"
    )


class GzipCheck(threading.Thread):
    """Verify a gzip file beside the scan: DuckDB's reader notices a short file but not a damaged one."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(daemon=True)
        self.path = path
        self._fault: str | None = None
        self._failure: OSError | None = None
        if is_gzip(path):
            self.start()

    def run(self) -> None:
        try:
            self._fault = gzip_fault(self.path)
        except OSError as error:
            self._failure = error

    def finish(self) -> None:
        """Wait for the verdict.

        Raises:
            InputError: the file is truncated or damaged.
        """
        if self.ident is not None:
            self.join()
        if self._failure is not None:
            raise self._failure
        if self._fault is not None:
            raise gzip_error(self.path, self._fault)


def json_lines(path: Path | str, columns: str) -> str:
    """Return SQL of the lines of a file, the order kept; a line that does not parse is NULL throughout."""
    return f"read_json({quote(path)}, format='newline_delimited', ignore_errors=true, columns={columns})"


def broken_lines(duck: DuckDBSession, table: str, condition: str) -> tuple[int, int, int | None]:
    """Return the broken lines of a table, all its lines, and the first broken one, from 0 (None)."""
    return duck.run(f"SELECT count(*) FILTER ({condition}), count(*), min(rowid) FILTER ({condition}) FROM {table}")[0]


@contextlib.contextmanager
def reading(duck: DuckDBSession, path: Path | str) -> Iterator[None]:
    """Name the raw file where the one scan of it, inside, fails; its gzip is verified beside it."""
    check = GzipCheck(path)
    try:
        yield
    except (duck.error, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        check.finish()  # a damaged gzip explains the error better
        raise InputError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    check.finish()


def check_broken(path: Path, broken: int, lines: int, first: int | None) -> None:
    """Stop when more than `MAX_BROKEN_SHARE` of the lines are broken.

    Args:
        path: of the raw file.
        broken, lines: numbers of lines.
        first: the first broken one, from 0.

    Raises:
        InputError: names the file and the first broken line; or the file has no line at all.
    """
    if not lines:
        raise InputError(f"{path} holds no line; fetch it again")
    if first is not None and broken > MAX_BROKEN_SHARE * lines:
        number = line_number_of(path, first)
        raise InputError(
            f"{path} line {number}: {describe_line(path, number)}; {broken:,} of {lines:,} lines are broken, more "
            f"than {MAX_BROKEN_SHARE:.1%}. Fetch the file again, or repair it"
        )


def line_number_of(path: Path | str, record: int) -> int:
    """Return the 1-based line that holds the 0-based `record`; blank lines are no records."""
    opener = gzip.open if is_gzip(path) else open
    with opener(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                if record == 0:
                    return number
                record -= 1
    raise InputError(f"{path} changed while it was read; run the same command again")


def describe_line(path: Path | str, number: int) -> str:
    """Return why line `number` is not a usable record, in a few words."""
    opener = gzip.open if is_gzip(path) else open
    with opener(path, "rb") as file:
        for _ in range(number - 1):
            file.readline()
        line = file.readline()
    try:
        value = json.loads(line)
    except ValueError as error:
        return f"not JSON: {error}"
    return "no JSON object" if not isinstance(value, dict) else "none of the expected fields"

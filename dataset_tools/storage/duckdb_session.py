"""A DuckDB session in a folder of its own: bounded memory, spill to disk, progress, plain errors."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from recbole_blair.errors import InputError
from recbole_blair.ops import keep_freed_memory

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection

MAX_THREADS = 8  # each JSON reader thread holds tens of MB of buffers; more threads only wait for the disk
_POLL_S = 0.1
_UNITS = {unit: 1024**power for power, unit in enumerate(("bytes", "KiB", "MiB", "GiB", "TiB", "PiB"))}
_FULL_DISK = ("no space left", "disk quota", "max_temp_directory_size", "could not write")


class DuckDBSession:
    """One connection to a database of its own; what exceeds the memory goes below `folder`, which the caller deletes.

    Args:
        folder: existing, empty folder for the spill files.
        memory_limit: DuckDB's limit, as in "4GB".
        threads: None takes the cores, at most `MAX_THREADS`.
        progress: draw progress bars.

    Raises:
        InputError: DuckDB does not accept `memory_limit` or `threads`.
    """

    def __init__(
        self, folder: Path | str, memory_limit: str = "4GB", threads: int | None = None, progress: bool = True
    ) -> None:
        import duckdb  # heavy: .1 s, and what only quotes SQL imports this module, too

        self.error = duckdb.Error
        self.memory_limit = memory_limit
        self.progress = progress
        self.folder = Path(folder)
        self.threads = threads or min(count_cores(), MAX_THREADS)
        self.con = duckdb.connect(":memory:")  # tables beyond the limit go to the spill folder, uncompressed
        settings = {
            "threads": self.threads,
            "memory_limit": memory_limit,
            "temp_directory": str(self.folder / "spill"),
            "preserve_insertion_order": "true",  # the row number is the order of the lines: ties depend on it
        }
        try:
            for key, value in settings.items():
                self.con.execute(f"SET {key} = '{value}'")
        except duckdb.Error as error:
            self.close()
            raise InputError(
                f"DuckDB does not take {key}={value!r} ({_first_line(error)}); "
                "write --memory_limit as 2GB or 512MB, --threads as a number of 1 or more"
            ) from error
        # In a notebook without ipywidgets DuckDB refuses both and measures no progress: our bars jump from 0 to 100 %.
        with contextlib.suppress(duckdb.Error):
            self.con.execute("SET enable_progress_bar_print = false")
            self.con.execute(f"SET enable_progress_bar = {progress}")

    def run(self, sql: str, label: str | None = None, parameters: Sequence[object] | None = None) -> list[Any]:
        """Execute one statement and return its rows, with a progress bar named `label` if one is given."""
        result: list[tuple] = []
        failure: list[BaseException] = []

        def work() -> None:
            try:
                result.extend(self.con.execute(sql, parameters).fetchall())
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            self._watch(thread, label)
        except BaseException:
            self.con.interrupt()
            thread.join()
            raise
        if failure:
            raise self.explain(failure[0]) from failure[0]
        return result

    def _watch(self, thread: threading.Thread, label: str | None) -> None:
        if label is None or not self.progress:
            thread.join()
            return
        with self._bar(label) as bar:
            while thread.is_alive():
                thread.join(_POLL_S)
                done = self.con.query_progress()
                bar.update(max(0.0, min(99.0, done) - bar.n))
            bar.update(100 - bar.n)

    def _bar(self, label: str | None) -> tqdm:
        form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}"
        return tqdm(total=100, desc=label, unit="%", bar_format=form, disable=label is None or not self.progress)

    def value(self, sql: str) -> Any:
        """Return the one value of the one row of a query."""
        return self.run(sql)[0][0]

    def batches(self, sql: str, rows: int, label: str | None = None) -> Iterator[pa.RecordBatch]:
        """Yield Arrow record batches of about `rows` rows, in the order of the query; `label` as for `run`."""
        try:
            with self._bar(label) as bar:
                for batch in self.con.sql(sql).to_arrow_reader(rows):
                    yield batch
                    bar.update(max(0.0, min(99.0, self.con.query_progress()) - bar.n))
                bar.update(100 - bar.n)
        except (self.error, OSError) as error:
            raise self.explain(error) from error

    @contextlib.contextmanager
    def run_beside(self, work: Callable[[DuckDBPyConnection, threading.Event], None]) -> Iterator[Callable[..., None]]:
        """Run `work(connection, stopped)` in a thread; yields a function that waits for its end.

        That function takes what to call while it waits, or nothing. If the block ends first, the statement of `work` is
        interrupted, and `stopped` is set.
        """
        con, stopped = self.con.cursor(), threading.Event()

        def wait(tick: Callable[[], object] | None = None) -> None:
            while tick and not running.done():
                futures.wait([running], _POLL_S)
                tick()
            try:
                running.result()
            except (self.error, OSError) as error:
                raise self.explain(error) from error

        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(work, con, stopped)
            try:
                yield wait
            finally:
                stopped.set()
                while not running.done():  # it may be between two statements
                    con.interrupt()
                    futures.wait([running], _POLL_S)

    def set_threads(self, threads: int) -> None:
        """Set the threads, at least one, of the statements that start after this call."""
        self.con.execute(f"SET threads = {max(1, threads)}")

    def memory_bytes(self) -> int:
        """Return the memory limit in bytes."""
        number, unit = self.value("SELECT current_setting('memory_limit')").split()
        return int(float(number) * _UNITS[unit])

    def explain(self, error: BaseException) -> BaseException:
        """Return, for an error of DuckDB, ENOSPC, an InputError that the user can act on, or the error itself."""
        if isinstance(error, OSError) and error.errno is not None:  # raised by a file that this package wrote
            return error
        text = str(error)
        lower = text.lower()
        if isinstance(error, (self.error, OSError)) and any(sign in lower for sign in _FULL_DISK):
            return OSError(errno.ENOSPC, f"no space left for temporary files: {_first_line(text)}", str(self.folder))
        if isinstance(error, self.error) and ("out of memory" in lower or "could not allocate" in lower):
            return InputError(
                f"the conversion needs more than --memory_limit={self.memory_limit} ({_first_line(text)}); "
                "raise it, or lower --threads"
            )
        return error

    def close(self) -> None:
        """Close the connection; the files stay for the caller to delete."""
        self.con.close()

    def __enter__(self) -> DuckDBSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def keep_buffers() -> Iterator[None]:
    """Keep large blocks that were freed for the next request, those of Arrow too.

    Arrow's own allocators return them to the system, which clears each page again: a twentieth of a conversion.
    """
    import pyarrow as pa  # heavy, and what only quotes SQL imports this module, too

    pool = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        with keep_freed_memory():
            yield
    finally:
        pa.set_memory_pool(pool)


def count_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _first_line(error: object) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def quote(text: object) -> str:
    """Return `text` as an SQL string literal."""
    return "'" + str(text).replace("'", "''") + "'"

"""Processes that format item texts: `python -m dataset_tools.items.item_workers`, fed through pipes.

Not a process pool: that would import the caller's main module again, which fails for a script without a guard. A worker
ends when its input ends, so none is left when the parent is killed.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import queue
import signal
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO

from dataset_tools.items.item_lines import FormattedItems, format_items

_LENGTH = struct.Struct("<q")


def format_chunks(chunks: Iterable[Sequence[str]], ascii_only: bool, workers: int) -> Iterator[FormattedItems]:
    """Yield the lines of each list of records, in order; 0 workers: formatted in this process."""
    if workers:
        with ItemWorkers(workers, ascii_only) as pool:
            yield from pool.map(chunks)
    else:
        for records in chunks:
            yield format_items(records, ascii_only)


class ItemWorkers:
    """Some worker processes; `map` keeps the order.

    Args:
        workers: 1 or more.
        ascii_only: see `recbole_blair.text.item_text.clean_text`.
    """

    def __init__(self, workers: int, ascii_only: bool) -> None:
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        command = [sys.executable, "-m", "dataset_tools.items.item_workers", *(["ascii"] if ascii_only else [])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        environment["PYTHONSAFEPATH"] = "1"  # not another version of this package, in the working folder (Python 3.11)
        self._processes = [
            subprocess.Popen[bytes](command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
            for _ in range(workers)
        ]
        self._free: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        for process in self._processes:
            self._free.put(process)
        self._threads = ThreadPoolExecutor(workers)

    def map(self, chunks: Iterable[Sequence[str]]) -> Iterator[FormattedItems]:
        """Yield the lines of each list of records, in order; a few lists are worked on at a time."""
        waiting: collections.deque[Future[FormattedItems]] = collections.deque()
        for records in chunks:
            waiting.append(self._threads.submit(self._ask, records))
            if len(waiting) > len(self._processes):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _ask(self, records: Sequence[str]) -> FormattedItems:
        process = self._free.get()
        assert process.stdin and process.stdout
        try:
            _write(process.stdin, ["\n".join(records).encode()])
            lines, numbers = (_read(process.stdout) for _ in range(2))
        except (OSError, EOFError) as error:
            raise RuntimeError(f"a process that formats item texts ended with status {process.wait()}") from error
        finally:
            self._free.put(process)
        return FormattedItems(lines, *json.loads(numbers))

    def __enter__(self) -> ItemWorkers:
        return self

    def __exit__(self, *failure: object) -> None:
        for process in self._processes:
            if failure[0] is not None:
                process.kill()
            elif process.stdin:
                process.stdin.close()
        self._threads.shutdown()
        for process in self._processes:
            process.wait()
            for pipe in filter(None, (process.stdin, process.stdout)):
                with contextlib.suppress(OSError):  # what a dead worker did not take
                    pipe.close()


def _write(pipe: IO[bytes], blocks: Iterable[bytes]) -> None:
    for block in blocks:
        pipe.write(_LENGTH.pack(len(block)))
        pipe.write(block)
    pipe.flush()


def _read(pipe: IO[bytes]) -> bytes:
    """Return the next block; EOFError at the end."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    data = pipe.read(length)
    if len(data) < length:
        raise EOFError
    return data


def work(ascii_only: bool) -> None:
    """Answer requests until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it, too, and ends this process
    while True:
        try:
            records = _read(sys.stdin.buffer).decode()
        except EOFError:
            return
        formatted = format_items(records.split("\n") if records else [], ascii_only)
        _write(sys.stdout.buffer, [formatted.lines, json.dumps(formatted[1:]).encode()])


if __name__ == "__main__":
    work("ascii" in sys.argv[1:])

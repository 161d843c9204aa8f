"""Processes that format item texts: `python -m dataset_tools.items.item_workers`, fed through pipes.

Not a process pool: that would import the caller's main module again, which a script without a guard does not bear.
A worker ends when its input does, so it does not outlive a parent that was killed.
"""

import collections
import contextlib
import json
import os
import queue
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dataset_tools.items.items import Chunk, format_items

_LENGTH = struct.Struct("<q")


class ItemWorkers:
    """Some worker processes; `map` keeps the order.

    Args:
        workers (int): 1 or more.
        ascii_only (bool): see `recbole_blair.text.item_text.clean_text`.
    """

    def __init__(self, workers, ascii_only):
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        command = [sys.executable, "-m", "dataset_tools.items.item_workers", *(["ascii"] if ascii_only else [])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        environment["PYTHONSAFEPATH"] = "1"  # not another version of this package, in the working folder (Python 3.11)
        self._processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
            for _ in range(workers)
        ]
        self._free: queue.SimpleQueue = queue.SimpleQueue()
        for process in self._processes:
            self._free.put(process)
        self._threads = ThreadPoolExecutor(workers)

    def map(self, chunks):
        """Yield the `Chunk` of each list of records, in order; a few are under way at a time."""
        waiting: collections.deque = collections.deque()
        for records in chunks:
            waiting.append(self._threads.submit(self._ask, records))
            if len(waiting) > len(self._processes):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _ask(self, records):
        process = self._free.get()
        try:
            _write(process.stdin, ["\n".join(records).encode()])
            lines, numbers = (_read(process.stdout) for _ in range(2))
        except (OSError, EOFError) as error:
            raise RuntimeError(f"a process that formats item texts ended with status {process.wait()}") from error
        finally:
            self._free.put(process)
        return Chunk(lines, *json.loads(numbers))

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        for process in self._processes:
            if failure[0] is not None:
                process.kill()
            elif process.stdin:
                process.stdin.close()
        self._threads.shutdown()
        for process in self._processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # what a dead worker did not take
                    pipe.close()


def _write(pipe, parts):
    for part in parts:
        pipe.write(_LENGTH.pack(len(part)))
        pipe.write(part)
    pipe.flush()


def _read(pipe):
    """Return the next part; EOFError at the end."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    data = pipe.read(length)
    if len(data) < length:
        raise EOFError
    return data


def work(ascii_only):
    """Answer requests until the input ends."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends us
    while True:
        try:
            records = _read(sys.stdin.buffer).decode()
        except EOFError:
            return
        chunk = format_items(records.split("\n") if records else [], ascii_only)
        _write(sys.stdout.buffer, [chunk.lines, json.dumps(chunk[1:]).encode()])


if __name__ == "__main__":
    work("ascii" in sys.argv[1:])

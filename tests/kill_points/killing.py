"""Runs commands in forked processes, which are killed before their n-th change of a file or after a time."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import psutil

LIMIT_S = 900  # a command that takes longer hangs
HEAVY = (
    "torch", "numpy", "pandas", "duckdb", "pyarrow", "safetensors.torch", "sklearn.decomposition", "transformers",
    "sentence_transformers", "faiss", "bm25s", "recbole.data", "torch.utils.tensorboard", "ray.tune",
    "recbole_blair.quick_start", "recbole_blair.cli.main",
)  # fmt: skip
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")  # audit events
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Moment:
    """When a run is killed: before its n-th change of a file, or so many seconds after its start."""

    change: int | None = None
    after_s: float | None = None

    def __str__(self) -> str:
        return f"after {self.after_s:.3f} s" if self.change is None else f"before change {self.change} of a file"


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    Args:
        status: of its exit; None when it was killed.
        changes: files that it had opened for writing, renamed, removed, made or flushed to the disk.
        seconds: from its start, without the imports.
    """

    status: int | None
    changes: int
    seconds: float


class Runner:
    """Runs commands, one at a time: the heavy libraries are imported once, in the process that is forked."""

    def __init__(self) -> None:
        self.context: Any = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(list(HEAVY))

    def run(
        self, argv: list[str], folder: Path, log: Path, environment: dict[str, str], moment: Moment | None = None
    ) -> Ending:
        """Run a command in `folder` to its end, or until `moment`, when its processes get SIGKILL.

        Raises:
            TimeoutError: it did neither end nor reach the moment.
        """
        moment = moment or Moment()
        changes = self.context.RawValue("q", 0)
        signs, child_signs = self.context.Pipe(duplex=False)
        job = (argv, folder, log, environment, moment.change, changes, child_signs)
        process = self.context.Process(target=run_command, args=job)
        process.start()
        child_signs.close()
        try:
            signs.recv()  # it begins
            start = time.monotonic()
            ready = wait([process.sentinel, signs], LIMIT_S if moment.after_s is None else moment.after_s)
            seconds = time.monotonic() - start
            with contextlib.suppress(EOFError):  # the pipe ends with the process
                if signs in ready:
                    signs.recv()
                    ready = []
            if not ready:
                kill_all(process.pid)
            process.join(60)
        finally:
            if process.is_alive():
                kill_all(process.pid)
        if not ready and moment == Moment():
            raise TimeoutError(f"{' '.join(argv)} did not end within {LIMIT_S} s: {log.read_text()[-2000:]}")
        killed = process.exitcode == -signal.SIGKILL
        return Ending(None if killed else process.exitcode, changes.value, seconds)


def kill_all(pid: int) -> None:
    """Kill a process, those below it and its group, and wait until they are gone."""
    processes = []
    with contextlib.suppress(psutil.NoSuchProcess):
        leader = psutil.Process(pid)
        processes = [leader, *leader.children(recursive=True)]
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    for process in psutil.wait_procs(processes, timeout=20)[1]:  # Ray's end by themselves
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    assert not psutil.wait_procs(processes, timeout=20)[1]


def run_command(
    argv: list[str],
    folder: Path,
    log: Path,
    environment: dict[str, str],
    stop_at: int | None,
    changes: Any,
    signs: Connection,
) -> None:
    """Run a command in this process, which leads a group of its own."""
    os.setsid()
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.environ.update(environment)
    os.chdir(folder)
    from recbole_blair.cli.main import main

    count_changes(folder, stop_at, changes, signs)
    signs.send("begins")
    status = main(argv)
    atexit._run_exitfuncs()  # a forked process would leave them out
    sys.exit(status)


def count_changes(folder: Path, stop_at: int | None, changes: Any, signs: Connection) -> None:
    """Count what this process does to files below `folder`, which is the working directory; stop at the n-th."""
    own, inside = os.getpid(), f"{folder}/"

    def count() -> None:
        changes.value += 1
        if changes.value == stop_at:
            signs.send("reached")
            os.kill(own, signal.SIGSTOP)  # all threads; then comes SIGKILL
            time.sleep(LIMIT_S)

    def is_inside(path: object) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return False
        name = os.fsdecode(path)
        return not name.startswith("/") or name.startswith(inside)

    def hear(event: str, args: tuple[Any, ...]) -> None:
        changing = event in CHANGES or (event == "open" and isinstance(args[2], int) and args[2] & WRITING)
        if changing and os.getpid() == own and is_inside(args[0]):
            count()

    real_sync = os.fsync

    def sync(number: int) -> None:
        if os.getpid() == own:
            count()
        real_sync(number)

    os.fsync = sync
    sys.addaudithook(hear)

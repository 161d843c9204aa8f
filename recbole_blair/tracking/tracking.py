"""Logs a training to trackers, each in a thread of its own: one that does not answer holds nobody up for long."""

from __future__ import annotations

import functools
import json
import os
import queue
import re
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_blair.errors import InputError
from recbole_blair.files.own_json import read_own_json, write_own_json
from recbole_blair.files.read import shown
from recbole_blair.tracking.callback import Callback, TrainingState
from recbole_blair.tracking.trackers import TRACKERS, RunPlace, Scalar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

KEPT = "trackers.json"  # in a run's folder: its ids at the trackers
START_S = 120.0  # a tracker may take to start a run; libraries wait 90 s for a server
LOG_S = 10.0  # it may take per line, before training no longer waits for it
END_S = 60.0  # it may take to send the rest
UNTOLD = re.compile(r"_FIELD$|_PREFIX$|_SUFFIX$|^plm_base_url$")  # keys: names of columns; an address, maybe with a key


class Tracking(Callback):
    """The runs of one training at its trackers; a context that ends them.

    Args:
        names: of trackers; none for a process that logs nothing.
        place: which run.
        config: its resolved keys.
        say: prints a line.
        axis: of the state, what numbers are logged by: epoch or global_step.

    Raises:
        InputError: the folder's record of earlier runs is damaged.
    """

    def __init__(
        self,
        names: Sequence[str] | None,
        place: RunPlace,
        config: Mapping[str, Any],
        say: Callable[[str], None],
        axis: str = "epoch",
    ) -> None:
        super().__init__()
        self.place, self.config, self.say, self.axis = place, hyper_parameters(config), say, axis
        self.path, self.lock = place.folder / KEPT, threading.Lock()
        self.kept = read_kept(self.path) if names and self.path.is_file() else {}
        self.runs = {name: TRACKERS[name](place, self.kept.setdefault(name, {})) for name in dict.fromkeys(names or ())}
        self.workers = {name: Worker() for name in self.runs}
        self.patience_s, self.warned, self.started = dict.fromkeys(self.runs, LOG_S), set[str](), list[str]()
        for run in self.runs.values():
            run.lock = self.lock

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the runs; Ray ends a trial that it stopped by SystemExit, which is no failure."""
        failed, until = kind is not None and not issubclass(kind, SystemExit), time.monotonic() + END_S

        def end(name: str) -> None:
            self.attempt(name, "flush")
            self.attempt(name, "finish", failed)

        ended = {name: self.workers[name].do(functools.partial(end, name)) for name in self.started}
        for name, done in ended.items():
            if not done.wait(max(0.0, until - time.monotonic())):
                self.say(f"warning: --log={name} did not take all within {END_S:.0f} s, and gets no more time")
            elif waiting := self.runs[name].waiting:
                self.say(f"warning: {len(waiting)} lines of the log never reached --log={name}")
        for worker in self.workers.values():
            worker.end()

    def start(self, step: int) -> None:
        """Start the runs, or take them up again after `step`.

        Raises:
            InputError: a tracker refuses, or does not answer.
        """
        for name, run in self.runs.items():
            run.load()
            errors: list[BaseException] = []
            begin = functools.partial(catch, errors, run.start, self.config, step)
            answered = self.workers[name].do(begin).wait(START_S)
            if errors or not answered:
                why = describe(errors[0]) if errors else f"no answer within {START_S:.0f} s"
                raise InputError(
                    f"--log={name} cannot start a run: {why}. See docs/tracking.md for working without a network, or "
                    "leave it out"
                )
            self.started.append(name)
            self.keep()

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers; waits until they are taken, but not for a tracker that was too slow before."""

        def send(name: str) -> None:
            self.attempt(name, "log", dict(values), step)
            self.keep()

        sent = {name: self.workers[name].do(functools.partial(send, name)) for name in self.started}
        for name, done in sent.items():
            if not done.wait(self.patience_s[name]) and self.patience_s[name]:
                self.patience_s[name] = 0.0
                self.say(f"warning: --log={name} takes more than {LOG_S:.0f} s; training no longer waits for it")

    def on_train_begin(self, state: TrainingState) -> None:
        """Start the runs."""
        self.start(int(getattr(state, self.axis)))

    def on_log(self, state: TrainingState, logs: dict[str, float]) -> None:
        """Log numbers at the state's epoch or step."""
        self.log(logs, int(getattr(state, self.axis)))

    def handles(self) -> dict[str, str]:
        """Return what the runs below this one must know of it."""
        found = {"name": self.place.name}
        for name in self.started:
            found.update(self.runs[name].handle())
        return found

    def keep(self) -> None:
        """Write the ids and steps into the run's folder."""
        with self.lock:
            write_own_json(self.path, self.kept)

    def attempt(self, name: str, method: str, *values: Any) -> None:
        """Call a method of a run; a tracker's first error is printed, what was not taken is tried again."""
        errors: list[BaseException] = []
        catch(errors, getattr(self.runs[name], method), *values)
        if errors and name not in self.warned:
            self.warned.add(name)
            self.say(f"warning: --log={name}: {describe(errors[0])}; training goes on, and the next line tries again")


class Worker:
    """A thread that does pieces of work one after the other: MLflow knows its run by the thread that started it."""

    def __init__(self) -> None:
        self.pieces: queue.SimpleQueue[tuple[Callable[[], Any], threading.Event] | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self.run, daemon=True, name="tracker")
        self.thread.start()

    def do(self, work: Callable[[], Any]) -> threading.Event:
        """Have a piece of work done; returns what is set when it is."""
        done = threading.Event()
        self.pieces.put((work, done))
        return done

    def end(self) -> None:
        """End the thread when all pieces are done."""
        self.pieces.put(None)

    def run(self) -> None:
        """Do the pieces; an error of one, such as a full disk, is printed and stops no other."""
        while (piece := self.pieces.get()) is not None:
            work, done = piece
            try:
                work()
            except Exception as error:
                print(f"warning: {describe(error)}", file=sys.stderr)
            done.set()


def catch(errors: list[BaseException], work: Callable[..., Any], *values: Any) -> None:
    """Call `work`; what it raises goes into `errors`, also SystemExit, by which wandb gives up."""
    try:
        work(*values)
    except BaseException as error:
        errors.append(error)


def read_kept(path: Path) -> dict[str, dict[str, Any]]:
    """Return what a run's folder says of its runs at trackers.

    Raises:
        InputError: the file is damaged.
    """
    fix = "delete it for new runs there"
    kept = read_own_json(path, "the ids of a run at its trackers", fix)
    for name, one in kept.items():
        steps = one.get("steps", {}) if isinstance(one, dict) else None
        if not isinstance(steps, dict) or not all(isinstance(step, int) for step in steps.values()):
            raise InputError(f"{shown(path)} is damaged: {name} has no ids and steps; {fix}")
    return kept


def hyper_parameters(config: Mapping[str, Any]) -> dict[str, Scalar]:
    """Return keys as trackers show them: lists as JSON, of a path its last name, no addresses, none that is empty."""
    found: dict[str, Scalar] = {}
    for key, value in config.items():
        if value is None or UNTOLD.search(key):
            continue
        if isinstance(value, str) and (os.path.isabs(value) or os.path.exists(value)):
            value = Path(value).name
        found[key] = value if isinstance(value, str | int | float | bool) else json.dumps(value)
    return found


def describe(error: BaseException) -> str:
    """Return an error in one line, without the user and password of an address."""
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {re.sub(r'//[^/@ ]+@', '//', text)}"

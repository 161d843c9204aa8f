"""Suites: props/bench/*.yaml read into the parts of a bench, each one task on one data set."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recbole_blair.config import load_yaml
from recbole_blair.errors import InputError, nearest
from recbole_blair.files.paths import props_dir

FOLDER = "bench"
COMMANDS = ("train", "search")
FAMILIES = ("sequential", "collaborative", "search")  # what --tasks names; a task may be one of several of a family
MAKERS = ("prepare", "recipe", "queries", "generate")


@dataclass(frozen=True)
class Task:
    """What is done with an encoder's vectors, and how it is measured."""

    name: str  # sequential, collaborative, search-short, search-complex
    title: str
    command: str  # train or search
    metric: str  # of test, and of valid for the choice of a point of the grid
    model: str | None
    seeds: tuple[int, ...]
    grid: tuple[dict[str, Any], ...]  # settings of which the best on the validation rows is tested
    keys: dict[str, Any]  # of the command


@dataclass(frozen=True)
class Part:
    """One task on one data set; with an encoder it is a cell."""

    task: Task
    dataset: str
    source: dict[str, Any]  # one of MAKERS: how the data are made
    keys: dict[str, Any]  # of the command, the task's own included
    items: int  # about: for the estimate, as are the next two
    rows: int  # training rows, or queries
    hours: float  # of one training run on one CPU core

    @property
    def id(self) -> str:
        """Return `<task>/<data set>`."""
        return f"{self.task.name}/{self.dataset}"

    @property
    def sha256(self) -> str:
        """Return the hash of what decides the numbers, the seeds left out."""
        task = self.task
        deciding = [self.id, task.command, task.model, task.metric, task.grid, self.keys, self.source]
        return hashlib.sha256(json.dumps(deciding, sort_keys=True, default=str).encode()).hexdigest()

    @property
    def runs(self) -> int:
        """Return the number of training runs: one per point of the grid, then one per further seed."""
        return len(self.task.grid) + len(self.task.seeds) - 1 if self.task.command == "train" else 0


@dataclass(frozen=True)
class Suite:
    """Parts of a bench under one name."""

    name: str
    title: str
    parts: tuple[Part, ...]

    def select(self, tasks: Sequence[str] | None, datasets: Sequence[str] | None, seeds: Sequence[int] | None) -> Suite:
        """Return the suite with the tasks, data sets and seeds that are asked for; None: all of them.

        Raises:
            InputError: an unknown name, or nothing is left.
        """
        known = list(dict.fromkeys(part.task.name for part in self.parts))
        for wanted in tasks or ():
            if not any(is_of(name, wanted) for name in known):
                raise InputError(unknown("task", wanted, [*FAMILIES, *known], self.name))
        names = list(dict.fromkeys(part.dataset for part in self.parts))
        for wanted in datasets or ():
            if wanted not in names:
                raise InputError(unknown("data set", wanted, names, self.name))
        if seeds is not None and len(set(seeds)) != len(seeds):
            raise InputError(f"--seeds={','.join(map(str, seeds))} holds a seed twice; name each once")
        parts = [
            part
            for part in self.parts
            if (not tasks or any(is_of(part.task.name, wanted) for wanted in tasks))
            and (not datasets or part.dataset in datasets)
        ]
        if not parts:
            raise InputError(f"suite {self.name} has none of these tasks on these data sets: nothing is left to do")
        if seeds:
            parts = [replace(part, task=with_seeds(part.task, tuple(seeds))) for part in parts]
        return replace(self, parts=tuple(parts))


def is_of(task: str, wanted: str) -> bool:
    """Tell whether a task is the one named, or of the family named: search-short is of search."""
    return task == wanted or task.startswith(f"{wanted}-")


def unknown(what: str, name: str, known: Iterable[str], suite: str) -> str:
    """Return the message about a name that a suite does not have."""
    names = list(dict.fromkeys(known))
    return f"unknown {what} {name!r} of suite {suite}.{nearest(name, names)} It has: {', '.join(names)}"


def with_seeds(task: Task, seeds: tuple[int, ...]) -> Task:
    """Return the task with other seeds; what draws nothing keeps its one."""
    return replace(task, seeds=seeds) if task.command == "train" else task


def suite_names() -> list[str]:
    """Return the suites there are: the names of their files."""
    return sorted(path.stem for path in (props_dir() / FOLDER).glob("*.yaml"))


def load_suite(name: str) -> Suite:
    """Return a suite.

    Raises:
        InputError: no such suite, or its file is not whole.
    """
    if name not in suite_names():
        raise InputError(f"unknown suite {name!r}.{nearest(name, suite_names())} Suites: {', '.join(suite_names())}")
    content = load_yaml(props_dir() / FOLDER / f"{name}.yaml")
    tasks = {label: build_task(label, given) for label, given in content["tasks"].items()}
    parts = [
        build_part(tasks[task], label, given, own, f"{name}.yaml")
        for label, given in content["datasets"].items()
        for task, own in given["tasks"].items()
    ]
    parts.sort(key=lambda part: list(tasks).index(part.task.name))  # stable: the data sets keep their order
    return Suite(name, content["title"], tuple(parts))


def build_task(name: str, given: dict[str, Any]) -> Task:
    """Return a Task from its entry; a grid of several keys becomes the product of their values."""
    if given["command"] not in COMMANDS or not any(is_of(name, family) for family in FAMILIES):
        raise InputError(f"task {name!r}: expected one of {', '.join(FAMILIES)} and a command of {', '.join(COMMANDS)}")
    grid = given.get("grid") or {}
    points = [dict(zip(grid, values)) for values in itertools.product(*grid.values())]
    return Task(
        name=name,
        title=given["title"],
        command=given["command"],
        metric=given["metric"],
        model=given.get("model"),
        seeds=tuple(given.get("seeds") or [0]),
        grid=tuple(points),
        keys=given.get("keys") or {},
    )


def build_part(task: Task, dataset: str, given: dict[str, Any], own: dict[str, Any] | None, file: str) -> Part:
    """Return the Part of a data set's entry for one task."""
    source = {maker: given[maker] for maker in MAKERS if maker in given}
    if len(source) != 1:
        raise InputError(f"{file}: data set {dataset!r} needs one of {', '.join(MAKERS)}")
    own = own or {}
    keys = {**task.keys, **given.get("keys", {}), **own.get("keys", {})}
    sizes = {**given, **own}
    return Part(task, dataset, source, keys, sizes["items"], sizes["rows"], sizes.get("hours", 0.0))

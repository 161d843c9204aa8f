"""From a row to steps, the commands with all their keys; equal steps of several rows are one."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from recbole_blair.errors import InputError
from recbole_blair.reproduce.tables import Row, load_encoders

PLACEHOLDER = re.compile(r"\{([\w.-]+)\}")
STEP = "step:"  # a value with this prefix stands for the folder of another step


class Step(NamedTuple):
    """One command with its keys; its name says what it computes."""

    command: str
    keys: dict[str, Any]

    @property
    def name(self) -> str:
        """Return `<command>-<hash of the keys>`, the step's folder."""
        text = json.dumps([self.command, self.keys], sort_keys=True, default=str)
        return f"{self.command}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@dataclass
class Places:
    """Where files are and how commands run: only device and precision can change a result."""

    raw_dir: str = "raw"
    data_path: str = "dataset"
    output_dir: str = "runs/reproduce"
    plm: str | None = None
    measuring: str | None = None  # folder of the measuring data; None: the one that holds raw_dir
    seeds: list[int] | None = None  # in place of a row's
    progress: bool = True
    train: dict[str, Any] | None = None  # keys of train that say where, as in device and threads

    def scope(self) -> dict[str, Any]:
        """Return what placeholders may name beside a row's own."""
        raw = Path(self.raw_dir)
        return {"raw_dir": str(raw), "plm": self.plm, "measuring": str(self.measuring or raw.parent)}


class Planner:
    """Turns rows into steps of the full scale.

    Args:
        places: where files are.
        encoders: as props/reproduce/encoders.yaml; None reads that file.
    """

    def __init__(self, places: Places, encoders: dict[str, Any] | None = None) -> None:
        self.places = places
        self.encoders = load_encoders() if encoders is None else encoders
        self.steps: dict[str, Step] = {}

    def steps_of(self, row: Row) -> list[str]:
        """Return the names of the row's steps in order, each after those it needs; the last is measured.

        Raises:
            InputError: an encoder that only --plm can name, without it.
        """
        names: list[str] = []
        for number, (command, keys) in enumerate(row.commands, 1):
            if number == len(row.commands):
                keys = {**keys, **row.keys}
            filled = self.fill(keys, row, names)
            if self.places.seeds and "seeds" in filled:
                filled["seeds"] = list(self.places.seeds)
            step = self.adapt(Step(command, filled), row)
            if step is not None:
                names.append(self.add(step))
        return names

    def adapt(self, step: Step, row: Row) -> Step | None:
        """Change a step or leave it out (None): `pools` is for the sets whose pool is not published."""
        if step.command != "pools":
            return step
        keys = dict(step.keys)
        return Step("pools", keys) if keys.pop("wanted", False) else None

    def add(self, step: Step) -> str:
        """Store a step; return its name."""
        self.steps.setdefault(step.name, step)
        return step.name

    def fill(self, keys: dict[str, Any], row: Row, names: list[str]) -> dict[str, Any]:
        """Return keys with placeholders filled; those without a value are left out."""
        scope = {**self.places.scope(), **row.scope()}
        filled = {}
        for key, value in keys.items():
            if value == "{encoder}":
                value = self.encoder(row.encoder, names)
            else:
                value = self.fill_value(value, scope)
            if value is not None:
                filled[key] = value
        return filled

    def fill_value(self, value: Any, scope: dict[str, Any]) -> Any:
        """Return one value with its placeholders filled, twice where a row's own value holds one."""
        for _ in range(2):
            if not isinstance(value, str):
                break
            whole = PLACEHOLDER.fullmatch(value)
            if whole:
                value = scope.get(whole[1])
            else:
                value = PLACEHOLDER.sub(lambda match: str(scope.get(match[1], match[0])), value)
        return value

    def encoder(self, name: str | None, names: list[str]) -> str | None:
        """Return an encoder's `plm`; the step of the pretraining that makes it is added first.

        Raises:
            InputError: it is named by --plm, which was not given.
        """
        if name is None:
            return None
        entry = self.encoders[name]
        if "pretrain" in entry:
            keys = {k: self.fill_value(v, self.places.scope()) for k, v in entry["pretrain"].items() if k != "plm"}
            keys["plm"] = self.encoder(entry["pretrain"]["plm"][1:-1], names)
            made = self.add(self.pretraining(keys))
            if made not in names:
                names.append(made)
            return STEP + made
        if entry["plm"] == "{plm}" and not self.places.plm:
            raise InputError(f"the encoder {name} is a folder of yours; name it by --plm=FOLDER")
        plm = self.fill_value(entry["plm"], self.places.scope())
        return str(Path(plm).resolve()) if Path(plm).is_dir() else plm

    def pretraining(self, keys: dict[str, Any]) -> Step:
        """Return the step that pretrains an encoder."""
        return Step("pretrain", keys)

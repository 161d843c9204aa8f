"""From a row to steps, the commands with all their keys; equal steps of several rows are one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from recbole_blair.errors import InputError
from recbole_blair.reproduce.tables import Row, load_encoders
from recbole_blair.steps.step import STEP, Places, Step
from recbole_blair.train.run_folder import ENCODER

PLACEHOLDER = re.compile(r"\{([\w.-]+)\}")


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
            elif value == "{trained}":
                value = self.trained_encoder(names[-1])
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

    def trained_encoder(self, name: str) -> str:
        """Return the encoder that a step of joint training leaves: of its first seed's run."""
        keys = self.steps[name].keys
        seeds = keys.get("seeds") or []
        run = f"/{keys['model']}-{seeds[0]}" if len(seeds) > 1 else ""
        return f"{STEP}{name}{run}/{ENCODER}"

    def pretraining(self, keys: dict[str, Any]) -> Step:
        """Return the step that pretrains an encoder."""
        return Step("pretrain", keys)

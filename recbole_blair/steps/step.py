"""A step: one command with its keys, and the places where it runs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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
        return {
            "raw_dir": str(raw),
            "data_path": str(self.data_path),
            "plm": self.plm,
            "measuring": str(self.measuring or raw.parent),
        }

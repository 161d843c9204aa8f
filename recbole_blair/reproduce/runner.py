"""From a step to its result; each step runs once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_blair.bench.run import run_bench_step
from recbole_blair.errors import InputError
from recbole_blair.reproduce.steps import Planner
from recbole_blair.steps.commands import RUN
from recbole_blair.steps.step import STEP, Places

COMMANDS = {**RUN, "bench": run_bench_step}


class Runner:
    """Runs steps, each once.

    Args:
        planner: knows the steps.
        places: where files are.
        folder: gets one folder per step.
    """

    def __init__(self, planner: Planner, places: Places, folder: Path | str) -> None:
        self.planner, self.places, self.folder = planner, places, Path(folder)
        self.results: dict[str, dict[str, Any] | Exception] = {}  # a dict, or the exception that a step ended with

    def run(self, name: str) -> dict[str, Any]:
        """Return the result of a step: `metrics` flat, `runs` its folders; runs what is not there yet."""
        if name not in self.results:
            step = self.planner.steps[name]
            keys = {k: self.resolve(v) for k, v in step.keys.items()}
            try:
                self.results[name] = COMMANDS[step.command](keys, self.places, self.folder / name)
            except (InputError, ArithmeticError, RuntimeError) as error:
                self.results[name] = error
        result = self.results[name]
        if isinstance(result, Exception):
            raise result
        return result

    def resolve(self, value: Any) -> Any:
        """Return a value, or the folder of the step it stands for."""
        if isinstance(value, str) and value.startswith(STEP):
            return str(self.folder / value.removeprefix(STEP))
        return value

"""Runs at trackers, by accelerate's classes: how each starts or is taken up again, stores keys, logs and ends."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_blair.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from accelerate.tracking import GeneralTracker

PROJECT = "recbole_blair"  # Weights & Biases' project and MLflow's experiment, unless the environment names another
EXTRA = "'recbole-blair[track]'"
Scalar = str | int | float | bool


@dataclass
class RunPlace:
    """Which run a tracker logs.

    Args:
        folder: of the run.
        name: as the tracker shows it.
        parent: of a sweep's trial: the sweep's `name`, and what its trackers are known by (`TrackerRun.handle`).
        metrics: names of the logged numbers that compare runs.
        events: the folder below `folder` that TensorBoard's events go to.
    """

    folder: Path
    name: str
    parent: Mapping[str, str] | None = None
    metrics: Sequence[str] = ()
    events: str = "."


class TrackerRun:
    """One run at one tracker.

    Args:
        place: which run.
        kept: what the run's folder says of it: its id there, and by name the last step that was logged; is changed.
    """

    package = ""  # that is imported
    install = ""  # what pip is told
    purges = False  # a start drops what a killed run logged after its checkpoint; without that it is not logged again
    tracker: GeneralTracker

    def __init__(self, place: RunPlace, kept: dict[str, Any]) -> None:
        self.place, self.kept, self.fresh = place, kept, not kept
        self.steps: dict[str, int] = {} if self.purges else kept.setdefault("steps", {})
        self.waiting: list[tuple[dict[str, float], int]] = []  # logged here, but not taken yet by the tracker
        self.lock = threading.Lock()  # held while `kept` changes or is written

    def load(self) -> None:
        """Import the library; takes seconds, and needs nobody's answer."""
        from accelerate.state import PartialState  # heavy

        PartialState()  # accelerate's trackers write to its log, which asks for this
        importlib.import_module(self.package)

    def start(self, config: Mapping[str, Scalar], step: int) -> None:
        """Start the run, or take it up again after `step`, the last one whose checkpoint is there."""
        self.tracker = self.build(step)
        self.tracker.main_process_only = False  # the first process alone comes here
        self.tracker.start()
        self.identify()
        if self.fresh:
            self.store(config)

    def build(self, step: int) -> GeneralTracker:
        """Return accelerate's tracker, not started."""
        raise NotImplementedError

    def identify(self) -> None:
        """Keep what the run is known by, and tell the tracker of its parent."""

    def handle(self) -> dict[str, str]:
        """Return what the runs below this one must know of it."""
        return {}

    def store(self, config: Mapping[str, Scalar]) -> None:
        """Log the hyper-parameters."""
        self.tracker.store_init_configuration(dict(config))

    def log(self, values: dict[str, float], step: int) -> None:
        """Log numbers, each at a step at most once; those that the tracker did not take before go first."""
        self.waiting.append((values, step))
        self.flush()

    def flush(self) -> None:
        """Send what waits."""
        while self.waiting:
            values, step = self.waiting[0]
            new = {name: value for name, value in values.items() if step > self.steps.get(name, -1)}
            if new:
                self.send(new, step)
            with self.lock:
                self.steps.update(dict.fromkeys(new, step))
            self.waiting.pop(0)

    def send(self, values: dict[str, float], step: int) -> None:
        """Hand numbers to the tracker."""
        self.tracker.log(values, step=step)

    def finish(self, failed: bool) -> None:
        """End the run; `failed` says that an error or Ctrl-C ended the training."""
        self.tracker.finish()


class TensorBoardRun(TrackerRun):
    """Event files in the run's own folder, in place of those that a run writes anyway."""

    package, install, purges = "torch.utils.tensorboard", EXTRA, True

    def build(self, step: int) -> GeneralTracker:
        """Events of steps after `step` are dropped by whoever reads the files."""
        from accelerate.tracking import TensorBoardTracker  # heavy

        return TensorBoardTracker(self.place.events, str(self.place.folder), purge_step=step + 1)

    def store(self, config: Mapping[str, Scalar]) -> None:
        """Write the hyper-parameters into the same events; accelerate's way makes two folders per start."""
        from torch.utils.tensorboard.summary import hparams  # heavy

        for summary in hparams(dict(config), dict.fromkeys(self.place.metrics, 0.0)):
            self.tracker.tracker.file_writer.add_summary(summary)


class WandbRun(TrackerRun):
    """A run of Weights & Biases; the trials of a sweep are a group."""

    package = install = "wandb"

    def build(self, step: int) -> GeneralTracker:
        """The id is ours: a run that is killed while it starts is found again."""
        from accelerate.tracking import WandBTracker  # heavy

        environment, place = os.environ.get, self.place
        group = (place.parent or {}).get("name")
        return WandBTracker(
            environment("WANDB_PROJECT", PROJECT), id=self.kept.setdefault("id", uuid.uuid4().hex[:16]), resume="allow",
            name=environment("WANDB_NAME", place.name), group=environment("WANDB_RUN_GROUP", group),
            dir=environment("WANDB_DIR", str(place.folder)),
        )  # fmt: skip

    def send(self, values: dict[str, float], step: int) -> None:
        """Log; into the summary by itself: a resumed run drops the steps that it has had, with their test metrics."""
        self.tracker.tracker.summary.update(values)
        self.tracker.log(values, step=step)

    def finish(self, failed: bool) -> None:
        """End the run with an exit status."""
        self.tracker.tracker.finish(exit_code=int(failed))


class MlflowRun(TrackerRun):
    """A run of MLflow; the trials of a sweep are nested runs."""

    package = install = "mlflow"

    def build(self, step: int) -> GeneralTracker:
        """A run goes on in the store where it began; a trial lies in its sweep's, also in a process elsewhere."""
        import mlflow  # heavy
        from accelerate.tracking import MLflowTracker

        uri = (self.place.parent or {}).get("mlflow_uri") or (not mlflow.is_tracking_uri_set() and self.kept.get("uri"))
        if uri:
            mlflow.set_tracking_uri(uri)
        return MLflowTracker(PROJECT, run_id=self.kept.get("run_id"), run_name=self.place.name, nested_run=True)

    def identify(self) -> None:
        """Keep the run's id, and its store where that is a file; an address could hold a password."""
        import mlflow  # heavy

        self.kept["run_id"] = self.tracker.tracker.info.run_id
        uri = self.handle()["mlflow_uri"]
        if uri.startswith(("sqlite:", "file:")):
            self.kept["uri"] = uri
        if self.place.parent:
            mlflow.set_tag("mlflow.parentRunId", self.place.parent["mlflow_run"])

    def handle(self) -> dict[str, str]:
        """Return the run's id and its store, a file by its whole path."""
        import mlflow  # heavy

        uri, file = mlflow.get_tracking_uri(), "sqlite:///"
        uri = f"{file}{Path(uri.removeprefix(file)).resolve()}" if uri.startswith(file) else uri
        return {"mlflow_run": self.kept["run_id"], "mlflow_uri": uri}

    def send(self, values: dict[str, float], step: int) -> None:
        """Log; MLflow takes no @ in a name."""
        super().send({name.replace("@", "_at_"): value for name, value in values.items()}, step)

    def finish(self, failed: bool) -> None:
        """End the run with its status."""
        import mlflow  # heavy

        mlflow.end_run("FAILED" if failed else "FINISHED")


TRACKERS: dict[str, type[TrackerRun]] = {"tensorboard": TensorBoardRun, "wandb": WandbRun, "mlflow": MlflowRun}


def check_trackers(names: Sequence[str] | None) -> None:
    """Refuse trackers whose library is not installed.

    Raises:
        InputError: names what is missing and the command that installs it.
    """
    for name in names or ():
        needed = {"accelerate": EXTRA, TRACKERS[name].package.rsplit(".", 1)[-1]: TRACKERS[name].install}
        missing = [package for package in needed if not is_installed(package)]
        if missing:
            pip = " ".join(dict.fromkeys(needed[package] for package in missing))
            raise InputError(
                f"--log={name} needs {' and '.join(missing)}, not installed for {sys.executable}: pip install {pip}"
            )


def is_installed(package: str) -> bool:
    """Tell whether a package can be imported; a plain folder of its name, as wandb makes one, is none."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None

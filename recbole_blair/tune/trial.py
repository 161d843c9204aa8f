"""What runs in a trial's process: one run folder, a report and a checkpoint every epoch, data opened once per process.

Ray keeps a process when its trial ends and gives it the next one. The dataset stays open in it, as memory maps of
files that all processes of a machine share, so a further trial loads nothing.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_blair.config import Config, resolve_config
from recbole_blair.files.own_json import read_own_json, write_own_json
from recbole_blair.files.write import whole_folder
from recbole_blair.ops import give_back_memory
from recbole_blair.quick_start import train_weights
from recbole_blair.registry import ModelInfo, find_model, use_plugins
from recbole_blair.tracking.callback import Callback, TrainingState
from recbole_blair.tune.sweep_dir import (
    DONE,
    REPORTED,
    append_progress,
    drop_repeated,
    last_epoch,
    read_progress,
    trial_dir,
)

if TYPE_CHECKING:
    from ray import tune

DATASETS: dict[Any, Any] = {}  # open in this process, by build folder and encoder
# Seconds that the thread of an ended trial has before the next trial takes over its process. Ray's default of 2 is too
# short on a busy machine: when it is exceeded, Ray drops the next trial and tells neither scheduler, search nor
# callbacks.
THREAD_END_S = 3600
ORIGIN = "trial.json"  # inside a checkpoint: which trial wrote it


def trial_config(info: ModelInfo, sweep: dict[str, Any], point: dict[str, Any], folder: Path) -> Config:
    """Return the configuration of one trial: the sweep's keys, then the point.

    Args:
        info: the model.
        sweep: see `run.worker_spec`.
        point: the keys the trial tries.
        folder: its run folder.
    """
    device = sweep["keys"].get("device", "auto")
    if device == "auto":
        device = "cuda" if sweep["gpus"] else "cpu"
    own = {
        "output_dir": str(folder), "device": device, "threads": sweep["cpus"], "show_progress": False, "seeds": None,
        "baselines": None, "valid_metric": sweep["metric"],
    }  # fmt: skip
    return resolve_config(info, sweep["dataset"], (), {**sweep["keys"], **point, **own})


def run_trial(config: dict[str, Any], sweep: dict[str, Any]) -> None:
    """Train one trial; Ray Tune calls this in a process of the trial's CPUs and GPUs.

    Args:
        config: `trial`: its number and point. The number is that of the donor when PBT made the point, so the
            trial goes by the name of its folder.
        sweep: see `run.worker_spec`.
    """
    from ray import tune  # heavy

    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = str(THREAD_END_S)  # Ray reads it when this process is reused
    give_back_memory()  # a trial that was stopped still held its model when it ended
    number, point = int(tune.get_context().get_trial_name()), config["trial"]["point"]
    folder = trial_dir(sweep["dir"], number)
    folder.mkdir(parents=True, exist_ok=True)
    if sweep["scheduler"] == "pbt" and tune.get_checkpoint() is not None:
        adopt(folder, tune.get_checkpoint(), number, point)
    drop_repeated(folder, last_epoch(folder))
    use_plugins(sweep["keys"].get("plugin"))
    info = find_model(sweep["model"])
    report = Reporter(number, folder, sweep)
    try:
        cfg = trial_config(info, sweep, point, folder)
        train_weights(info, cfg, DATASETS, [report], sweep.get("parent"))
        report.done()
    finally:
        give_back_memory()


class Reporter(Callback):
    """Writes one line per epoch, then, when its checkpoint is whole, tells Ray; Ray may end the trial there."""

    def __init__(self, number: int, folder: Path, sweep: dict[str, Any]) -> None:
        self.number, self.folder, self.sweep = number, folder, sweep
        self.started, self.before, self.opened = time.perf_counter(), seconds_so_far(folder), len(DATASETS)

    def on_epoch_end(self, state: TrainingState, metrics: dict[str, float]) -> None:
        """Before the checkpoint: an epoch whose line is there and whose checkpoint is not is dropped and repeated."""
        seconds = self.before + time.perf_counter() - self.started
        line = {"epoch": state.epoch, **metrics, "seconds": round(seconds, 3), "time": round(time.time(), 3)}
        # who trained it, and how many datasets that process opened for this trial
        line.update(pid=os.getpid(), opened=len(DATASETS) - self.opened)
        append_progress(self.folder, line)

    def on_save(self, state: TrainingState) -> None:
        """After the checkpoint."""
        from ray import tune  # heavy

        epoch, config = state.epoch, state.config
        last = state.stopped or epoch == config["epochs"]
        if last:
            self.done()
        if epoch % config["eval_step"] and not last:
            return  # not validated
        metric = self.sweep["metric"]
        result = {"epoch": epoch, "score": state.best_metrics[metric], "current": state.last_metrics[metric]}
        tune.report(result, checkpoint=self.ray_checkpoint())

    def ray_checkpoint(self) -> Any:
        """Return what Ray keeps of an epoch: for PBT the whole checkpoint, which other trials copy; otherwise the
        number of the trial, whose own folder holds the checkpoint."""
        from ray import tune  # heavy

        whole = self.folder / "checkpoint"
        folder = whole if self.sweep["scheduler"] == "pbt" else self.folder / REPORTED
        folder.mkdir(exist_ok=True)
        write_own_json(folder / ORIGIN, {"number": self.number})
        return tune.Checkpoint.from_directory(str(folder))

    def done(self) -> None:
        """Record that the training has ended."""
        write_own_json(self.folder / DONE, {"epoch": last_epoch(self.folder)})


def seconds_so_far(folder: Path) -> float:
    """Return the seconds that earlier attempts of a trial took."""
    return max((line.get("seconds", 0.0) for line in read_progress(folder)), default=0.0)


def adopt(folder: Path, checkpoint: tune.Checkpoint, number: int, point: dict[str, Any]) -> None:
    """Continue from another trial's checkpoint with another point, as PBT decided; its own changes nothing."""
    with checkpoint.as_directory() as given:
        fix = "delete the sweep's folder and start it again"
        origin = read_own_json(Path(given) / ORIGIN, "the trial of a checkpoint", fix, ("number",))["number"]
        if origin == number:
            return
        with whole_folder(folder / "checkpoint") as copied:
            shutil.copytree(given, copied, dirs_exist_ok=True)
            write_own_json(copied / ORIGIN, {"number": number})
            (folder / "config.yaml").unlink(missing_ok=True)
            (folder / DONE).unlink(missing_ok=True)
    append_progress(folder, {"adopted": origin, "epoch": last_epoch(folder), "point": point, "time": time.time()})

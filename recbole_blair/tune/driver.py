"""Runs the trials of a sweep with Ray Tune and records how each ended."""

from __future__ import annotations

import re
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune import Callback
from ray.tune.schedulers import FIFOScheduler

from recbole_blair.figures import fraction
from recbole_blair.files.own_json import write_own_json
from recbole_blair.train.display import say
from recbole_blair.tune import schedulers
from recbole_blair.tune import sweep_dir as files
from recbole_blair.tune.searcher import optuna_searcher
from recbole_blair.tune.trial import THREAD_END_S, run_trial

if TYPE_CHECKING:
    from recbole_blair.tune.run import Sweep

PBT_SPARE = 2  # checkpoints kept beyond an interval: another trial may still be copying one
DROPPED = f"it never began: the trial before it in its process had not ended {THREAD_END_S} s after it was stopped"
ERROR_LINE = re.compile(r"^[\w.]*(Error|Exception|Exit)\b.*", re.M)


def run_trials(sweep: Sweep, spec: dict[str, Any]) -> None:
    """Run the open trials of a sweep until each has ended, or the time is over.

    Args:
        sweep: of `build_sweep`.
        spec: see `run.worker_spec`.
    """
    settings, searcher, space = sweep.settings, None, {}
    if settings["search"] == "optuna":
        searcher = optuna_searcher(sweep.space, settings, sweep.folder, sweep.metric, sweep.trials, sweep.open_trials)
    else:
        space = {"trial": tune.grid_search([{"number": t.number, "point": t.point} for t in sweep.open_trials])}
    scheduler = build_scheduler(sweep)
    pbt = settings["scheduler"] == "pbt"
    trainable = tune.with_parameters(run_trial, sweep=spec)
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": spec["cpus"], "gpu": spec["gpus"]}),
        param_space=space,
        tune_config=tune.TuneConfig(
            scheduler=scheduler,
            search_alg=searcher,
            num_samples=settings["num_samples"] if searcher else 1,
            max_concurrent_trials=settings["max_concurrent"],
            time_budget_s=settings["time_budget_s"],
            reuse_actors=True,
            trial_name_creator=name_trial,
            trial_dirname_creator=name_trial,
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=str(sweep.folder.resolve() / files.RAY),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=settings["max_failures"]),
            checkpoint_config=tune.CheckpointConfig(
                num_to_keep=settings["perturbation_interval"] + PBT_SPARE if pbt else 1
            ),
            callbacks=[Journal(sweep, getattr(scheduler, "stopped_trials", ()))],
        ),
    )
    tuner.fit()


def name_trial(trial: Any) -> str:
    """Return the name and folder of one of Ray's trials: the number it began with."""
    return f"{trial.config['trial']['number']:04d}"


def build_scheduler(sweep: Sweep) -> FIFOScheduler:
    """Return the scheduler that the options name."""
    settings = sweep.settings
    if settings["scheduler"] == "asha":
        return schedulers.asha(settings, sweep.base["epochs"], sweep.metric, sweep.trials)
    if settings["scheduler"] == "pbt":
        return schedulers.pbt(settings, sweep.base["epochs"], sweep.space)
    return FIFOScheduler()


class Journal(Callback):
    """Writes every trial's status into its folder when it ends, and one line to the screen."""

    def __init__(self, sweep: Sweep, stopped: Container[int]) -> None:
        self.folder, self.metric, self.stopped = sweep.folder, sweep.metric, stopped
        search = sweep.settings["search"]
        self.total = sweep.settings["num_samples"] if search == "optuna" else len(sweep.trials)

    def setup(self, *args: Any, **info: Any) -> None:
        """Do nothing with Ray's settings."""

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Record a trial that finished, was stopped by the scheduler, or ran out of time."""
        number = schedulers.trial_number(trial)
        done = (files.trial_dir(self.folder, number) / files.DONE).is_file()
        stopped = number in self.stopped
        self.record(number, files.FINISHED if done else files.STOPPED if stopped else files.UNFINISHED)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Record a trial that failed for good."""
        number = schedulers.trial_number(trial)
        self.record(number, files.FAILED, describe_error(trial))

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Print that a trial failed and continues from its checkpoint."""
        number = schedulers.trial_number(trial)
        epoch = files.last_epoch(files.trial_dir(self.folder, number))
        say(f"trial {number:>3}  failed after epoch {epoch} and goes on from there: {describe_error(trial)}")

    def on_experiment_end(self, trials: list, **info: Any) -> None:
        """Record trials that Ray dropped without a callback: the process they were given was not free in time."""
        for trial in trials:
            number = schedulers.trial_number(trial)
            written = files.read_json(files.trial_dir(self.folder, number) / files.TRIAL)
            if trial.status == trial.ERROR and written["status"] != files.FAILED:
                self.record(number, files.FAILED, DROPPED)

    def record(self, number: int, status: str, error: str | None = None) -> None:
        """Write and print a trial's status."""
        folder = files.trial_dir(self.folder, number)
        record = files.read_json(folder / files.TRIAL)
        record.update(status=status, error=error)
        write_own_json(folder / files.TRIAL, record, ensure_ascii=True)
        trial = files.load_trial(folder, record)
        best = trial.best(self.metric)
        value = f"{self.metric} {fraction(best[self.metric])}" if best else f"{self.metric} -"
        point = "  ".join(f"{key}={value}" for key, value in trial.point.items()) or "the defaults"
        epochs = trial.lines[-1]["epoch"] if trial.lines else 0
        say(f"trial {number:>3} of {self.total}  {status} after epoch {epochs}  {value}  {error or point}")


def describe_error(trial: Any) -> str:
    """Return one line about the error of one of Ray's trials.

    Ray writes it on this machine and copies it into the sweep's folder later, which is where its `get_error` looks.
    """
    written = Path(trial.error_file) if trial.error_file else None
    text = written.read_text(encoding="utf-8", errors="replace").strip() if written and written.is_file() else ""
    lines = [match.group(0) for match in ERROR_LINE.finditer(text)]
    if lines:
        return " ".join(lines[-1].split())[:300]
    first = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Failure #")]
    return (first or ["its process ended"])[0][:300]

"""Which trials continue: Ray's ASHA with the results of an interrupted sweep; Ray's PBT over a point's ranges."""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from recbole_blair.errors import InputError
from recbole_blair.tune.space import Entry, Space
from recbole_blair.tune.sweep_dir import FAILED, Trial

if TYPE_CHECKING:
    from ray.tune.schedulers import FIFOScheduler

PERTURB = (0.8, 1.2)  # factors of PBT's small steps, arXiv:1711.09846, section 4.1
RESAMPLE_SHARE = 0.25  # how often PBT draws a new value instead


def asha(settings: dict[str, Any], epochs: int, metric: str, earlier: Sequence[Trial]) -> FIFOScheduler:
    """Return Ray's asynchronous successive halving (arXiv:1810.05934) over a trial's best value so far.

    Args:
        settings: options of the sweep.
        epochs: of a whole trial.
        metric: in the lines of earlier trials.
        earlier: with the epochs they had before; the rungs are filled from them, oldest line first.
            What was decided of them then stands.
    """
    from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler  # heavy

    class Asha(AsyncHyperBandScheduler):
        """Remembers which trials it stopped, and what trials did before the driver was started again."""

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.stopped_trials: set[int] = set()
            self.history = {t.number: scores(t, metric) for t in earlier if t.lines and t.status != FAILED}
            for trial in (t for t in earlier if t.over and t.number in self.history):
                shadow: Any = SimpleNamespace(trial_id=f"earlier-{trial.number}")
                super().on_trial_add(None, shadow)  # type: ignore[arg-type]
                self.replay(shadow, trial.number)

        def replay(self, trial: Any, number: int) -> None:
            """Record a trial's earlier results."""
            for result in self.history[number]:
                super().on_trial_result(None, trial, result)  # type: ignore[arg-type]

        def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
            """Ray adds a trial; the earlier results of one that is resumed are recorded."""
            super().on_trial_add(tune_controller, trial)
            number = trial_number(trial)
            if number in self.history:
                self.replay(trial, number)

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            """Return, for Ray, whether a trial continues."""
            decision = super().on_trial_result(tune_controller, trial, result)
            if decision == TrialScheduler.STOP:
                self.stopped_trials.add(trial_number(trial))
            return decision

    return Asha(
        time_attr="epoch",
        metric="score",
        mode="max",
        max_t=epochs + 1,  # a trial ends by itself, not one report early
        grace_period=min(settings["grace_period"], epochs),
        reduction_factor=settings["reduction_factor"],
    )


def scores(trial: Trial, metric: str) -> list[dict[str, Any]]:
    """Return a trial's epochs as the scheduler sees them: the best value so far."""
    results, best = [], float("-inf")
    for line in trial.lines:
        if metric in line:
            best = max(best, line[metric])
            results.append({"epoch": line["epoch"], "score": best})
    return results


def trial_number(trial: object) -> int:
    """Return the number of one of Ray's trials: its name, which PBT does not change."""
    return int(str(trial))


def ranges_to_perturb(space: Space) -> list[Entry]:
    """Return the entries that PBT perturbs: the ranges. Choices stay with the weights they came with, since many of
    them decide shapes.

    Raises:
        InputError: the space has no range, or one of whole numbers.
    """
    ranges = [entry for entry in space.entries if entry.kind != "choice"]
    if not ranges:
        raise InputError("scheduler=pbt perturbs numbers from ranges; the space has none: add a uniform or loguniform")
    whole = [entry.key for entry in ranges if entry.whole]
    if whole:
        raise InputError(f"scheduler=pbt would change {whole[0]}, a whole number, of trained weights; make it a choice")
    return ranges


def pbt(settings: dict[str, Any], epochs: int, space: Space) -> FIFOScheduler:
    """Return Ray's population based training (arXiv:1711.09846) over the ranges of a space.

    Args:
        settings: options of the sweep.
        epochs: of a whole trial; after the last one nothing is copied, since nothing would train it.
        space: search space.
    """
    from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler  # heavy

    class Pbt(PopulationBasedTraining):
        """Leaves a trial as it is when its epochs are over."""

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            """Return, for Ray, whether a trial continues, and as what."""
            if result["epoch"] >= epochs:
                return TrialScheduler.CONTINUE
            return super().on_trial_result(tune_controller, trial, result)

    ranges = ranges_to_perturb(space)
    rng = random.Random(settings["search_seed"])

    def explore(config: dict[str, Any]) -> dict[str, Any]:
        """Perturb the point of a config that another trial takes over."""
        config["trial"]["point"] = perturb(config["trial"]["point"], ranges, rng)
        return config

    return Pbt(
        time_attr="epoch",
        metric="current",
        mode="max",
        perturbation_interval=settings["perturbation_interval"],
        custom_explore_fn=explore,
        hyperparam_mutations={},
        log_config=False,
    )


def perturb(point: dict[str, Any], ranges: Sequence[Entry], rng: random.Random) -> dict[str, Any]:
    """Return a point with each number of a range moved by a fifth, or drawn again, within its bounds."""
    changed = dict(point)
    for entry in ranges:
        if entry.key not in point:
            continue
        low, high = entry.values
        if rng.random() < RESAMPLE_SHARE:
            changed[entry.key] = entry.at(rng.random())
        else:
            changed[entry.key] = min(max(float(f"{point[entry.key] * rng.choice(PERTURB):.4g}"), low), high)
    return changed

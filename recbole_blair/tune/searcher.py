"""Where points come from: a list made before the start (random, grid), or Optuna, which learns as trials end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_blair.tune.space import Space, point_key
from recbole_blair.tune.sweep_dir import FAILED, Trial, save_trial

if TYPE_CHECKING:
    import optuna
    from ray.tune.search import Searcher


def list_trials(space: Space, settings: dict[str, Any], earlier: Sequence[Trial]) -> list[Trial]:
    """Return the new trials of a random or grid search, in order.

    Args:
        space: search space.
        settings: options of the sweep.
        earlier: trials that exist.

    Returns:
        fewer than asked for when the space has no more points.
    """
    points = [trial.point for trial in earlier]
    first, seen = len(points), {point_key(point) for point in points}
    if settings["search"] == "grid":
        points += [point for point in space.grid() if point_key(point) not in seen]
    else:
        while len(points) < settings["num_samples"]:
            number = len(points)
            default = number == 0 and settings["defaults_first"]
            point = {} if default else space.sample(settings["search_seed"], number, seen)
            if point is None:
                break
            points.append(point)
            seen.add(point_key(point))
    return [Trial(number, point) for number, point in enumerate(points) if number >= first]


def create_study(settings: dict[str, Any], started: int) -> optuna.Study:
    """Return an Optuna study of the tree-structured Parzen estimator that keeps parallel trials apart."""
    import optuna  # heavy, and an extra

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seed = settings["search_seed"] + started  # so that a resumed sweep does not draw the same points again
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
    return optuna.create_study(direction="maximize", sampler=sampler)


def optuna_searcher(
    space: Space, settings: dict[str, Any], sweep_dir: Path, metric: str, earlier: Sequence[Trial], unfinished:
    Sequence[Trial],
) -> Searcher:  # fmt: skip
    """Return a Ray Tune searcher that asks Optuna for points, one trial after the other.

    Args:
        earlier: trials of an interrupted sweep; those that have ended teach Optuna.
        unfinished: those of them that are resumed; they come first.
    """
    from optuna.trial import TrialState, create_trial  # heavy, as is Ray
    from ray.tune.search import Searcher

    class OptunaSearch(Searcher):
        """Optuna's ask and tell behind Ray's interface; every point is written before its trial starts."""

        def __init__(self) -> None:
            super().__init__(metric="score", mode="max")
            self.study = create_study(settings, len(earlier))
            self.number, self.waiting = len(earlier), list(unfinished)
            self.asked: dict[str, tuple[Trial, optuna.Trial | None]] = {}
            for trial in earlier:
                best = trial.best(metric)
                if trial.over and trial.status != FAILED and best is not None:
                    self.learn(trial.point, best[metric])

        def learn(self, point: dict[str, Any], value: float) -> None:
            """Teach Optuna a point and its value."""
            tried = [entry for entry in space.entries if entry.key in point]
            params = {entry.key: entry.optuna_value(point[entry.key]) for entry in tried}
            forms = {entry.key: entry.distribution() for entry in tried}
            self.study.add_trial(create_trial(params=params, distributions=forms, value=value))

        def suggest(self, trial_id: str) -> Any:
            """Return the next trial's config."""
            if self.waiting:
                trial, asked = self.waiting.pop(0), None
            elif self.number >= settings["num_samples"]:
                return Searcher.FINISHED
            else:
                trial, asked = self.ask()
                save_trial(sweep_dir, trial)
                self.number += 1
            self.asked[trial_id] = (trial, asked)
            return {"trial": {"number": trial.number, "point": trial.point}}

        def ask(self) -> tuple[Trial, optuna.Trial | None]:
            """Ask Optuna, or take the defaults first."""
            if self.number == 0 and settings["defaults_first"]:
                return Trial(0, {}), None
            asked = self.study.ask()
            return Trial(self.number, space.build(lambda entry: entry.suggest(asked))), asked

        def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
            """Do nothing: Optuna learns from a trial's end only."""

        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            """Tell Optuna how a trial ended."""
            trial, asked = self.asked.pop(trial_id)
            value = None if error or not result else result.get("score")
            if asked is not None:
                self.study.tell(asked, value, state=TrialState.FAIL if value is None else None)
            elif value is not None and trial.point:
                self.learn(trial.point, value)

        def save(self, checkpoint_path: str) -> None:
            """Do nothing: a sweep resumes from its folder, not from Ray's snapshots."""

        def restore(self, checkpoint_path: str) -> None:
            """Do nothing; see `save`."""

    return OptunaSearch()

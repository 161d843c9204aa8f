"""Where points come from: a list made before the start (random, grid), or Optuna, which learns as trials end."""

from recbole_blair.errors import InputError
from recbole_blair.tune.sweep_dir import FAILED, Trial, save_trial


def plan_points(space, settings, earlier):
    """Return the trials of a random or grid search that are not there yet, in order.

    Args:
        space (Space)
        settings (dict): options of the sweep.
        earlier (list of Trial): those that are.

    Returns:
        list of Trial: fewer than asked for when the space has no more points.
    """
    points = [trial.point for trial in earlier]
    first = len(points)
    if settings["search"] == "grid":
        points += [point for point in space.grid() if point not in points]
    else:
        while len(points) < settings["num_samples"]:
            number = len(points)
            default = number == 0 and settings["defaults_first"]
            point = {} if default else space.sample(settings["search_seed"], number, points)
            if point is None:
                break
            points.append(point)
    return [Trial(number, point) for number, point in enumerate(points) if number >= first]


def tpe_study(settings, started):
    """Return an Optuna study of the tree-structured Parzen estimator that keeps parallel trials apart."""
    try:
        import optuna
    except ImportError as error:
        raise InputError(f"search=optuna needs Optuna ({error}); pip install 'recbole-blair[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seed = settings["search_seed"] + started  # a resumed sweep draws on, not the same again
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
    return optuna.create_study(direction="maximize", sampler=sampler)


def optuna_searcher(space, settings, sweep_dir, metric, earlier, unfinished):
    """Return a Ray Tune searcher that asks Optuna for points, one trial after the other.

    Args:
        earlier (list of Trial): of an interrupted sweep; those that are over teach Optuna.
        unfinished (list of Trial): those of them that go on; they come first.
    """
    from optuna.trial import TrialState, create_trial
    from ray.tune.search import Searcher

    class OptunaSearch(Searcher):
        """Optuna's ask and tell behind Ray's interface; every point is written down before its trial starts."""

        def __init__(self):
            super().__init__(metric="score", mode="max")
            self.study = tpe_study(settings, len(earlier))
            self.number, self.waiting, self.asked = len(earlier), list(unfinished), {}
            for trial in earlier:
                best = trial.best(metric)
                if trial.over and trial.status != FAILED and best is not None:
                    self.learn(trial.point, best[metric])

        def learn(self, point, value):
            """Teach Optuna a point and its value."""
            known = {key: v for key, v in point.items() if space.entry(key)}
            params = {key: space.entry(key).optuna_value(v) for key, v in known.items()}
            forms = {key: space.entry(key).distribution() for key in known}
            self.study.add_trial(create_trial(params=params, distributions=forms, value=value))

        def suggest(self, trial_id):
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

        def ask(self):
            """Ask Optuna, or take the defaults first."""
            if self.number == 0 and settings["defaults_first"]:
                return Trial(0, {}), None
            asked = self.study.ask()
            return Trial(self.number, space.build(lambda entry: entry.suggest(asked))), asked

        def on_trial_result(self, trial_id, result):
            """Only a trial's end teaches."""

        def on_trial_complete(self, trial_id, result=None, error=False):
            """Tell Optuna how a trial ended."""
            trial, asked = self.asked.pop(trial_id)
            value = None if error or not result else result.get("score")
            if asked is not None:
                self.study.tell(asked, value, state=TrialState.FAIL if value is None else None)
            elif value is not None and trial.point:
                self.learn(trial.point, value)

        def save(self, checkpoint_path):
            """Ray's own snapshots are not used; a sweep goes on from its folder."""

        def restore(self, checkpoint_path):
            """See `save`."""

    return OptunaSearch()

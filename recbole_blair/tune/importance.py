"""Which keys of a sweep mattered: the share of the metric's variance that each explains, by Optuna's fANOVA."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recbole_blair.tune.space import Entry, Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

LEAST, MOST = 8, 200  # trials: fewer say nothing, and of more the forest of fANOVA takes minutes


def key_importances(space: Space, points: Sequence[Mapping[str, Any]], values: Sequence[float]) -> dict[str, float]:
    """Return the importance of each key that all trials have, largest first; together 1.

    Args:
        space: of the sweep.
        points: of each trial, as `Space.shown` returns; those that lack a key without `when` are left out.
        values: the metric of each trial.

    Returns:
        key -> share; {} where nothing can be said, for which see `why_none`.

    Source: Hutter et al., An Efficient Approach for Assessing Hyperparameter Importance, ICML 2014.
    """
    if why_none(points, values):
        return {}
    import optuna  # heavy, and an extra
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import create_trial

    always = [entry.key for entry in space.entries if not entry.when]
    pairs = [(p, v) for p, v in zip(points, values) if all(p.get(key) is not None for key in always)]
    pairs = pairs[:: -(-len(pairs) // MOST)] if pairs else []
    entries = [entry for entry in space.entries if all(p.get(entry.key) is not None for p, _ in pairs)]
    if len(pairs) < LEAST or not entries:
        return {}
    distributions = {entry.key: distribution(entry, [p[entry.key] for p, _ in pairs]) for entry in entries}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    for point, value in pairs:
        own = {e.key: as_choice(point[e.key]) if e.kind == "choice" else point[e.key] for e in entries}
        study.add_trial(create_trial(params=own, distributions=distributions, value=value))
    shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return {key: float(share) for key, share in shares.items()}


def why_none(points: Sequence[Mapping[str, Any]], values: Sequence[float]) -> str:
    """Say why no importance can be computed; nothing where it can."""
    if len(points) < LEAST:
        return f"It takes {LEAST} trials with a value to say which keys matter; there are {len(points)}."
    if max(values) == min(values):
        return "All trials have the same value, so no key made a difference."
    if importlib.util.find_spec("optuna") is None:
        return "The importance of keys needs Optuna: pip install 'recbole-blair[tune]'."
    return ""


def distribution(entry: Entry, values: Sequence[Any]) -> BaseDistribution:
    """Return Optuna's distribution of a key, wide enough for defaults that lie outside the space."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # an extra

    if entry.kind == "choice":
        return CategoricalDistribution(list(dict.fromkeys(as_choice(v) for v in [*entry.values, *values])))
    low, high = min(entry.values + list(values)), max(entry.values + list(values))
    log = entry.kind == "loguniform" and low > 0
    if entry.whole and all(isinstance(v, int) for v in values):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(float(low), float(high), log=log)


def as_choice(value: Any) -> str:
    """Write a choice, which may be a list, as a name."""
    return json.dumps(value)

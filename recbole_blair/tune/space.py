"""Search spaces: read from YAML, checked against the model, sampled, listed as a grid, asked of Optuna.

    learning_rate: {loguniform: [1.0e-4, 3.0e-3], points: 3}      # points: how many of it search=grid takes
    hidden_dropout_prob: {uniform: [0.1, 0.6]}
    n_layers: {uniform: [1, 4]}                                   # whole bounds of a whole key: whole numbers
    softmax: {choice: [full, sampled]}
    n_negatives: {choice: [1024, 4096], when: {softmax: sampled}} # otherwise it keeps the model's default

A *point* is a dict of key: value; a key whose `when` does not hold is absent from it.
"""

import itertools
import math
from dataclasses import dataclass, field

import numpy as np

from recbole_blair.config import VOLATILE_KEYS, coerce, load_yaml
from recbole_blair.data.build import PREPARE_KEYS
from recbole_blair.errors import InputError, nearest
from recbole_blair.files.paths import props_dir

KINDS = ("choice", "uniform", "loguniform")
SIGNIFICANT = 4  # digits of a sampled number: more say nothing, and fewer are easier to read and to type again
DRAWS = 200  # times a point that was tried already is drawn again before the space counts as exhausted
# Keys that say what is measured, on what, or for how long: trials that differ in them cannot be compared.
SHARED_KEYS = frozenset(PREPARE_KEYS) | VOLATILE_KEYS | {
    "metrics", "topk", "valid_metric", "mask_history", "save_ranks", "max_score_elements", "eval_batch_size",
    "eval_step", "epochs", "device",
}  # fmt: skip
DATA_KEYS = ("plm", "plm_revision", "plm_pooling", "plm_max_length", "feature_scale")  # decide which features are read


@dataclass(frozen=True)
class Entry:
    """One key of a space: `values` are the choices, or the two bounds of a range."""

    key: str
    kind: str
    values: list
    points: int | None = None
    when: dict = field(default_factory=dict)

    @property
    def whole(self):
        """True for a range of whole numbers."""
        return self.kind != "choice" and all(isinstance(v, int) for v in self.values)

    def draw(self, rng):
        """Draw one value."""
        if self.kind == "choice":
            return self.values[int(rng.integers(len(self.values)))]
        return self.at(rng.random())

    def at(self, share):
        """Return the value at a share (0 to 1) of a range."""
        low, high = self.values
        top = high + 1 if self.whole else high  # so that each whole number has the same share
        if self.kind == "loguniform":
            value = math.exp(math.log(low) + share * (math.log(top) - math.log(low)))
        else:
            value = low + share * (top - low)
        if self.whole:
            return min(int(value + 1e-9), high)
        return float(min(max(float(f"{value:.{SIGNIFICANT}g}"), low), high))

    def steps(self):
        """Return the values a grid takes.

        Raises:
            InputError: a range without `points`.
        """
        if self.kind == "choice":
            return self.values
        if self.points is None:
            raise InputError(
                f"search=grid: {self.key} is a range; say how many of it to take, as in "
                f"{self.key}: {{{self.kind}: {self.values}, points: 3}}, or write a choice"
            )
        shares = [i / (self.points - 1) for i in range(self.points)] if self.points > 1 else [0.5]
        return list(dict.fromkeys(self.at(share) for share in shares))

    def suggest(self, trial):
        """Ask an Optuna trial for a value; choices go by their number, since Optuna wants plain values."""
        if self.kind == "choice":
            return self.values[trial.suggest_categorical(self.key, list(range(len(self.values))))]
        low, high = self.values
        log = self.kind == "loguniform"
        if self.whole:
            return trial.suggest_int(self.key, low, high, log=log)
        value = trial.suggest_float(self.key, low, high, log=log)
        return min(max(float(f"{value:.{SIGNIFICANT}g}"), low), high)

    def optuna_value(self, value):
        """Return Optuna's parameter for a value of this key."""
        return self.values.index(value) if self.kind == "choice" else value

    def distribution(self):
        """Return Optuna's distribution of this key."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.kind == "choice":
            return CategoricalDistribution(list(range(len(self.values))))
        kind = IntDistribution if self.whole else FloatDistribution
        return kind(*self.values, log=self.kind == "loguniform")

    def plain(self):
        """Return the entry as YAML has it."""
        found = {self.kind: self.values}
        if self.points is not None:
            found["points"] = self.points
        return {**found, "when": self.when} if self.when else found


class Space:
    """A search space over one model's keys.

    Args:
        entries (list of Entry): ordered so that a key comes after those of its `when`.
        base (Mapping): the configuration the points are laid over; a `when` may name a key that only it has.
    """

    def __init__(self, entries, base):
        self.entries, self.base = entries, base

    def __len__(self):
        return len(self.entries)

    def entry(self, key):
        """Return the entry of a key, or None."""
        return next((e for e in self.entries if e.key == key), None)

    def active(self, entry, point):
        """True where the entry's `when` holds in a point."""
        return all(point.get(key, self.base[key]) in allowed for key, allowed in entry.when.items())

    def shown(self, point):
        """Return what a trial has of these keys: its point, and for the trial of the defaults those."""
        return self.build(lambda entry: point.get(entry.key, self.base[entry.key]))

    def build(self, value_of):
        """Make a point, `value_of(entry)` for each key that is active."""
        point = {}
        for entry in self.entries:
            if self.active(entry, point):
                point[entry.key] = value_of(entry)
        return point

    def sample(self, seed, number, seen=()):
        """Draw the point of trial `number`: a function of the seed and the number, and of the points before it.

        Returns:
            dict, or None when every point left has been drawn already.
        """
        for draw in range(DRAWS):
            rng = np.random.default_rng((seed, number, draw))
            point = self.build(lambda entry: entry.draw(rng))  # noqa: B023  called before rng changes
            if point not in seen:
                return point
        return None

    def grid(self):
        """List every combination, keys whose `when` fails left out, none twice."""
        steps = [entry.steps() for entry in self.entries]
        points = []
        for values in itertools.product(*steps):
            chosen = {entry.key: value for entry, value in zip(self.entries, values)}
            point = self.build(lambda entry: chosen[entry.key])  # noqa: B023
            if point not in points:
                points.append(point)
        return points

    def data_choices(self):
        """Return every combination of the keys that decide which features are read, as dicts."""
        keys = [e for e in self.entries if e.key in DATA_KEYS]
        return [dict(zip([e.key for e in keys], values)) for values in itertools.product(*(e.values for e in keys))]

    def plain(self):
        """Return the space as YAML has it."""
        return {entry.key: entry.plain() for entry in self.entries}


def space_path(info):
    """Return the default file of a model's space: props/sweep/<Model>.yaml, or <Model>.sweep.yaml beside its YAML.

    Raises:
        InputError: there is none; says which file to write.
    """
    own = props_dir() / "sweep" / f"{info.name}.yaml"
    beside = info.yaml_path.with_name(f"{info.name}.sweep.yaml") if info.yaml_path else own
    for path in (own, beside):
        if path.is_file():
            return path
    inside = info.from_recbole or info.yaml_path is None or info.yaml_path.parent == props_dir() / "model"
    raise InputError(
        f"{info.name} has no search space yet; write {'props/sweep/' + own.name if inside else beside}, with "
        "lines like `learning_rate: {loguniform: [1.0e-4, 1.0e-2]}`, or name a file by --space"
    )


def load_space(source, info, base, fixed=()):
    """Read a space and check it against a model.

    Args:
        source (str | Path | dict): YAML file, or its content.
        info (ModelInfo): the model that is tuned.
        base (Config): its resolved keys without the space.
        fixed (iterable of str): keys given on the command line; they leave the space.

    Returns:
        Space

    Raises:
        InputError: a key that the model does not read or that trials must share, a value of the wrong kind, a
            malformed entry, a `when` that cannot hold.
    """
    name = "the space" if isinstance(source, dict) else str(source)
    raw = source if isinstance(source, dict) else load_yaml(source)
    entries = [parse_entry(key, value, info, base, name) for key, value in raw.items()]
    entries = in_order([e for e in entries if e.key not in set(fixed)], base, info, name)
    if not entries:
        raise InputError(f"{name} holds no key to try{' beside those that are given' if raw else ''}")
    return Space(entries, base)


def parse_entry(key, value, info, base, name):
    """Check one line of a space."""
    check_key(key, info, base, name)
    form = f"{key}: {{choice: [...]}}, {{uniform: [low, high]}} or {{loguniform: [low, high]}}"
    if not isinstance(value, dict):
        raise InputError(f"{key} in {name} is {value!r}; expected {form}")
    unknown = sorted(map(str, value.keys() - {*KINDS, "points", "when"}))
    if unknown:
        raise InputError(f"{key} in {name} has {unknown[0]!r};{nearest(unknown[0], KINDS)} expected {form}")
    kinds = [kind for kind in KINDS if kind in value]
    if len(kinds) != 1:
        raise InputError(f"{key} in {name} has {' and '.join(kinds) or 'no values'}; expected {form}")
    kind, values = kinds[0], value[kinds[0]]
    if not isinstance(values, list) or not values:
        raise InputError(f"{key} in {name}: {kind} is {values!r}; expected a list")
    values = [coerce_value(key, v, info, base, name) for v in values]
    if kind != "choice":
        check_range(key, kind, values, name)
    points = value.get("points")
    if points is not None and (
        kind == "choice" or isinstance(points, bool) or not isinstance(points, int) or points < 1
    ):
        raise InputError(f"{key} in {name}: points={points!r}; expected a whole number above 0, of a range")
    when = value.get("when") or {}
    if not isinstance(when, dict):
        raise InputError(
            f"{key} in {name}: when is {when!r}; expected keys and values, as in when: {{softmax: sampled}}"
        )
    return Entry(key, kind, values, points, {k: v if isinstance(v, list) else [v] for k, v in when.items()})


def check_key(key, info, base, name):
    """Refuse a key that the model does not read, or that all trials must share."""
    if key not in base:
        raise InputError(
            f"{name} holds {key!r}, which {info.name} does not read.{nearest(key, base)} "
            f"Its keys: `recbole-blair train --model={info.name} --help`"
        )
    if key in SHARED_KEYS:
        raise InputError(
            f"{name} holds {key!r}, which says what is measured, on what or for how long; trials that differ in it "
            f"cannot be compared: give it once, as --{key}=..."
        )


def coerce_value(key, value, info, base, name):
    """Return a value as the key's kind; RecBole's own keys take what they are given."""
    overall = load_yaml(props_dir() / "overall.yaml")
    if info.from_recbole and key not in overall:
        return value
    return coerce(key, value, base[key] if base[key] is not None else overall.get(key), name)


def check_range(key, kind, values, name):
    """Refuse a range that is no range of numbers."""
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if len(values) != 2 or not numbers or not values[0] < values[1]:
        raise InputError(f"{key} in {name}: {kind} is {values!r}; expected two numbers, the smaller first")
    if kind == "loguniform" and values[0] <= 0:
        raise InputError(f"{key} in {name}: loguniform starts at {values[0]!r}; expected a number above 0")
    if key in DATA_KEYS:
        raise InputError(f"{key} in {name} decides which features are read; write a choice")


def in_order(entries, base, info, name):
    """Sort entries so that each comes after the keys of its `when`.

    Raises:
        InputError: a `when` with an unknown key, a range's key, values that never occur, or a circle.
    """
    by_key = {entry.key: entry for entry in entries}
    for entry in entries:
        for key, allowed in entry.when.items():
            if key not in base:
                raise InputError(f"{entry.key} in {name}: when names {key!r}, which {info.name} does not read")
            other = by_key.get(key)
            if other is not None and other.kind != "choice":
                raise InputError(f"{entry.key} in {name}: when names {key}, which is a range; it must be a choice")
            possible = [base[key], *(other.values if other else [])]
            if not any(value in possible for value in allowed):
                raise InputError(f"{entry.key} in {name}: when {key} is {allowed}, but it is only ever {possible}")
    ordered = []
    while len(ordered) < len(entries):
        done = {entry.key for entry in ordered}
        ready = [e for e in entries if e not in ordered and not (e.when.keys() & by_key.keys()) - done]
        if not ready:
            circle = ", ".join(e.key for e in entries if e not in ordered)
            raise InputError(f"{name}: the conditions of {circle} go round in a circle")
        ordered += ready
    return ordered

"""Search spaces: read from YAML, checked against the model, sampled, listed as a grid, asked of Optuna.

    learning_rate: {loguniform: [1.0e-4, 3.0e-3], points: 3}      # points: how many of it search=grid takes
    hidden_dropout_prob: {uniform: [0.1, 0.6]}
    n_layers: {uniform: [1, 4]}                                   # whole bounds of a whole key: whole numbers
    softmax: {choice: [full, sampled]}
    n_negatives: {choice: [1024, 4096], when: {softmax: sampled}} # otherwise it keeps the model's default

A *point* is a dict of key: value; a key whose `when` does not hold is absent from it.
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_blair.config import VOLATILE_KEYS, Config, Keys, load_yaml, model_keys
from recbole_blair.config.kinds import shorten
from recbole_blair.data.build import PREPARE_KEYS
from recbole_blair.errors import InputError, nearest
from recbole_blair.files.paths import props_dir

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping
    from pathlib import Path

    from optuna import Trial
    from optuna.distributions import BaseDistribution

    from recbole_blair.registry import ModelInfo

KINDS = ("choice", "uniform", "loguniform")
SIGNIFICANT = 4  # digits of a sampled number: more say nothing, and fewer are easier to read and to type again
MAX_POINTS = 1000  # of a range in a grid
MAX_GRID = 100_000  # combinations of a grid: more can neither be listed nor tried
DRAWS = 200  # times a point that was tried already is drawn again before the space counts as exhausted
# Keys that say what is measured, on what, or for how long: trials that differ in them cannot be compared.
SHARED_KEYS = frozenset(PREPARE_KEYS) | VOLATILE_KEYS | {
    "metrics", "topk", "valid_metric", "mask_history", "save_ranks", "max_score_elements", "eval_batch_size",
    "eval_step", "epochs", "device", "ops",
}  # fmt: skip
DATA_KEYS = (
    "plm",
    "plm_revision",
    "plm_pooling",
    "plm_max_length",
    "plm_prompt",
    "plm_normalise",
    "plm_dimensions",
    "text_fields",
    "text_recipe",
    "feature_scale",
    "feature_transform",
)  # decide which features are read


@dataclass(frozen=True)
class Entry:
    """One key of a space: `values` are the choices, or the two bounds of a range."""

    key: str
    kind: str
    values: list[Any]
    points: int | None = None
    when: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """True for a range of whole numbers."""
        return self.kind != "choice" and all(isinstance(v, int) for v in self.values)

    def draw(self, rng: np.random.Generator) -> Any:
        """Draw one value."""
        if self.kind == "choice":
            return self.values[int(rng.integers(len(self.values)))]
        return self.at(rng.random())

    def at(self, share: float) -> float:
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

    def steps(self) -> list[Any]:
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

    def suggest(self, trial: Trial) -> Any:
        """Ask an Optuna trial for a value; choices go by their number, since Optuna wants plain values."""
        if self.kind == "choice":
            return self.values[trial.suggest_categorical(self.key, list(range(len(self.values))))]
        low, high = self.values
        log = self.kind == "loguniform"
        if self.whole:
            return trial.suggest_int(self.key, low, high, log=log)
        value = trial.suggest_float(self.key, low, high, log=log)
        return min(max(float(f"{value:.{SIGNIFICANT}g}"), low), high)

    def optuna_value(self, value: Any) -> Any:
        """Return Optuna's parameter for a value of this key."""
        return self.values.index(value) if self.kind == "choice" else value

    def distribution(self) -> BaseDistribution:
        """Return Optuna's distribution of this key."""
        # heavy: loads optuna
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.kind == "choice":
            return CategoricalDistribution(list(range(len(self.values))))
        kind = IntDistribution if self.whole else FloatDistribution
        low, high = self.values
        return kind(low=low, high=high, log=self.kind == "loguniform")

    def plain(self) -> dict[str, Any]:
        """Return the entry as YAML has it."""
        found: dict[str, Any] = {self.kind: self.values}
        if self.points is not None:
            found["points"] = self.points
        return {**found, "when": self.when} if self.when else found


class Space:
    """A search space over one model's keys.

    Args:
        entries: ordered so that a key comes after those of its `when`.
        base: the configuration the points are laid over; a `when` may name a key that only it has.
    """

    def __init__(self, entries: list[Entry], base: Mapping[str, Any]) -> None:
        self.entries, self.base = entries, base

    def __len__(self) -> int:
        return len(self.entries)

    def entry(self, key: str) -> Entry | None:
        """Return the entry of a key, or None."""
        return next((e for e in self.entries if e.key == key), None)

    def active(self, entry: Entry, point: Mapping[str, Any]) -> bool:
        """True where the entry's `when` holds in a point."""
        return all(point.get(key, self.base[key]) in allowed for key, allowed in entry.when.items())

    def shown(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a trial has of these keys: its point, and for the trial of the defaults those."""
        return self.build(lambda entry: point.get(entry.key, self.base[entry.key]))

    def build(self, value_of: Callable[[Entry], Any]) -> dict[str, Any]:
        """Make a point, `value_of(entry)` for each key that is active."""
        point: dict[str, Any] = {}
        for entry in self.entries:
            if self.active(entry, point):
                point[entry.key] = value_of(entry)
        return point

    def sample(self, seed: int, number: int, seen: Container[str] = ()) -> dict[str, Any] | None:
        """Draw the point of trial `number`: a function of the seed and the number, and of the points before it.

        Args:
            seen: `point_key` of each point before it.

        Returns:
            the point, or None when every point left has been drawn already.
        """
        for draw in range(DRAWS):
            rng = np.random.default_rng((seed, number, draw))
            point = self.build(lambda entry: entry.draw(rng))  # noqa: B023  called before rng changes
            if point_key(point) not in seen:
                return point
        return None

    def grid(self) -> list[dict[str, Any]]:
        """List every combination, keys whose `when` fails left out, none twice.

        Raises:
            InputError: a range without `points`, or more combinations than MAX_GRID.
        """
        steps = [entry.steps() for entry in self.entries]
        total = math.prod(map(len, steps))
        if total > MAX_GRID:
            raise InputError(f"search=grid: the space has {total:,} combinations, more than {MAX_GRID:,}; narrow it")
        points: dict[str, dict[str, Any]] = {}
        for values in itertools.product(*steps):
            chosen = {entry.key: value for entry, value in zip(self.entries, values)}
            point = self.build(lambda entry: chosen[entry.key])  # noqa: B023
            points.setdefault(point_key(point), point)
        return list(points.values())

    def data_choices(self) -> list[dict[str, Any]]:
        """Return every combination of the keys that decide which features are read, as dicts."""
        keys = [e for e in self.entries if e.key in DATA_KEYS]
        return [dict(zip([e.key for e in keys], values)) for values in itertools.product(*(e.values for e in keys))]

    def plain(self) -> dict[str, Any]:
        """Return the space as YAML has it."""
        return {entry.key: entry.plain() for entry in self.entries}


def point_key(point: Mapping[str, Any]) -> str:
    """Return what equal points have in common, to look them up."""
    return json.dumps(point, sort_keys=True, default=str)


def space_path(info: ModelInfo) -> Path:
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


@dataclass(frozen=True)
class SpaceFile:
    """What a space is checked against.

    Args:
        name: of the file, as messages name it.
        info: the model that is tuned.
        base: its resolved keys without the space.
        keys: their kinds.
    """

    name: str
    info: ModelInfo
    base: Config
    keys: Keys


def load_space(source: Path | str | dict[str, Any], info: ModelInfo, base: Config, fixed: Iterable[str] = ()) -> Space:
    """Read a space and check it against a model.

    Args:
        source: YAML file, or its content.
        info: the model that is tuned.
        base: its resolved keys without the space.
        fixed: keys given on the command line; they leave the space.

    Raises:
        InputError: a key that the model does not read or that trials must share, a value that is not of its kind, a
            malformed entry, a `when` that cannot hold.
    """
    file = SpaceFile("the space" if isinstance(source, dict) else str(source), info, base, model_keys(info))
    raw = source if isinstance(source, dict) else load_yaml(source)
    entries = [parse_entry(key, value, file) for key, value in raw.items()]
    entries = in_order([e for e in entries if e.key not in set(fixed)], file)
    if not entries:
        raise InputError(f"{file.name} holds no key to try{' beside those that are given' if raw else ''}")
    return Space(entries, base)


def parse_entry(key: str, value: Any, file: SpaceFile) -> Entry:
    """Check one line of a space."""
    check_key(key, file)
    form = f"{key}: {{choice: [...]}}, {{uniform: [low, high]}} or {{loguniform: [low, high]}}"
    place = f"{key} in {file.name}"
    if not isinstance(value, dict):
        raise InputError(f"{place} is {shorten(value)}; expected {form}")
    unknown = sorted(map(str, value.keys() - {*KINDS, "points", "when"}))
    if unknown:
        raise InputError(f"{place} has {shorten(unknown[0])};{nearest(unknown[0], KINDS)} expected {form}")
    kinds = [kind for kind in KINDS if kind in value]
    if len(kinds) != 1:
        raise InputError(f"{place} has {' and '.join(kinds) or 'no values'}; expected {form}")
    kind, values = kinds[0], value[kinds[0]]
    if not isinstance(values, list) or not values:
        raise InputError(f"{place}: {kind} is {shorten(values)}; expected a list")
    values = [file.keys.check(key, v, file.name) for v in values]
    if kind != "choice":
        check_range(key, kind, values, file.name)
    points = value.get("points")
    whole = isinstance(points, int) and not isinstance(points, bool)
    if points is not None and (kind == "choice" or not whole or not 1 <= points <= MAX_POINTS):
        raise InputError(f"{place}: points={shorten(points)}; expected a whole number of a range, 1 to {MAX_POINTS:,}")
    when = value.get("when") or {}
    if not isinstance(when, dict):
        raise InputError(
            f"{place}: when is {shorten(when)}; expected keys and values, as in when: {{softmax: sampled}}"
        )
    return Entry(key, kind, values, points, {k: v if isinstance(v, list) else [v] for k, v in when.items()})


def check_key(key: str, file: SpaceFile) -> None:
    """Refuse a key that the model does not read, or that all trials must share."""
    if key not in file.keys.defaults:
        raise InputError(
            f"{file.name} holds {shorten(key)}, which {file.info.name} does not read.{nearest(key, file.base)} "
            f"Its keys: `recbole-blair train --model={file.info.name} --help`"
        )
    if key in SHARED_KEYS:
        raise InputError(
            f"{file.name} holds {key!r}, which says what is measured, on what or for how long; trials that differ in "
            f"it cannot be compared: give it once, as --{key}=..."
        )


def check_range(key: str, kind: str, values: list[Any], name: str) -> None:
    """Refuse a range that is no range of numbers."""
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if len(values) != 2 or not numbers or not values[0] < values[1]:
        raise InputError(f"{key} in {name}: {kind} is {values!r}; expected two numbers, the smaller first")
    if kind == "loguniform" and values[0] <= 0:
        raise InputError(f"{key} in {name}: loguniform starts at {values[0]!r}; expected a number above 0")
    if key in DATA_KEYS:
        raise InputError(f"{key} in {name} decides which features are read; write a choice")


def in_order(entries: list[Entry], file: SpaceFile) -> list[Entry]:
    """Sort entries so that each comes after the keys of its `when`.

    Raises:
        InputError: a `when` with an unknown key, a range's key, values that never occur, or a circle.
    """
    by_key, base, name = {entry.key: entry for entry in entries}, file.base, file.name
    for entry in entries:
        for key, allowed in entry.when.items():
            if key not in base:
                raise InputError(f"{entry.key} in {name}: when names {key!r}, which {file.info.name} does not read")
            other = by_key.get(key)
            if other is not None and other.kind != "choice":
                raise InputError(f"{entry.key} in {name}: when names {key}, which is a range; it must be a choice")
            possible = [base[key], *(other.values if other else [])]
            if not any(value in possible for value in allowed):
                raise InputError(f"{entry.key} in {name}: when {key} is {allowed}, but it is only ever {possible}")
    ordered: list[Entry] = []
    while len(ordered) < len(entries):
        done = {entry.key for entry in ordered}
        ready = [e for e in entries if e not in ordered and not (e.when.keys() & by_key.keys()) - done]
        if not ready:
            circle = ", ".join(e.key for e in entries if e not in ordered)
            raise InputError(f"{name}: the conditions of {circle} go round in a circle")
        ordered += ready
    return ordered

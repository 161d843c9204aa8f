"""Search spaces: what is read, drawn, listed, refused; every model has one that fits it."""

import time

import numpy as np
import pytest

from recbole_blair.config import resolve_config
from recbole_blair.errors import InputError
from recbole_blair.files.paths import props_dir
from recbole_blair.registry import find_model, list_models
from recbole_blair.tune.searcher import list_trials
from recbole_blair.tune.space import load_space, point_key, space_path

INFO = find_model("UniSRecBlair")
BASE = resolve_config(INFO, "sample", (), {})
CONDITIONAL = {
    "softmax": {"choice": ["full", "sampled"]},
    "n_negatives": {"choice": [512, 2048], "when": {"softmax": "sampled"}},
    "negatives": {"choice": ["uniform", "popularity"], "when": {"softmax": ["sampled"]}},
}


def space_of(raw, **keys):
    return load_space(raw, INFO, BASE, **keys)


def keys(points):
    return {point_key(point) for point in points}


def test_ten_thousand_trials_are_listed_in_seconds():
    space = space_of({"learning_rate": {"loguniform": [1e-4, 1e-2]}})
    started = time.monotonic()
    trials = list_trials(
        space, {"search": "random", "num_samples": 10_000, "search_seed": 1, "defaults_first": True}, []
    )
    assert time.monotonic() - started < 20
    assert len(trials) == 10_000 == len(keys(trial.point for trial in trials))


def test_a_range_is_drawn_within_its_bounds_and_evenly():
    space = space_of({"learning_rate": {"loguniform": [1e-4, 1e-2]}, "hidden_dropout_prob": {"uniform": [0.1, 0.5]}})
    points = [space.sample(1, n) for n in range(400)]
    rates = np.array([p["learning_rate"] for p in points])
    assert rates.min() >= 1e-4 and rates.max() <= 1e-2 and 0.35 < np.mean(rates < 1e-3) < 0.65  # half a decade range
    drops = np.array([p["hidden_dropout_prob"] for p in points])
    assert drops.min() >= 0.1 and drops.max() <= 0.5 and abs(drops.mean() - 0.3) < 0.05


def test_whole_bounds_of_a_whole_key_give_whole_numbers_each_as_often():
    space = space_of({"n_layers": {"uniform": [1, 3]}, "n_exps": {"loguniform": [1, 16]}})
    points = [space.sample(3, n) for n in range(600)]
    layers = [p["n_layers"] for p in points]
    assert set(layers) == {1, 2, 3} and min(layers.count(n) for n in (1, 2, 3)) > 130
    experts = [p["n_exps"] for p in points]
    assert set(experts) <= set(range(1, 17)) and all(type(n) is int for n in experts)


def test_a_point_depends_on_seed_and_number_and_comes_once():
    space = space_of({"n_layers": {"choice": [1, 2]}, "n_exps": {"choice": [1, 2, 4]}})
    points = []
    while (point := space.sample(7, len(points), keys(points))) is not None:
        points.append(point)
    assert len(points) == 6 == len({tuple(p.items()) for p in points})
    again = [space.sample(7, n, keys(points[:n])) for n in range(6)]
    assert again == points
    assert [space.sample(8, n, keys(points[:n])) for n in range(3)] != points[:3]


def test_conditions_leave_a_key_out_and_the_grid_lists_what_is_left():
    space = space_of(CONDITIONAL)
    assert space.grid() == [
        {"softmax": "full"},
        *(
            {"softmax": "sampled", "n_negatives": n, "negatives": s}
            for n in (512, 2048)
            for s in ("uniform", "popularity")
        ),
    ]
    for number in range(20):
        point = space.sample(0, number)
        assert ("n_negatives" in point) == ("negatives" in point) == (point["softmax"] == "sampled")


def test_the_defaults_are_shown_with_their_values_and_without_what_does_not_apply():
    space = space_of({**CONDITIONAL, "n_exps": {"choice": [1, 2]}})
    assert space.shown({}) == {"softmax": "full", "n_exps": BASE["n_exps"]}  # 8, which is none of the choices
    point = {"softmax": "sampled", "n_negatives": 512, "negatives": "uniform", "n_exps": 2}
    assert space.shown(point) == point


def test_a_condition_may_stand_before_its_key_and_may_name_a_fixed_one():
    raw = {"n_negatives": CONDITIONAL["n_negatives"], "softmax": CONDITIONAL["softmax"]}
    assert [e.key for e in space_of(raw).entries] == ["softmax", "n_negatives"]
    fixed = resolve_config(INFO, "sample", (), {"softmax": "sampled"})
    space = load_space(raw, INFO, fixed, fixed=["softmax"])
    assert space.grid() == [{"n_negatives": 512}, {"n_negatives": 2048}]


def test_a_grid_takes_points_of_a_range():
    space = space_of(
        {"learning_rate": {"loguniform": [1e-4, 1e-2], "points": 3}, "temperature": {"uniform": [0.1, 0.2]}}
    )
    assert space.entries[0].steps() == [1e-4, 1e-3, 1e-2]
    with pytest.raises(InputError, match=r"search=grid: temperature is a range; .*points: 3"):
        space.grid()


def test_optuna_draws_the_same_space():
    optuna = pytest.importorskip("optuna")
    space = space_of({**CONDITIONAL, "learning_rate": {"loguniform": [1e-4, 1e-2]}, "n_layers": {"uniform": [1, 3]}})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        asked = study.ask()
        point = space.build(lambda entry, asked=asked: entry.suggest(asked))
        assert ("n_negatives" in point) == (point["softmax"] == "sampled") and point["n_layers"] in (1, 2, 3)
        for key, value in point.items():
            assert space.entry(key).distribution()._contains(space.entry(key).optuna_value(value))


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"learnin_rate": {"choice": [1.0]}}, "'learnin_rate', which UniSRecBlair does not read. Did you mean 'lear"),
        ({"num_layers": {"choice": [1]}}, "'num_layers', which UniSRecBlair does not read. Did you mean 'n_layers'"),
        ({"epochs": {"choice": [1, 2]}}, "'epochs', which says what is measured"),
        ({"test_start_ms": {"choice": [1, 2]}}, "'test_start_ms', which says what is measured"),
        ({"learning_rate": 0.1}, "learning_rate in the space is 0.1; expected learning_rate: {choice"),
        ({"learning_rate": {"loguniform": [0.1, 0.01]}}, "expected two numbers, the smaller first"),
        ({"weight_decay": {"loguniform": [0, 0.01]}}, "loguniform starts at 0.0; expected a number above 0"),
        ({"learning_rate": {"chioce": [0.1]}}, "has 'chioce'; Did you mean 'choice'"),
        ({"learning_rate": {"choice": [0.1], "uniform": [0, 1]}}, "has choice and uniform; expected"),
        ({"learning_rate": {"choice": []}}, "choice is []; expected a list"),
        ({"n_layers": {"choice": [1, "two"]}}, "n_layers='two' in the space is a str; expected int"),
        ({"n_layers": {"uniform": [0.5, 2]}}, "n_layers=0.5 in the space is a float; expected int"),
        ({"softmax": {"uniform": ["full", "sampled"]}}, "expected two numbers, the smaller first"),
        ({"learning_rate": {"choice": [0.1], "points": 2}}, "points=2; expected a whole number of a range, 1 to 1,000"),
        ({"n_negatives": {"choice": [1], "when": {"softmaxx": "full"}}}, "when names 'softmaxx', which UniSRecBlair"),
        ({"n_negatives": {"choice": [1], "when": {"softmax": "none"}}}, "but it is only ever ['full']"),
        ({"n_layers": {"uniform": [1, 2]}, "n_exps": {"choice": [1], "when": {"n_layers": 1}}}, "which is a range"),
        (
            {"n_layers": {"choice": [1], "when": {"n_exps": 8}}, "n_exps": {"choice": [8], "when": {"n_layers": 1}}},
            "go round in a circle",
        ),
        ({}, "the space holds no key to try"),
    ],
)  # fmt: skip
def test_a_bad_space_is_refused_in_one_line(raw, words):
    with pytest.raises(InputError) as found:
        space_of(raw)
    assert words in str(found.value) and "\n" not in str(found.value)


def ships_a_space(info):
    """Plugins may do without: they are two files; so may RecBole's general models."""
    needed = info.source == "recbole_blair" or (info.source == "RecBole" and not info.ranks_users)
    return needed or (props_dir() / "sweep" / f"{info.name}.yaml").is_file()


@pytest.mark.parametrize("name", [name for name, info in list_models().items() if ships_a_space(info)])
def test_every_model_that_trains_has_a_space_that_fits_it(name):
    info = find_model(name)
    if not getattr(info.load_class(), "trains", True):
        with pytest.raises(InputError, match=rf"{name} has no search space yet; write props/sweep/{name}\.yaml"):
            space_path(info)
        return
    base = resolve_config(info, "sample", (), {})
    space = load_space(space_path(info), info, base)
    assert len(space) >= 2 and "learning_rate" in {entry.key for entry in space.entries}
    for entry in space.entries:  # every end of it is a configuration
        for value in entry.values:
            resolve_config(info, "sample", (), {entry.key: value})
    assert f"--model={name}`" in space_path(info).read_text().splitlines()[0]

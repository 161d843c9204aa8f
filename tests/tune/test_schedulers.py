"""ASHA after a restart decides as one that never stopped; PBT's steps stay in their bounds."""

import random
from types import SimpleNamespace

import pytest

from recbole_blair.config import resolve_config
from recbole_blair.errors import InputError
from recbole_blair.registry import find_model
from recbole_blair.tune.schedulers import asha, pbt, perturb, ranges_to_perturb
from recbole_blair.tune.space import load_space
from recbole_blair.tune.sweep_dir import FINISHED, STOPPED, UNFINISHED, Trial

SETTINGS = {"grace_period": 1, "reduction_factor": 2}
EPOCHS = 4
CURVES = {0: [0.1, 0.2, 0.3, 0.4], 1: [0.2, 0.3, 0.4, 0.5], 2: [0.05, 0.1, 0.1, 0.1], 3: [0.15, 0.4, 0.2, 0.6]}


class Name(SimpleNamespace):
    """Stands for one of Ray's trials: its text is its name."""

    def __str__(self):
        return self.name


def ray_trial(number, ray_id):
    return Name(name=f"{number:04d}", trial_id=ray_id, config={"trial": {"number": number}})


def lines(number, n):
    return [{"epoch": e + 1, "ndcg@10": v} for e, v in enumerate(CURVES[number][:n])]


def result(number, epoch):
    return {"epoch": epoch, "score": max(CURVES[number][:epoch])}


def decide(scheduler, trial, number, epoch):
    return scheduler.on_trial_result(None, trial, result(number, epoch))


def build(earlier=()):
    pytest.importorskip("ray")
    return asha(SETTINGS, EPOCHS, "ndcg@10", list(earlier))


def test_a_restarted_asha_goes_on_with_what_it_had_seen():
    whole = build()
    trials = {n: ray_trial(n, f"first-{n}") for n in CURVES}
    for n in (0, 1, 2):
        whole.on_trial_add(None, trials[n])
    first = [decide(whole, trials[n], n, 1) for n in (1, 0, 2)]
    assert first == ["CONTINUE", "STOP", "STOP"]  # 0.2 alone; 0.1 and 0.05 below the median of what was there
    assert decide(whole, trials[1], 1, 2) == "CONTINUE"

    earlier = [Trial(0, {}, STOPPED, lines=lines(0, 1)), Trial(1, {}, UNFINISHED, lines=lines(1, 2)),
               Trial(2, {}, STOPPED, lines=lines(2, 1))]  # fmt: skip
    again = build(earlier)
    back = ray_trial(1, "second-1")
    again.on_trial_add(None, back)
    for scheduler, one in ((whole, trials[1]), (again, back)):
        new = ray_trial(3, f"new-{id(scheduler)}")
        scheduler.on_trial_add(None, new)
        decisions = [decide(scheduler, new, 3, 1), decide(scheduler, new, 3, 2), decide(scheduler, one, 1, 3)]
        assert decisions == ["CONTINUE", "CONTINUE", "CONTINUE"]
        assert {m: sorted(r.values()) for m, r in scheduler._brackets[0]._rungs} == {
            4: [], 2: [0.3, 0.4], 1: [0.05, 0.1, 0.15, 0.2]
        }  # fmt: skip
    assert again.stopped_trials == set()  # what was decided before is on the trials' own files


def test_without_what_it_had_seen_it_would_decide_otherwise():
    """The test above can fail: a new scheduler has nothing to compare with."""
    earlier = [Trial(1, {}, FINISHED, lines=lines(1, 4))]
    taught, fresh = build(earlier), build()
    for scheduler, expected in ((taught, "STOP"), (fresh, "CONTINUE")):
        new = ray_trial(0, "new")
        scheduler.on_trial_add(None, new)
        assert decide(scheduler, new, 0, 1) == expected
    assert taught.stopped_trials == {0} and fresh.stopped_trials == set()


def test_a_trial_ends_by_itself_at_its_last_epoch():
    scheduler, trial = build(), ray_trial(1, "one")
    scheduler.on_trial_add(None, trial)
    assert [decide(scheduler, trial, 1, e) for e in (1, 2, 3, 4)] == ["CONTINUE"] * 4


def space_of(raw):
    info = find_model("UniSRecBlair")
    return load_space(raw, info, resolve_config(info, "sample", (), {}))


def test_pbt_moves_ranges_within_their_bounds_and_leaves_choices():
    space = space_of(
        {
            "learning_rate": {"loguniform": [1e-4, 1e-2]},
            "temperature": {"uniform": [0.05, 0.1]},
            "hidden_size": {"choice": [64, 128]},
        }
    )
    point, rng = {"learning_rate": 0.001, "hidden_size": 64}, random.Random(0)
    seen = [perturb(point, ranges_to_perturb(space), rng) for _ in range(200)]
    assert {p["hidden_size"] for p in seen} == {64} and all("temperature" not in p for p in seen)
    rates = [p["learning_rate"] for p in seen]
    assert {0.0008, 0.0012} <= set(rates) and len(set(rates)) > 20 and all(1e-4 <= r <= 1e-2 for r in rates)
    edge = [perturb({"temperature": 0.1}, ranges_to_perturb(space), rng)["temperature"] for _ in range(50)]
    assert max(edge) == 0.1


def test_pbt_needs_a_range_of_fractions():
    with pytest.raises(InputError, match="perturbs numbers from ranges; the space has none"):
        ranges_to_perturb(space_of({"hidden_size": {"choice": [64, 128]}}))
    with pytest.raises(InputError, match="would change n_layers, a whole number, of trained weights"):
        ranges_to_perturb(space_of({"n_layers": {"uniform": [1, 2]}}))


def test_pbt_copies_nothing_into_a_trial_that_is_over():
    pytest.importorskip("ray")
    space = space_of({"learning_rate": {"loguniform": [1e-4, 1e-2]}})
    scheduler = pbt({"search_seed": 0, "perturbation_interval": 2}, EPOCHS, space)
    trial = object()
    assert scheduler.on_trial_result(None, trial, {"epoch": EPOCHS, "current": 0.1}) == "CONTINUE"
    with pytest.raises(KeyError):  # before, Ray's own rule is asked, which does not know this trial
        scheduler.on_trial_result(None, trial, {"epoch": EPOCHS - 1, "current": 0.1, "training_iteration": 3})

"""The trainer on a model of one number: stopping, best weights, clipping, what a sweep may ask."""

import logging
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from builds import random_sequences, write_build

from recbole_blair.config import resolve_config
from recbole_blair.data.dataset import BlairDataset
from recbole_blair.data.loader import RowLoader
from recbole_blair.errors import InputError
from recbole_blair.registry import find_model
from recbole_blair.tracking.callback import EVENTS, Callback
from recbole_blair.train import checkpoint
from recbole_blair.train.runtime import runtime_config
from recbole_blair.train.trainer import BlairTrainer


class OneNumber(torch.nn.Module):
    """Its loss pulls one number down by a constant slope."""

    def __init__(self, slope=1.0, loss=None):
        super().__init__()
        self.weight, self.slope, self.loss = torch.nn.Parameter(torch.zeros(1)), slope, loss

    def calculate_loss(self, interaction):
        return self.loss(self.weight) if self.loss else (self.weight * self.slope).sum()


class Scripted:
    """Stands for an evaluator whose validation values are written in the test."""

    def __init__(self, values):
        self.values, self.seen = list(values), 0

    def evaluate(self, model, label):
        self.seen += 1
        return {"ndcg@10": self.values[self.seen - 1]}, None


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return BlairDataset(write_build(tmp_path_factory.mktemp("trainer"), random_sequences(n_users=12, n_items=9)))


@pytest.fixture
def make(dataset, tmp_path):
    """Build a trainer whose every step moves the number by -1 (SGD, one batch an epoch)."""

    def build(values=None, model=None, callbacks=(), folder="run", **overrides):
        keys = {"learner": "sgd", "learning_rate": 1.0, "device": "cpu", "precision": "fp32", "show_progress": False}
        info = find_model("SASRecText")
        config = runtime_config(resolve_config(info, "tiny", (), {**keys, **overrides}))
        loaders = {s: RowLoader(dataset, s, 2048, shuffle=s == "train") for s in ("train", "valid", "test")}
        run_dir = tmp_path / folder
        trainer = BlairTrainer(config, model or OneNumber(), loaders, run_dir, logging.getLogger("quiet"), callbacks)
        script = Scripted(values or [])
        trainer.evaluator = lambda split: script
        trainer.script = script
        return trainer

    return build


def test_training_stops_after_exactly_the_patience(make):
    trainer = make([0.1, 0.2, 0.1, 0.1, 0.1, 0.9], stopping_step=3, epochs=50)
    trainer.fit()
    assert (trainer.epoch, trainer.best_epoch, trainer.script.seen, trainer.stopped) == (5, 2, 5, True)


def test_better_is_meant_unrounded_and_equal_is_a_miss(make):
    trainer = make([0.2, 0.2 + 1e-12, 0.2 + 1e-12, 0.2, 0.9], stopping_step=2, epochs=50)
    trainer.fit()
    assert (trainer.epoch, trainer.best_epoch) == (4, 2)


def test_the_best_weights_are_left_in_the_model(make):
    trainer = make([0.1, 0.5, 0.3, 0.2], epochs=4)
    assert trainer.fit() == {"ndcg@10": 0.5}
    assert trainer.model.weight.item() == -2.0
    assert checkpoint.load_best(trainer.run_dir)["weight"].item() == -2.0
    assert checkpoint.load_last_epoch(trainer.run_dir)[0]["weight"].item() == -4.0


def test_validation_comes_every_few_epochs_and_at_the_end(make):
    trainer = make([0.1, 0.2, 0.3], epochs=5, eval_step=2)
    trainer.fit()
    assert trainer.script.seen == 3 and trainer.best_epoch == 5


def test_misses_are_counted_in_validations(make):
    trainer = make([0.3, 0.2, 0.1, 0.9], epochs=50, eval_step=3, stopping_step=2)
    trainer.fit()
    assert (trainer.epoch, trainer.best_epoch) == (9, 3)


def test_no_epochs_means_evaluating_what_is_there(make):
    trainer = make([0.4], epochs=0)
    trainer.fit()
    assert trainer.model.weight.item() == 0.0 and trainer.best_metrics == {"ndcg@10": 0.4}


@pytest.mark.parametrize(("clip", "moved"), [(None, -8.0), (0.5, -0.5), (100.0, -8.0)])
def test_gradients_are_clipped_by_norm(make, clip, moved):
    trainer = make([0.1], model=OneNumber(slope=8.0), epochs=1, clip_grad_norm=clip)
    trainer.fit()
    assert trainer.model.weight.item() == pytest.approx(moved, rel=1e-4)


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
def test_a_loss_that_is_not_finite_ends_the_run(make, bad):
    def loss(weight):
        return (weight * 0).sum() + (float(bad) if weight.item() < 0 else weight.sum())

    trainer = make([0.1, 0.2], model=OneNumber(loss=loss), epochs=5)
    with pytest.raises(FloatingPointError, match=f"the loss became {bad} in epoch 2; lower learning_rate"):
        trainer.fit()
    assert checkpoint.load_last_epoch(trainer.run_dir)[1]["epoch"] == 1  # what was good before is kept


def test_a_loss_in_parts_is_their_sum(make):
    trainer = make([0.1], model=OneNumber(loss=lambda w: (w.sum(), 2 * w.sum())), epochs=1)
    trainer.fit()
    assert trainer.model.weight.item() == -3.0


@pytest.mark.parametrize(
    ("schedule", "weight"),
    # one step an epoch: 0 in the warm-up, then 1, and (1 + cos 60°) / 2 = 3/4 and (1 + cos 120°) / 2 = 1/4, or 2/3, 1/3
    [("none", -3.0), ("cosine", -2.0), ("linear", -2.0)],
)
def test_the_learning_rate_follows_its_schedule(make, schedule, weight):
    trainer = make([0.1, 0.2, 0.3, 0.4], epochs=4, lr_schedule=schedule, warmup_steps=1)
    trainer.fit()
    assert trainer.model.weight.item() == pytest.approx(weight)


def test_a_warm_up_must_end_before_the_training(make):
    with pytest.raises(InputError, match=r"warmup_steps=3 is no less than the 3 steps of 3 epochs; lower it"):
        make(epochs=3, warmup_steps=3).fit()


def test_a_sweep_hears_of_every_epoch_and_may_stop(make):
    heard = []

    def on_epoch_end(state, metrics):
        heard.append((state.epoch, metrics["loss"], metrics["ndcg@10"]))
        return state.epoch == 2

    trainer = make([0.1, 0.2, 0.3], callbacks=[Callback(on_epoch_end=on_epoch_end)], epochs=9)
    trainer.fit()
    assert heard == [(1, 0.0, 0.1), (2, -1.0, 0.2)] and trainer.stopped


def test_a_sweep_that_stops_before_the_first_validation_gets_one(make):
    trainer = make([0.7], callbacks=[Callback(on_epoch_end=lambda state, metrics: True)], epochs=9, eval_step=5)
    assert trainer.fit() == {"ndcg@10": 0.7}
    assert trainer.epoch == 1


def test_callbacks_hear_of_every_event_in_order(make):
    heard = []

    def hear(event):
        return lambda state, *values: heard.append((event, state.epoch, state.global_step, *values))

    make([0.2, 0.1], callbacks=[Callback(**{event: hear(event) for event in EVENTS})], epochs=2, eval_step=2).fit()
    logs = [values for event, *_, values in heard if event == "on_log"]
    assert [entry[:3] for entry in heard] == [
        ("on_train_begin", 0, 0), ("on_log", 1, 1), ("on_epoch_end", 1, 1), ("on_save", 1, 1),
        ("on_log", 2, 2), ("on_log", 2, 2), ("on_evaluate", 2, 2), ("on_epoch_end", 2, 2), ("on_save", 2, 2),
    ]  # fmt: skip
    assert [sorted(values) for values in logs] == [
        *[["train/learning_rate", "train/loss", "train/seconds"]] * 2, ["valid/ndcg@10", "valid/seconds"],
    ]  # fmt: skip
    assert logs[1]["train/loss"] == -1.0 and logs[2]["valid/ndcg@10"] == 0.2
    assert heard[7][3] == {"loss": -1.0, "ndcg@10": 0.2}


def test_an_event_that_there_is_not_names_the_nearest():
    with pytest.raises(InputError, match=r"on_epoch is no event of a callback: .* Did you mean 'on_epoch_end'\?"):
        Callback(on_epoch=print)


def test_a_stopped_run_stays_stopped(make):
    make([0.2, 0.1, 0.1], stopping_step=2, epochs=50).fit()
    again = make([], stopping_step=2, epochs=50)
    assert again.resume()
    again.fit()
    assert again.epoch == 3 and again.script.seen == 0 and again.model.weight.item() == -1.0


def test_events_hold_the_losses_and_the_metrics(make):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = make([0.1, 0.25], epochs=2)
    trainer.fit()
    events = EventAccumulator(str(trainer.run_dir)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 0.0), (2, -1.0)]
    assert [e.value for e in events.Scalars("valid/ndcg@10")] == pytest.approx([0.1, 0.25])

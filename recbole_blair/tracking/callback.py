"""Callbacks: what a training tells its caller while it runs; events are named as in transformers' TrainerCallback."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from recbole_blair.errors import InputError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from torch import nn

EVENTS = ("on_train_begin", "on_log", "on_evaluate", "on_epoch_end", "on_save", "on_train_end")


@dataclass
class TrainingState:
    """Where a training is when an event comes.

    Args:
        output_dir: the run's folder.
        config: every resolved key.
        model: being trained.
        epoch: epochs that are done; in pretraining with the fraction of the one that runs.
        global_step: optimiser steps taken.
        last_metrics: of the last evaluation of validation rows; empty before the first.
        best_metrics, best_epoch: of the best evaluation so far; in pretraining left empty.
        stopped: the training ends with this epoch: the patience ran out, or a callback asked for it.
    """

    output_dir: Path
    config: Mapping[str, Any]
    model: nn.Module
    epoch: float = 0
    global_step: int = 0
    last_metrics: dict[str, float] = field(default_factory=dict)
    best_metrics: dict[str, float] = field(default_factory=dict)
    best_epoch: int | None = None
    stopped: bool = False


class Callback:
    """Hears of a training's events; override those that matter, the others do nothing.

    Of several processes that train together the first one calls. An error in a callback ends the training.

    Args:
        **events: functions in place of methods: `Callback(on_epoch_end=lambda state, metrics: print(metrics))`.

    Raises:
        InputError: an event that there is not.
    """

    def __init__(self, **events: Callable[..., bool | None]) -> None:
        for name, function in events.items():
            if name not in EVENTS:
                raise InputError(f"{name} is no event of a callback: {', '.join(EVENTS)}.{nearest(name, EVENTS)}")
            setattr(self, name, function)

    def on_train_begin(self, state: TrainingState) -> None:
        """Before the first step; `state` says where a resumed training goes on."""

    def on_log(self, state: TrainingState, logs: dict[str, float]) -> None:
        """When numbers are logged; before the checkpoint of their epoch or step is written."""

    def on_evaluate(self, state: TrainingState, metrics: dict[str, float]) -> None:
        """After an evaluation of the validation rows, or of the held-out pairs."""

    def on_epoch_end(self, state: TrainingState, metrics: dict[str, float]) -> bool | None:
        """After an epoch, with its loss and the last evaluation's metrics; True stops the training."""

    def on_save(self, state: TrainingState) -> None:
        """After a checkpoint was written, when it is whole."""

    def on_train_end(self, state: TrainingState, results: dict[str, Any]) -> None:
        """When all is done; `results` is the content of metrics.json, which is written."""


def check_callbacks(callbacks: Sequence[Callback]) -> None:
    """Refuse what is no callback, such as a class or a function.

    Raises:
        InputError: names the first.
    """
    for number, callback in enumerate(callbacks):
        if not isinstance(callback, Callback):
            raise InputError(
                f"callbacks[{number}] is a {type(callback).__name__}; expected a recbole_blair.tracking.callback."
                "Callback, such as Callback(on_epoch_end=function)"
            )


def notify(callbacks: Sequence[Callback], event: str, *values: Any) -> bool:
    """Call an event's method of all callbacks in order; returns whether one of them returned True."""
    answers = [getattr(callback, event)(*values) for callback in callbacks]  # all are called, whatever one answers
    return any(answer is True for answer in answers)

"""Learning curves of a run, from the TensorBoard events in its folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

EVENTS = "events.out.tfevents.*"


def load_curves(folder: Path, valid_metric: str) -> dict[str, list[list[float]]] | None:
    """Read the training loss and the validation metric of every epoch.

    Epochs that a resumed run repeated occur once, as they were the last time.

    Args:
        folder: a run folder.
        valid_metric: the metric that chose the best epoch, as in `ndcg@10`.

    Returns:
        `loss` and `valid`, lists of [epoch, value]; None when the folder holds no events.
    """
    if not any(folder.glob(EVENTS)):
        return None
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # heavy

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it counts the repeated epochs aloud
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    names = {"loss": "train/loss", "valid": f"valid/{valid_metric}"}
    tags = events.Tags()["scalars"]
    return {key: last_values(events.Scalars(tag)) if tag in tags else [] for key, tag in names.items()}


def last_values(scalars: list[Any]) -> list[list[float]]:
    """Return [step, value] in step order, the latest value of each step."""
    latest = {}
    for scalar in sorted(scalars, key=lambda scalar: scalar.wall_time):
        latest[scalar.step] = scalar.value
    return [[step, latest[step]] for step in sorted(latest)]

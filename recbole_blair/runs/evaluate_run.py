"""Evaluates a trained run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from recbole_blair.config import Config
from recbole_blair.errors import InputError
from recbole_blair.registry.build_model import build_loaders
from recbole_blair.runs.open_run import PLACES, OpenRun, Places, open_run
from recbole_blair.train.evaluation import Evaluator
from recbole_blair.train.runtime import precision_context

EVALUATION_KEYS = {"topk", "metrics", "mask_history", "eval_batch_size", "max_score_elements"}


def evaluate_run(run_dir: Path | str, split: str = "test", **changes: Any) -> tuple[dict[str, float], np.ndarray]:
    """Evaluate a run's best weights on a split.

    Args:
        changes: evaluation keys to change, such as `topk` or `mask_history`, and the fields of `Places`.

    Returns:
        The metrics, and the rank of every row's target (R,).
    """
    places = Places(**{key: changes.pop(key) for key in PLACES if key in changes})
    return evaluate_opened(open_run(run_dir, places, make_missing=True), split, **changes)


def evaluate_opened(run: OpenRun, split: str = "test", **changes: Any) -> tuple[dict[str, float], np.ndarray]:
    """Evaluate an open run; changes and result as of `evaluate_run`."""
    return build_evaluator(run, split, **changes).evaluate(run.model, split)


def build_evaluator(run: OpenRun, split: str = "test", **changes: Any) -> Evaluator:
    """Return the evaluator of a run's split, in the precision of the run.

    No trainer is built for it: an optimiser imports torch._dynamo, which takes longer than a small evaluation.

    Raises:
        InputError: a change that is no evaluation key.
    """
    unknown = sorted(set(changes) - EVALUATION_KEYS)
    if unknown:
        raise InputError(f"{unknown[0]!r} is no evaluation key")
    config = Config({**dict(run.config), **changes}, run.config.lenient)
    loader = build_loaders(run.info, config, run.dataset)[split]
    return Evaluator(loader, config, config["device"], lambda: precision_context(config))

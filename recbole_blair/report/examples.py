"""Some test users: what they had, what they took next, and the first items each model gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from recbole_blair.data.dataset import BlairDataset
from recbole_blair.ops import drop_scores, rank_targets
from recbole_blair.runs.evaluate_run import build_evaluator
from recbole_blair.runs.open_run import OpenRun
from recbole_blair.schema import ITEM_ID

TOP = 5
HISTORY_SHOWN = 6
LEAST_HISTORY = 2


def choose_rows(length: np.ndarray, best_rank: np.ndarray | None, count: int, seed: int = 0) -> list[tuple[int, bool]]:
    """Choose test rows: half at random, half at random among those that some model answers in its top 5.

    Args:
        length (R,) int64: history items; rows with fewer than two are passed over where there are others.
        best_rank (R,) float64: the best rank any model gives the target; None: all rows at random.
        count: rows wanted; fewer rows give fewer.

    Returns:
        (row, in_top_5) in row order; True for the half that was chosen for an answer in the top 5.
    """
    rng = np.random.default_rng(seed)
    usable = np.flatnonzero(length >= LEAST_HISTORY)
    usable = usable if len(usable) else np.arange(len(length))
    hits = usable[best_rank[usable] <= TOP] if best_rank is not None else usable[:0]
    chosen = rng.permutation(hits)[: count // 2].tolist()
    rest = np.setdiff1d(usable, chosen)
    plain = rng.permutation(rest)[: count - len(chosen)].tolist()
    return sorted([(int(row), True) for row in chosen] + [(int(row), False) for row in plain])


@torch.inference_mode()
def top_items(run: OpenRun, rows: Sequence[int], top: int = TOP) -> tuple[np.ndarray, np.ndarray]:
    """Rank all items for some test rows, in the precision the run is evaluated in.

    Returns:
        Items (B, top) int64, best first, and the target's rank (B,) float64 by the same scores.
    """
    evaluator, model = build_evaluator(run), run.model
    numbers = np.asarray(rows)
    batch = evaluator.loader.build(numbers).to(evaluator.device)
    if hasattr(model, "project_items") and getattr(model, "scores_by_dot_product", True):
        with evaluator.autocast():
            projected = model.project_items()
            users, scorer = model.user_vectors(batch, projected), evaluator.scorer(model, projected)
        scores = scorer.scores(users)
    else:
        scores = evaluator.full_scores(model, batch, slice(None))
    if run.config["mask_history"]:
        drop_scores(scores, evaluator.history_before(numbers, batch[ITEM_ID]))
    rank = rank_targets(scores, batch[ITEM_ID])
    candidates = scores[:, 1:].float()  # (B, N - 1), without the padding item
    best = candidates.topk(min(top, candidates.shape[1]), dim=1).indices + 1
    return best.cpu().numpy(), rank


class Shelf:
    """Titles of a data set's items for people, read once.

    Args:
        counts (N,) int64: each item's events in training.
    """

    def __init__(self, dataset: BlairDataset, counts: np.ndarray) -> None:
        self.dataset, self.counts, self.all_titles = dataset, counts, dataset.titles()

    def item(self, number: int) -> dict[str, Any]:
        """Return an item's `id`, `title` (empty when it has none) and `trained`, its events in training."""
        return {
            "id": self.dataset.item_tokens[int(number) - 1].as_py(),
            "title": self.all_titles[int(number) - 1].as_py().strip(),
            "trained": int(self.counts[number]),
        }

    def example(self, row: int, from_hits: bool) -> dict[str, Any]:
        """Return one row's user, latest history and target; `lists` is filled by the models."""
        part = self.dataset.rows["test"]
        history, _ = self.dataset.history_of("test", np.array([row]))
        latest = history[::-1][:HISTORY_SHOWN]
        return {
            "row": row,
            "from_hits": from_hits,
            "user": self.dataset.user_tokens[int(part.user[row]) - 1].as_py(),
            "history": [self.item(i) for i in latest],  # latest first
            "history_length": len(history),
            "target": self.item(self.dataset.seq_items[part.target[row]]),
            "lists": [],
        }

    def marked(self, items: np.ndarray, row: int) -> list[dict[str, Any]]:
        """Return a model's list with what a reader looks for: is it the target, was it in the history."""
        part = self.dataset.rows["test"]
        target = self.dataset.seq_items[part.target[row]]
        history = set(self.dataset.history_of("test", np.array([row]))[0].tolist())
        return [{**self.item(i), "hit": bool(i == target), "known": int(i) in history} for i in items]

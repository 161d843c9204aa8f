"""Checks of trained recommenders: every row is scored by the model's own full sort and counted plainly.

The share of items that a row ranks below its target is one half for a random order, whatever the number of items. Among
items that training never saw, which a model of ids cannot tell apart, only the right texts of the right items lift it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from recbole_blair.data.loader import RowLoader
from recbole_blair.reproduce.checks import Check, Context, check_at_least, check_at_most
from recbole_blair.runs.open_run import open_run
from recbole_blair.schema import ITEM_ID, ITEM_SEQ
from recbole_blair.text.encoders import load_encoder
from recbole_blair.text.transformer import TransformerEncoder
from recbole_blair.train.run_folder import require_metrics

FEATURE_ITEMS = 24  # encoded again
TRAIN_ROWS = 400  # of the training rows, evenly spread, are scored


class Scored(NamedTuple):
    """Rows of one part with the scores of all items."""

    row: np.ndarray  # (R,) row numbers
    scores: np.ndarray  # (R, N) item 0 is padding
    target: np.ndarray  # (R,)
    history: list[np.ndarray]  # the items of each row's history


class OpenedRun:
    """A finished run, opened once for all its checks."""

    def __init__(self, run: Path) -> None:
        opened = open_run(run)
        self.run, self.config, self.model, self.dataset = run, opened.config, opened.model, opened.dataset
        rows = self.dataset.rows["train"]
        trained = [np.asarray(self.dataset.seq_items[np.asarray(rows.target)])]
        for target, length in zip(np.asarray(rows.target), np.asarray(rows.length)):
            trained.append(np.asarray(self.dataset.seq_items[target - length : target]))
        self.counts = np.bincount(trained[0], minlength=self.dataset.n_items)  # train targets per item
        self.seen = np.zeros(self.dataset.n_items, bool)
        self.seen[np.concatenate(trained)] = True
        self._scored: dict[str, Scored] = {}

    def scored(self, split: str) -> Scored:
        """Return the rows of one part, scored."""
        if split not in self._scored:
            self._scored[split] = self._score(split)
        return self._scored[split]

    def _score(self, split: str) -> Scored:
        width = self.config["MAX_ITEM_LIST_LENGTH"]
        loader = RowLoader(self.dataset, split, 256, max_length=width, trim=False, bucket=False)
        wanted = np.arange(len(loader.rows))
        if split == "train" and len(wanted) > TRAIN_ROWS:
            wanted = wanted[np.linspace(0, len(wanted) - 1, TRAIN_ROWS).astype(int)]
        scores, target, history = [], [], []
        for start in range(0, len(wanted), 256):
            batch = loader.build(wanted[start : start + 256])
            with torch.inference_mode():
                predicted = self.model.full_sort_predict(batch.to(self.config["device"]))
            scores.append(predicted.view(len(batch), -1).float().cpu().numpy())
            target.append(batch[ITEM_ID].cpu().numpy())
            history += [row[row > 0] for row in batch[ITEM_SEQ].cpu().numpy()]
        return Scored(wanted, np.concatenate(scores), np.concatenate(target), history)


def open_last_run(context: Context) -> OpenedRun:
    """Return the run of a row's last step, which is opened once."""
    if "opened" not in context.result:
        context.result["opened"] = OpenedRun(context.run)
    return context.result["opened"]


def share_below(scored: Scored, items: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """Return per row the share of `items` (N,) bool ranked below its target; equal scores count half."""
    chosen = range(len(scored.target)) if rows is None else rows
    shares = []
    for n in chosen:
        mask = items.copy()
        mask[[0, scored.target[n]]] = False
        own, others = scored.scores[n, scored.target[n]], scored.scores[n, mask]
        shares.append(((others < own).sum() + 0.5 * (others == own).sum()) / max(1, mask.sum()))
    return np.array(shares)


def score_by_popularity(opened: OpenedRun, scored: Scored) -> Scored:
    """Return the same rows scored by the number of train targets."""
    return scored._replace(scores=np.tile(opened.counts.astype(np.float64), (len(scored.target), 1)))


def learns(context: Context, tolerance: dict[str, Any]) -> Check:
    """Train targets are ranked above the middle: the model has learnt its training data."""
    opened = open_last_run(context)
    share = share_below(opened.scored("train"), np.ones(opened.dataset.n_items, bool)).mean()
    return check_at_least("learns", share, 0.5 + tolerance["margin"], "share of items below a train target:")


def beats_popularity(context: Context, tolerance: dict[str, Any]) -> Check:
    """Test targets are ranked higher than popularity ranks them."""
    opened = open_last_run(context)
    scored, every = opened.scored("test"), np.ones(opened.dataset.n_items, bool)
    share, popular = share_below(scored, every).mean(), share_below(score_by_popularity(opened, scored), every).mean()
    needed = popular + tolerance["margin"]
    return check_at_least("beats_popularity", share, needed, f"share below a test target (popularity {popular:.3f}):")


def cold_text(context: Context, tolerance: dict[str, Any], name: str = "cold_text") -> Check:
    """Among items unseen in training, the unseen targets of validation and test are ranked above the middle."""
    opened, shares = open_last_run(context), []
    for split in ("valid", "test"):
        scored = opened.scored(split)
        shares.append(share_below(scored, ~opened.seen, np.flatnonzero(~opened.seen[scored.target])))
    share = np.concatenate(shares)
    needed = 0.5 + tolerance["margin"]
    return check_at_least(
        name, share.mean() if len(share) else 0.0, needed, f"share of unseen items below {len(share)} unseen:"
    )


def text_used(context: Context, tolerance: dict[str, Any]) -> Check:
    """As `cold_text`, for a model that adds ids to the text."""
    return cold_text(context, tolerance, "text_used")


def features(context: Context, tolerance: dict[str, Any]) -> Check:
    """The features a model was given for an item are those of that item's own text, encoded again."""
    opened = open_last_run(context)
    dataset, config = opened.dataset, opened.config
    texts = read_item_texts(context.build)
    encoder = load_encoder(config["plm"], device="cpu", precision="fp32")
    items = np.arange(1, dataset.n_items)  # a lexical encoder is fitted on all texts
    if isinstance(encoder, TransformerEncoder):
        items = np.linspace(1, dataset.n_items - 1, FEATURE_ITEMS).astype(int)
    wanted = np.asarray(encoder.encode([texts[dataset.item_tokens[i - 1].as_py()] for i in items], progress=False))
    wrong = np.abs(opened.model.item_texts().float().numpy()[items - 1] - wanted).max() / np.sqrt(
        np.mean(np.square(wanted))
    )
    what = "largest relative difference to a fresh encoding"
    return check_at_most("features", float(wrong), tolerance["relative"], what)


def read_item_texts(build: Path) -> dict[str, str]:
    """Return {item id: text} of a build's `.item` file."""
    with open(build / f"{build.name}.item", encoding="utf-8") as file:
        next(file)
        return {line.split("\t", 1)[0]: line.split("\t")[2] for line in file}


def ranks(context: Context, tolerance: dict[str, Any]) -> Check:
    """Saved ranks and metrics are those of the model's own scores, ranked one row at a time among all items."""
    opened = open_last_run(context)
    scored = opened.scored("test")
    saved = pd.read_parquet(context.run / "ranks.parquet")["rank"].to_numpy()
    plain = np.array([plain_rank(scored, n, opened.config["mask_history"]) for n in range(len(scored.target))])
    wrong = float(np.abs(saved - plain).max())
    metrics = require_metrics(context.run)["test"]
    for metric, value in metrics.items():
        wrong = max(wrong, abs(plain_metric(metric, plain) - value))
    return check_at_most("ranks", wrong, tolerance["difference"], "largest difference of a rank or metric")


def plain_rank(scored: Scored, n: int, mask_history: bool) -> float:
    """Return the rank of one row's target; equal scores share the middle rank."""
    scores, target = scored.scores[n].astype(np.float64), scored.target[n]
    own = scores[target]
    if mask_history:
        scores[scored.history[n]] = -np.inf
        scores[target] = own
    scores = scores[1:]
    return (scores > own).sum() + ((scores == own).sum() + 1) / 2


def plain_metric(name: str, rank: np.ndarray) -> float:
    """Return a metric of ranks with one right item per row."""
    kind, _, k = name.partition("@")
    hit = rank <= (float(k) if k else np.inf)
    gain = {"ndcg": 1 / np.log2(rank + 1), "mrr": 1 / rank}.get(kind, np.ones(len(rank)))
    return float((gain * hit).mean())


def popularity(context: Context, tolerance: dict[str, Any]) -> Check:
    """The ranks are those of counting the train targets."""
    opened = open_last_run(context)
    scored = score_by_popularity(opened, opened.scored("test"))
    saved = pd.read_parquet(context.run / "ranks.parquet")["rank"].to_numpy()
    plain = np.array([plain_rank(scored, n, opened.config["mask_history"]) for n in range(len(scored.target))])
    wrong = float(np.abs(saved - plain).max())
    return check_at_most("popularity", wrong, tolerance["difference"], "largest difference")

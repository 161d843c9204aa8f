"""Evaluation by retrieval: each held-out context against every item's metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from recbole_blair.ops import all_gather_rows
from recbole_blair.parallel.distributed import rank, world_size
from recbole_blair.pretrain.data import tokenise

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from recbole_blair.pretrain.model import PairEncoder

WHOLE_SCAN_ROWS, SCAN_ROWS = 1_000_000, 100_000  # pairs read whole for candidates; pairs read at a time
SCORE_ROWS = 512  # contexts whose cosines with every item exist at a time


class RetrievalTask:
    """Held-out contexts, the candidate items, and which item is whose.

    Args:
        contexts: n texts.
        items: m metadata texts.
        target: (n,) int64 row of each context's item.
    """

    def __init__(self, contexts: list[str], items: list[str], target: Sequence[int]) -> None:
        self.contexts = contexts
        self.items = items
        self.target = torch.from_numpy(np.asarray(target, dtype=np.int64))
        self.ranks: np.ndarray | None = None  # (n,) float64, of the last evaluation
        self.metrics: dict[str, float] = {}  # of the last evaluation


def build_retrieval_task(
    held_out: Dataset, train: Dataset, max_items: int, seed: int, max_queries: int | None = None
) -> RetrievalTask | None:
    """Choose candidates: the held-out pairs' items, then other items of the pairs.

    An item that occurs with several metadata texts keeps the first.

    Args:
        held_out, train: columns `context`, `metadata`, `item_id`.
        max_items: candidates at most; held-out items always stay.
        seed: of the draw when there are more.
        max_queries: held-out pairs at most, the first ones.

    Returns:
        RetrievalTask | None: None when nothing is held out.
    """
    if not len(held_out):
        return None
    queries = held_out.select(range(min(len(held_out), max_queries or len(held_out))))
    metadata: list[str] = []
    row_of: dict[str, int] = {}
    for item_id, text in zip(queries["item_id"], queries["metadata"]):
        if item_id not in row_of:
            row_of[item_id] = len(metadata)
            metadata.append(text)
    target = [row_of[item_id] for item_id in queries["item_id"]]
    others = _other_items(train, row_of, max(0, max_items - len(metadata)), seed)
    metadata += list(train.select(others)["metadata"]) if len(others) else []
    return RetrievalTask(list(queries["context"]), metadata, target)


def _other_items(train: Dataset, known: Mapping[str, int], room: int, seed: int) -> np.ndarray:
    """Return rows of `train`, one per item that is not `known`, at most `room`, drawn when there are more.

    Small tables are read whole and give each item's first row; large ones are read in a random order until there are
    enough items.
    """
    rng = np.random.default_rng(seed)
    small = len(train) <= WHOLE_SCAN_ROWS
    order = np.arange(len(train)) if small else rng.permutation(len(train))
    first_row: dict[str, int] = {}
    for start in range(0, len(order), SCAN_ROWS):
        part = order[start : start + SCAN_ROWS]
        for number, item_id in zip(part.tolist(), train.select(part)["item_id"]):
            if item_id not in known:
                first_row.setdefault(item_id, number)
        if not small and len(first_row) >= room:
            break
    others = np.fromiter(first_row.values(), np.int64, len(first_row))
    return np.sort(rng.permutation(others)[:room]) if len(others) > room else others


def target_ranks(queries: Tensor, items: Tensor, target: Tensor) -> Tensor:
    """Return the 1-based rank of each query's item by cosine; among equal scores it stands in the middle.

    Args:
        queries (n, D), items (m, D): any length; normalised here.
        target (n,) int64: row of `items`.

    Returns:
        Tensor: (n,) float64.
    """
    items = F.normalize(items.float(), dim=1)
    ranks = []
    for start in range(0, len(queries), SCORE_ROWS):
        part = slice(start, start + SCORE_ROWS)
        scores = F.normalize(queries[part].float(), dim=1) @ items.T  # (b, m)
        own = scores.gather(1, target[part, None])
        ties = (scores == own).sum(1) - 1
        ranks.append(1 + (scores > own).sum(1).double() + ties.double() / 2)
    return torch.cat(ranks)


def retrieval_metrics(ranks: Tensor, topk: Sequence[int] = (10, 100)) -> dict[str, float]:
    """Return `ndcg@k`, `recall@k` and `mrr` of one relevant item per query, as fractions."""
    metrics = {}
    for k in topk:
        hit = (ranks <= k).double()
        metrics[f"ndcg@{k}"] = float((hit / torch.log2(ranks + 1)).mean())
        metrics[f"recall@{k}"] = float(hit.mean())
    metrics["mrr"] = float((1 / ranks).mean())
    return metrics


def mean_cosine(items: Tensor) -> float:
    """Return the mean cosine of two different items, of their vectors (m, D), m > 1.

    For unit vectors u_i it is (|sum_i u_i|^2 - m) / (m (m - 1)). Near 1 all items point the same way, so that a
    recommender over these vectors has little to tell them apart by.

    Source: anisotropy, arXiv:1909.00512, section 3.3.
    """
    m = len(items)
    total = F.normalize(items.double(), dim=1).sum(0)
    return float((total @ total - m) / (m * (m - 1)))


@dataclass
class EncodeOptions:
    """How texts become vectors: `max_length` tokens of a text are kept, `batch_texts` texts pass at a time."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    pad_id: int
    device: torch.device
    autocast: Callable[[], AbstractContextManager]
    batch_texts: int = 64


def encode_texts(model: PairEncoder, texts: Sequence[str], options: EncodeOptions, bar: tqdm | None = None) -> Tensor:
    """Encode texts in order with a model that is being trained; each device takes its share.

    Returns:
        (n, D) float32 on the options' device, without the training-only layer.
    """
    share = -(-len(texts) // world_size())
    mine = range(rank() * share, min((rank() + 1) * share, len(texts)))
    order = sorted(mine, key=lambda i: -len(texts[i]))
    width = model.body.config.hidden_size
    out = torch.zeros(share, width, device=options.device)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for start in range(0, len(order), options.batch_texts):
            rows = order[start : start + options.batch_texts]
            ids, lengths = tokenise(options.tokenizer, [texts[i] for i in rows], options.max_length, options.pad_id)
            with options.autocast():
                vectors = model.embed(ids.to(options.device), lengths.to(options.device))
            out[torch.tensor(rows, device=options.device) - rank() * share] = vectors.float()
            if bar is not None:
                bar.update(len(rows))
    model.train(was_training)
    return all_gather_rows(out)[: len(texts)]


def evaluate_retrieval(
    model: PairEncoder,
    task: RetrievalTask,
    options: EncodeOptions,
    topk: Sequence[int] = (10, 100),
    progress: bool = True,
) -> dict[str, float]:
    """Rank every item for every held-out context; the task keeps the ranks.

    Returns:
        Metrics of `retrieval_metrics`, and `mean_cosine` of the items where there are two.
    """
    total = -(-(len(task.contexts) + len(task.items)) // world_size())
    with tqdm(total=total, desc="retrieval", unit=" texts", leave=False, disable=not progress) as bar:
        queries = encode_texts(model, task.contexts, options, bar)
        items = encode_texts(model, task.items, options, bar)
    ranks = target_ranks(queries, items, task.target.to(queries.device))
    task.ranks = ranks.cpu().numpy()
    task.metrics = retrieval_metrics(ranks, topk) | ({"mean_cosine": mean_cosine(items)} if len(items) > 1 else {})
    return dict(task.metrics)

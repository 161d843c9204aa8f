"""Evaluation by retrieval: each held-out context against every item's metadata."""

import numpy as np
import torch
import torch.nn.functional as F

from recbole_blair.ops import all_gather_rows
from recbole_blair.parallel.distributed import rank, world_size
from recbole_blair.pretrain.data import tokenise

WHOLE_SCAN_ROWS, SCAN_ROWS = 1_000_000, 100_000  # pairs read whole for candidates; pairs read at a time
SCORE_ROWS = 512  # contexts whose cosines with every item exist at a time


class RetrievalTask:
    """Held-out contexts, the candidate items, and which item is whose.

    Args:
        contexts (list[str]): n texts.
        items (list[str]): m metadata texts.
        target (ndarray): (n,) int64 row of each context's item.
    """

    def __init__(self, contexts, items, target):
        self.contexts = contexts
        self.items = items
        self.target = torch.from_numpy(np.asarray(target, dtype=np.int64))


def build_retrieval_task(held_out, train, max_items, seed, max_queries=None):
    """Choose candidates: the held-out pairs' items, then other items of the pairs.

    An item that occurs with several metadata texts keeps the first.

    Args:
        held_out, train (datasets.Dataset): columns `context`, `metadata`, `item_id`.
        max_items (int): candidates at most; held-out items always stay.
        seed (int): of the draw when there are more.
        max_queries (int | None): held-out pairs at most, the first ones.

    Returns:
        RetrievalTask | None: None when nothing is held out.
    """
    if not len(held_out):
        return None
    queries = held_out.select(range(min(len(held_out), max_queries or len(held_out))))
    metadata, row_of = [], {}
    for item_id, text in zip(queries["item_id"], queries["metadata"]):
        if item_id not in row_of:
            row_of[item_id] = len(metadata)
            metadata.append(text)
    target = [row_of[item_id] for item_id in queries["item_id"]]
    others = _other_items(train, row_of, max(0, max_items - len(metadata)), seed)
    metadata += list(train.select(others)["metadata"]) if len(others) else []
    return RetrievalTask(list(queries["context"]), metadata, target)


def _other_items(train, known, room, seed):
    """Return rows of `train`, one an item that is not `known`, at most `room`, drawn when there are more.

    Small tables are read whole and give each item's first row; large ones are read in a random order until there are
    enough items.
    """
    rng = np.random.default_rng(seed)
    small = len(train) <= WHOLE_SCAN_ROWS
    order = np.arange(len(train)) if small else rng.permutation(len(train))
    first_row = {}
    for start in range(0, len(order), SCAN_ROWS):
        part = order[start : start + SCAN_ROWS]
        for number, item_id in zip(part.tolist(), train.select(part)["item_id"]):
            if item_id not in known:
                first_row.setdefault(item_id, number)
        if not small and len(first_row) >= room:
            break
    others = np.fromiter(first_row.values(), np.int64, len(first_row))
    return np.sort(rng.permutation(others)[:room]) if len(others) > room else others


def target_ranks(queries, items, target):
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


def retrieval_metrics(ranks, topk=(10, 100)):
    """Return `ndcg@k`, `recall@k` and `mrr` of one relevant item a query, as fractions."""
    metrics = {}
    for k in topk:
        hit = (ranks <= k).double()
        metrics[f"ndcg@{k}"] = float((hit / torch.log2(ranks + 1)).mean())
        metrics[f"recall@{k}"] = float(hit.mean())
    metrics["mrr"] = float((1 / ranks).mean())
    return metrics


def encode_texts(model, tokenizer, texts, *, max_length, pad_id, device, autocast, batch_texts=64, bar=None):
    """Encode texts in order with a model in training's hands; each device takes its share.

    Returns:
        Tensor: (n, D) float32 on `device`, without the training-only layer.
    """
    share = -(-len(texts) // world_size())
    mine = range(rank() * share, min((rank() + 1) * share, len(texts)))
    order = sorted(mine, key=lambda i: -len(texts[i]))
    width = model.body.config.hidden_size
    out = torch.zeros(share, width, device=device)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for start in range(0, len(order), batch_texts):
            rows = order[start : start + batch_texts]
            ids, lengths = tokenise(tokenizer, [texts[i] for i in rows], max_length, pad_id)
            with autocast():
                vectors = model.embed(ids.to(device), lengths.to(device))
            out[torch.tensor(rows, device=device) - rank() * share] = vectors.float()
            if bar is not None:
                bar.update(len(rows))
    model.train(was_training)
    return all_gather_rows(out)[: len(texts)]


def evaluate_retrieval(model, tokenizer, task, *, topk=(10, 100), progress=True, **options):
    """Rank every item for every held-out context.

    Args:
        model (PairEncoder), tokenizer: as in training.
        task (RetrievalTask)
        topk (sequence of int)
        progress (bool): show a bar.
        options: of `encode_texts`.

    Returns:
        dict: metrics of `retrieval_metrics`.
    """
    from tqdm import tqdm

    total = -(-(len(task.contexts) + len(task.items)) // world_size())
    with tqdm(total=total, desc="retrieval", unit=" texts", leave=False, disable=not progress) as bar:
        queries = encode_texts(model, tokenizer, task.contexts, bar=bar, **options)
        items = encode_texts(model, tokenizer, task.items, bar=bar, **options)
    return retrieval_metrics(target_ranks(queries, items, task.target.to(queries.device)), topk)

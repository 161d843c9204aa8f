"""The best items of score rows; equal scores in catalogue order, however they are chunked."""

from __future__ import annotations

import torch
from torch import Tensor


def best_items(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the best k columns of every row, as a full stable sort would.

    Args:
        scores (B, N) float: column 0, the padding item, is never returned; -inf marks items to leave out.
        k: at most N - 1 are returned.

    Returns:
        items (B, k) int64: ids from 1, best first, equal scores by id; 0 where a row has fewer candidates.
        values (B, k) float: their scores; -inf there.

    Raises:
        FloatingPointError: a score is not a number.
    """
    candidates = scores[:, 1:]  # (B, N - 1)
    k = min(k, candidates.shape[1])
    values, at = candidates.topk(min(k + 1, candidates.shape[1]), dim=1)
    if torch.isnan(values[:, 0]).any():  # topk puts NaN first
        raise FloatingPointError("the model scores an item as NaN; use precision=fp32, or train with a lower rate")
    tied = (values[:, k] == values[:, k - 1]).nonzero().squeeze(1).tolist() if values.shape[1] > k else []
    values, at = values[:, :k], at[:, :k].clone()
    for row in tied:  # which of the equal ones are in is up to topk: take those of the lowest ids
        last = values[row, -1]
        if last > float("-inf"):
            n_better = int((values[row] > last).sum())
            at[row, n_better:] = (candidates[row] == last).nonzero().squeeze(1)[: k - n_better]
    at = at.sort(dim=1).values
    values, again = candidates.gather(1, at).sort(dim=1, descending=True, stable=True)
    items = at.gather(1, again) + 1
    return items.masked_fill(values == float("-inf"), 0), values

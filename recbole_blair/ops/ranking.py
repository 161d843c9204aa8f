"""Ranks of targets among the scores of all items, the padding item left out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from recbole_blair.ops import plain
from recbole_blair.ops.device import CACHE_BYTES, row_chunks
from recbole_blair.ops.softmax import row_sums
from recbole_blair.ops.switch import fast_form_of

FLOAT32_COUNTS = 1 << 24  # whole numbers up to which float32 sums are exact


@fast_form_of(plain.rank_targets)
def rank_targets(scores: Tensor, target: Tensor) -> np.ndarray:
    """Rank each row's target among all items, the padding item left out.

    Args:
        scores (B, N) float: column 0 is the padding item.
        target (B,) int64: item ids from 1.

    Returns:
        (B,) float64: 1 is best. Equal scores: the middle of the ties.

    Raises:
        FloatingPointError: a score is not a number.
    """
    candidates = scores[:, 1:]
    own = candidates.gather(1, (target - 1)[:, None])  # (B, 1)
    if candidates.device.type == "cpu":
        return middle_ranks(*count_above_and_equal(candidates, own))
    return plain.refuse_nan(rank_on_device(candidates, own))


def rank_in_chunks(
    scores_of: Callable[[slice], Tensor], target: Tensor, dropped: tuple[Tensor, Tensor] | None, rows: int
) -> np.ndarray:
    """Rank as `rank_targets`, some rows at a time.

    Args:
        scores_of: gives the scores (b, N) of a slice of the rows.
        target (B,) int64: item ids.
        dropped: as of `drop_scores`.
        rows: at a time.
    """
    ranks = []
    for part in row_chunks(len(target), rows):
        scores = scores_of(part)
        drop_scores(scores, dropped, part.start)
        ranks.append(rank_targets(scores, target[part]))
    return np.concatenate(ranks)


def middle_ranks(above: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """Ranks (B,) of the counts of scores above and equal to each row's own, itself included."""
    # nothing equals a NaN, not even itself
    return plain.refuse_nan(np.where(ties, above + (ties + 1.0) / 2.0, np.nan))


def count_above_and_equal(candidates: Tensor, own: Tensor) -> np.ndarray:
    """Count the scores (B, M) above and equal to each row's own (B, 1), on the CPU: (2, B) float64.

    Comparisons are written as ones and zeros of the scores' own dtype, in chunks that stay in the cache: the processor
    compares and sums those sixteen at a time, and booleans one by one.
    """
    rows = max(1, CACHE_BYTES // max(1, candidates.shape[1] * candidates.element_size()))
    counts, buffer = np.empty((2, len(candidates))), torch.empty_like(candidates[:rows])
    for span in row_chunks(len(candidates), rows):
        part, mine = candidates[span], own[span]
        ones = buffer[: len(part)]
        counts[0, span] = count_ones(torch.gt(part, mine, out=ones))
        counts[1, span] = count_ones(torch.eq(part, mine, out=ones))
    return counts


def count_ones(ones: Tensor) -> np.ndarray:
    """Sum rows (B, M) of ones and zeros: (B,) float64. The partial sums of `row_sums` are exact here."""
    wide = torch.float32 if ones.shape[1] <= FLOAT32_COUNTS else torch.float64
    return row_sums(ones, torch.promote_types(wide, ones.dtype)).squeeze(1).double().numpy()


def rank_on_device(candidates: Tensor, own: Tensor) -> np.ndarray:
    """Rank each row's own score (B, 1), which is one of candidates (B, M), on a GPU: (B,) float64.

    Each candidate adds 1 when above, 1/2 when equal: halves below 2^23, which float32 sums hold exactly. Sums of the
    masks themselves would first be copied to eight bytes per score. A score that does not equal itself gives NaN.
    """
    beaten = candidates - own
    torch.heaviside(beaten, beaten.new_tensor(0.5), out=beaten)
    wide = torch.float32 if candidates.shape[1] < FLOAT32_COUNTS // 2 else torch.float64
    ranks = beaten.sum(1, dtype=wide).double().add_(0.5).cpu().numpy()
    return np.where(ranks < 1.0, np.nan, ranks)


def drop_scores(
    scores: Tensor, dropped: tuple[Tensor, Tensor] | None, first_row: int = 0, first_column: int = 0
) -> None:
    """Set scores (b, m) to -inf where `dropped`, (row, column) of the whole (B, N), says so.

    `scores` is the part of the whole that begins at the given row and column.
    """
    if dropped is not None:
        row, column = dropped[0] - first_row, dropped[1] - first_column
        inside = (row >= 0) & (row < scores.shape[0]) & (column >= 0) & (column < scores.shape[1])
        scores[row[inside], column[inside]] = float("-inf")

"""Exact dense search: the k items of highest cosine for every query, in bounded memory, on any device.

First a matrix product over chunks of the pool (fp32 or bf16) keeps somewhat more than k items a query. Their scores
are then computed again, in float64 rounded to fp32, and sorted; equal scores rank in pool order. The product's
rounding error is bounded, so it is known for each query whether an item it dropped could belong to the best k; such
queries (many equal vectors at the border) are searched once more without dropping anything in doubt. So the result
does not depend on the chunks, the device or the precision: it is the full stable sort.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from recbole_blair.errors import InputError
from recbole_blair.ops import has_fast_bf16
from recbole_blair.search.topk import NOTHING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor
PRECISIONS = ("auto", "fp32", "bf16")
FP32_ROUNDOFF, BF16_ROUNDOFF = 2.0**-24, 2.0**-8  # half a unit in the last place of 1
DEFAULT_MEMORY_MB = 1024
QUERY_BLOCK = 1024  # queries a product: large enough for full speed, small beside the chunk
FIRST_CHUNK = 4096  # a short first chunk sets the limits that let later ones drop nearly everything
CHUNK_LIMIT = 16384  # more items a chunk take memory and bring no speed (tests/bench/bench_search.py)
CROWDED = 8  # a query with more newcomers than this many lists is cut by topk instead of by merging
PAIRS = 2**22  # numbers gathered at once when pairs are scored again


def search(
    queries: np.ndarray, items: np.ndarray, k: int, device: str = "cpu", precision: str = "fp32",
    memory_limit_mb: int = DEFAULT_MEMORY_MB, progress: bool = True,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Rank all items for each query by the dot product of the normalised vectors.

    Args:
        queries (n, D) float: raw vectors.
        items (N, D) float: raw vectors, also a memory map; read a chunk at a time.
        k: depth; at most N items are ranked.
        device: torch device of the products.
        precision: `fp32`, `bf16` (candidates only, re-scored: same result), or `auto`.
        memory_limit_mb: bound on working memory, besides the vectors given and the result.
        progress: show a progress bar.

    Returns:
        positions (n, k) int64 by score, equal scores by position, -1 = no item left; scores (n, k) float32.
        An all-zero vector scores 0 with everything.

    Raises:
        InputError: widths differ, a vector that is not finite, an unknown precision, no memory for one chunk.
    """
    queries = np.asarray(queries, dtype=np.float32)
    _check_shapes(queries, items, k)
    dtype = candidate_dtype(precision, device)
    with torch.inference_mode():
        query = torch.from_numpy(queries).to(device)
        best = min(k, len(items))
        positions, scores, doubt = _search_pass(query, items, best, dtype, memory_limit_mb, progress)
        if len(doubt) and dtype == torch.bfloat16:
            again = _search_pass(query[doubt], items, best, torch.float32, memory_limit_mb, progress)
            positions[doubt], scores[doubt] = again[:2]
            doubt = doubt[again[2]]
        if len(doubt):
            found = search_in_doubt(query[doubt], scores[doubt, -1], items, best, memory_limit_mb, progress)
            positions[doubt], scores[doubt] = found
    return _pad(positions.cpu().numpy(), scores.cpu().numpy(), k)


def _search_pass(
    query: Tensor, items: np.ndarray, k: int, dtype: torch.dtype, memory_limit_mb: int, progress: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Search by products in `dtype`; return positions, scores (n, k) and the rows (m,) that are not proven."""
    keep = min(len(items), 3 * k if dtype == torch.bfloat16 else k + max(32, k // 4))
    plan = plan_memory(len(query), len(items), items.shape[1], keep, memory_limit_mb)
    candidates = _Candidates(normalise(query.clone(), "query", 0), keep, dtype)
    for chunk, start in read_chunks(items, plan, query.device, f"search {str(dtype)[6:]}", progress):
        candidates.add(chunk, start, plan[0])
    positions, scores, proven = rescore(candidates, query, items, k)
    return positions, scores, (~proven).nonzero()[:, 0]


def _pad(positions: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Widen to k columns: -1 and -inf where the pool has no more items."""
    extra = ((0, 0), (0, k - positions.shape[1]))
    return np.pad(positions, extra, constant_values=NOTHING), np.pad(scores, extra, constant_values=-np.inf)


def _check_shapes(queries: np.ndarray, items: np.ndarray, k: int) -> None:
    """Refuse shapes that cannot be searched."""
    if queries.ndim != 2 or len(items.shape) != 2 or queries.shape[1] != items.shape[1]:
        raise InputError(
            f"query vectors are {queries.shape} and item vectors {tuple(items.shape)}; both need two dimensions and "
            "one width: encode both with the same encoder"
        )
    if k < 1:
        raise InputError(f"depth {k}: at least 1 item a query must be asked for")


def candidate_dtype(precision: str, device: str) -> torch.dtype:
    """Return the torch type of the candidate products."""
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r} is unknown; choose from {', '.join(PRECISIONS)}")
    if precision == "auto":
        place = torch.device(device)
        precision = "bf16" if place.type == "cuda" and has_fast_bf16(place) else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32


def plan_memory(n_queries: int, n_items: int, width: int, keep: int, memory_limit_mb: int) -> tuple[int, int]:
    """Return (queries a block, items a chunk) that keep the working memory under the limit.

    Every query has its normalised vector, a copy in the product's type and its list (12 bytes an entry). A chunk
    holds its vectors (raw, normalised, copy: 12 bytes a number) and, for one block of queries, a score and a mask a
    pair (5 bytes). A list that is being merged holds at most CROWDED + 1 times its length.
    """
    total = 0.9 * memory_limit_mb * 2**20 - n_queries * (8 * width + 12 * keep) - 2 * 8 * PAIRS
    block = max(1, min(QUERY_BLOCK, n_queries))
    while True:
        room = total - block * keep * 24 * (CROWDED + 1)
        chunk = int(room // (12 * width + 5 * block))
        if chunk >= min(n_items, 4 * keep, 1024) or block == 1:
            break
        block = max(1, block // 2)
    if chunk < 1:
        need = memory_limit_mb + (12 * width + 5 * block - room) / 0.9 / 2**20
        raise InputError(
            f"memory_limit_mb={memory_limit_mb} is too small for {n_queries} queries of width {width} at this "
            f"depth; set it to {int(need) + 1} or more"
        )
    return block, min(chunk, n_items, CHUNK_LIMIT)


def read_chunks(
    items: np.ndarray, plan: tuple[int, int], device: torch.device, what: str, progress: bool
) -> Iterator[tuple[Tensor, int]]:
    """Yield (normalised chunk (C, D) on the device, its first position): a short chunk first, then larger ones."""
    with tqdm(total=len(items), desc=what, unit="item", disable=not progress) as bar:
        for start, stop in _spans(len(items), min(FIRST_CHUNK, plan[1]), plan[1]):
            chunk = torch.from_numpy(np.array(items[start:stop], dtype=np.float32)).to(device)
            yield normalise(chunk, "item", start), start
            bar.update(stop - start)


def _spans(n: int, first: int, chunk: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) over n rows: a short first span, then doubling up to `chunk`."""
    start, size = 0, first
    while start < n:
        stop = min(n, start + size)
        yield start, stop
        start, size = stop, min(chunk, size * 4)


def normalise(vectors: Tensor, what: str, offset: int) -> Tensor:
    """Scale rows to length 1, in place; zero rows stay zero.

    Args:
        vectors (n, D) float32 tensor. what, offset: for the message.

    Raises:
        InputError: a row holds NaN or infinity, or is too long for fp32.
    """
    norm = torch.linalg.vector_norm(vectors, dim=1)
    if not torch.isfinite(norm).all():
        row = int((~torch.isfinite(norm)).nonzero()[0, 0]) + offset
        raise InputError(f"the vector of {what} {row} (counted from 0) is not finite; encode again")
    return vectors.mul_(torch.where(norm > 0, 1.0 / norm, 0.0)[:, None])


class _Candidates:
    """The best `keep` items of each query by the product's approximate score, in no certain order."""

    def __init__(self, query: Tensor, keep: int, dtype: torch.dtype) -> None:
        n, self.width = query.shape
        self.keep, self.dtype, self.low = keep, dtype, query.to(dtype)
        self.scores = torch.full((n, keep), -torch.inf, device=query.device)
        self.positions = torch.full((n, keep), NOTHING, dtype=torch.int64, device=query.device)
        self.query_error = torch.linalg.vector_norm(query - self.low.float(), dim=1)
        self.item_error = 0.0

    def add(self, items: Tensor, offset: int, block: int) -> None:
        """Merge a chunk of normalised items (C, D) whose first row has position `offset`."""
        low = items.to(self.dtype)
        if self.dtype != items.dtype:
            error = (items - low.float()).norm(dim=1).max()
            self.item_error = max(self.item_error, float(error))
        for start in range(0, len(self.low), block):
            self._add_block(self.low[start : start + block] @ low.T, start, offset)

    def _add_block(self, approx: Tensor, start: int, offset: int) -> None:
        """Merge scores (B, C) of the queries from `start` on."""
        rows = slice(start, start + len(approx))
        limit = self.scores[rows].amin(dim=1)  # of the list's worst entry
        mask = approx > limit.to(approx.dtype)[:, None]
        counts = mask.sum(dim=1)
        crowded = counts > CROWDED * self.keep
        if crowded.any():
            where = crowded.nonzero()[:, 0]
            best, column = approx[where].topk(min(self.keep, approx.shape[1]), dim=1)
            self._merge(where + start, best.float(), column + offset)
            mask[where] = False
            counts = counts.masked_fill(crowded, 0)
        if int(counts.max()):
            self._merge_newcomers(approx, mask, counts, start, offset)

    def _merge_newcomers(self, approx: Tensor, mask: Tensor, counts: Tensor, start: int, offset: int) -> None:
        """Merge the few marked scores of each row."""
        pairs = mask.nonzero()  # (P, 2), by row
        row, column = pairs[:, 0], pairs[:, 1]
        slot = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        shape = (len(counts), int(counts.max()))
        scores = torch.full(shape, -torch.inf, device=row.device)
        positions = torch.full(shape, NOTHING, dtype=torch.int64, device=row.device)
        scores[row, slot], positions[row, slot] = approx[row, column].float(), column + offset
        self._merge(slice(start, start + len(counts)), scores, positions)

    def _merge(self, rows: slice | Tensor, scores: Tensor, positions: Tensor) -> None:
        """Merge lists into those of `rows`, keeping the best."""
        scores = torch.cat([self.scores[rows], scores], dim=1)
        positions = torch.cat([self.positions[rows], positions], dim=1)
        scores, order = scores.topk(self.keep, dim=1, sorted=False)
        self.scores[rows], self.positions[rows] = scores, positions.gather(1, order)

    def proven(self, k: int) -> Tensor:
        """Return (n,) bool: True where no item outside the list can belong to the best k."""
        best = self.scores.topk(k, dim=1).values[:, -1]
        bound = error_bound(self.width, self.dtype, best, self.query_error, self.item_error)
        return self.scores.amin(dim=1) < best - 2 * bound


def error_bound(
    width: int, dtype: torch.dtype, score: Tensor | float, query_error: Tensor | float = 0.0, item_error: float = 0.0
) -> Tensor:
    """Bound |product - exact score| for unit vectors, for scores up to `score`.

    Inputs: |q·x - q'·x'| ≤ |q - q'| + |x - x'| (1 + |q - q'|), where ' is the rounded vector. Sum: `width` roundings
    in fp32 (Higham, Accuracy and Stability, section 3.1: width · u / (1 - width · u) · |q||x|) and as much again for
    lengths that are 1 only up to rounding. Output: one rounding to the product's type.
    """
    out = BF16_ROUNDOFF if dtype == torch.bfloat16 else FP32_ROUNDOFF
    known = query_error + item_error * (1 + query_error) + 2 * (width + 2) * FP32_ROUNDOFF
    return known + 1.01 * out * (torch.abs(torch.as_tensor(score)) + known)


def rescore(candidates: _Candidates, query: Tensor, items: np.ndarray, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Score the candidates again and sort them.

    Returns:
        positions, scores (n, k): sorted by score, equal scores by position. proven (n,) bool: True where no item
        outside the list can belong to the best k.
    """
    positions = candidates.positions.sort(dim=1).values
    exact = torch.empty_like(candidates.scores)
    step = max(1, PAIRS // (query.shape[1] * positions.shape[1]))
    for start in range(0, len(query), step):
        rows = positions[start : start + step]  # (B, keep)
        vectors = gather(items, rows.flatten()).view(*rows.shape, -1)
        exact[start : start + step] = exact_scores(query[start : start + step, None], vectors)
    proven = candidates.proven(k) | (candidates.keep == len(items))
    exact, order = exact.sort(dim=1, descending=True, stable=True)
    return positions.gather(1, order)[:, :k].contiguous(), exact[:, :k].contiguous(), proven


def search_in_doubt(
    query: Tensor, at_least: Tensor, items: np.ndarray, k: int, memory_limit_mb: int, progress: bool
) -> tuple[Tensor, Tensor]:
    """Search a few queries again, keeping every item that the rounding error leaves in doubt.

    Args:
        query (n, D) float32 tensor. at_least (n,): k scores at least this high are known to exist.

    Returns:
        positions, scores (n, k), as the full stable sort gives them.
    """
    scores = torch.full((len(query), k), -torch.inf, device=query.device)
    positions = torch.full((len(query), k), NOTHING, dtype=torch.int64, device=query.device)
    zero = ~query.any(dim=1)  # an all-zero query ties everything: pool order
    scores[zero], positions[zero] = 0.0, torch.arange(k, device=query.device)
    rows = (~zero).nonzero()[:, 0].tolist()
    if not rows:
        return positions, scores
    margin = error_bound(query.shape[1], query.dtype, 1.0)
    plan = plan_memory(1, len(items), query.shape[1], k, memory_limit_mb)
    unit = normalise(query.clone(), "query", 0)
    for chunk, offset in read_chunks(items, plan, query.device, "ties", progress):
        for row in rows:
            limit = torch.maximum(at_least[row], scores[row, -1]) - margin
            where = (chunk @ unit[row] >= limit).nonzero()[:, 0] + offset
            for part in where.split(PAIRS // query.shape[1] + 1):
                exact = exact_scores(query[row], gather(items, part))
                merged, order = torch.cat([scores[row], exact]).sort(descending=True, stable=True)
                scores[row] = merged[:k]
                positions[row] = torch.cat([positions[row], part])[order[:k]]
    return positions, scores


def gather(items: np.ndarray, positions: Tensor) -> Tensor:
    """Return rows of the pool (P, D) float32 on the device of `positions` (P,)."""
    rows = np.asarray(items[positions.cpu().numpy()], dtype=np.float32)
    return torch.from_numpy(rows).to(positions.device)


def exact_scores(query: Tensor, items: Tensor) -> Tensor:
    """Return the cosine in float64, rounded to fp32: the number every part of dense search ranks by.

    Args:
        query (..., D), items (..., D) float32, of any length.

    Returns:
        (...) float32; 0 where a vector is all zero.
    """
    query, items = query.double(), items.double()
    length = torch.linalg.vector_norm(query, dim=-1) * torch.linalg.vector_norm(items, dim=-1)
    dot = items.mul_(query).sum(dim=-1)
    return torch.where(length > 0, dot / length, 0.0).float()

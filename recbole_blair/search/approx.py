"""Approximate dense search with faiss (HNSW or IVF), and how much of the exact result it finds.

Sources: Malkov and Yashunin, arXiv:1603.09320 (HNSW); Johnson, Douze and Jégou, arXiv:1702.08734 (faiss).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from recbole_blair.errors import InputError, require
from recbole_blair.files.checksum import check_recorded, recorded_file
from recbole_blair.search.topk import NOTHING

if TYPE_CHECKING:
    from types import ModuleType

    import faiss

KINDS = ("hnsw", "ivf")
HNSW_LINKS, HNSW_BUILD = 32, 200  # faiss's usual link count; candidates looked at while building
ADD_ROWS = 65536
TRAIN_PER_LIST = 64  # faiss asks for at least 39 training vectors a list


def _faiss() -> ModuleType:
    """Import faiss or say how to get it."""
    require("an approximate index", "faiss", instead=", or use --index=exact")
    import faiss  # an extra

    return faiss


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Return a float32 copy with rows of length 1; zero rows stay zero."""
    rows = np.array(vectors, dtype=np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    np.divide(rows, norms, out=rows, where=norms > 0)
    return rows


def build_index(items: np.ndarray, kind: str, seed: int = 0, progress: bool = True) -> faiss.Index:
    """Build a faiss inner-product index over normalised vectors, adding a chunk at a time.

    Args:
        items (N, D) float: raw vectors, also a memory map.
        kind: `hnsw` (32 links, 200 build candidates) or `ivf` (4 √N lists, at most one a vector; k-means
            on a seeded sample).
        seed: of the k-means sample.

    Raises:
        InputError: unknown kind, or faiss is not installed.
    """
    faiss = _faiss()
    n, width = items.shape
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(width, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = HNSW_BUILD
    elif kind == "ivf":
        lists = max(1, min(n, int(4 * math.sqrt(n))))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = seed + 1
        sample = min(n, TRAIN_PER_LIST * lists)
        index.train(unit_rows(items[np.sort(np.random.default_rng(seed).choice(n, sample, replace=False))]))
    else:
        raise InputError(f"index {kind!r} is unknown; choose from exact, {', '.join(KINDS)}")
    with tqdm(total=n, desc=f"build {kind}", unit="item", disable=not progress) as bar:
        for start in range(0, n, ADD_ROWS):
            part = unit_rows(items[start : start + ADD_ROWS])
            index.add(part)
            bar.update(len(part))
    return index


def search_index(
    index: faiss.Index, queries: np.ndarray, k: int, effort: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Search a faiss index.

    Args:
        queries (n, D) float: raw vectors. k: depth.
        effort: HNSW candidates looked at (default max(2 k, 128)) or IVF lists probed (default a
            sixteenth of them, at least 8).

    Returns:
        positions (n, k) int64, -1 = nothing found; scores (n, k) float32, -inf there. Best first; equal scores in
        pool order.
    """
    faiss = _faiss()
    typed = faiss.downcast_index(index)  # borrows the memory of `index`, which must stay referenced
    if hasattr(typed, "hnsw"):
        typed.hnsw.efSearch = max(k, effort or max(2 * k, 128))
    else:
        typed.nprobe = min(typed.nlist, effort or max(8, typed.nlist // 16))
    scores, positions = index.search(unit_rows(queries), min(k, index.ntotal))
    scores = np.where(positions < 0, -np.inf, scores).astype(np.float32)
    order = np.lexsort((positions, -scores), axis=1)
    scores, positions = np.take_along_axis(scores, order, 1), np.take_along_axis(positions, order, 1)
    extra = ((0, 0), (0, k - positions.shape[1]))
    return (
        np.pad(positions, extra, constant_values=NOTHING).astype(np.int64),
        np.pad(scores, extra, constant_values=-np.inf),
    )


def recall_against(found: np.ndarray, exact: np.ndarray) -> float:
    """Return the mean share of the exact best k that `found` holds; both (n, k) positions, -1 = nothing."""
    shares = [len(np.intersect1d(a, b[b >= 0])) / max(1, (b >= 0).sum()) for a, b in zip(found, exact)]
    return float(np.mean(shares))


def write_index(index: faiss.Index, path: Path | str) -> None:
    """Write a faiss index."""
    with recorded_file(path) as temporary:
        _faiss().write_index(index, str(temporary))


def read_index(path: Path | str, n_items: int, width: int) -> faiss.Index:
    """Read a faiss index and check that it is over as many vectors of that width.

    Raises:
        InputError: unreadable, or of another size.
    """
    check_recorded(path, "delete it, it is built again")
    try:
        index = _faiss().read_index(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"{path} is not a whole faiss index ({reason}); delete it, it is built again") from None
    if (index.ntotal, index.d) != (n_items, width):
        raise InputError(
            f"{Path(path).name} indexes {index.ntotal} vectors of width {index.d}; this pool has {n_items} of "
            f"width {width}: it belongs to another pool; delete it, it is built again"
        )
    return index

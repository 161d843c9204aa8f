"""One call from a retriever's name to rankings: bm25, an encoder, or both fused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_blair.errors import InputError
from recbole_blair.schema import DEFAULT_PLM
from recbole_blair.search import approx, fusion
from recbole_blair.search.readers import unique_texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from recbole_blair.search.index_dir import IndexDir

BM25, HYBRID = "bm25", "hybrid"
INDEXES = ("exact", *approx.KINDS)
FUSION_DEPTH = 1000  # items each side gives to the fusion
RECALL_QUERIES = 500  # queries the approximate index is checked on


class Ranker:
    """Ranks a pool for queries.

    Args:
        index: of the pool.
        retriever: `bm25`, `hybrid`, or an encoder as `load_encoder` takes it.
        plm: the encoder of `hybrid`.
        bm25: settings of BM25Index.
        encoding: device, precision, pooling, max_length, revision for the encoder.
        index_kind: `exact`, `hnsw` or `ivf`. effort: see approx.search_index.
        search_precision: precision of the exact candidates: fp32, bf16 or auto.
        memory_limit_mb: of exact search.

    After a search `notes` says what the result depends on, for people and for metrics.json.
    """

    def __init__(
        self, index: IndexDir, retriever: str, plm: str | None = None, bm25: dict[str, Any] | None = None,
        encoding: dict[str, Any] | None = None, index_kind: str = "exact", effort: int | None = None,
        search_precision: str = "auto", memory_limit_mb: int | None = None, fusion_depth: int = FUSION_DEPTH,
        seed: int = 0, progress: bool = True,
    ) -> None:  # fmt: skip
        if index_kind not in INDEXES:
            raise InputError(f"index={index_kind!r} is unknown; choose from {', '.join(INDEXES)}")
        if index_kind != "exact" and retriever == BM25:
            raise InputError(f"index={index_kind} is for encoders; bm25 has one index: leave --index out")
        self.index, self.retriever, self.bm25_settings = index, retriever, bm25 or {}
        self.plm = plm or DEFAULT_PLM if retriever == HYBRID else retriever
        self.encoding, self.index_kind, self.effort = dict(encoding or {}), index_kind, effort
        self.search_precision, self.memory_limit_mb = search_precision, memory_limit_mb
        self.fusion_depth, self.seed, self.progress = fusion_depth, seed, progress
        self.notes: dict[str, Any] = {}

    def search(self, texts: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """Rank the pool for each text; a text that occurs twice is ranked once.

        Returns:
            positions (n, k) int64, -1 = nothing left; scores (n, k) float32, -inf there.
        """
        distinct, number = unique_texts(texts)
        if self.retriever == BM25:
            positions, scores = self._search_bm25(distinct, k)
        elif self.retriever == HYBRID:
            depth = min(max(k, self.fusion_depth), len(self.index.pool))
            sides = [self._search_bm25(distinct, depth)[0], self._search_dense(distinct, depth)[0]]
            positions, scores = fusion.fuse(sides, k)
            self.notes["fusion"] = f"reciprocal rank, constant {fusion.RRF_K}, {depth} items a side"
        else:
            positions, scores = self._search_dense(distinct, k)
        return positions[number], scores[number]

    def _search_bm25(self, texts: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """Rank by BM25."""
        index = self.index.bm25(progress=self.progress, **self.bm25_settings)
        self.notes["bm25"] = index.settings
        if index.variant == "released":
            self.notes["bm25_released"] = (
                "scored as the released script does: case kept, corpus size in place of the document length, "
                "IDF floor .25 of the mean; not textbook BM25"
            )
        return index.search(texts, k, progress=self.progress)

    def _search_dense(self, texts: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """Rank by cosine of the encoder's vectors."""
        from recbole_blair.text.encoders import load_encoder  # heavy: loads scikit-learn and torch

        encoder = load_encoder(self.plm, **self.encoding)
        items = self.index.item_vectors(encoder, self.plm, self.encoding, self.progress)
        queries = encoder.encode_queries(texts, progress=self.progress)
        self.notes["encoder"] = encoder.description()
        blank = int((~np.asarray(queries).any(axis=1)).sum())
        if blank:
            self.notes["queries_without_known_term"] = blank
        if self.index_kind == "exact":
            return self._exact(queries, items, k)
        found = self.index.faiss(items, self.index_kind, encoder.name, self.seed, self.progress)
        result = approx.search_index(found, queries, k, self.effort)
        self._check_recall(result[0], queries, items, k)
        return result

    def _exact(self, queries: np.ndarray, items: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Search exactly on the device the encoder ran on."""
        from recbole_blair.search import dense  # heavy: loads torch, as does the next
        from recbole_blair.text.devices import pick_devices

        device = str(pick_devices(self.encoding.get("device", "auto"))[0])
        limit = self.memory_limit_mb or dense.DEFAULT_MEMORY_MB
        return dense.search(queries, items, k, device, self.search_precision, limit, progress=self.progress)

    def _check_recall(self, found: np.ndarray, queries: np.ndarray, items: np.ndarray, k: int) -> None:
        """Compare the approximate result with the exact one on a seeded sample of the queries."""
        rng = np.random.default_rng(self.seed)
        some = np.sort(rng.choice(len(queries), min(RECALL_QUERIES, len(queries)), replace=False))
        exact, _ = self._exact(queries[some], items, k)
        self.notes["index"] = {
            "kind": self.index_kind,
            f"recall@{k}_of_exact": approx.recall_against(found[some], exact),
            "checked_queries": len(some),
        }

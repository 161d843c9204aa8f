"""Search of a catalogue by words: BM25 over the items' texts; a word that nothing holds stands for those it begins."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

import numpy as np

from recbole_blair.errors import InputError
from recbole_blair.search.bm25 import BM25Index
from recbole_blair.search.topk import top_k

if TYPE_CHECKING:
    from recbole_blair.recommend.catalogue import Catalogue

MAX_BEGUN = 50  # words that one beginning stands for
FIELDS = ("text", "title")  # the first that the items have is searched


class WordSearch:
    """A BM25 index of a catalogue in memory; items that were added are found by their id and title alone.

    Args:
        catalogue: its items.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        field = next((name for name in FIELDS if name in catalogue.kinds), None)
        texts = catalogue.column(field).values.to_pylist()[: catalogue.n_known] if field else catalogue.ids
        try:
            self.index: BM25Index | None = BM25Index().build(texts, progress=False)
        except InputError:  # no text holds a word
            self.index = None
        self.words = sorted(self.index.vocab) if self.index else []

    def find(self, query: str, top: int, mask: np.ndarray | None = None) -> list[tuple[int, float]]:
        """Return internal ids and scores of the best items, best first; an item id finds itself first.

        Args:
            mask (N,) bool: items that may be found; None: all.
        """
        catalogue = self.catalogue
        scores = np.zeros(len(catalogue) + 1, np.float32)  # (N,)
        if self.index is not None:
            scores[1 : catalogue.n_known + 1] = self.index.scores(" ".join(self.known_words(query)))
        wanted = query.lower().split()
        for number in range(catalogue.n_known, len(catalogue)):
            hits = sum(word in catalogue.titles[number].lower() for word in wanted)
            scores[number + 1] = float(hits)
        own = catalogue.find(query.strip())
        scores[own] = np.inf
        scores[0] = 0.0
        if mask is not None:
            scores[~mask] = 0.0
        found, values = top_k(scores, top, floor=0.0)
        return [(int(item), float(score) if np.isfinite(score) else 0.0) for item, score in zip(found, values)]

    def known_words(self, query: str) -> list[str]:
        """Return the words of a query; an unknown one is replaced by those that begin with it."""
        words = []
        assert self.index is not None
        for word in self.index.analyser(query):
            if word in self.index.vocab:
                words.append(word)
                continue
            first = bisect.bisect_left(self.words, word)
            for known in self.words[first : first + MAX_BEGUN]:
                if known.startswith(word):
                    words.append(known)
        return words

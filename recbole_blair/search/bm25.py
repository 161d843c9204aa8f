"""BM25 through bm25s, and the released script's way of scoring for comparison.

Sources: Robertson and Zaragoza, 2009; Kamphuis et al., ECIR 2020 (the Lucene variant); arXiv:2403.03952, whose
released `bm25.py` the variant `released` follows.
"""

from __future__ import annotations

import math
import re
from array import array
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from recbole_blair.errors import InputError, nearest, require
from recbole_blair.search.topk import empty_ranking, top_k

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

VARIANTS = ("lucene", "robertson", "atire", "released")
STOPWORDS = ("english", "none")
STEMMERS = ("none", "english")
IDF_FLOOR = 0.25  # the released script's floor: a negative IDF becomes .25 of the mean IDF

WORD = re.compile(r"\w\w+")
# NLTK's word_tokenize, which the released script uses, keeps punctuation as tokens and inner hyphens, points and
# slashes inside a word; this is the same without its data files. Contractions are not split.
RELEASED_TOKEN = re.compile(r"\w+(?:[-./&']\w+)*|[^\w\s]")


class Analyser:
    """Text to terms: lower case, words of two characters or more, no stop words; optionally stemmed.

    Args:
        variant: of VARIANTS; `released` keeps case, single characters and punctuation.
        stopwords: `english` (33 words of Lucene's list; `released`: the long list) or `none`.
        stemmer: `none` or `english` (Snowball, needs PyStemmer).
    """

    def __init__(self, variant: str = "lucene", stopwords: str = "english", stemmer: str = "none") -> None:
        for value, known, key in (
            (variant, VARIANTS, "bm25_variant"),
            (stopwords, STOPWORDS, "stopwords"),
            (stemmer, STEMMERS, "stemmer"),
        ):
            if value not in known:
                raise InputError(f"{key}={value!r} is unknown; choose from {', '.join(known)}.{nearest(value, known)}")
        self.lower = variant != "released"
        self.find = (WORD if self.lower else RELEASED_TOKEN).findall
        self.stop = _load_stopwords(variant, stopwords)
        self.stem = _load_stemmer(stemmer)
        self.name = f"{variant}-{stopwords}-{stemmer}"

    def __call__(self, text: str) -> list[str]:
        """Return the terms of `text`, in order, repeats kept."""
        words = self.find(text.lower() if self.lower else text)
        words = [w for w in words if w not in self.stop]
        return self.stem(words) if self.stem else words


def _load_stopwords(variant: str, stopwords: str) -> frozenset[str]:
    """Return the stop words as a set."""
    if stopwords == "none":
        return frozenset()
    from bm25s.stopwords import STOPWORDS_EN, STOPWORDS_EN_PLUS  # heavy

    return frozenset(STOPWORDS_EN_PLUS if variant == "released" else STOPWORDS_EN)


def _load_stemmer(stemmer: str) -> Callable[[list[str]], list[str]] | None:
    """Return a function over a list of words, or None."""
    if stemmer == "none":
        return None
    require("stemmer=english", "Stemmer", instead=", or use --stemmer=none")
    import Stemmer  # an extra

    return Stemmer.Stemmer(stemmer).stemWords


class BM25Index:
    """A pool's BM25 index: one score a (term, item), summed over a query's terms (a repeated term counts again).

    Args:
        variant: `lucene` (default), `robertson`, `atire`, or `released`.
        k1, b: term saturation and length normalisation.
        stopwords, stemmer: see Analyser.

    `released` differs from textbook BM25 as the papers' script does: case is kept, the document length is replaced
    by the corpus size for every item, and a negative IDF becomes a quarter of the mean IDF. It differs from the
    script in two things: the tokeniser is a regular expression in place of NLTK, and the stop words are bm25s's
    long English list.
    """

    def __init__(
        self, variant: str = "lucene", k1: float = 1.5, b: float = 0.75,
        stopwords: str = "english", stemmer: str = "none",
    ) -> None:  # fmt: skip
        if not 0 <= k1 < math.inf or not 0 <= b <= 1:
            raise InputError(f"k1={k1}, b={b}: k1 is at least 0 and b from 0 to 1")
        self.variant, self.k1, self.b = variant, k1, b
        self.analyser = Analyser(variant, stopwords, stemmer)
        self.n_items = 0
        self.vocab: dict[str, int] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """What the scores depend on besides the pool."""
        return {"variant": self.variant, "k1": self.k1, "b": self.b, "analyser": self.analyser.name}

    def build(self, texts: Sequence[str], progress: bool = True) -> BM25Index:
        """Index the pool's texts, in pool order. An item without terms is indexed and never found."""
        require("retriever=bm25", "bm25s")
        import bm25s  # heavy

        rows = self._count(texts, progress)
        if not self.vocab:
            raise InputError("no item text holds a single word of two letters; there is nothing to search")
        self.n_items = len(rows)
        if self.variant == "released":
            self.data, self.indices, self.indptr = _build_released(rows, len(self.vocab), self.k1, self.b)
            return self
        bm25 = bm25s.BM25(k1=self.k1, b=self.b, method=self.variant)
        bm25.index((rows, dict(self.vocab)), create_empty_token=False, show_progress=progress)
        self.data, self.indices, self.indptr = (bm25.scores[key] for key in ("data", "indices", "indptr"))
        return self

    def _count(self, texts: Sequence[str], progress: bool) -> list[array[int]]:
        """Return each text's term numbers; fills the vocabulary."""
        vocab, rows = self.vocab, []
        for text in tqdm(texts, desc="terms", unit="item", disable=not progress):
            rows.append(array("i", [vocab.setdefault(term, len(vocab)) for term in self.analyser(text)]))
        return rows

    def term_numbers(self, text: str) -> list[int]:
        """Return the query's known terms as numbers (repeats kept)."""
        return [self.vocab[term] for term in self.analyser(text) if term in self.vocab]

    def scores(self, text: str) -> np.ndarray:
        """Score every item for one query: (N,) float32; 0 = no term in common."""
        scores = np.zeros(self.n_items, dtype=np.float32)
        for term in self.term_numbers(text):
            span = slice(self.indptr[term], self.indptr[term + 1])
            scores[self.indices[span]] += self.data[span]  # an item occurs once in a term's list
        return scores

    def search(
        self, texts: Sequence[str], k: int, progress: bool = True, threads: int = 2
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rank the pool for each query.

        Args:
            texts: queries.
            k: depth.
            threads: queries ranked at once; each holds one score a pool item.

        Returns:
            positions (n, k) int64, scores (n, k) float32. Items without a common term are not ranked: -1, -inf.
        """
        positions, values = empty_ranking(len(texts), k)

        def one(text: str) -> tuple[np.ndarray, np.ndarray]:
            scores = self.scores(text)
            return top_k(scores, k, floor=0.0)

        with ThreadPoolExecutor(threads) as workers:
            ranked = workers.map(one, texts)
            for i, (best, score) in enumerate(
                tqdm(ranked, total=len(texts), desc="BM25", unit="query", disable=not progress)
            ):
                positions[i, : len(best)], values[i, : len(best)] = best, score
        return positions, values


def _build_released(
    rows: Sequence[array[int]], n_terms: int, k1: float, b: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Build the released script's scores as a term-major matrix (data, indices, indptr)."""
    from scipy import sparse  # heavy

    n = len(rows)
    lengths = np.fromiter((len(r) for r in rows), dtype=np.int64, count=n)
    terms = np.frombuffer(b"".join(r.tobytes() for r in rows), dtype=np.intc)
    items = np.repeat(np.arange(n, dtype=np.int32), lengths)
    counts = sparse.csc_matrix((np.ones(len(terms)), (items, terms)), shape=(n, n_terms))  # repeats are summed
    counts.sort_indices()
    df = np.diff(counts.indptr)
    idf = np.log(n - df + 0.5) - np.log(df + 0.5)
    idf = np.where(idf >= 0, idf, IDF_FLOOR * idf.mean())
    length_term = k1 * (1 - b + b * n / lengths.mean())  # the corpus size where the item's length belongs
    tf = counts.data
    data = np.repeat(idf, df) * tf * (k1 + 1) / (tf + length_term)
    return data.astype(np.float32), counts.indices, counts.indptr

"""The lexical encoder `tfidf-svd`: TF-IDF of words, reduced by a seeded randomised SVD.

It needs no download and no GPU. It is fitted on the catalogue's own texts, so its vectors belong to that
catalogue alone; new items are projected with the same fit (`transform`).
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_blair.errors import InputError
from recbole_blair.schema import TFIDF_SVD

if TYPE_CHECKING:
    from scipy.sparse import spmatrix

WIDTH = 256
MAX_TERMS = 50_000  # the most frequent words; the rest cost time and memory and are mostly part numbers
SEED = 0
N_ITER = 4  # power iterations of the randomised SVD
TERM = r"(?u)\b\w\w+\b"
SMALL_CATALOGUE = 100  # below this many texts words of a single text are kept


class LexicalEncoder:
    """TF-IDF + truncated SVD, fitted on the texts it encodes.

    X ≈ U S Vᵀ; a row is that of U √S, scaled to length √width. The root damps the few directions that are the
    category's common words (finding a user's next item by cosine on real Electronics rows: recall@200 .128,
    with U S .125). The length makes an entry's root mean square 1, the size of layer-normalised states, which the
    recommenders' learning rates expect; the length a row had says only how much of a text was kept.
    Word pairs gave no better recall and cost five times the terms. Same texts, same versions and thread count:
    same bytes.

    Args:
        width: most directions kept. A catalogue of n items and m terms gives min(width, n - 1, m - 1),
            at least 1, so a tiny one has narrow features.
        name: its part in file names.

    Source: Deerwester et al. 1990 (latent semantic analysis); Halko et al. 2011, algorithm 4.4 (randomised
    SVD). Different on purpose: √S for S, and rows of one length.
    """

    pooling = "none"
    max_length = None
    precision = "fp32"
    device_type = "cpu"
    batch_tokens = None
    libraries = ("scikit-learn",)

    def __init__(self, width: int = WIDTH, name: str = TFIDF_SVD) -> None:
        self.max_width, self.name = width, name
        self.width: int | None = None
        self.zero_rows: int | None = None

    def description(self) -> dict[str, Any]:
        """Header fields; `width` and `zero_rows`, the texts without a known word, are None before the fit."""
        return {
            "encoder": self.name,
            "kind": "lexical",
            "width": self.width,
            "pooling": self.pooling,
            "max_length": self.max_length,
            "precision": self.precision,
            "fit": {"terms": MAX_TERMS, "max_width": self.max_width, "seed": SEED, "n_iter": N_ITER},
            "zero_rows": self.zero_rows,
        }

    def fit(self, texts: Sequence[str]) -> LexicalEncoder:
        """Learn words and directions from a catalogue; returns self.

        Raises:
            InputError: no text holds a word.
        """
        self._fit(texts)
        return self

    def transform(self, texts: Sequence[str]) -> np.ndarray:
        """Project texts with the fit.

        Returns:
            (n, width) float32, rows of length √width; a text without a known word is a zero row.
        """
        return self._scale(self._vectoriser.transform(texts) @ self._directions)

    def encode(
        self, texts: Sequence[str], *, batch_tokens: int | None = None, progress: bool = True, normalise: bool = False
    ) -> np.ndarray:
        """Fit on `texts` and return their vectors; see `TransformerEncoder.encode`."""
        vectors = self._scale(self._fit(texts))
        self.zero_rows = int((~vectors.any(axis=1)).sum())
        if normalise:
            vectors /= np.float32(np.sqrt(vectors.shape[1]))
        return vectors

    def encode_queries(self, texts: Sequence[str], progress: bool = True) -> np.ndarray:
        """Project search queries with the fit of the catalogue."""
        return self.transform(texts)

    def plan(self, texts: Sequence[str], batch_tokens: int | None = None) -> list[np.ndarray]:
        """One chunk: the fit needs every text."""
        return [np.arange(len(texts))] if len(texts) else []

    def encode_chunks(
        self, texts: Sequence[str], *, batch_tokens: int | None = None, done: Container[int] = ()
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield (0, all rows, their vectors), unless chunk 0 is done."""
        for number, rows in enumerate(self.plan(texts)):
            if number not in done:
                yield number, rows, self.encode(texts)

    def _fit(self, texts: Sequence[str]) -> np.ndarray:
        """Fit vectoriser and SVD; return the rows of U S (n, width)."""
        # heavy: scikit-learn
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.utils.extmath import randomized_svd

        self._vectoriser = TfidfVectorizer(
            token_pattern=TERM,
            sublinear_tf=True,
            min_df=1 if len(texts) < SMALL_CATALOGUE else 2,
            max_features=MAX_TERMS,
            dtype=np.float32,
        )
        try:
            weights = self._vectoriser.fit_transform(texts)  # (n, terms) sparse
        except ValueError as error:
            raise InputError(
                f"{TFIDF_SVD} found no usable word in {len(texts)} item texts ({error}); the text column of the "
                ".item file should hold titles and descriptions"
            ) from None
        self.width = max(1, min(self.max_width, weights.shape[0] - 1, weights.shape[1] - 1))
        left, self._singular, right = randomized_svd(
            weights, self.width, n_iter=N_ITER, random_state=SEED, flip_sign=True
        )
        self._directions = right.T  # (terms, width)
        return left * self._singular

    def _scale(self, rows: np.ndarray | spmatrix) -> np.ndarray:
        """Turn rows of U S into rows of U √S of length √width; zero rows stay zero."""
        singular = self._singular
        kept = singular > 1e-5 * singular[0]  # the others are rounding: fewer distinct texts than directions
        damp = np.where(kept, 1 / np.sqrt(np.where(kept, singular, 1)), 0)
        rows = np.asarray(rows, dtype=np.float32) * damp.astype(np.float32)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        found = norms > 1e-6
        return np.where(found, rows * (np.sqrt(rows.shape[1]) / np.where(found, norms, 1)), 0).astype(np.float32)

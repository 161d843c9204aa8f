"""Whether vectors stand in the order that is claimed for them: items with like titles must have like vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recbole_blair.errors import InputError

SAMPLE = 2000  # items that are compared
PER_BLOCK, BLOCKS = 50, 20  # comparisons per stretch of rows at least; stretches at most
LEAST_ALIKE = 0.2  # cosine of two titles that have words in common
# Share of items whose vector is nearer to that of the item with the most alike title than to that of a random item.
# Real titles with MiniLM's vectors: .93 to .99 in the right order; .5 in any other, with 50 comparisons above .75 once
# in 10,000 times.
LEAST_SHARE = 0.75


def check_row_order(texts: Sequence[str], vectors: np.ndarray, source: str) -> None:
    """Refuse vectors whose rows are not those of the texts, in any stretch of the rows.

    Args:
        texts: n texts, in the order that is claimed.
        vectors: (n, D) floating.
        source: names the vectors in a message.

    Raises:
        InputError: too few like texts to tell, or a stretch of rows that does not fit.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # heavy

    rows = np.unique(np.linspace(0, len(texts) - 1, min(len(texts), SAMPLE)).astype(int))  # (S,)
    try:
        words = TfidfVectorizer().fit_transform([texts[row] for row in rows])  # (S, W), rows of length 1
    except ValueError:  # no words
        raise _cannot_tell(source, 0) from None
    alike = (words @ words.T).toarray()  # (S, S) cosines
    np.fill_diagonal(alike, 0)
    nearest, compared = alike.argmax(axis=1), np.flatnonzero(alike.max(axis=1) >= LEAST_ALIKE)
    if len(compared) < PER_BLOCK:
        raise _cannot_tell(source, len(compared))
    other = np.random.default_rng(0).integers(0, len(rows), len(rows))
    own = np.asarray(vectors[rows], np.float64)  # (S, D)
    own -= own.mean(axis=0)  # what all vectors share says nothing
    own /= np.maximum(np.linalg.norm(own, axis=1, keepdims=True), 1e-12)
    nearer = (own * own[nearest]).sum(axis=1) > (own * own[other]).sum(axis=1)  # (S,)
    for block in np.array_split(compared, min(BLOCKS, len(compared) // PER_BLOCK)):
        share = nearer[block].mean()
        if share < LEAST_SHARE:
            raise InputError(
                f"the rows of {source} are not those of the build's items in the order of their ids: from row "
                f"{rows[block[0]]} to {rows[block[-1]]} {share:.0%} of the items are nearer to the item with the most "
                "alike title than to a random one (50% is chance); give the vectors with their ids (.npz, .parquet)"
            )


def _cannot_tell(source: str, found: int) -> InputError:
    """Return the refusal of vectors whose order no title confirms."""
    return InputError(
        f"the order of the rows of {source} cannot be checked: {found} items have titles alike, {PER_BLOCK} are "
        "needed; give the vectors with their ids (.npz, .parquet)"
    )

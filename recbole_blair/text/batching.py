"""Chunks and batches for encoding: texts of like lengths together, a budget of tokens per batch.

Texts are ordered by their characters (known at once), cut into chunks, and only inside a chunk by their
tokens. So tokenising overlaps with the model, a chunk is a unit to write down and to resume at, and the plan
depends on the texts and the settings alone: a resumed run forms the batches that an uninterrupted one would.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CHARS_PER_TOKEN = 4  # English with a 30k vocabulary; only the size of a chunk hangs on it
BATCHES_PER_CHUNK = 16  # a chunk is about this many full batches
BATCH_COST = 1 / 32  # what one more batch costs beside its tokens, in full batches; measured on a CPU


def plan_chunks(texts: Sequence[str], max_length: int, batch_tokens: int) -> list[np.ndarray]:
    """Cut texts into chunks of like lengths, longest first.

    Args:
        texts: n texts.
        max_length: tokens that are kept of a text.
        batch_tokens: token budget of a batch.

    Returns:
        int64 positions into `texts`, one array per chunk; together each position once. Empty for no texts.
    """
    if not len(texts):
        return []
    chars = np.fromiter((len(text) for text in texts), np.int64, len(texts))
    order = np.argsort(-chars, kind="stable")
    tokens = np.minimum(chars[order] // CHARS_PER_TOKEN + 2, max_length)
    chunk = np.cumsum(tokens) // (batch_tokens * BATCHES_PER_CHUNK)
    starts = np.flatnonzero(np.diff(chunk)) + 1
    return np.split(order, starts)


def plan_batches(lengths: np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    """Cut a chunk into batches whose padded size (texts × longest) stays within the budget.

    A batch ends early where that saves more padding than one more batch costs.

    Args:
        lengths: (n,) int64 tokens of each text, at least 1.
        batch_tokens: budget; a single longer text is a batch of its own.

    Returns:
        positions into `lengths`, one array per batch, longest first, ties in their order.
    """
    order = np.argsort(-lengths, kind="stable")
    ordered, batches, start = lengths[order], [], 0
    while start < len(order):
        end = min(len(order), start + max(1, batch_tokens // int(ordered[start])))
        saved = (ordered[start] - ordered[start:end]) * (end - np.arange(start, end))  # by a cut before each text
        cut = int(saved.argmax())
        if saved[cut] > BATCH_COST * batch_tokens:
            end = start + cut
        batches.append(order[start:end])
        start = end
    return batches


def pad_batch(token_ids: Sequence[Sequence[int]], lengths: np.ndarray, pad_id: int) -> np.ndarray:
    """Right-pad one batch.

    Args:
        token_ids: B token lists.
        lengths: (B,) their lengths.
        pad_id: what fills the rest.

    Returns:
        (B, T) int64, T = the longest.
    """
    out = np.full((len(token_ids), int(lengths.max())), pad_id, dtype=np.int64)
    own = np.arange(out.shape[1]) < lengths[:, None]  # (B, T)
    out[own] = np.concatenate([np.asarray(ids, dtype=np.int64) for ids in token_ids])
    return out

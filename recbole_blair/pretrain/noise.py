"""Noise for the backbone's own objective: masked tokens (BERT, RoBERTa) or dropped spans (T5).

Which tokens are hidden is a function of the seed, the step, the pair and the position alone, not of a generator's
state: it is the same however pairs are spread over devices and chunks, and after a resume.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

IGNORE = -100  # label of a token that is not predicted, as in transformers
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, the increment of splitmix64
_MIX_A, _MIX_B = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # splitmix64's multipliers
SPAN_DENOISING_SHARE, MEAN_SPAN = 0.15, 3.0  # arXiv:1910.10683, section 3.3.4


def _signed(value: int) -> int:
    """Return a 64-bit unsigned integer as the int64 of the same bits."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """Scramble int64 values; splitmix64's output function."""
    x = (x ^ _shift(x, 30)) * _signed(_MIX_A)
    x = (x ^ _shift(x, 27)) * _signed(_MIX_B)
    return x ^ _shift(x, 31)


def counter_uniform(seed: int, step: int, rows: Tensor, width: int, stream: int) -> Tensor:
    """Return numbers in [0, 1) that depend on (seed, step, row, position, stream) alone.

    Args:
        seed, step (int), stream (int): counters; streams are independent draws at one place.
        rows (n,) int64: each text's own number.
        width: positions.

    Returns:
        Tensor: (n, width) float64 on the device of `rows`.
    """
    start = torch.tensor(_signed(seed * _GOLDEN + stream), dtype=torch.int64, device=rows.device)
    start = _mix(_mix(start) + step)
    key = _mix(start ^ _mix(rows + _signed(_GOLDEN)))  # (n,)
    position = torch.arange(1, width + 1, dtype=torch.int64, device=rows.device)
    bits = _mix(key[:, None] + position * _signed(_GOLDEN))  # (n, width)
    return _shift(bits, 11).double() * 2.0**-53


def mask_tokens(
    ids: Tensor, maskable: Tensor, draw: Callable[[int], Tensor], mask_id: int, vocab_size: int, share: float
) -> tuple[Tensor, Tensor]:
    """Hide a share of the tokens: 80 % become the mask token, 10 % a random token, 10 % stay.

    Args:
        ids (n, T) int64: token ids.
        maskable (n, T) bool: False for special tokens and padding.
        draw: `draw(stream)` gives (n, T) numbers in [0, 1).
        mask_id, vocab_size (int): the tokenizer's.
        share: of the maskable tokens, in expectation.

    Returns:
        (Tensor, Tensor): noisy ids (n, T), labels (n, T) with `IGNORE` where nothing is predicted.

    Source: arXiv:1810.04805, section 3.1.
    """
    chosen = (draw(0) < share) & maskable
    kind = draw(1)
    random_ids = (draw(2) * vocab_size).long()
    noisy = torch.where(chosen & (kind < 0.8), torch.full_like(ids, mask_id), ids)
    noisy = torch.where(chosen & (kind >= 0.9), random_ids, noisy)
    return noisy, torch.where(chosen, ids, torch.full_like(ids, IGNORE))


def split_randomly(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Cut `total` into `parts` lengths of at least 1 that add up to it, every way equally likely."""
    cuts = np.sort(rng.permutation(total - 1)[: parts - 1]) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


def drop_spans(
    tokens: Sequence[int],
    sentinels: Sequence[int],
    end_id: int,
    rng: np.random.Generator,
    share: float = SPAN_DENOISING_SHARE,
    mean_span: float = MEAN_SPAN,
) -> tuple[list[int], list[int]]:
    """Replace spans by sentinels; the target lists each sentinel with what it stands for.

    Args:
        tokens: a text without its end token, at least 2 tokens.
        sentinels: ids of `<extra_id_0>`, `<extra_id_1>`, …
        end_id: the end token.
        rng: draws the spans.
        share, mean_span (float): of the tokens, and tokens a span.

    Returns:
        (list[int], list[int]): noisy input and target, both closed by the end token.

    Source: arXiv:1910.10683, section 3.1.4.
    """
    n = len(tokens)
    hidden = min(max(round(n * share), 1), n - 1)
    spans = min(max(round(hidden / mean_span), 1), n - hidden, len(sentinels))
    hidden_lengths = split_randomly(hidden, spans, rng)
    kept_lengths = split_randomly(n - hidden, spans, rng)
    noisy, target, at = [], [], 0
    for sentinel, kept, dropped in zip(sentinels, kept_lengths, hidden_lengths):
        noisy += [*tokens[at : at + kept], sentinel]
        target += [sentinel, *tokens[at + kept : at + kept + dropped]]
        at += kept + dropped
    return [*noisy, end_id], [*target, end_id]

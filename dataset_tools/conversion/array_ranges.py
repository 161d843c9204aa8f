"""Arrays of equal values that stand together, and of ranges of positions."""

from __future__ import annotations

import numpy as np


def mark_changes(values: np.ndarray) -> np.ndarray:
    """Return where a value (n,) differs from the one before, (n,) bool; the first one does."""
    return np.append(True, values[1:] != values[:-1])[: len(values)]


def flatten_ranges(start: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions start, start + 1, … of every range (ranges,) in one array, and where each range is in it.

    Returns:
        offsets, flat: (ranges + 1,) int64, range i is `flat[offsets[i] : offsets[i + 1]]`; (sum of length,) int64.
    """
    offsets = np.zeros(len(start) + 1, np.int64)
    np.cumsum(length, out=offsets[1:])
    flat = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], length)
    return offsets, flat

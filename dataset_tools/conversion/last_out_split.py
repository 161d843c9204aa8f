"""The split of the last-out protocol: a user's last event is test, the one before it validation, the others train."""

from __future__ import annotations

import numpy as np

from recbole_blair.schema import SPLITS


def split_last_out(user: np.ndarray, _: np.ndarray) -> np.ndarray:
    """Return the split (n,) int8 of each event of whole users (n,); `user` ascends, events are in time order."""
    next_user = np.append(user[1:], -1)
    last = user != next_user
    before_last = np.append(last[1:], False) & ~last
    return np.where(last, SPLITS.index("test"), np.where(before_last, SPLITS.index("valid"), 0)).astype(np.int8)

"""Of a user's events with the same item the earliest is kept, unless repeats are; whole users are split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from dataset_tools.conversion.event_order import UserEvents
from dataset_tools.conversion.inter_rows import SplitEvents


class EventStream:
    """The events of all users with two or more, users by their first event, then by time, then by line.

    Args:
        batches: see `dataset_tools.conversion.event_order`.
        split: maps (user, time_ms) of whole users to split numbers.
        n_items: bound of the item indices.
        keep_repeats: keep a user's later events with an item.
    """

    def __init__(
        self, batches: Iterable[UserEvents], split: Callable[[np.ndarray, np.ndarray], np.ndarray], n_items: int,
        keep_repeats: bool = False,
    ) -> None:  # fmt: skip
        self.repeats = 0  # events left out because the user had the item before
        self._batches, self._split, self._n_items, self._keep_repeats = batches, split, n_items, keep_repeats

    def __iter__(self) -> Iterator[SplitEvents]:
        for names, user, item, time_ms in self._batches:
            if not self._keep_repeats:
                kept = find_first_of_pairs(user, item, self._n_items)
                self.repeats += len(kept) - int(np.count_nonzero(kept))
                user, item, time_ms = user[kept], item[kept], time_ms[kept]
            yield SplitEvents(names, user, item, time_ms, self._split(user, time_ms))


def find_first_of_pairs(user: np.ndarray, item: np.ndarray, n_items: int) -> np.ndarray:
    """Return which events (n,) are a user's first with an item, (n,) bool; `item` is below `n_items`."""
    key = user * n_items + item
    order = np.argsort(key, kind="stable")
    key, kept = key[order], np.ones(len(key), bool)
    kept[order[1:][key[1:] == key[:-1]]] = False
    return kept

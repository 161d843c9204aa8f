"""From sorted events to deduplicated, cut events of whole users."""

import numpy as np

from dataset_tools.conversion.rows import Events
from recbole_blair.schema import SPLITS


def cut_by_time(valid_start_ms, test_start_ms):
    """Return a function from (user, time_ms) to the split of each event; an instant belongs to the later part."""

    def cut(_, time_ms):
        return (time_ms >= valid_start_ms).astype(np.int8) + (time_ms >= test_start_ms).astype(np.int8)

    return cut


def cut_last_out(user, _):
    """Return the split of each event of whole users: the last is test, the one before valid."""
    next_user = np.append(user[1:], -1)
    last = user != next_user
    before_last = np.append(last[1:], False) & ~last
    return np.where(last, SPLITS.index("test"), np.where(before_last, SPLITS.index("valid"), 0)).astype(np.int8)


class EventStream:
    """The events of all users with two or more, users by their first event, then by time, then by line.

    Args:
        runs (iterable of Run): see `dataset_tools.conversion.users`.
        cut (callable): (user, time_ms) of whole users to split numbers.
        n_items (int): bound of the item indices.
    """

    def __init__(self, runs, cut, n_items):
        self.repeats = 0  # events left out because the user had the item before
        self._runs, self._cut, self._n_items = runs, cut, n_items

    def __iter__(self):
        for run in self._runs:
            kept = first_of_pairs(run.user, run.item, self._n_items)
            self.repeats += len(run.user) - int(np.count_nonzero(kept))
            user, item, time_ms = (
                (run.user, run.item, run.time_ms) if kept.all() else (run.user[kept], run.item[kept], run.time_ms[kept])
            )
            yield Events(run.names, user, item, time_ms, self._cut(user, time_ms))


def first_of_pairs(user, item, n_items):
    """Tell which events (n,) are a user's first with an item; `item` is below `n_items`."""
    key = user * n_items + item
    order = np.argsort(key, kind="stable")
    key, kept = key[order], np.ones(len(key), bool)
    kept[order[1:][key[1:] == key[:-1]]] = False
    return kept

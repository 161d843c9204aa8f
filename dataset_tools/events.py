"""From the temporary database to sorted, deduplicated, cut events of whole users, in bounded memory."""

import numpy as np
import pyarrow as pa

from dataset_tools.rows import Events, drop_repeats
from recbole_blair.schema import SPLITS

ROWS_PER_BATCH = 61_440  # half a DuckDB row group: rows with full histories then take some 80 MB as text


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

    Needs the tables `event` (user_id, item, ts, tie) and `owner` (user_id, u: dense rank of the user's first event).

    Args:
        duck (Duck): session.
        cut (callable): (user, time_ms) of whole users to split numbers.
        n_items (int): bound of the item indices.
    """

    def __init__(self, duck, cut, n_items):
        self.repeats = 0  # events left out because the user had the item before
        self._duck, self._cut, self._n_items = duck, cut, n_items

    def __iter__(self):
        names = _Names(self._duck)
        for user, item, time_ms in whole_users(self._sorted()):
            events = Events(user, names.of(user), item, time_ms, np.zeros(len(user), np.int8))
            kept = drop_repeats(events, self._n_items)
            self.repeats += len(user) - len(kept.user)
            yield kept._replace(split=self._cut(kept.user, kept.time_ms))

    def _sorted(self):
        sql = "SELECT u, item, ts FROM event JOIN owner USING (user_id) ORDER BY u, ts, tie"
        for batch in self._duck.batches(sql, ROWS_PER_BATCH):
            user, item, time_ms = (column.to_numpy().astype(np.int64) for column in batch.columns)
            yield user, item, time_ms


def whole_users(batches):
    """Cut batches of (user, item, time_ms) anew so that no user is in two; equal users must be together."""
    held: tuple = ()
    for batch in batches:
        columns = tuple(np.concatenate(pair) for pair in zip(held, batch)) if held else batch
        user = columns[0]
        begin = len(user) - int(np.searchsorted(user[::-1] != user[-1], True)) if len(user) else 0
        if begin:
            yield tuple(column[:begin] for column in columns)
        held = tuple(column[begin:] for column in columns)
    if held and len(held[0]):
        yield held


class _Names:
    """Hands out user ids by rank; ranks are asked for in ascending order, so few ids are held at a time."""

    def __init__(self, duck):
        self._batches = duck.batches("SELECT user_id FROM owner ORDER BY u", ROWS_PER_BATCH, own_connection=True)
        self._first = 1  # rank of the first id held
        self._held = pa.array([], pa.string())

    def of(self, user):
        """Return the ids of events (n,) whose ranks ascend."""
        self._held = self._held.slice(int(user[0]) - self._first)
        self._first = int(user[0])
        parts, last = [self._held], self._first + len(self._held) - 1
        while last < user[-1]:
            part = next(self._batches).column(0)
            parts.append(part)
            last += len(part)
        self._held = pa.concat_arrays(parts)
        return self._held.take(pa.array(user - self._first))

"""The order of events: users by their first event, a user's events by time, equal times by their line in the file.

The line number (`tie`) makes the order total, so that the same input gives the same bytes. Events that fit the memory
NumPy sorts; of others DuckDB sorts those of users with two or more, and spills to disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from dataset_tools.conversion.array_ranges import flatten_ranges
from dataset_tools.conversion.user_events import (
    EVENT_SCHEMA,
    NO_ROW,
    Users,
    count_parts,
    group_users,
)
from dataset_tools.storage.arrow import to_arrow, to_numpy

if TYPE_CHECKING:
    from dataset_tools.storage.duckdb_session import DuckDBSession
    from dataset_tools.storage.spill_buffer import SpillBuffer

ROWS_PER_BATCH = 61_440  # half a DuckDB row group: rows with full histories then take some 80 MB as text


class UserEvents(NamedTuple):
    """Events of whole users in the final order."""

    names: pa.StringArray  # (users,) ids, in order
    user: np.ndarray  # (n,) int64 index into `names`, ascending
    item: np.ndarray  # (n,) int64
    time_ms: np.ndarray  # (n,) int64


def order_events(session: DuckDBSession, events: SpillBuffer, label: str | None = None) -> Iterator[UserEvents]:
    """Return batches of the events of users with two or more, in the final order; they can be read once.

    Args:
        session: DuckDB session.
        events: from `event_buffer`; those whose item is `NO_ROW` are left out.
        label: of the progress bar; None draws none.
    """
    if not events.in_table:
        table = pa.Table.from_batches(events.pop_batches(), EVENT_SCHEMA)
        users = group_users(table)
        return sort_in_memory(users, *_columns_at(table, users.position))
    parts = count_parts(events.rows, session.memory_bytes())
    for part in tqdm(range(parts), desc=label, unit="part", disable=label is None or not session.progress):
        store_part(session, read_part(session, events.name, part, parts), part == 0)
    return sort_in_duckdb(session)


def _columns_at(table: pa.Table, position: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return item, ts and tie of the events at `position`; in a table of all events the position is the tie."""
    item, ts = (to_numpy(table.column(name))[position] for name in ("item", "ts"))
    return item, ts, to_numpy(table.column("tie"))[position] if "tie" in table.column_names else position


def sort_in_memory(users: Users, item: np.ndarray, ts: np.ndarray, tie: np.ndarray) -> Iterator[UserEvents]:
    """Yield the events of the users; the users are sorted first, the events of a batch when it is due.

    The consumer's threads can thus work on the batch before.

    Args:
        users: from `group_users`.
        item, ts, tie: (n,) of their events, from `_columns_at`.
    """
    begin, n = users.begin, users.n
    if not len(begin):
        return
    order = sort_by_key(*find_first_events(ts, tie, begin, n))
    ends = np.cumsum(n[order])
    first = 0
    while first < len(order):
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + ROWS_PER_BATCH, "right")))
        mine = order[first:last]
        _, events = flatten_ranges(begin[mine], n[mine])
        user = np.repeat(np.arange(len(mine)), n[mine])
        events = events[sort_by_user_and_time(user, ts[events], tie[events])]
        yield UserEvents(users.names.take(to_arrow(mine)), user, item[events].astype(np.int64), ts[events])
        first = last


def find_first_events(
    ts: np.ndarray, tie: np.ndarray, begin: np.ndarray, n: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (users,) time and tie of the first event of each user, whose `n` events begin at `begin`."""
    first_ts = np.minimum.reduceat(ts, begin)
    at_first = np.where(ts == np.repeat(first_ts, n), tie, np.iinfo(np.int64).max)
    return first_ts, np.minimum.reduceat(at_first, begin)


def sort_by_user_and_time(user: np.ndarray, ts: np.ndarray, tie: np.ndarray) -> np.ndarray:
    """Return the order (n,) by (user, ts, tie).

    User and time are packed into one integer where they fit: the sort by three keys takes 10 % of a conversion.
    """
    begin, width = int(ts.min()), int(ts.max() - ts.min()).bit_length()
    if int(user.max()).bit_length() + width > 63:
        return np.lexsort((tie, ts, user))
    return sort_by_key(user << width | (ts - begin), tie)


def sort_by_key(key: np.ndarray, tie: np.ndarray) -> np.ndarray:
    """Return the order (n,) by (key, tie): a sort by the key, then one of the few events that share theirs."""
    order = np.argsort(key, kind="stable")  # much is in order already: faster than the default
    key = key[order]
    equal = key[1:] == key[:-1]
    tied = np.flatnonzero(np.append(equal, False) | np.append(False, equal))
    order[tied] = order[tied][np.lexsort((tie[order[tied]], key[tied]))]
    return order


def read_part(session: DuckDBSession, name: str, part: int, parts: int) -> pa.Table:
    """Return the events of one part of the users as an Arrow table, with `tie`, their position among all events."""
    sql = f"SELECT hash, user_id, item, ts, rowid AS tie FROM {name} WHERE hash % {parts} = {part} AND item <> {NO_ROW}"
    schema = EVENT_SCHEMA.append(pa.field("tie", pa.int64()))
    return pa.Table.from_batches([batch.cast(schema) for batch in session.batches(sql, ROWS_PER_BATCH)], schema)


def store_part(session: DuckDBSession, table: pa.Table, is_first_part: bool) -> None:
    """Put a part's events into table `gathered`; a user's id stands at its first event alone."""
    users = group_users(table)
    item, ts, tie = _columns_at(table, users.position)
    n = users.n
    first_ts, first_tie = (np.repeat(values, n) for values in find_first_events(ts, tie, users.begin, n))
    user = pa.array(np.repeat(np.arange(len(n)), n), mask=tie != first_tie)
    columns = {"item": item, "ts": ts, "tie": tie, "first_ts": first_ts, "first_tie": first_tie}
    session.con.register("part", pa.table({**columns, "user_id": users.names.take(user)}))
    start = "CREATE OR REPLACE TABLE gathered AS" if is_first_part else "INSERT INTO gathered"
    session.run(f"{start} SELECT * FROM part")
    session.con.unregister("part")


def sort_in_duckdb(session: DuckDBSession) -> Iterator[UserEvents]:
    """Yield the events of table `gathered`, sorted by DuckDB."""
    sql = "SELECT user_id, item, ts FROM gathered ORDER BY first_ts, first_tie, ts, tie"
    rest = None  # events of the last user of the batch before
    for batch in session.batches(sql, ROWS_PER_BATCH):
        if rest is not None:
            batch = pa.Table.from_batches([rest, batch]).combine_chunks().to_batches()[0]
        last = int(np.flatnonzero(batch.column("user_id").is_valid())[-1])  # its user may continue in the next batch
        if last:
            yield _to_user_events(batch[:last])
        rest = batch[last:]
    if rest is not None:
        yield _to_user_events(rest)


def _to_user_events(batch: pa.RecordBatch) -> UserEvents:
    """Turn an Arrow record batch of whole users into UserEvents."""
    users, item, ts = batch.columns
    user = np.cumsum(users.is_valid()) - 1
    return UserEvents(users.drop_null(), user, to_numpy(item).astype(np.int64), to_numpy(ts))

"""From the reviews' events to those of users who have two or more, users by first event, then by time and line.

Most users have one event and no row. Sorting 64-bit hashes tells them in a fraction of the time of a GROUP BY of
strings; where a hash is shared the strings decide. Events that fit the memory NumPy sorts; others are read in parts,
by the user's hash, and what is left of them DuckDB sorts, which spills to disk.
"""

import itertools
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataset_tools.conversion.rows import changes, flatten_ranges
from dataset_tools.storage.arrow import take_strings, to_arrow, to_numpy
from dataset_tools.storage.spill_buffer import Held

EVENT_BYTES = 160  # of memory for an event while its part is worked on
MOST_BYTES = 2 << 30  # for a part: this memory is used beside DuckDB's
MOST_TEXT = 1 << 30  # bytes of the events of a part: Arrow counts those of its strings in 32 bits
ROWS_PER_BATCH = 61_440  # half a DuckDB row group: rows with full histories then take some 80 MB as text
STRINGS_A_TIME = 1 << 17
NO_ROW = -1  # in place of the item, of an event that makes no row
EVENT_SCHEMA = pa.schema([("hash", pa.uint64()), ("user_id", pa.string()), ("item", pa.int32()), ("ts", pa.int64())])


class Run(NamedTuple):
    """Events of whole users in the final order."""

    names: pa.Array  # (users,) ids, in order
    user: np.ndarray  # (n,) int64 index into `names`, ascending
    item: np.ndarray  # (n,) int64
    time_ms: np.ndarray  # (n,) int64


def held_events(duck):
    """Return an empty Held for events: hash of the user, user_id, item, ts; ties of time go by their order."""
    return Held(duck, "event", EVENT_SCHEMA, min(duck.memory_bytes(), MOST_BYTES) // EVENT_BYTES, MOST_TEXT)


def user_runs(duck, events, label=None):
    """Return the Runs of the users with two events or more; they can be read once.

    Args:
        duck (Duck): session.
        events (Held): from `held_events`; those whose item is `NO_ROW` are left out.
        label (str | None): of the progress bar.
    """
    from tqdm import tqdm

    if not events.in_table:
        table = pa.Table.from_batches(events.pop_batches(), EVENT_SCHEMA)
        users = group_users(table)
        return sorted_runs(users, *columns_of(table, users.position))
    parts = parts_of(events.rows, duck.memory_bytes())
    for part in tqdm(range(parts), desc=label, unit="part", disable=label is None or not duck.progress):
        store_part(duck, read_part(duck, events.name, part, parts), part == 0)
    return stored_runs(duck)


def parts_of(events, memory_bytes):
    """Return the number of parts, a power of two, so that one of them takes no more than the memory."""
    parts = 2
    while events * EVENT_BYTES > parts * min(memory_bytes, MOST_BYTES):
        parts *= 2
    return parts


def read_part(duck, name, part, parts):
    """Return the events of one part of the users as an Arrow table, with `tie`, their place among all events."""
    sql = f"SELECT hash, user_id, item, ts, rowid AS tie FROM {name} WHERE hash % {parts} = {part} AND item <> {NO_ROW}"
    schema = EVENT_SCHEMA.append(pa.field("tie", pa.int64()))
    return pa.Table.from_batches([batch.cast(schema) for batch in duck.batches(sql, ROWS_PER_BATCH)], schema)


class Users(NamedTuple):
    """The users of a table of events who have two or more."""

    names: pa.Array  # (users,) ids
    position: np.ndarray  # (n,) places of their events in the table, users together
    begin: np.ndarray  # (users,) places in `position`

    @property
    def n(self):
        """Events of each user (users,)."""
        return np.diff(self.begin, append=len(self.position))


def group_users(table):
    """Find the events of users with two or more, users together.

    Args:
        table (pa.Table): events with the columns hash, user_id and item; those of `NO_ROW` stay out.

    Returns:
        Users: in no order of use.
    """
    bits = np.uint64(max(1, len(table) - 1).bit_length())  # of a key: the place; the others are the hash's
    place = (np.uint64(1) << bits) - np.uint64(1)
    key = keys_of(table, place)
    key.sort()
    same = (key[1:] ^ key[:-1]) <= place  # the hash as that of the one before
    key = key[(np.append(same, False) | np.append(False, same))[: len(key)]]
    position, key = (key & place).view(np.int64), key >> bits
    names, at = compact(table.column("user_id"), position)
    new_key, new_user = changes(key), changes_of_strings(names, at)
    separate(position, names, at, new_key, new_user)
    begin = np.flatnonzero(new_user)
    return keep_several(Users(take_strings(names, at[begin]), position, begin))


def keys_of(table, place):
    """Return the keys of the events that make a row: the hash, in its bits `place` the event's place in the table."""
    key, n = np.empty(len(table), np.uint64), 0
    item = to_numpy(table.column("item"))
    for chunk, first in chunks_of(table.column("hash")):
        last = first + len(chunk)
        one = to_numpy(chunk) & ~place | np.arange(first, last, dtype=np.uint64)
        one = one[item[first:last] != NO_ROW]
        key[n : n + len(one)] = one
        n += len(one)
    return key[:n]


def chunks_of(column):
    """Yield the arrays of a chunked one, each with the place of its first element."""
    first = 0
    for chunk in column.chunks:
        yield chunk, first
        first += len(chunk)


def compact(column, position):
    """Return those strings of a chunked array that are at `position` (n,) alone, in their order, and (n,) where.

    Fewer bytes to copy than all of them, and to search at random afterwards.
    """
    needed = np.zeros(len(column), bool)
    needed[position] = True
    at = (np.cumsum(needed, dtype=np.int32) - np.int32(1))[position]
    return column.filter(to_arrow(needed)).combine_chunks(), at


def changes_of_strings(strings, at):
    """Do the work of `changes` for strings of an Arrow array at `at` (n,), some at a time: they stay in the cache."""
    found = np.ones(len(at), bool)
    for start in range(0, len(at), STRINGS_A_TIME):
        some = take_strings(strings, at[start : start + STRINGS_A_TIME + 1])
        found[start + 1 : start + len(some)] = to_numpy(pc.not_equal(some[1:], some[:-1]))
    return found


def separate(position, names, at, new_key, new_user):
    """Put equal users together where a key has several, and mark anew where they begin.

    `position`, `at` (places in `names`) and `new_user` are changed.
    """
    shared = np.flatnonzero(new_user & ~new_key)
    if not len(shared):
        return
    begin = np.append(np.flatnonzero(new_key), len(position))
    for number in np.unique(np.searchsorted(begin, shared, "right") - 1):
        rows = slice(begin[number], begin[number + 1])
        users = names.take(to_arrow(at[rows])).to_pylist()
        order = sorted(range(len(users)), key=users.__getitem__)
        position[rows], at[rows] = position[rows][order], at[rows][order]
        new_user[rows] = [True, *(users[after] != users[before] for before, after in itertools.pairwise(order))]


def keep_several(users):
    """Drop users with one event."""
    n = users.n
    keep = n > 1
    if keep.all():
        return users
    n, names = n[keep], users.names.filter(to_arrow(keep))
    return Users(names, users.position[np.repeat(keep, users.n)], np.cumsum(n) - n)


def first_events(ts, tie, begin, n):
    """Return (users,) time and tie of the first event of each user, whose `n` events begin at `begin`."""
    first_ts = np.minimum.reduceat(ts, begin)
    at_first = np.where(ts == np.repeat(first_ts, n), tie, np.iinfo(np.int64).max)
    return first_ts, np.minimum.reduceat(at_first, begin)


def columns_of(table, position):
    """Return item, ts and tie of the events at `position`; a table that holds all events has no column for the last."""
    item, ts = (to_numpy(table.column(name))[position] for name in ("item", "ts"))
    return item, ts, to_numpy(table.column("tie"))[position] if "tie" in table.column_names else position


def sorted_runs(users, item, ts, tie):
    """Yield the Runs of users; they are sorted first, each Run's events when it is due.

    What takes the Runs can work beside it on the one before.

    Args:
        users (Users): from `group_users`.
        item, ts, tie (ndarray): (n,) of their events, from `columns_of`.
    """
    begin, n = users.begin, users.n
    if not len(begin):
        return
    order = order_by(*first_events(ts, tie, begin, n))
    ends = np.cumsum(n[order])
    first = 0
    while first < len(order):
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + ROWS_PER_BATCH, "right")))
        mine = order[first:last]
        _, events = flatten_ranges(begin[mine], n[mine])
        user = np.repeat(np.arange(len(mine)), n[mine])
        events = events[order_events(user, ts[events], tie[events])]
        yield Run(take_strings(users.names, mine), user, item[events].astype(np.int64), ts[events])
        first = last


def order_events(user, ts, tie):
    """Return the order by (user, ts, tie); the first two are packed into one integer where they fit."""
    begin, width = int(ts.min()), int(ts.max() - ts.min()).bit_length()
    if int(user.max()).bit_length() + width > 63:
        return np.lexsort((tie, ts, user))
    return order_by(user << width | (ts - begin), tie)


def order_by(key, tie):
    """Return the order by (key, tie): a sort by the key, then one of the few that share theirs."""
    order, key = sort_keys(key)
    equal = key[1:] == key[:-1]
    tied = np.flatnonzero(np.append(equal, False) | np.append(False, equal))
    order[tied] = order[tied][np.lexsort((tie[order[tied]], key[tied]))]
    return order


def sort_keys(key):
    """Return an order by the key, and the keys in it; packed with their places, where both fit, they sort sooner."""
    begin, bits = int(key.min()), (len(key) - 1).bit_length()
    if (int(key.max()) - begin).bit_length() + bits > 63:
        order = np.argsort(key, kind="stable")  # much is in order: sooner than the default
        return order, key[order]
    packed = (key - begin) << bits | np.arange(len(key))
    packed.sort()
    return packed & ((1 << bits) - 1), packed >> bits


def store_part(duck, table, is_first_part):
    """Put a part's events into table `gathered`; a user's id stands at its first event alone."""
    users = group_users(table)
    item, ts, tie = columns_of(table, users.position)
    n = users.n
    first_ts, first_tie = (np.repeat(values, n) for values in first_events(ts, tie, users.begin, n))
    user = pa.array(np.repeat(np.arange(len(n)), n), mask=tie != first_tie)
    columns = {"item": item, "ts": ts, "tie": tie, "first_ts": first_ts, "first_tie": first_tie}
    columns["user_id"] = users.names.take(user)
    duck.con.register("part", pa.table(columns))
    duck.run(f"{'CREATE OR REPLACE TABLE gathered AS' if is_first_part else 'INSERT INTO gathered'} SELECT * FROM part")
    duck.con.unregister("part")


def stored_runs(duck):
    """Yield the Runs of table `gathered`, sorted by DuckDB."""
    sql = "SELECT user_id, item, ts FROM gathered ORDER BY first_ts, first_tie, ts, tie"
    held = None
    for batch in duck.batches(sql, ROWS_PER_BATCH):
        if held is not None:
            batch = pa.Table.from_batches([held, batch]).combine_chunks().to_batches()[0]
        last = int(np.flatnonzero(batch.column("user_id").is_valid())[-1])  # its user may go on in the next batch
        if last:
            yield _run(batch[:last])
        held = batch[last:]
    if held is not None:
        yield _run(held)


def _run(batch):
    """Turn an Arrow record batch of whole users into a Run."""
    users, item, ts = batch.columns
    user = np.cumsum(users.is_valid()) - 1
    return Run(users.drop_null(), user, to_numpy(item).astype(np.int64), to_numpy(ts))

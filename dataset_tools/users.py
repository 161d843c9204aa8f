"""From the cleaned reviews to the events of users who have two or more, users by first event, then by time and line.

Most users have one event and no row. Sorting 64-bit hashes tells them in a fraction of the time of a GROUP BY of
strings; where a hash is shared the strings decide. Users are read in parts that fit the memory: with one part, NumPy
sorts all that is left; with several, DuckDB does, which spills to disk.
"""

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataset_tools.arrow import to_arrow, to_numpy, to_strings
from dataset_tools.cleaning import UNUSABLE_ID_PATTERN, UNUSABLE_ID_WORDS
from dataset_tools.rows import flatten_ranges, string_bytes

HASH = "hash(user_id)"
EVENT_BYTES = 160  # of memory for an event while its part is worked on
MOST_BYTES = 2 << 30  # for a part: this memory is used beside DuckDB's
ROWS_PER_BATCH = 61_440  # half a DuckDB row group: rows with full histories then take some 80 MB as text
_DELETE = 0x7F  # the one control character above the space
_WORD_BYTES = max(len(word) for word in UNUSABLE_ID_WORDS)
_SCHEMA = pa.schema(
    [("hash", pa.uint64()), ("user_id", pa.string()), ("item", pa.int32()), ("ts", pa.int64()), ("tie", pa.int64())]
)


class Run(NamedTuple):
    """Events of whole users in the final order."""

    names: pa.Array  # (users,) ids, in order
    user: np.ndarray  # (n,) int64 index into `names`, ascending
    item: np.ndarray  # (n,) int64
    time_ms: np.ndarray  # (n,) int64


class Gathered(NamedTuple):
    """What `gather_events` found."""

    usable: int  # events whose user id can be written, single ones included
    unusable: int  # the others
    runs: Iterable  # of Run: the users with two events or more


def gather_events(duck, events, label=None):
    """Gather and sort the events of users with two or more.

    Needs `event` (user_id, item, ts, tie); ties of time go by `tie`, which is unique. Events whose item is NULL are
    left out; table `without_item` holds their `tie`.

    Args:
        duck (Duck): session.
        events (int): at least the number of events.
        label (str | None): of the progress bar.

    Returns:
        Gathered: see there; its runs can be read once.
    """
    from tqdm import tqdm

    parts = parts_of(events, duck.memory_bytes())
    usable = unusable = 0
    duck.run("CREATE OR REPLACE TABLE without_item (tie BIGINT)")
    for part in tqdm(range(parts), desc=label, unit="part", disable=label is None or not duck.progress):
        table = read_part(duck, part, parts)
        matched = store_without_item(duck, table)
        table = drop_unusable(table)
        left = int(np.count_nonzero(has_item(table)))
        usable, unusable = usable + left, unusable + matched - left
        position, begin = group_users(table)
        if parts == 1:
            return Gathered(usable, unusable, sorted_runs(table, position, begin))
        store_part(duck, table, position, begin, part == 0)
    return Gathered(usable, unusable, stored_runs(duck))


def parts_of(events, memory_bytes):
    """Return the number of parts, a power of two, so that one of them takes no more than the memory."""
    parts = 1
    while events * EVENT_BYTES > parts * min(memory_bytes, MOST_BYTES):
        parts *= 2
    return parts


def read_part(duck, part, parts):
    """Return the events of one part of the users as an Arrow table, with the hash of the user; no item is -1."""
    where = f"WHERE {HASH} % {parts} = {part}" if parts > 1 else ""
    sql = f"SELECT {HASH} AS hash, user_id, coalesce(item, -1) AS item, ts, tie FROM event {where}"
    return pa.Table.from_batches([batch.cast(_SCHEMA) for batch in duck.batches(sql, ROWS_PER_BATCH)], _SCHEMA)


def has_item(table):
    """Tell which events have an item."""
    return to_numpy(table.column("item")) >= 0


def store_without_item(duck, table):
    """Add the events that have no item to table `without_item`; return the number of the others."""
    lost = np.flatnonzero(~has_item(table))
    if len(lost):
        duck.con.register("lost", pa.table([to_arrow(to_numpy(table.column("tie"))[lost])], ["tie"]))
        duck.run("INSERT INTO without_item SELECT tie FROM lost")
        duck.con.unregister("lost")
    return len(table) - len(lost)


def drop_unusable(table):
    """Leave out events whose user id cannot be written."""
    users = table.column("user_id")
    if not any(may_be_unusable(chunk) for chunk in users.chunks):
        return table
    words = pc.is_in(users, to_strings([word.encode() for word in UNUSABLE_ID_WORDS]))
    return table.filter(pc.invert(pc.or_(words, pc.match_substring_regex(users, UNUSABLE_ID_PATTERN))))


def may_be_unusable(ids):
    """Tell whether an id holds a byte that no id may, or is as short as a word that none may be."""
    data = np.frombuffer(string_bytes(ids), np.uint8)
    seldom = len(data) and (data.min() <= ord('"') or data.max() >= _DELETE)  # two fast passes spare five slow ones
    if seldom and ((data <= ord(" ")) | (data == ord('"')) | (data == _DELETE)).any():
        return True
    return len(ids) > 0 and pc.min(pc.binary_length(ids)).as_py() <= _WORD_BYTES


def group_users(table):
    """Find the events of users with two or more, users together.

    Args:
        table (pa.Table): events with the columns hash, user_id and item; those without an item stay out.

    Returns:
        position: (n,) places in the table; begin: (users,) places in `position`.
    """
    bits = np.uint64(max(1, len(table) - 1).bit_length())  # of a key: the place; the others are the hash's
    place = (np.uint64(1) << bits) - np.uint64(1)
    key = to_numpy(table.column("hash")) & ~place
    key |= np.arange(len(key), dtype=np.uint64)
    key = key[has_item(table)]
    key.sort()
    position, key = (key & place).astype(np.int64), key >> bits
    same = ~changes(key)
    several = same | np.append(same[1:], False)
    position, key = position[several], key[several]
    users = table.column("user_id").combine_chunks()
    names = users.take(to_arrow(position))
    new_key, new_user = changes(key), changes_of_strings(names)
    separate(position, names, new_key, new_user)
    return keep_several(position, np.flatnonzero(new_user))


def changes(values):
    """Tell where a value differs from the one before; the first does."""
    return np.append(True, values[1:] != values[:-1])[: len(values)]


def changes_of_strings(strings):
    """Do the work of `changes` for an Arrow array."""
    return np.append(True, to_numpy(pc.not_equal(strings[1:], strings[:-1])))[: len(strings)]


def separate(position, names, new_key, new_user):
    """Put equal users together where a key has several, and mark anew where they begin; both arrays are changed."""
    shared = np.flatnonzero(new_user & ~new_key)
    if not len(shared):
        return
    begin = np.append(np.flatnonzero(new_key), len(position))
    for number in np.unique(np.searchsorted(begin, shared, "right") - 1):
        rows = slice(begin[number], begin[number + 1])
        users = names[rows.start : rows.stop].to_pylist()
        order = sorted(range(len(users)), key=users.__getitem__)
        position[rows] = position[rows][order]
        new_user[rows] = [True, *(users[after] != users[before] for before, after in itertools.pairwise(order))]


def keep_several(position, begin):
    """Drop users with one event from what `group_users` returns."""
    n = np.diff(np.append(begin, len(position)))
    keep = n > 1
    if not keep.all():
        position, n = position[np.repeat(keep, n)], n[keep]
        begin = np.cumsum(n) - n
    return position, begin


def first_events(ts, tie, begin, n):
    """Return (users,) time and tie of the first event of each user, whose `n` events begin at `begin`."""
    first_ts = np.minimum.reduceat(ts, begin)
    at_first = np.where(ts == np.repeat(first_ts, n), tie, np.iinfo(np.int64).max)
    return first_ts, np.minimum.reduceat(at_first, begin)


def columns_of(table, position):
    """Return item, ts and tie of the events at `position`."""
    return (to_numpy(table.column(name))[position] for name in ("item", "ts", "tie"))


def sorted_runs(table, position, begin):
    """Yield the Runs of the events at `position` of a table; users are sorted first, each Run's events when it is due.

    What takes the Runs can work beside it on the one before.
    """
    if not len(begin):
        return
    n = np.diff(begin, append=len(position))
    item, ts, tie = columns_of(table, position)
    users = order_by(*first_events(ts, tie, begin, n))
    names = table.column("user_id").combine_chunks()
    del table  # its memory: the rows take some
    ends = np.cumsum(n[users])
    first = 0
    while first < len(users):
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + ROWS_PER_BATCH, "right")))
        mine = users[first:last]
        _, events = flatten_ranges(begin[mine], n[mine])
        user = np.repeat(np.arange(len(mine)), n[mine])
        events = events[order_events(user, ts[events], tie[events])]
        yield Run(names.take(to_arrow(position[begin[mine]])), user, item[events].astype(np.int64), ts[events])
        first = last


def order_events(user, ts, tie):
    """Return the order by (user, ts, tie); the first two are packed into one integer where they fit."""
    begin, width = int(ts.min()), int(ts.max() - ts.min()).bit_length()
    if int(user.max()).bit_length() + width > 63:
        return np.lexsort((tie, ts, user))
    return order_by(user << width | (ts - begin), tie)


def order_by(key, tie):
    """Return the order by (key, tie): a sort by the key, then one of the few that share theirs."""
    order = np.argsort(key, kind="stable")  # much is in order: sooner than the default
    key = key[order]
    equal = key[1:] == key[:-1]
    tied = np.flatnonzero(np.append(equal, False) | np.append(False, equal))
    order[tied] = order[tied][np.lexsort((tie[order[tied]], key[tied]))]
    return order


def store_part(duck, table, position, begin, is_first_part):
    """Put the events at `position` of a table into table `gathered`; a user's id stands at its first event alone."""
    item, ts, tie = columns_of(table, position)
    n = np.diff(begin, append=len(position))
    first_ts, first_tie = (np.repeat(values, n) for values in first_events(ts, tie, begin, n))
    place = pa.array(position, mask=tie != first_tie)
    names = table.column("user_id").combine_chunks().take(place)
    columns = {"item": item, "ts": ts, "tie": tie, "first_ts": first_ts, "first_tie": first_tie, "user_id": names}
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

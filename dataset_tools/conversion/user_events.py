"""The reviews' events, grouped by user; users with one event, who have no row, are dropped.

Most users have one event. Sorting 64-bit hashes finds the others in a fraction of the time of a GROUP BY of strings;
where two users share a hash the strings decide. Events that do not fit the memory are read in parts, by the hash.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataset_tools.conversion.array_ranges import mark_changes
from dataset_tools.storage.arrow import to_arrow, to_numpy
from dataset_tools.storage.spill_buffer import SpillBuffer

if TYPE_CHECKING:
    from dataset_tools.storage.duckdb_session import DuckDBSession

EVENT_BYTES = 160  # of memory per event while its part is worked on
MOST_BYTES = 2 << 30  # of memory per part, beside DuckDB's
MOST_TEXT = 1 << 30  # bytes of the events of a part: Arrow counts those of its strings in 32 bits
NO_ROW = -1  # in place of the item, of an event that makes no row
EVENT_SCHEMA = pa.schema([("hash", pa.uint64()), ("user_id", pa.string()), ("item", pa.int32()), ("ts", pa.int64())])


def event_buffer(session: DuckDBSession) -> SpillBuffer:
    """Return an empty buffer of `EVENT_SCHEMA`: hash of the user, user_id, item, ts; its order breaks ties of time."""
    most_rows = min(session.memory_bytes(), MOST_BYTES) // EVENT_BYTES
    return SpillBuffer(session, "event", EVENT_SCHEMA, most_rows, MOST_TEXT)


class Users(NamedTuple):
    """The users of a table of events who have two or more."""

    names: pa.StringArray  # (users,) ids
    position: np.ndarray  # (n,) positions of their events in the table, users together
    begin: np.ndarray  # (users,) where the events of each user begin in `position`

    @property
    def n(self) -> np.ndarray:
        """Events per user (users,)."""
        return np.diff(self.begin, append=len(self.position))


def group_users(table: pa.Table) -> Users:
    """Return the users with two events or more, in no particular order.

    Args:
        table: events with the columns hash, user_id and item; those of `NO_ROW` are left out.
    """
    # A key holds the event's position in its low bits and the hash in the others.
    bits = np.uint64(max(1, len(table) - 1).bit_length())
    position_mask = (np.uint64(1) << bits) - np.uint64(1)
    key = build_keys(table, position_mask)
    key.sort()
    same = (key[1:] ^ key[:-1]) <= position_mask  # the hash is that of the key before
    key = key[(np.append(same, False) | np.append(False, same))[: len(key)]]
    position, key = (key & position_mask).view(np.int64), key >> bits
    names, at = compact_strings(table.column("user_id"), position)
    new_key, new_user = mark_changes(key), mark_string_changes(names.take(to_arrow(at)))
    separate_users(position, names, at, new_key, new_user)
    begin = np.flatnonzero(new_user)
    return drop_single_events(Users(names.take(to_arrow(at[begin])), position, begin))


def mark_string_changes(strings: pa.StringArray) -> np.ndarray:
    """Return `mark_changes` of an Arrow array (n,)."""
    return np.append(True, to_numpy(pc.not_equal(strings[1:], strings[:-1])))[: len(strings)]


def build_keys(table: pa.Table, position_mask: np.uint64) -> np.ndarray:
    """Return a key per event that makes a row, uint64: the hash, and in the bits of the mask the event's position."""
    key, n = np.empty(len(table), np.uint64), 0
    item = to_numpy(table.column("item"))
    for chunk, first in _chunks_of(table.column("hash")):
        last = first + len(chunk)
        one = to_numpy(chunk) & ~position_mask | np.arange(first, last, dtype=np.uint64)
        one = one[item[first:last] != NO_ROW]
        key[n : n + len(one)] = one
        n += len(one)
    return key[:n]


def _chunks_of(column: pa.ChunkedArray) -> Iterator[tuple[pa.Array, int]]:
    """Yield the arrays of a chunked one, each with the position of its first element."""
    first = 0
    for chunk in column.chunks:
        yield chunk, first
        first += len(chunk)


def compact_strings(column: pa.ChunkedArray, position: np.ndarray) -> tuple[pa.StringArray, np.ndarray]:
    """Return the strings of a chunked array that are at `position` (n,), in their order, and where each is (n,)."""
    needed = np.zeros(len(column), bool)
    needed[position] = True
    at = (np.cumsum(needed, dtype=np.int32) - np.int32(1))[position]
    return column.filter(to_arrow(needed)).combine_chunks(), at


def separate_users(
    position: np.ndarray, names: pa.StringArray, at: np.ndarray, new_key: np.ndarray, new_user: np.ndarray
) -> None:
    """Sort the events of each key that several users share by user, and mark where these users begin.

    `position`, `at` (positions in `names`) and `new_user`, all (n,), are changed in place.
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


def drop_single_events(users: Users) -> Users:
    """Drop users with one event, who are here because their hash is another user's, too."""
    n = users.n
    keep = n > 1
    if keep.all():
        return users
    n, names = n[keep], users.names.filter(to_arrow(keep))
    return Users(names, users.position[np.repeat(keep, users.n)], np.cumsum(n) - n)


def count_parts(events: int, memory_bytes: int) -> int:
    """Return the number of parts, a power of two, for which one part fits the memory."""
    parts = 2
    while events * EVENT_BYTES > parts * min(memory_bytes, MOST_BYTES):
        parts *= 2
    return parts

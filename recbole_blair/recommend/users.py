"""Whom to recommend to: known users by id, or histories of anybody, read into flat arrays."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_blair.data.dataset import BlairDataset
from recbole_blair.errors import InputError
from recbole_blair.files.read import iter_lines, parse_json, shown, why_no_file
from recbole_blair.schema import ITEM_SEQ, SPLITS, TIMESTAMP, TIMESTAMP_SEQ, USER_ID, format_ms

Users = str | Path | Mapping[str, Any] | Sequence["str | Mapping[str, Any]"]
ID_FILES = (".txt", ".csv", ".tsv", ".jsonl", ".json", ".gz", ".parquet")  # endings that no list of ids has
MAX_DICTIONARY = 2_000_000  # users that are looked up in a dictionary, some 100 bytes each


@dataclass
class Histories:
    """What U users did, oldest event first.

    Attributes:
        user_ids: U names.
        items (P,) int32: internal item ids of all users, one after the other.
        times (P,) int64: Unix ms; 0 where not `timed`.
        start (U + 1,) int64: user u's events are start[u] to start[u + 1].
        timed (U,) bool: whether a user's events carry times.
        request (U,) int64: when the recommendation is asked for, Unix ms; 0: not said.
        code (U,) int64: internal user ids; 0 for users given by a history.
        left_out (U,) int64: unknown items that were left out of a history; -1: the user is unknown.
    """

    user_ids: list[str]
    items: np.ndarray
    times: np.ndarray
    start: np.ndarray
    timed: np.ndarray
    request: np.ndarray
    code: np.ndarray
    left_out: np.ndarray

    def __len__(self) -> int:
        return len(self.user_ids)

    @property
    def filled(self) -> np.ndarray:
        """Whether a user has a history, (U,) bool."""
        return self.start[1:] > self.start[:-1]

    def latest(self, users: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the latest events of users (B,): items and times (B, L), right-padded with 0, and lengths (B,)."""
        length = np.minimum(self.start[users + 1] - self.start[users], longest)
        step = np.arange(int(length.max(initial=1)))
        real = step < length[:, None]  # (B, L)
        at = np.where(real, (self.start[users + 1] - length)[:, None] + step, 0)
        return np.where(real, self.items[at], 0), np.where(real, self.times[at], 0), length

    def whole(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return every event of consecutive users as (row (P,), item (P,)), rows counted from 0."""
        length = self.start[users + 1] - self.start[users]
        return np.repeat(np.arange(len(users)), length), self.items[self.start[users[0]] : self.start[users[-1] + 1]]


def load_users(
    users: Users,
    dataset: BlairDataset,
    code_of: Mapping[str, int],
    request_ms: int | None = None,
    allow_empty: bool = False,
    skip_unknown: bool = False,
    known: KnownUsers | None = None,
) -> Histories:
    """Load histories.

    Args:
        users: a file (JSONL of `{user_id, item_id_list[, timestamp_list, timestamp]}`, or one id per line), ids joined
            by commas, or a sequence of ids and such mappings. `item_id_list` and `timestamp_list` are lists, or text
            with spaces between, oldest event first. Without `item_id_list` a mapping names a known user.
        code_of: internal item ids, new items included.
        request_ms: when recommendations are asked for; None: at the end of the data, that is at the
            dataset's latest event or the user's own, whichever is later. A mapping's `timestamp` outranks it.
        allow_empty: take an empty history.
        skip_unknown: leave unknown items out of a history, and give an unknown user an empty one.
        known: of the dataset, for whoever asks more than once; None: opened here.

    Returns:
        Users in the order given.

    Raises:
        InputError: an unknown user or item, an empty history, a line that is none of these.
    """
    records = [(place, as_record(entry, place)) for place, entry in iterate_entries(users)]
    if not records:
        raise InputError(f"no user in {users!r}; give ids of known users, or a JSONL file of histories")
    known = known or KnownUsers(dataset)
    numbers = known.find([record[USER_ID] for _, record in records if ITEM_SEQ not in record])
    parts, timed, request, code, left_out = [], [], [], [], []
    for place, record in records:
        number, missing = 0, 0
        if ITEM_SEQ in record:
            items, times, missing = given_history(record, place, code_of, skip_unknown)
        elif skip_unknown and numbers[record[USER_ID]] is None:
            items, times, missing = np.zeros(0, np.int32), None, -1
        else:
            number, items, times = known.history(record[USER_ID], numbers[record[USER_ID]], place)
        if not len(items) and not (allow_empty or skip_unknown):
            raise InputError(f"{place}: the history of {record[USER_ID]!r} is empty; {ITEM_SEQ} needs an item at least")
        own = times is not None
        code.append(number)
        parts.append((items, times if own else np.zeros(len(items), np.int64)))
        timed.append(own)
        request.append(request_time(record, place, times, known.last, request_ms))
        left_out.append(missing)
    items, times = (np.concatenate(column) for column in zip(*parts))
    start = np.cumsum([0, *(len(part[0]) for part in parts)])
    ids = [record[USER_ID] for _, record in records]
    columns = (np.array(column) for column in (timed, request, code, left_out))
    return Histories(ids, items.astype(np.int32), times, start, *columns)


def iterate_entries(users: Any, noun: str = "user", keep_surrogates: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield (place, entry) of a file, of ids joined by commas, or of a sequence; see `parse_json`."""
    if isinstance(users, str | Path):
        path = Path(os.path.expanduser(users))
        reason = why_no_file(path)
        if reason is None:
            yield from read_users(path, keep_surrogates)
            return
        if isinstance(users, Path) or path.suffix in ID_FILES or os.sep in users or "\0" in users:
            expected = "a JSONL file of histories, a file of ids, or ids: A,B,C"
            raise InputError(f"users={shown(users)} is no file ({reason}); give {expected}")
        users = [part.strip() for part in users.split(",") if part.strip()]
    elif isinstance(users, Mapping):
        users = [users]
    for number, entry in enumerate(users, 1):
        yield f"{noun} {number}", entry


def read_users(path: Path, keep_surrogates: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield (place, id or mapping) of a file: JSON objects, or one id per line."""
    for number, line in iter_lines(path, "JSON lines or one id per line"):
        place = f"{shown(path)} line {number}"
        yield place, parse_json(line, place, keep_surrogates) if line[0] == "{" else line


def as_record(entry: Any, place: str) -> dict[str, Any]:
    """Return an id or a mapping as a mapping with `user_id`."""
    if not isinstance(entry, Mapping):
        return {USER_ID: str(entry)}
    if entry.get(USER_ID) in (None, ""):
        raise InputError(f"{place} has no {USER_ID}; expected {{{USER_ID}, {ITEM_SEQ}[, {TIMESTAMP_SEQ}]}}")
    return {**entry, USER_ID: str(entry[USER_ID])}


def given_history(
    record: Mapping[str, Any], place: str, code_of: Mapping[str, int], skip_unknown: bool = False
) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Return the items, the times (None without) and the number of unknown items of a mapping with a history."""
    tokens, times = list_of(record, ITEM_SEQ, place), None
    codes = np.array([code_of.get(str(token)) or code_of.get(encoded_id(str(token)), 0) for token in tokens], np.int32)
    missing = int((codes == 0).sum())
    if missing and not skip_unknown:
        token = str(tokens[int(codes.argmin())])
        raise InputError(
            f"{place}: unknown item {token!r} ({missing} of {len(codes)} items of this history); leave it out (or all "
            "by skip_unknown), or add it by its text with new_items"
        )
    if record.get(TIMESTAMP_SEQ) is not None:
        given = [whole_ms(time, place, TIMESTAMP_SEQ) for time in list_of(record, TIMESTAMP_SEQ, place)]
        times = np.array(given, np.int64)
        if len(times) != len(codes):
            raise InputError(f"{place}: {len(codes)} items in {ITEM_SEQ} but {len(times)} times in {TIMESTAMP_SEQ}")
        if (np.diff(times) < 0).any():
            raise InputError(f"{place}: {TIMESTAMP_SEQ} goes back in time; give the oldest event first")
        times = times[codes > 0]
    return codes[codes > 0], times, missing


def encoded_id(token: str) -> str:
    """Return an id of the user's own files as the build holds it: white space, quotes and % encoded."""
    return quote(token, safe="")


def list_of(record: Mapping[str, Any], field: str, place: str) -> list[Any]:
    """Return a field that is a list, or text with spaces between."""
    value = record[field]
    if isinstance(value, str):
        return value.split()
    if isinstance(value, list | tuple | np.ndarray):
        return list(value)
    raise InputError(f"{place}: {field} is a {type(value).__name__}; expected a list")


def whole_ms(value: Any, place: str, field: str) -> int:
    """Return a time as whole milliseconds."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = -1
    if not 10**11 <= number <= 10**15 or number != float(value):  # smaller: seconds, or no time at all
        raise InputError(f"{place}: {field} holds {value!r}; expected Unix milliseconds, like 1658002729837")
    return number


def request_time(
    record: Mapping[str, Any], place: str, times: np.ndarray | None, last: int, request_ms: int | None
) -> int:
    """Return when a recommendation is asked for; see `load_users`."""
    own = 0 if times is None or not len(times) else int(times[-1])
    if record.get(TIMESTAMP) is not None:
        asked = whole_ms(record[TIMESTAMP], place, TIMESTAMP)
    else:
        asked = max(last, own) if request_ms is None else request_ms
    if asked < own:
        raise InputError(
            f"{place}: the request of {record[USER_ID]!r} at {format_ms(asked)} comes before the latest "
            f"event, {format_ms(own)}; shorten the history or give a later request time"
        )
    return asked


class KnownUsers:
    """Whole sequences of users of a build, of all its splits.

    Where a build's rows do not chain (other tools'), a user's sequence is that of the latest row: history and target.
    """

    def __init__(self, dataset: BlairDataset) -> None:
        self.dataset, self.items = dataset, np.asarray(dataset.seq_items)
        self.times = np.asarray(dataset.seq_times) if dataset.has_times else None
        self.last = dataset.latest_ms
        start, size = np.asarray(dataset.user_start), len(dataset.seq_items)
        if dataset.chained:  # sequences lie in the order of user ids
            self.begin, self.end = start, np.append(start[1:], size)
        else:
            self.begin, self.end = latest_rows(dataset)
        self._asked, self._indices = 0, dict[str, int]()

    def find(self, wanted: Sequence[str]) -> dict[str, int | None]:
        """Return the place of users in the build by their ids, as written or as the build encodes them; None: unknown.

        Arrow's look-up reads all ids each time; whoever asks again gets a dictionary, unless it would be very large.
        """
        if not wanted:
            return {}
        wanted, tokens = list(dict.fromkeys(wanted)), self.dataset.user_tokens
        self._asked += 1
        if self._asked > 1 and len(tokens) <= MAX_DICTIONARY:
            self._indices = self._indices or {token: index for index, token in enumerate(tokens.to_pylist())}
            return {user: self._indices.get(user, self._indices.get(encoded_id(user))) for user in wanted}
        as_given, encoded = (
            pc.index_in(pa.array(ids, pa.string()), value_set=tokens)
            for ids in (wanted, [encoded_id(user) for user in wanted])
        )
        return dict(zip(wanted, pc.coalesce(as_given, encoded).to_pylist()))

    def history(self, user_id: str, index: int | None, place: str) -> tuple[int, np.ndarray, np.ndarray | None]:
        """Return the internal id, items and times (None without) of a user that `find` found.

        Raises:
            InputError: an unknown user.
        """
        if index is None:
            raise InputError(
                f"{place}: unknown user {user_id!r}; {self.dataset.name} has {self.dataset.n_users - 1} users. Of "
                f"anybody else give the history: JSON lines with {USER_ID} and {ITEM_SEQ}"
            )
        span = slice(self.begin[index + 1], self.end[index + 1])
        return index + 1, self.items[span], None if self.times is None else self.times[span]


def latest_rows(dataset: BlairDataset) -> tuple[np.ndarray, np.ndarray]:
    """Return begin and end (U + 1,) of each user's latest row in the sequences, history and target."""
    begin, end = np.zeros((2, dataset.n_users), np.int64)
    for split in SPLITS:  # the last assignment wins
        rows = dataset.rows[split]
        begin[rows.user], end[rows.user] = rows.target - rows.length, np.asarray(rows.target) + 1
    return begin, end


def parse_request_time(text: str | int | None) -> int | None:
    """Return Unix ms of `now`, whole milliseconds, or a date like 2023-05-01 or 2023-05-01T12:00 (UTC); None stays.

    Raises:
        InputError: anything else.
    """
    if text is None:
        return None
    if str(text) == "now":
        return int(time.time() * 1000)
    if str(text).isdigit():
        return whole_ms(text, "request_time", "it")
    try:
        moment = datetime.datetime.fromisoformat(str(text))
    except ValueError:
        raise InputError(f"request_time={text}: expected now, Unix milliseconds, or a date like 2023-05-01") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.timezone.utc)
    return int(moment.timestamp() * 1000)

"""Events ordered by user and time: as by a plain sort, for any number of parts, shared hashes and ties."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataset_tools.conversion import event_order, reviews, user_events
from dataset_tools.conversion.event_order import order_events, sort_by_user_and_time
from dataset_tools.conversion.reviews import count_reviews, read_reviews
from dataset_tools.conversion.time_split import resolve_instants
from dataset_tools.conversion.user_events import count_parts
from dataset_tools.raw.unusable_ids import UNUSABLE_WORDS, are_unusable
from dataset_tools.storage.duckdb_session import DuckDBSession

NAMES = ["u", "NA", "a b", 'q"q', "Zoë", "AE" + "7" * 26, "x" * 9, "y\x7f", "tab\t"]
USABLE = {"u", "Zoë", "AE" + "7" * 26, "x" * 9}
EVENTS = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 9), st.integers(10**12, 10**12 + 4)), max_size=60)
ITEM_IDS = pa.array([f"i{n}" for n in range(100)])


def read(duck, events, most=None):
    """Return the finished Reviews of (user, item, ts) or (user, item, ts, rule); `most` events fit the memory."""
    columns = list(zip(*((user, f"i{item}", ts, *(rule or [0])) for user, item, ts, *rule in events))) or [()] * 4
    types = {"user_id": pa.string(), "item_id": pa.string(), "ts": pa.int64(), "rule": pa.uint8()}
    duck.con.register("raw", pa.table([pa.array(c, t) for c, t in zip(columns, types.values())], list(types)))
    with pytest.MonkeyPatch.context() as patch:
        if most:
            patch.setattr(user_events, "MOST_BYTES", most * user_events.EVENT_BYTES)
        found = read_reviews(duck, "SELECT * FROM raw", ITEM_IDS)
        found.finish()
    assert found.events.in_table == bool(most and len(events) > most)
    return found


def gathered(folder, events, parts):
    """Return (usable, unusable, rows of (user, item, ts)) of events whose line is their place."""
    with DuckDBSession(folder, "1GB", 2, False) as duck, pytest.MonkeyPatch.context() as patch:
        found = read(duck, events, 7 if parts > 1 else None)
        patch.setattr(event_order, "count_parts", lambda *_: parts)
        batches = list(order_events(duck, found.events))
        return found.matched, found.unusable, [
            (batch.names[int(u)].as_py(), int(i), int(t))
            for batch in batches
            for u, i, t in zip(batch.user, batch.item, batch.time_ms)
        ]  # fmt: skip


def by_a_plain_sort(events, usable=USABLE):
    own = {}
    for line, (user, item, ts) in enumerate(events):
        if user in usable:
            own.setdefault(user, []).append((ts, line, item))
    several = sorted((sorted(rows), user) for user, rows in own.items() if len(rows) > 1)
    rows = [(user, item, ts) for mine, user in several for ts, _, item in mine]
    return sum(map(len, own.values())), sum(user not in usable for user, *_ in events), rows


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("hashed", ["hash(user_id)", "7::UBIGINT", "length(user_id)::UBIGINT"])
@given(EVENTS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_events_are_gathered_as_by_a_plain_sort(tmp_path_factory, parts, hashed, events):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reviews, "HASH", hashed)
        patch.setattr(event_order, "ROWS_PER_BATCH", 3)
        assert gathered(tmp_path_factory.mktemp("duck"), events, parts) == by_a_plain_sort(events)


@pytest.mark.parametrize("text_bytes", [10**9, 5000])
def test_many_users_in_several_parts_and_runs(tmp_path, monkeypatch, text_bytes):
    monkeypatch.setattr(reviews, "MOST_TEXT", text_bytes)
    monkeypatch.setattr(reviews, "LINES_PER_BATCH", 100)
    rng = np.random.default_rng(3)
    names = [f"x{n}" for n in range(900)]
    drawn = (rng.integers(0, n, 4000).tolist() for n in (900, 50, 99))
    events = [(names[user], item, 10**12 + ts) for user, item, ts in zip(*drawn)]
    (tmp_path / "one").mkdir()
    (tmp_path / "four").mkdir()
    expected = by_a_plain_sort(events, set(names))
    assert gathered(tmp_path / "one", events, 1) == gathered(tmp_path / "four", events, 4) == expected


@pytest.mark.parametrize("word", UNUSABLE_WORDS)
def test_words_that_read_as_missing_cannot_be_written(word):
    assert are_unusable(pa.array(["A" * 28, word, None, "B" * 28])).tolist() == [False, True, True, False]


def test_an_order_too_wide_for_one_integer():
    user, ts, tie = np.array([2**40, 2**40, 3, 3]), np.array([10**12, 5, 9, 9]), np.array([0, 1, 3, 2])
    assert sort_by_user_and_time(user, ts, tie).tolist() == [3, 2, 1, 0]


def test_parts_fit_the_memory():
    assert count_parts(4_600_000, 10**9) == 2
    assert count_parts(4_600_000, 2 * 10**8) == 4
    assert count_parts(67_000_000, 4 * 10**9) == count_parts(67_000_000, 10**12) == 8


@pytest.mark.parametrize("most", [None, 3])
def test_what_makes_no_row_is_counted(tmp_path, most):
    start = 10**12
    events = [
        ("u", 1, start), ("u", 100, start), ("u", 2, start + 1), ("NA", 100, start), ("x", 101, start), ("u", 100, 7),
        (None, 3, None, 1), ("v", 1, start, 4), ("u", 1, 9, 5), ("NA", 1, start), ("w", 5, start + 5),
    ]  # fmt: skip
    with DuckDBSession(tmp_path, "1GB", 2, False) as duck:
        found = read(duck, events, most)
        counts = count_reviews(duck, found)
        assert resolve_instants(duck, found.events, None, 5) == (start + 5, 5)
        (batch,) = order_events(duck, found.events)
    assert (batch.names.to_pylist(), batch.item.tolist()) == (["u"], [1, 2])
    assert (found.first_broken, counts.reviews, counts.matched, counts.without_metadata) == (6, 11, 3, 2)
    assert counts.by_rule == {
        "broken_json": 1, "empty_ids": 0, "rating_outside_1_5": 0, "time_missing_or_not_positive": 1,
        "time_in_seconds": 1, "time_in_microseconds": 0, "unusable_ids": 2, "repeated_user_item": 1,
        "item_without_metadata": 2,
    }  # fmt: skip

"""Events gathered by user: the same as by a plain sort, whatever the parts, shared hashes and ties."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataset_tools import users
from dataset_tools.cleaning import UNUSABLE_ID_WORDS
from dataset_tools.duck import Duck
from dataset_tools.users import drop_unusable, gather_events, order_events, parts_of

NAMES = ["u", "NA", "a b", 'q"q', "Zoë", "AE" + "7" * 26, "x" * 9, "y\x7f", "tab\t"]
USABLE = {"u", "Zoë", "AE" + "7" * 26, "x" * 9}
EVENTS = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 9), st.integers(10**12, 10**12 + 4)), max_size=60)


def gathered(folder, events, parts):
    """Return (usable, unusable, rows of (user, item, ts)) of events whose line is their place."""
    with Duck(folder, "1GB", 2, False) as duck:
        rows = [(user, item, ts, line) for line, (user, item, ts) in enumerate(events)]
        columns = list(zip(*rows)) or [(), (), (), ()]
        types = (pa.string(), pa.int32(), pa.int64(), pa.int64())
        table = pa.table([pa.array(c, t) for c, t in zip(columns, types)], ["user_id", "item", "ts", "tie"])
        duck.con.register("event", table)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(users, "parts_of", lambda *_: parts)
            found = gather_events(duck, len(rows))
            runs = list(found.runs)
        return found.usable, found.unusable, [
            (run.names[int(u)].as_py(), int(i), int(t))
            for run in runs
            for u, i, t in zip(run.user, run.item, run.time_ms)
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
        patch.setattr(users, "HASH", hashed)
        patch.setattr(users, "ROWS_PER_BATCH", 3)
        assert gathered(tmp_path_factory.mktemp("duck"), events, parts) == by_a_plain_sort(events)


def test_many_users_in_several_parts_and_runs(tmp_path):
    rng = np.random.default_rng(3)
    names = [f"x{n}" for n in range(900)]
    drawn = (rng.integers(0, n, 4000).tolist() for n in (900, 50, 99))
    events = [(names[user], item, 10**12 + ts) for user, item, ts in zip(*drawn)]
    (tmp_path / "one").mkdir()
    (tmp_path / "four").mkdir()
    expected = by_a_plain_sort(events, set(names))
    assert gathered(tmp_path / "one", events, 1) == gathered(tmp_path / "four", events, 4) == expected


@pytest.mark.parametrize("word", UNUSABLE_ID_WORDS)
def test_words_that_read_as_missing_are_dropped(word):
    table = pa.table({"user_id": ["A" * 28, word, "B" * 28]})
    assert drop_unusable(table).column("user_id").to_pylist() == ["A" * 28, "B" * 28]


def test_an_order_too_wide_for_one_integer():
    user, ts, tie = np.array([2**40, 2**40, 3, 3]), np.array([10**12, 5, 9, 9]), np.array([0, 1, 3, 2])
    assert order_events(user, ts, tie).tolist() == [3, 2, 1, 0]


def test_parts_fit_the_memory():
    assert parts_of(0, 10**9) == 1
    assert parts_of(4_600_000, 10**9) == 1
    assert parts_of(4_600_000, 2 * 10**8) == 4
    assert parts_of(67_000_000, 4 * 10**9) == parts_of(67_000_000, 10**12) == 8


@pytest.mark.parametrize("parts", [1, 4])
def test_events_without_an_item_stay_out_and_are_noted(tmp_path, parts):
    events = [("u", 1, 10**12), ("u", None, 10**12), ("u", 2, 10**12 + 1), ("NA", None, 10**12), ("x", None, 10**12)]
    with Duck(tmp_path, "1GB", 2, False) as duck, pytest.MonkeyPatch.context() as patch:
        rows = ", ".join(f"('{user}', {item or 'NULL'}, {ts}, {line})" for line, (user, item, ts) in enumerate(events))
        duck.run(f"CREATE TABLE event AS SELECT * FROM (VALUES {rows}) AS t(user_id, item, ts, tie)")
        patch.setattr(users, "parts_of", lambda *_: parts)
        found = gather_events(duck, len(events))
        (run,) = found.runs
        assert (found.usable, found.unusable) == (2, 0)
        assert (run.names.to_pylist(), run.item.tolist()) == (["u"], [1, 2])
        assert sorted(duck.run("SELECT tie FROM without_item")) == [(1,), (3,), (4,)]

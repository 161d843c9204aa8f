"""Who can be asked for, and what is refused with which words."""

import json

import numpy as np
import pytest

from recbole_blair.data.dataset import BlairDataset
from recbole_blair.errors import InputError
from recbole_blair.recommend.users import load_users, parse_request_time

from builds import TEST_MS, VALID_MS, random_sequences, write_build  # isort: skip

SEQUENCES = random_sequences(n_users=30, n_items=40)


@pytest.fixture(scope="module")
def dataset(build):
    return BlairDataset(build, use_cache=False)


@pytest.fixture(scope="module")
def codes(dataset):
    return {token: n for n, token in enumerate(dataset.item_tokens.to_pylist(), 1)}


def names(dataset, histories, user):
    """A user's items by name."""
    span = slice(histories.start[user], histories.start[user + 1])
    return dataset.id2token("item_id", histories.items[span]), histories.times[span].tolist()


def test_a_known_users_history_is_the_whole_sequence_of_all_splits(dataset, codes):
    wanted = ["u7", "u0", "u29", "u7"]
    histories = load_users(",".join(wanted), dataset, codes)
    assert histories.user_ids == wanted and histories.timed.all()
    for number, user in enumerate(wanted):
        assert names(dataset, histories, number) == tuple(map(list, zip(*SEQUENCES[user])))
        assert histories.code[number] == dataset.token2id("user_id", user)[0]
    assert SEQUENCES["u7"][-1][1] == TEST_MS + 7  # so the test event is among them
    assert (histories.request == max(time for events in SEQUENCES.values() for _, time in events)).all()


def test_rows_that_do_not_chain_give_the_latest_row(tmp_path):
    folder = write_build(tmp_path, {"a": [("x", 1), ("y", 2), ("z", VALID_MS), ("w", TEST_MS)]})
    test = folder / "tiny.test.inter"
    test.write_text(test.read_text().replace("a\tx y z\tw", "a\ty x z\tw"))
    dataset = BlairDataset(folder, use_cache=False)
    assert not dataset.chained
    histories = load_users("a", dataset, {})
    assert names(dataset, histories, 0)[0] == ["y", "x", "z", "w"]


def test_histories_come_as_lists_or_text_from_file_or_memory(dataset, codes, tmp_path):
    records = [
        {"user_id": "new", "item_id_list": ["i003", "i001"], "timestamp_list": [VALID_MS, VALID_MS + 5]},
        {"user_id": 17, "item_id_list": "i002 i002 i005"},
        {"user_id": "u3"},
    ]
    file = tmp_path / "users.jsonl"
    file.write_text("\n".join(json.dumps(r) for r in records) + "\n\n")
    for source in (records, file, str(file)):
        histories = load_users(source, dataset, codes)
        assert histories.user_ids == ["new", "17", "u3"] and histories.timed.tolist() == [True, False, True]
        assert names(dataset, histories, 0) == (["i003", "i001"], [VALID_MS, VALID_MS + 5])
        assert names(dataset, histories, 1)[0] == ["i002", "i002", "i005"]
        assert histories.code.tolist()[:2] == [0, 0] and histories.code[2] > 0


def test_ids_are_found_as_ones_own_files_write_them(tmp_path):
    from dataset_tools.own_data import prepare_own

    users = ["Ann Lee", "Zoë ~ 50%", 'say "hi"', "plain-1_2.3@x"]
    rows = [f'"{user.replace(chr(34), 2 * chr(34))}",item {n},{VALID_MS + 50 * n + u}' for u, user in enumerate(users)
            for n in range(8)]  # fmt: skip
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]), encoding="utf-8")
    dataset = BlairDataset(prepare_own("own", tmp_path / "log.csv", data_path=tmp_path, progress=False))
    assert "Ann%20Lee" in dataset.user_tokens.to_pylist()  # an atomic file cannot hold the blank
    codes = {token: n for n, token in enumerate(dataset.item_tokens.to_pylist(), 1)}
    histories = load_users([*users, {"user_id": "new", "item_id_list": ["item 3", "item%201"]}], dataset, codes)
    assert histories.user_ids == [*users, "new"]
    for number in range(len(users)):
        assert names(dataset, histories, number)[0] == [f"item%20{n}" for n in range(8)]
    assert names(dataset, histories, 4)[0] == ["item%203", "item%201"]


def test_a_file_of_ids(dataset, codes, tmp_path):
    file = tmp_path / "ids"
    file.write_text("u3\n\n u4 \n")
    assert load_users(file, dataset, codes).user_ids == ["u3", "u4"]


def test_the_latest_events_are_padded_on_the_right(dataset, codes):
    rows = [{"user_id": "a", "item_id_list": ["i001", "i002", "i003"]}, {"user_id": "b", "item_id_list": ["i004"]}]
    histories = load_users(rows, dataset, codes)
    items, times, length = histories.latest(np.array([0, 1]), 2)
    assert dataset.id2token("item_id", items.ravel()) == ["i002", "i003", "i004", "[PAD]"]
    assert length.tolist() == [2, 1] and not times.any()
    row, item = histories.whole(np.array([0, 1]))
    assert row.tolist() == [0, 0, 0, 1] and dataset.id2token("item_id", item) == ["i001", "i002", "i003", "i004"]


def test_request_times(dataset, codes):
    late = TEST_MS + 10**9
    rows = [
        {"user_id": "a", "item_id_list": ["i001"], "timestamp_list": [late]},
        {"user_id": "b", "item_id_list": ["i001"], "timestamp_list": [VALID_MS], "timestamp": VALID_MS + 1},
    ]
    assert load_users(rows, dataset, codes).request.tolist() == [late, VALID_MS + 1]
    assert load_users(rows, dataset, codes, late + 7).request.tolist() == [late + 7, VALID_MS + 1]
    assert parse_request_time("2023-05-01") == 1682899200000 == parse_request_time("1682899200000")
    assert parse_request_time("2023-05-01T02:00+02:00") == 1682899200000
    assert parse_request_time("now") > late and parse_request_time(None) is None


def history(**changes):
    return {"user_id": "a", "item_id_list": ["i001", "i002"], **changes}


@pytest.mark.parametrize(
    ("users", "words"),
    [
        ("u1,nobody", r"user 2: unknown user 'nobody'; tiny has 30 users. Of anybody else give the history"),
        ([history(), history(item_id_list=["i001", "B9", "B8"])], r"user 2: unknown item 'B9' \(2 of 3 items"),
        ([history(item_id_list=[])], "the history of 'a' is empty"),
        ([history(item_id_list="  ")], "the history of 'a' is empty"),
        ([history(item_id_list=7)], "item_id_list is a int; expected a list"),
        ([{"item_id_list": ["i001"]}], "user 1 has no user_id"),
        ([history(timestamp_list=[VALID_MS])], "2 items in item_id_list but 1 times"),
        ([history(timestamp_list=[VALID_MS, VALID_MS - 1])], "goes back in time; give the oldest event first"),
        ([history(timestamp_list=[1628643414, 1628643415])], "holds 1628643414; expected Unix milliseconds"),
        ([history(timestamp_list=["x", "y"])], "holds 'x'; expected Unix milliseconds"),
        ([history(timestamp_list=[VALID_MS, TEST_MS], timestamp=VALID_MS)], "comes before the latest event"),
        ("no/such/file", "users=no/such/file is no file"),
        ("users.jsonl", "users=users.jsonl is no file"),
        ("", "no user in ''"),
        ([], "no user in"),
    ],
)
def test_what_is_refused(dataset, codes, users, words):
    with pytest.raises(InputError, match=words):
        load_users(users, dataset, codes)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"user_id": "a", "item_id_list": ["i001"]}\n{"user_id": ', "users.jsonl line 2 is not JSON"),
        (b'{"user_id": "a", "item_id_list": ["i001", "i999"]}', "users.jsonl line 1: unknown item 'i999'"),
        (b"\xff\xfe\x00", "it looks like UTF-16: save it as UTF-8"),
        (b"\n\n", "no user in"),
    ],
)
def test_a_bad_file_is_named_with_its_line(dataset, codes, tmp_path, content, words):
    file = tmp_path / "users.jsonl"
    file.write_bytes(content)
    with pytest.raises(InputError, match=words):
        load_users(file, dataset, codes)


@pytest.mark.parametrize("text", ["soon", "12", "2023-13-01"])
def test_what_is_no_request_time(text):
    with pytest.raises(InputError, match="request_time"):
        parse_request_time(text)

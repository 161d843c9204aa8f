"""Atomic files to flat arrays, worked by hand on a few lines; the binary copy; what is refused."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from builds import TEST_MS, VALID_MS, write_build

from recbole_blair.data import sequences
from recbole_blair.data.interactions import load_interactions
from recbole_blair.errors import InputError

BY_HAND = {
    "u1": [("a", 10), ("b", 20), ("c", VALID_MS), ("d", TEST_MS)],
    "u2": [("b", 15), ("a", TEST_MS - 1)],
}
HEADER = "user_id:token\titem_id_list:token_seq\titem_id:token"
TIMED = f"{HEADER}\ttimestamp_list:float_seq\ttimestamp:float"


def write_rows(folder, train, valid, test, header=HEADER, items=None):
    """Write a build from lines whose fields are separated by `|`."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, lines in (("train", train), ("valid", valid), ("test", test)):
        text = "\n".join([header, *(line.replace("|", "\t") for line in lines)]) + "\n"
        (folder / f"{folder.name}.{split}.inter").write_text(text, encoding="utf-8")
    if items is not None:
        (folder / f"{folder.name}.item").write_text("\n".join(["item_id:token", *items]) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def _checked_in_parts(monkeypatch):
    """Histories are checked two rows at a time, not all of these few at once."""
    monkeypatch.setattr(sequences, "CHECKED_ROWS", 2)


@pytest.mark.parametrize("use_cache", [False, True])
def test_rows_become_one_sequence_a_user(tmp_path, use_cache):
    tables = load_interactions(write_build(tmp_path, BY_HAND), use_cache)
    assert tables["item_tokens"].to_pylist() == ["a", "b", "c", "d"]
    assert tables["user_tokens"].to_pylist() == ["u1", "u2"]
    assert tables["events"][:, 0].tolist() == [1, 2, 3, 4, 2, 1]
    assert tables["events"][:, 1].tolist() == [10, 20, VALID_MS, TEST_MS, 15, TEST_MS - 1]
    assert tables["user_start"].tolist() == [-1, 0, 4]
    found = {s: tables[f"{s}_rows"].T.tolist() for s in ("train", "valid", "test")}
    assert found == {
        "train": [[1], [1], [1]],
        "valid": [[2, 5], [2, 1], [1, 2]],  # an event on the instant is valid's; one before test's is valid's
        "test": [[3], [3], [1]],
    }


def test_times_are_whole_milliseconds_however_close(tmp_path):
    close = {"u": [("a", TEST_MS - 1), ("b", TEST_MS), ("c", TEST_MS + 1), ("d", 2**53 + 1)]}
    folder = write_build(tmp_path, {**close, "v": [("a", 1), ("b", 2)], "w": [("a", 1), ("b", VALID_MS)]})
    times = load_interactions(folder)["events"][:, 1]
    assert times.dtype == np.int64
    user = times.tolist().index(TEST_MS - 1)
    assert times[user : user + 4].tolist() == [TEST_MS - 1, TEST_MS, TEST_MS + 1, 2**53 + 1]
    assert len(set(np.float32(times[user : user + 3]).tolist())) == 1  # what a float32 would have made of them


def test_a_cut_history_still_chains(tmp_path):
    events = [(f"i{i}", 10 + i) for i in range(8)] + [("i8", VALID_MS), ("i9", TEST_MS)]
    tables = load_interactions(write_build(tmp_path, {"u": events}, max_history=2))
    assert tables["events"][:, 0].tolist() == list(range(1, 11))
    assert tables["train_rows"][:, 1].tolist() == [1, 2, 2, 2, 2, 2, 2]
    assert tables["test_rows"][:, 0].tolist() == [9] and tables["test_rows"][:, 1].tolist() == [2]


def test_rows_that_do_not_chain_keep_one_slice_each(tmp_path):
    folder = write_rows(tmp_path / "other", ["u1|x y|z", "u1|y x|w"], ["u2|z|x"], ["u2|w|y"])
    tables = load_interactions(folder)
    assert tables["item_tokens"].to_pylist() == ["x", "y", "z", "w"]  # no .item: order of first occurrence
    assert tables["events"][:, 0].tolist() == [1, 2, 3, 2, 1, 4, 3, 1, 4, 2]
    assert [tables[f"{s}_rows"][:, 0].tolist() for s in ("train", "valid", "test")] == [[2, 5], [7], [9]]
    assert [tables[f"{s}_rows"][:, 1].tolist() for s in ("train", "valid", "test")] == [[2, 2], [1], [1]]
    assert tables["user_start"].tolist() == [-1, -1, -1]
    assert not tables["events"][:, 1].any()


def test_one_wrong_time_in_a_history_breaks_the_chain(tmp_path):
    lines = (["u|a|b|10|20"], [f"u|a b|c|10 20|{VALID_MS}"], [f"u|a b c|d|10 21 {VALID_MS}|{TEST_MS}"])
    folder = write_rows(tmp_path / "odd", *lines, header=TIMED)
    tables = load_interactions(folder)
    assert tables["user_start"].tolist() == [-1, -1]
    at = int(tables["test_rows"][0, 0])
    assert tables["events"][at - 3 : at + 1, 1].tolist() == [10, 21, VALID_MS, TEST_MS]


def test_other_columns_and_their_order_do_not_matter(tmp_path):
    header = "item_id:token\trating:float\titem_id_list:token_seq\tuser_id:token"
    folder = write_rows(tmp_path / "b", ["y|5|x|u"], ["x|1|x y|u"], ["y|2|x y x|u"], header=header, items=["x", "y"])
    tables = load_interactions(folder)
    assert tables["events"][:, 0].tolist() == [1, 2, 1, 2] and tables["user_start"].tolist() == [-1, 0]


def test_quotes_are_letters_like_others(tmp_path):
    sequences = {'u"1': [('a"', 1), ("b'", 2), ('"c"', VALID_MS), ("d", TEST_MS)]}
    texts = {'a"': 'a 6" pipe', "b'": 'say "hi', '"c"': '"quoted"', "d": "plain"}
    tables = load_interactions(write_build(tmp_path, sequences, texts=texts))
    assert tables["item_tokens"].to_pylist() == ['a"', "b'", '"c"', "d"]
    assert tables["user_tokens"].to_pylist() == ['u"1']


LINES = (["u|a|b|1|2"], [f"u|a b|c|1 2|{VALID_MS}"], [f"u|a b c|a|1 2 {VALID_MS}|{TEST_MS}"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"header": TIMED.replace("item_id:token", "item:token")}, r"b\.train\.inter lacks the column item_id; it has"),
        ({"items": ["a", "b"]}, r"b\.valid\.inter holds the item 'c', which the \.item file beside it lacks"),
        ({"items": ["a", "b", "c", "a"]}, r"b\.item holds an item twice"),
        ({"valid": []}, r"b\.valid\.inter has no row: choose other instants"),
        ({"test": []}, r"b\.test\.inter has no row"),
        ({"train": []}, r"b\.train\.inter has no row"),
        ({"train": ["u|a|b|1 1|2"]}, r"b\.train\.inter: timestamp_list and item_id_list differ in length"),
        ({"train": ["u|a|b|1|2.5"]}, r"b\.train\.inter holds a time that is not whole milliseconds.*2\.5"),
        ({"train": ["u|a|b|1"]}, r"b\.train\.inter cannot be read: .*5 columns, got 4"),
        ({"items": []}, r"b\.item holds no item"),
    ],
)
def test_files_that_cannot_be_right_are_refused(tmp_path, change, words):
    parts = dict(zip(("train", "valid", "test"), LINES))
    options = {"header": change.pop("header", TIMED), "items": change.pop("items", None)}
    folder = write_rows(tmp_path / "b", **{**parts, **change}, **options)
    with pytest.raises(InputError, match=words):
        load_interactions(folder)
    assert not (folder / ".cache" / "interactions").exists()


def test_a_missing_split_names_the_file_and_the_command(tmp_path):
    folder = write_rows(tmp_path / "b", *LINES, header=TIMED)
    (folder / "b.valid.inter").unlink()
    with pytest.raises(InputError, match=r"lacks b\.valid\.inter; make it with `recbole-blair prepare`"):
        load_interactions(folder)

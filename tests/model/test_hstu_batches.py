"""Sequence-wise batches: no train target lost or doubled, none of valid or test touched, windows of long users."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from builds import TEST_MS, VALID_MS, random_sequences, write_build

from recbole_blair.data.dataset import BlairDataset
from recbole_blair.data.loader import SequenceLoader
from recbole_blair.errors import InputError


def long_user(n_train, n_valid=2, n_test=2, name="u"):
    """A user whose items are in order of their number."""
    times = [1_500_000_000_000 + i for i in range(n_train)]
    times += [VALID_MS + i for i in range(n_valid)] + [TEST_MS + i for i in range(n_test)]
    return {name: [(f"{name}{i:03d}", t) for i, t in enumerate(times)]}


def supervised(dataset, loader):
    """Every (place of a target, items of its history seen) of an epoch."""
    found = []
    for batch in loader:
        items, targets = batch["item_id_list"].numpy(), batch["target_list"].numpy()
        for row in range(len(batch)):
            for step in np.flatnonzero(targets[row]):
                found.append((int(targets[row, step]), tuple(items[row, : step + 1].tolist())))
    return found


@pytest.mark.parametrize("max_length", [1, 2, 3, 5, 8, 50])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.9])
def test_every_train_target_comes_once_with_its_true_history(tmp_path, max_length, overlap):
    users = {
        **random_sequences(n_users=25, n_items=30, longest=11),
        **long_user(37, name="x"),
        **long_user(9, name="y"),
    }
    data = BlairDataset(write_build(tmp_path, users))
    loader = SequenceLoader(data, 7, max_length=max_length, overlap=overlap)
    found = supervised(data, loader)
    rows = data.rows["train"]
    assert Counter(t for t, _ in found) == Counter(data.seq_items[rows.target].tolist())
    truth = Counter()
    for user, target in zip(rows.user, rows.target):
        whole = data.seq_items[data.user_start[user] : target].tolist()
        least = min(int(overlap * max_length) + 1, len(whole))
        fits = [h for t, h in found if t == data.seq_items[target] and list(h) == whole[-len(h) :]]
        assert any(least <= len(h) <= max_length for h in fits), (whole, fits)
        truth[int(data.seq_items[target])] += 1
    assert sum(truth.values()) == len(found)


def test_windows_of_one_long_user_worked_by_hand(tmp_path):
    data = BlairDataset(write_build(tmp_path, {**long_user(11, name="a"), **long_user(2, name="b")}))
    windows = SequenceLoader(data, 8, max_length=4, overlap=0.5, shuffle=False).rows.columns
    # Events 0..10 of the first user, targets 1..10, windows of 4 inputs two apart from the latest back.
    assert windows[1:, :4].T.tolist() == [[6, 10, 9], [4, 8, 7], [2, 6, 5], [0, 4, 1]]
    assert windows.shape[1] == 5  # and one of the second user


def test_a_first_row_with_a_long_history_starts_there(tmp_path):
    """A user whose first train target already has a history: what lies before it is input, not target."""
    build = write_build(tmp_path, {**long_user(12, name="a"), **long_user(3, name="b")})
    path = build / "tiny.train.inter"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(lines[:1] + lines[8:]) + "\n", encoding="utf-8")  # the first seven targets are gone
    data = BlairDataset(build)
    found = supervised(data, SequenceLoader(data, 4, max_length=3, overlap=0.0))
    tokens = sorted(data.id2token("item_id", [t for t, _ in found]))
    assert tokens == ["a008", "a009", "a010", "a011", "b001", "b002"]


def test_nothing_of_valid_or_test_is_in_a_batch(tmp_path):
    data = BlairDataset(write_build(tmp_path, {**long_user(20, name="a"), **long_user(5, name="b")}))
    for batch in SequenceLoader(data, 3, max_length=6):
        for field in ("item_id_list", "target_list", "item_id"):
            tokens = data.id2token("item_id", batch[field].numpy().ravel())
            assert not {f"a{i:03d}" for i in range(20, 24)} & set(tokens)
            assert not {f"b{i:03d}" for i in range(5, 9)} & set(tokens)
        assert int(batch["timestamp"].max()) < VALID_MS
        assert int(batch["timestamp_list"].max()) < VALID_MS


def test_a_batch_has_times_and_its_last_target(tmp_path):
    data = BlairDataset(write_build(tmp_path, {**long_user(4, name="a"), **long_user(3, name="b")}))
    batch = next(iter(SequenceLoader(data, 8, shuffle=False)))
    assert batch["item_length"].tolist() == [3, 2]
    assert data.id2token("item_id", batch["item_id"].numpy()) == ["a003", "b002"]
    assert batch["timestamp"].tolist() == [1_500_000_000_003, 1_500_000_000_002]
    assert batch["timestamp_list"][1].tolist() == [1_500_000_000_000, 1_500_000_000_001, 0]
    assert batch["target_list"][1].tolist()[2] == 0
    assert batch["item_id_list"][1].tolist()[2] == 0


def test_the_order_is_a_function_of_seed_and_epoch(tmp_path):
    data = BlairDataset(write_build(tmp_path, random_sequences(n_users=30)))

    def users(seed, epoch):
        loader = SequenceLoader(data, 8, seed=seed)
        loader.epoch = epoch
        return [b["user_id"].tolist() for b in loader]

    assert users(1, 0) == users(1, 0)
    assert users(1, 0) != users(1, 1)
    assert users(1, 0) != users(2, 0)
    assert len(users(1, 0)) == len(SequenceLoader(data, 8)) == 4


def test_rows_that_do_not_chain_are_refused(tmp_path):
    build = write_build(tmp_path, random_sequences(n_users=10))
    path = build / "tiny.train.inter"
    lines = path.read_text(encoding="utf-8").splitlines()
    cells = lines[2].split("\t")
    lines[2] = "\t".join([cells[0], lines[1].split("\t")[2], cells[2], lines[1].split("\t")[4], cells[4]])
    extra = "\t".join([cells[0], "i039", "i038", "1500000000000", "1500000000001"])
    path.write_text("\n".join([*lines, extra]) + "\n", encoding="utf-8")
    data = BlairDataset(build)
    assert not data.chained
    with pytest.raises(InputError, match="keeps no whole sequences, which train_style=sequence needs; set train_style"):
        SequenceLoader(data, 4)


@pytest.mark.parametrize("overlap", [-0.1, 1.0])
def test_an_overlap_out_of_range_is_refused(tmp_path, overlap):
    data = BlairDataset(write_build(tmp_path, random_sequences(n_users=10)))
    with pytest.raises(InputError, match=r"window_overlap=.* must be at least 0 and below 1"):
        SequenceLoader(data, 4, overlap=overlap)


def test_seen_items_are_those_of_train_rows(tmp_path):
    data = BlairDataset(write_build(tmp_path, {**long_user(4, name="a"), **long_user(3, name="b")}))
    seen = data.id2token("item_id", np.flatnonzero(data.seen_items("train")))
    assert sorted(seen) == ["a000", "a001", "a002", "a003", "b000", "b001", "b002"]
    assert not data.seen_items("train")[0]
    assert sorted(data.id2token("item_id", np.flatnonzero(data.seen_items("valid"))))[-1] == "b004"

"""Batches against a naive reading of the sequences: every row once, the right history, a seeded order."""

import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from builds import random_sequences, write_build

from recbole_blair.data.dataset import BlairDataset
from recbole_blair.data.loader import RowLoader
from recbole_blair.errors import InputError

SEQUENCES = random_sequences(n_users=40, n_items=15, seed=3, longest=14)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return BlairDataset(write_build(tmp_path_factory.mktemp("loader"), SEQUENCES))


def order(loader, epoch=0):
    loader.epoch = epoch
    return [rows.tolist() for rows in loader.batches()]


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("bucket", [True, False])
def test_every_row_comes_once_an_epoch(dataset, split, shuffle, bucket):
    loader = RowLoader(dataset, split, 7, shuffle=shuffle, bucket=bucket)
    batches = order(loader)
    assert sorted(chain.from_iterable(batches)) == list(range(len(dataset.rows[split])))
    assert len(batches) == len(loader)
    assert sorted(map(len, batches), reverse=True)[:-1] == [7] * (len(batches) - 1)


@pytest.mark.parametrize("bucket", [True, False])
def test_the_order_is_a_function_of_seed_and_epoch(dataset, bucket):
    def make(seed):
        return RowLoader(dataset, "train", 16, shuffle=True, bucket=bucket, seed=seed)

    first = make(1)
    epochs = [order(first, e) for e in range(3)]
    np.random.seed(99)  # noqa: NPY002  the global state is no part of it
    assert [order(make(1), e) for e in (2, 0, 1)] == [epochs[2], epochs[0], epochs[1]]
    assert epochs[0] != epochs[1] != epochs[2]
    assert order(make(2)) != epochs[0]


def test_rows_keep_file_order_without_shuffling(dataset):
    rows = chain.from_iterable(order(RowLoader(dataset, "train", 16, bucket=False)))
    assert list(rows) == list(range(len(dataset.rows["train"])))


@pytest.mark.parametrize("max_length", [50, 3, 300])
@pytest.mark.parametrize("trim", [True, False])
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_histories_are_what_came_before_the_target(dataset, split, trim, max_length):
    expected = {}
    for user, events in SEQUENCES.items():
        for i in range(1, len(events)):
            expected[user, events[i][1]] = (events[max(0, i - max_length) : i], events[i])
    for batch in RowLoader(dataset, split, 8, max_length=max_length, trim=trim, shuffle=True, seed=4):
        users = dataset.id2token("user_id", batch["user_id"])
        width = batch["item_id_list"].shape[1]
        assert width == (int(batch["item_length"].max()) if trim else max_length)
        for i, user in enumerate(users):
            history, target = expected[user, int(batch["timestamp"][i])]
            n = int(batch["item_length"][i])
            assert n == len(history)
            assert dataset.id2token("item_id", batch["item_id_list"][i, :n]) == [item for item, _ in history]
            assert batch["timestamp_list"][i, :n].tolist() == [time for _, time in history]
            assert dataset.id2token("item_id", batch["item_id"][i]) == [target[0]]
            assert (batch["timestamp_list"][i, :n] < batch["timestamp"][i]).all()
            assert not batch["item_id_list"][i, n:].any() and not batch["timestamp_list"][i, n:].any()


def test_bucketing_pads_less(dataset):
    def padded(bucket):
        loader = RowLoader(dataset, "train", 8, shuffle=True, bucket=bucket, seed=1)
        return sum(int((batch["item_id_list"] == 0).sum()) for batch in loader)

    assert padded(True) < 0.5 * padded(False)


def test_row_numbers_lead_back_to_the_rows(dataset):
    for batch in RowLoader(dataset, "valid", 8, shuffle=True):
        rows = batch["row"].numpy()
        assert (dataset.seq_items[dataset.rows["valid"].target[rows]] == batch["item_id"].numpy()).all()


def test_negatives_are_items_other_than_the_target(dataset):
    loader = RowLoader(dataset, "train", 32, shuffle=True, n_neg=1, seed=0)
    drawn = []
    for epoch in range(8):
        loader.epoch = epoch
        for batch in loader:
            negative = batch["neg_item_id"]
            assert (negative != batch["item_id"]).all()
            drawn += negative.tolist()
    assert set(drawn) == set(range(1, dataset.n_items))  # never padding, every item
    counts = np.bincount(drawn)[1:]
    assert counts.min() > 0.6 * counts.mean()


def test_negatives_are_a_function_of_seed_epoch_and_batch(dataset):
    def draw(epoch, seed=0):
        loader = RowLoader(dataset, "train", 32, shuffle=True, n_neg=1, seed=seed)
        loader.epoch = epoch
        return [batch["neg_item_id"].tolist() for batch in loader]

    assert draw(1) == draw(1) and draw(1) != draw(2) and draw(1) != draw(1, seed=5)
    loader = RowLoader(dataset, "train", 32, n_neg=1)
    same = np.full(32, 3)
    assert loader.sample_negatives(same, 0).tolist() != loader.sample_negatives(same, 1).tolist()


def test_one_item_has_no_negative(tmp_path):
    from builds import TEST_MS, VALID_MS

    lonely = write_build(tmp_path, {"u": [("a", 1), ("a", 2), ("a", VALID_MS), ("a", TEST_MS)]})
    with pytest.raises(InputError, match="tiny has one item, so a target has no negative"):
        next(iter(RowLoader(BlairDataset(lonely), "train", 4, n_neg=1)))

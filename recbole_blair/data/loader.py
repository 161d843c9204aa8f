"""Makes batches from the flat arrays: padded to their longest history, of like lengths, in a seeded order.

Shapes: B rows or windows of a batch, L positions of its longest history, R rows of a split, S events
of all users, U users with padding 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from recbole_blair.errors import InputError
from recbole_blair.schema import ITEM_ID, ITEM_SEQ, ITEM_SEQ_LEN, TARGET_SEQ, TIMESTAMP, TIMESTAMP_SEQ, USER_ID

if TYPE_CHECKING:
    from collections.abc import Iterator

    from recbole.data.interaction import Interaction

    from recbole_blair.data.dataset import BlairDataset

BUCKET_BATCHES = 64  # batches whose rows are sorted by length together; larger sorts better, shuffles less


class RowLoader:
    """Iterates over the rows of one split as RecBole interactions on the CPU.

    Args:
        dataset: the build.
        split: train, valid or test.
        batch_size: rows per batch; the last may be smaller.
        max_length: latest history items a row gets.
        trim: pad to the batch's longest history; False pads to `max_length`.
        shuffle: a new order each epoch, a function of (seed, epoch) alone.
        bucket: batches of like lengths. Every row still comes once per epoch.
        n_neg: uniform negatives per row under `neg_item_id`, for RecBole's BPR models.
        seed: of the orders and the negatives.
    """

    def __init__(
        self,
        dataset: BlairDataset,
        split: str,
        batch_size: int,
        *,
        max_length: int = 50,
        trim: bool = True,
        shuffle: bool = False,
        bucket: bool = True,
        n_neg: int = 0,
        seed: int = 0,
    ) -> None:
        self.dataset, self.split, self.rows = dataset, split, dataset.rows[split]
        self.batch_size, self.max_length, self.trim = batch_size, max_length, trim
        self.shuffle, self.bucket, self.n_neg, self.seed = shuffle, bucket, n_neg, seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def batches(self) -> Iterator[np.ndarray]:
        """Yield arrays of row numbers, one per batch, for the epoch set in `self.epoch`."""
        n = len(self.rows)
        rng = np.random.default_rng((self.seed, self.epoch))
        order = np.arange(n, dtype=np.int32)
        if self.shuffle:
            rng.shuffle(order)
        if self.bucket:
            window = self.batch_size * BUCKET_BATCHES if self.shuffle else n
            # of as few bits as hold it: NumPy sorts those by counting, ten times faster
            length = np.minimum(self.rows.length, self.max_length).astype(np.min_scalar_type(self.max_length))
            for part in (order[i : i + window] for i in range(0, n, window)):
                part[:] = part[np.argsort(length[part], kind="stable")]
        starts = np.arange(0, n, self.batch_size)
        if self.shuffle and self.bucket:
            rng.shuffle(starts)
        for start in starts:
            yield order[start : start + self.batch_size]

    def __iter__(self) -> Iterator[Interaction]:
        for rows in self.batches():
            yield self.build(rows)

    def build(self, rows: np.ndarray) -> Interaction:
        """Build the interaction of chosen rows.

        Returns:
            item_id_list (B, L) int64 right-padded with 0, item_length (B,), item_id (B,) the target,
            user_id (B,), timestamp (B,) and timestamp_list (B, L) int64 ms, and `row` (B,) the row numbers.
        """
        from recbole.data.interaction import Interaction  # heavy: loads pandas

        target, length, user = self.rows.table.take(rows, axis=0).astype(np.int64).T  # (B,) each
        length = np.minimum(length, self.max_length)  # the latest items: the slice begins later
        width = max(int(length.max(initial=1)), 1) if self.trim else self.max_length
        # Row b takes the events target - length … target, its history and then its target. Shorter rows repeat their
        # target up to the width, which `real` sets to 0: one read of neighbouring events, no loop over rows.
        step = np.arange(width + 1)
        at = np.minimum((target - length)[:, None] + step, target[:, None])  # (B, L + 1) positions in the events
        item, time = np.moveaxis(self.dataset.events.take(at, axis=0), 2, 0)  # (B, L + 1) each; the last is the target
        real = step[:-1] < length[:, None]  # (B, L)
        fields = {
            ITEM_SEQ: item[:, :-1] * real,
            TIMESTAMP_SEQ: time[:, :-1] * real,
            ITEM_SEQ_LEN: length,
            ITEM_ID: item[:, -1],
            TIMESTAMP: time[:, -1],
            USER_ID: user,
            "row": np.asarray(rows, np.int64),
        }
        if self.n_neg:
            fields[f"neg_{ITEM_ID}"] = self.sample_negatives(fields[ITEM_ID], int(rows[0]))
        return Interaction({k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in fields.items()})

    def sample_negatives(self, positive: np.ndarray, first_row: int) -> np.ndarray:
        """Draw one uniform item per row, (B,), that is not its target, a function of (seed, epoch, first row)."""
        if self.dataset.n_items < 3:
            raise InputError(f"{self.dataset.name} has one item, so a target has no negative")
        rng = np.random.default_rng((self.seed, self.epoch, first_row))
        negative = rng.integers(1, self.dataset.n_items - 1, len(positive))  # one item fewer than there are …
        return negative + (negative >= positive)  # … and the target is stepped over


class SequenceLoader:
    """Iterates over users' train sequences, every event that is a train target supervised once per epoch.

    A user with at most `max_length` events before the last train target is one window. A longer one is cut into
    windows of `max_length` events from the latest back; each repeats the last part of the one before, which is
    supervised there alone. So a target sees at most `max_length` items, and at least floor(overlap x max_length) + 1
    where it has that many. No event after a user's last train target is touched.

    Args:
        dataset: its rows chain.
        batch_size: windows per batch; the last may be smaller.
        max_length: latest history items a target sees, at most.
        overlap: share of a window that repeats the one before, from 0 to below 1.
        shuffle: a new order each epoch, a function of (seed, epoch) alone.
        seed: of the orders.

    Raises:
        InputError: rows of another tool that do not chain to sequences, or an overlap out of range.
    """

    split = "train"

    def __init__(
        self,
        dataset: BlairDataset,
        batch_size: int,
        *,
        max_length: int = 50,
        overlap: float = 0.5,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        if not dataset.chained:
            raise InputError(
                f"{dataset.name} keeps no whole sequences, which train_style=sequence needs; set train_style: prefix"
            )
        if not 0 <= overlap < 1:
            raise InputError(f"window_overlap={overlap} must be at least 0 and below 1")
        self.dataset, self.batch_size, self.shuffle, self.seed = dataset, batch_size, shuffle, seed
        self.epoch = 0
        self.rows = train_windows(dataset, max_length, max_length - int(overlap * max_length))

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def batches(self) -> Iterator[np.ndarray]:
        """Yield arrays of window numbers, one per batch, for the epoch set in `self.epoch`."""
        n = len(self.rows)
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(n) if self.shuffle else np.arange(n)
        for start in range(0, n, self.batch_size):
            yield order[start : start + self.batch_size]

    def __iter__(self) -> Iterator[Interaction]:
        for windows in self.batches():
            yield self.build(windows)

    def build(self, windows: np.ndarray) -> Interaction:
        """Build the interaction of chosen windows.

        Returns:
            As RowLoader's, with the target and the time of the last position under item_id and
            timestamp, and target_list (B, L) int64: the item to predict at each position, 0 where none is supervised.
        """
        from recbole.data.interaction import Interaction  # heavy: loads pandas

        user, start, end, first_target = self.rows.columns[:, windows]  # (B,) each
        length = end - start  # inputs are the events start … end - 1, each of which predicts the event after it
        step = np.arange(int(length.max(initial=1)))
        real = step < length[:, None]  # (B, L)
        at = np.where(real, start[:, None] + step, 0)  # (B, L) positions in the events
        items, times = self.dataset.seq_items, self.dataset.seq_times
        fields = {
            ITEM_SEQ: np.where(real, items[at], 0),
            TIMESTAMP_SEQ: np.where(real, times[at], 0),
            TARGET_SEQ: np.where(real & (at + 1 >= first_target[:, None]), items[np.where(real, at + 1, 0)], 0),
            ITEM_SEQ_LEN: length,
            ITEM_ID: items[end],
            TIMESTAMP: times[end],
            USER_ID: user,
        }
        return Interaction({k: torch.from_numpy(np.asarray(v, np.int64)) for k, v in fields.items()})


class Windows:
    """Windows over sequences: `columns` (4, W) int64: user, first input, end of the inputs (the last target's place),
    first supervised target's place."""

    def __init__(self, columns: np.ndarray) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return self.columns.shape[1]


def train_windows(dataset: BlairDataset, max_length: int, stride: int) -> Windows:
    """Cut every user's train sequence into windows of `max_length` inputs, `stride` apart, from the latest back.

    Returns:
        By user, latest first; together they supervise each train target once.
    """
    target, row_user = np.asarray(dataset.rows["train"].target), np.asarray(dataset.rows["train"].user)
    first = np.full(dataset.n_users, np.iinfo(np.int64).max)  # (U,) place of a user's first train target
    last = np.full(dataset.n_users, -1)  # (U,) and of the last one
    np.minimum.at(first, row_user, target)
    np.maximum.at(last, row_user, target)
    user = np.flatnonzero(last >= 0)
    begin, first, last = np.asarray(dataset.user_start)[user], first[user], last[user]
    by_inputs = 1 + -(-np.maximum(last - begin - max_length, 0) // stride)  # until a window reaches the begin
    by_targets = -(-(last - first + 1) // stride)  # until every target is supervised
    count = np.minimum(by_inputs, by_targets)
    of = np.repeat(np.arange(len(user)), count)  # (W,) which user a window is of
    back = np.arange(len(of)) - np.repeat(np.cumsum(count) - count, count)  # 0: the user's latest window
    end = last[of] - back * stride
    start = np.maximum(begin[of], end - max_length)
    # A user's earliest window supervises all that is left; each later one the `stride` targets up to its end.
    supervised = np.where(back == count[of] - 1, first[of], np.maximum(first[of], end - stride + 1))
    return Windows(np.stack([user[of], start, end, supervised]))

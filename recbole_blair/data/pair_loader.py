"""Batches of pairs and of users, for recommenders that know users by their ids and read no history.

Shapes: B rows of a batch, R rows of a split, U users and N items with padding 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Union

import numpy as np
import torch

from recbole_blair.errors import InputError
from recbole_blair.schema import ITEM_ID, USER_ID

if TYPE_CHECKING:
    from collections.abc import Iterator

    from recbole.data.interaction import Interaction

    from recbole_blair.data.dataset import BlairDataset
    from recbole_blair.data.loader import RowLoader, SequenceLoader

Loader = Union["RowLoader", "SequenceLoader", "PairLoader", "UserLoader"]
LABEL = "label"  # RecBole's name of the field
Form = Literal["pair", "pairwise", "pointwise"]


class PairLoader:
    """Iterates over the (user, item) pairs of one split as RecBole interactions on the CPU.

    Negatives are uniform over the items that the user does not have in this split. A user who has all of them gets any.

    Args:
        dataset: the build.
        split: train, valid or test.
        batch_size: pairs per batch; the last may be smaller.
        form: `pair`: nothing else. `pairwise`: each pair has a negative item. `pointwise`: each pair is followed, after
            all pairs, by the user with a negative item; label 1 and 0. So a batch has 2B rows.
        shuffle: a new order each epoch, a function of (seed, epoch) alone.
        seed: of the orders and the negatives.
    """

    def __init__(
        self, dataset: BlairDataset, split: str, batch_size: int, *, form: Form = "pair", shuffle: bool = False,
        seed: int = 0,
    ) -> None:  # fmt: skip
        self.dataset, self.split, self.rows = dataset, split, dataset.rows[split]
        self.batch_size, self.form, self.shuffle, self.seed = batch_size, form, shuffle, seed
        self.epoch = 0
        self.user = np.asarray(self.rows.user, np.int64)  # (R,)
        self.item = np.asarray(dataset.seq_items[self.rows.target], np.int64)  # (R,)
        if form != "pair":
            self.known = np.sort(self.user * dataset.n_items + self.item)  # (R,) the pairs as numbers, to look them up

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def batches(self) -> Iterator[np.ndarray]:
        """Yield arrays of row numbers, one per batch, for the epoch set in `self.epoch`."""
        yield from cut_batches(len(self.rows), self.batch_size, self.shuffle, (self.seed, self.epoch))

    def __iter__(self) -> Iterator[Interaction]:
        for rows in self.batches():
            yield self.build(rows)

    def build(self, rows: np.ndarray) -> Interaction:
        """Build the interaction of chosen rows.

        Returns:
            user_id, item_id and `row`, the row numbers, (B,) int64; pairwise: neg_item_id (B,); pointwise: all (2B,)
            and label (2B,) float32.
        """
        user, item = self.user[rows], self.item[rows]
        fields = {USER_ID: user, ITEM_ID: item, "row": np.asarray(rows, np.int64)}
        if self.form != "pair":
            negative = self.sample_negatives(user, int(rows[0]))
            if self.form == "pairwise":
                fields[f"neg_{ITEM_ID}"] = negative
            else:
                fields = {key: np.tile(value, 2) for key, value in fields.items()}
                fields[ITEM_ID] = np.concatenate([item, negative])
                fields[LABEL] = np.repeat(np.array([1.0, 0.0], np.float32), len(rows))
        return as_interaction(fields)

    def sample_negatives(self, user: np.ndarray, first_row: int) -> np.ndarray:
        """Draw one item per user (B,) that the user does not have; a function of (seed, epoch, first row)."""
        n_items = self.dataset.n_items
        if n_items < 3:
            raise InputError(f"{self.dataset.name} has one item, so a pair has no negative")
        rng = np.random.default_rng((self.seed, self.epoch, first_row))
        negative = rng.integers(1, n_items, len(user))
        for _ in range(100):  # each time only the draws that hit an item of the user's are drawn again
            pair = user * n_items + negative
            place = np.minimum(np.searchsorted(self.known, pair), len(self.known) - 1)
            hit = np.flatnonzero(self.known[place] == pair)
            if not len(hit):
                break
            negative[hit] = rng.integers(1, n_items, len(hit))
        return negative


class UserLoader:
    """Iterates over the users who have train pairs, for models that take a user's items as one row (autoencoders).

    Args:
        dataset, batch_size, seed: as of `PairLoader`; batches hold so many users, in a new order each epoch.
    """

    split = "train"

    def __init__(self, dataset: BlairDataset, batch_size: int, seed: int = 0) -> None:
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.rows = np.unique(np.asarray(dataset.rows["train"].user, np.int64))
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def batches(self) -> Iterator[np.ndarray]:
        """Yield arrays of positions among the users, one per batch, for the epoch set in `self.epoch`."""
        yield from cut_batches(len(self.rows), self.batch_size, True, (self.seed, self.epoch))

    def __iter__(self) -> Iterator[Interaction]:
        for rows in self.batches():
            yield self.build(rows)

    def build(self, rows: np.ndarray) -> Interaction:
        """Build the interaction of chosen users: user_id (B,) int64."""
        return as_interaction({USER_ID: self.rows[rows]})


def cut_batches(n: int, batch_size: int, shuffle: bool, seed: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yield the numbers 0 to n - 1 in batches; shuffled, the order is a function of `seed`."""
    order = np.arange(n, dtype=np.int32)
    if shuffle:
        np.random.default_rng(seed).shuffle(order)
    for start in range(0, n, batch_size):
        yield order[start : start + batch_size]


def as_interaction(fields: dict[str, np.ndarray]) -> Interaction:
    """Return arrays (B,) as RecBole's interaction."""
    from recbole.data.interaction import Interaction  # heavy: loads pandas

    return Interaction({key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in fields.items()})

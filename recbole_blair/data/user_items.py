"""Which items a user has in which split, and what RecBole's general recommenders ask of a dataset: the train pairs."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import torch

from recbole_blair.data.sequences import ragged_range
from recbole_blair.errors import InputError
from recbole_blair.schema import ITEM_ID, SPLITS, TIMESTAMP, USER_ID

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction
    from scipy.sparse import coo_matrix, csr_matrix
    from torch import Tensor

    from recbole_blair.data.dataset import Rows


class UserItems:
    """A part of `BlairDataset`: R rows of a split, U users and N items with padding 0.

    RecBole gives a model the train split alone, and so do the methods of its names here.
    """

    rows: dict[str, Rows]
    seq_items: np.ndarray  # (S,)
    seq_times: np.ndarray  # (S,)
    user_start: np.ndarray  # (U,)
    n_items: int
    n_users: int
    uid_field, iid_field, time_field = USER_ID, ITEM_ID, TIMESTAMP

    @functools.cached_property
    def n_rows_of_user(self) -> np.ndarray:
        """How many rows of each split each user has, (3, U) int64."""
        return np.stack([np.bincount(self.rows[split].user, minlength=self.n_users) for split in SPLITS])

    def items_before(self, split: str, user: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the items of users (B,) in the splits before `split`, flat, and how many each has, (B,) int64.

        In a build of pairs a user's events lie in the order of the splits.
        """
        length = self.n_rows_of_user[: SPLITS.index(split), user].sum(0)
        at = np.repeat(np.asarray(self.user_start)[user], length) + ragged_range(length)
        return self.seq_items[at], length

    def users_of_splits(self) -> list[int]:
        """Count the users with a row in train, valid and test."""
        return np.count_nonzero(self.n_rows_of_user, axis=1).tolist()

    def train_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the users and the items of the train rows, (R,) int64 each, in row order."""
        rows = self.rows["train"]
        return np.asarray(rows.user, np.int64), np.asarray(self.seq_items[rows.target], np.int64)

    # What RecBole's general recommenders ask a dataset for.

    @property
    def inter_num(self) -> int:
        """Train rows."""
        return len(self.rows["train"])

    @property
    def inter_feat(self) -> Interaction:
        """The train rows as an interaction."""
        from recbole.data.interaction import Interaction  # heavy: loads pandas

        user, item = self.train_pairs()
        time = np.asarray(self.seq_times[self.rows["train"].target])
        fields = {USER_ID: user, ITEM_ID: item, TIMESTAMP: time}
        return Interaction({key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in fields.items()})

    def inter_matrix(self, form: str = "coo", value_field: str | None = None) -> coo_matrix | csr_matrix:
        """Return the matrix of the train rows, (U, N): 1 where the user has the item.

        Raises:
            InputError: `value_field`: there are no ratings.
        """
        from scipy.sparse import coo_matrix  # heavy

        refuse_values(value_field)
        user, item = self.train_pairs()
        matrix = coo_matrix((np.ones(len(user)), (user, item)), shape=(self.n_users, self.n_items))
        return matrix if form == "coo" else matrix.tocsr()

    def history_item_matrix(
        self, value_field: str | None = None, max_history_len: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return each user's train items: ids (U, L) int64 padded with 0, ones (U, L) where there is one, counts (U,).

        Raises:
            InputError: see `inter_matrix`.
        """
        refuse_values(value_field)
        return padded_lists(*self.train_pairs(), self.n_users, max_history_len)

    def history_user_matrix(
        self, value_field: str | None = None, max_history_len: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return each item's train users, (N, L) and (N,); see `history_item_matrix`."""
        refuse_values(value_field)
        user, item = self.train_pairs()
        return padded_lists(item, user, self.n_items, max_history_len)


def refuse_values(field: str | None) -> None:
    """Refuse to give values of the rows other than that they are there."""
    if field is not None:
        raise InputError(f"the rows carry no {field!r}; choose a setting of the model that does without")


def padded_lists(key: np.ndarray, value: np.ndarray, n_keys: int, longest: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Gather the values (R,) of each key from 0 to n_keys - 1; at most `longest` of them, the first in row order.

    Returns:
        values (n_keys, L) int64 padded with 0; 1.0 where there is one, (n_keys, L) float32; how many, (n_keys,) int64.
    """
    order = np.argsort(key, kind="stable")
    count = np.bincount(key, minlength=n_keys)
    place = ragged_range(count)  # (R,) of each value in its key's list
    width = min(int(count.max(initial=0)), longest or len(key))
    kept = place < width
    lists, ones = np.zeros((n_keys, width), np.int64), np.zeros((n_keys, width), np.float32)
    at = key[order][kept], place[kept]
    lists[at], ones[at] = value[order][kept], 1.0
    return torch.from_numpy(lists), torch.from_numpy(ones), torch.from_numpy(np.minimum(count, width))

"""AlphaRec: users and items as one linear map of frozen text; collaborative filtering without ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import GeneralRecommender
from torch import Tensor, nn

from recbole_blair.losses import info_nce_loss
from recbole_blair.schema import ITEM_SEQ

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction

    from recbole_blair.config import Config
    from recbole_blair.data.dataset import BlairDataset


class AlphaRec(GeneralRecommender):
    """AlphaRec with the linear map alone: the score of a user and an item is the cosine of two mapped text vectors.

    With x_i (D,) the frozen text vector of item i, S_u the train items of user u, and W (H, D) the only weight:

        v_i = W x_i,  u = mean of x_i over S_u,  score = cos(W u, v_i)
        loss = mean over the pairs (a, b) of a batch of -log softmax over the batch's items j of cos / temperature

    The map has no bias, so W u is the mean of v_i over S_u: every item is mapped once, and no table of users is kept.
    A user without train items has the vector 0 and scores 0 everywhere. Whoever gives a history instead of a user's id
    (`recommend`) gets the mean of that history, so a new user or a new item needs no training.

    As in the released code, an item that occurs twice in a batch is its own negative; `mask_same_item` leaves it out.
    Differences to it: the batch's users and items are mapped, not all of them; with several processes the negatives are
    those of a process's share of the batch.

    Source: arXiv:2407.05441 with a linear map and no graph convolution, as BLaIR-Bench has it.
    """

    uses_text = True

    def __init__(self, config: Config, dataset: BlairDataset) -> None:
        super().__init__(config, dataset)
        self.temperature, self.mask_same_item = config["temperature"], config["mask_same_item"]
        self.register_buffer("text_features", dataset.text_features.float(), persistent=False)  # (N - 1, D)
        self.map = nn.Linear(self.text_features.shape[1], config["embedding_size"], bias=False)
        user, item = map(torch.from_numpy, dataset.train_pairs())  # (R,) each
        count = torch.bincount(user, minlength=self.n_users)  # (U,)
        self.register_buffer("train_items", item[torch.argsort(user, stable=True)], persistent=False)  # (R,) by user
        self.register_buffer("train_end", count.cumsum(0), persistent=False)  # (U,) where a user's items end in it

    def project_items(self, items: Tensor | None = None) -> Tensor:
        """Map items `items` (M,), ids from 1, or all of them: (M, H) or (N - 1, H), not normalised."""
        return self.map(self.text_features if items is None else self.text_features[items - 1])

    def item_vectors(self, projected: Tensor | None = None) -> Tensor:
        """Return the vectors of all items, (N, H), of length 1; the padding row is zero."""
        projected = self.project_items() if projected is None else projected
        return F.pad(F.normalize(projected.to(self.map.weight.dtype), dim=1), (0, 0, 1, 0))

    def user_vectors(self, interaction: Interaction, projected: Tensor | None = None) -> Tensor:
        """Return the vectors of users (B, H), of length 1, of their histories where there are any, else of train items.

        Args:
            interaction: item_id_list (B, L), or user_id (B,).
            projected (N - 1, H): `project_items()`, saves mapping the users' items.
        """
        if ITEM_SEQ in interaction:
            real = interaction[ITEM_SEQ] > 0  # (B, L)
            items, count = interaction[ITEM_SEQ][real], real.sum(1)  # (P,), (B,)
        else:
            items, count = self.items_of(interaction[self.USER_ID])
        return F.normalize(self.mean_of_items(items, count, projected), dim=1)

    def items_of(self, user: Tensor) -> tuple[Tensor, Tensor]:
        """Return the train items of users (B,), one user after the other, (P,), and how many each has, (B,)."""
        end = self.train_end[user]  # (B,)
        count = end - self.train_end[user - 1]  # user 0 is the padding, with no item
        first = torch.repeat_interleave(end - count.cumsum(0), count)  # (P,) a user's end less all items up to there
        return self.train_items[first + torch.arange(len(first), device=user.device)], count

    def mean_of_items(self, items: Tensor, count: Tensor, projected: Tensor | None = None) -> Tensor:
        """Return the mean of each user's mapped items, (B, H), 0 of none; `items` (P,) hold `count` (B,) per user."""
        if projected is None:
            items, row = torch.unique(items, return_inverse=True)  # each item is mapped once
            projected = self.project_items(items)
        else:
            row = items - 1
        return F.embedding_bag(row, projected.to(self.map.weight.dtype), count.cumsum(0) - count, mode="mean")

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Return the in-batch loss of pairs, a scalar."""
        items = interaction[self.ITEM_ID]  # (B,)
        users = self.mean_of_items(*self.items_of(interaction[self.USER_ID]))  # (B, H)
        same = items == items[:, None] if self.mask_same_item else None  # (B, B)
        own = torch.arange(len(items), device=items.device)
        return info_nce_loss(users, self.project_items(items), own, self.temperature, same)

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Score every item, (B, N); column 0 is the padding item and no candidate."""
        projected = self.project_items()
        return self.user_vectors(interaction, projected) @ self.item_vectors(projected).T

    def predict(self, interaction: Interaction) -> Tensor:
        """Score the rows' own `item_id`, (B,)."""
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID][:, None]).squeeze(1)

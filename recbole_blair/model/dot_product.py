"""Recommenders that score by a dot product: what they share with the evaluator, the loaders and the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from torch import Tensor

from recbole_blair.model.softmax import step_items
from recbole_blair.schema import TARGET_SEQ

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction

    from recbole_blair.model.softmax import Softmax


class DotProductRecommender(SequentialRecommender):
    """A recommender whose score is a dot product of a user and an item vector.

    A subclass gives the three methods below; the evaluator then computes the item table once per evaluation. `encoder`
    and `softmax` are needed by the methods that read them alone.
    """

    softmax: Softmax

    def project_items(self, items: Tensor | None = None) -> Tensor:
        """Return what histories and the item table are made of: (M, H) of ids `items`, or (N - 1, H) of all."""
        raise NotImplementedError

    def item_vectors(self, projected: Tensor | None = None) -> Tensor:
        """Return the vectors of all items, (N, H); row 0, the padding item, is zero."""
        raise NotImplementedError

    def user_vectors(self, interaction: Interaction, projected: Tensor | None = None) -> Tensor:
        """Return the vectors of the histories, (B, H); `projected` (N - 1, H) is `project_items()`."""
        raise NotImplementedError

    def draw_items(self, interaction: Interaction) -> tuple[Tensor | None, Tensor | None]:
        """Draw a step's negatives and list the items whose vectors it needs.

        Returns:
            items (M,): sorted ids of targets, negatives and histories, None: all; negatives (K,), or (S, K) of each
            of the S targets, ids; None: a softmax over all items draws none.
        """
        if self.softmax.kind == "full":
            return None, None
        item_seq, target = interaction[self.ITEM_SEQ], self.targets(interaction)
        negatives = self.softmax.draw(target)
        if negatives.dim() == 2:
            return step_items(self.n_items, item_seq, target, negatives)[0], negatives
        return torch.unique(torch.cat([target, negatives, item_seq[item_seq > 0]])), negatives

    def supervised_states(
        self, interaction: Interaction, vectors: Tensor, items: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode a training batch: rows with one target each, or sequences with targets at many positions.

        Args:
            interaction: a RowLoader's or a SequenceLoader's.
            vectors, items: as `encode_history` takes them.

        Returns:
            states (S, H), target (S,) int64: of the S supervised positions.
        """
        item_seq, item_seq_len = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]  # (B, L), (B,)
        if TARGET_SEQ not in interaction:
            return self.encode_history(item_seq, item_seq_len, vectors, items), interaction[self.POS_ITEM_ID]
        row = item_seq - 1 if items is None else torch.searchsorted(items, item_seq)
        states, place = self.encoder.every_position(vectors, row, item_seq_len)  # (P, H), (P,)
        target = interaction[TARGET_SEQ].flatten()[place]  # (P,); 0: not supervised
        supervised = target > 0
        return states[supervised], target[supervised]

    def encode_history(
        self, item_seq: Tensor, item_seq_len: Tensor, vectors: Tensor, items: Tensor | None = None
    ) -> Tensor:
        """Encode histories (B, L) from projected items: rows of all items, or of the sorted ids `items` (M,)."""
        row = item_seq - 1 if items is None else torch.searchsorted(items, item_seq)  # (B, L)
        return self.encoder(vectors, row, item_seq_len)

    def encode_users(self, interaction: Interaction, projected: Tensor | None = None) -> Tensor:
        """Return the encoder's states of the histories, (B, H); `projected` saves projecting their items."""
        item_seq, items = interaction[self.ITEM_SEQ], None
        if projected is None:
            items = torch.unique(item_seq[item_seq > 0])
            projected = self.project_items(items)
        return self.encode_history(item_seq, interaction[self.ITEM_SEQ_LEN], projected, items)

    def targets(self, interaction: Interaction) -> Tensor:
        """Return every item the batch supervises, (S,) int64, repeats kept."""
        if TARGET_SEQ not in interaction:
            return interaction[self.POS_ITEM_ID]
        return interaction[TARGET_SEQ][interaction[TARGET_SEQ] > 0]

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Score every item, (B, N); column 0 is the padding item and no candidate."""
        projected = self.project_items()
        return self.user_vectors(interaction, projected) @ self.item_vectors(projected).T

    def predict(self, interaction: Interaction) -> Tensor:
        """Score the rows' own `item_id`, (B,)."""
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID][:, None]).squeeze(1)

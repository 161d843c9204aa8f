"""Recommenders that score by a dot product: what they share with the evaluator, the loaders and the loss."""

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from torch import nn

from recbole_blair.losses import full_softmax_loss, sampled_softmax_loss
from recbole_blair.schema import TARGET_SEQ


class DotProductRecommender(SequentialRecommender):
    """A recommender whose score is a dot product of a user and an item vector.

    A subclass gives the three methods below; the evaluator then computes the item table once an evaluation.
    """

    def project_items(self, items=None):
        """Return what histories and the item table are made of: (M, H) of ids `items`, or (N - 1, H) of all."""
        raise NotImplementedError

    def item_vectors(self, projected=None):
        """Return the vectors of all items, (N, H); row 0, the padding item, is zero."""
        raise NotImplementedError

    def user_vectors(self, interaction, projected=None):
        """Return the vectors of the histories, (B, H); `projected` (N - 1, H) is `project_items()`."""
        raise NotImplementedError

    def supervised_states(self, interaction, vectors, items=None):
        """Encode a training batch: rows with one target each, or sequences with targets at many positions.

        Args:
            interaction: a RowLoader's or a SequenceLoader's.
            vectors, items: as `encode_history` takes them.

        Returns:
            states (S, H), target (S,) int64: of the S supervised positions.
        """
        item_seq, item_seq_len = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        if TARGET_SEQ not in interaction:
            return self.encode_history(item_seq, item_seq_len, vectors, items), interaction[self.POS_ITEM_ID]
        row = item_seq - 1 if items is None else torch.searchsorted(items, item_seq)
        states, place = self.encoder.every_position(vectors, row, item_seq_len)
        target = interaction[TARGET_SEQ].flatten()[place]
        supervised = target > 0
        return states[supervised], target[supervised]

    def encode_history(self, item_seq, item_seq_len, vectors, items=None):
        """Encode histories (B, L) from projected items: rows of all items, or of the sorted ids `items` (M,)."""
        row = item_seq - 1 if items is None else torch.searchsorted(items, item_seq)
        return self.encoder(vectors, row, item_seq_len)

    def targets(self, interaction):
        """Return every item the batch supervises, (S,) int64, repeats kept."""
        if TARGET_SEQ not in interaction:
            return interaction[self.POS_ITEM_ID]
        return interaction[TARGET_SEQ][interaction[TARGET_SEQ] > 0]

    def full_sort_predict(self, interaction):
        """Score every item, (B, N); column 0 is the padding item and no candidate."""
        projected = self.project_items()
        return self.user_vectors(interaction, projected) @ self.item_vectors(projected).T

    def predict(self, interaction):
        """Score the rows' own `item_id`, (B,)."""
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID][:, None]).squeeze(1)


class Softmax(nn.Module):
    """The training softmax of a text recommender: over all items, or over sampled ones for large catalogues.

    Args:
        kind (str): full or sampled.
        n_negatives (int): negatives a step, shared by the batch.
        negatives (str): uniform or popularity (train targets, plus one).
        item_counts (N,) int64: train targets an item, for popularity.
    """

    def __init__(self, kind, n_negatives, negatives, item_counts):
        super().__init__()
        self.kind, self.n_negatives = kind, n_negatives
        weights = torch.as_tensor(item_counts[1:], dtype=torch.float64) + 1.0
        if negatives == "uniform":
            weights = torch.ones_like(weights)
        share = weights / weights.sum()
        self.register_buffer("log_share", share.log().float(), persistent=False)
        self.register_buffer("cumulative", share.cumsum(0).float(), persistent=False)

    def draw(self, target):
        """Draw negatives and list the distinct items of the step.

        Returns:
            items (M,): sorted ids whose vectors the step needs; negatives (K,): ids drawn.
        """
        draws = torch.rand(self.n_negatives, device=target.device)
        negatives = torch.searchsorted(self.cumulative, draws).clamp_(max=len(self.cumulative) - 1) + 1
        return torch.unique(torch.cat([target, negatives])), negatives

    def sampled(self, users, items, vectors, target, negatives):
        """Sampled loss; `vectors` (M, H) are those of the sorted ids `items` (M,)."""
        expected = self.log_share[negatives - 1] + torch.log(torch.tensor(float(self.n_negatives)))
        return sampled_softmax_loss(
            users, vectors[torch.searchsorted(items, target)], vectors[torch.searchsorted(items, negatives)],
            target, negatives, expected,
        )  # fmt: skip

    def full(self, users, vectors, target, bound=None):
        """Full loss; `vectors` (N - 1, H) are those of items 1 and up; `bound` as of `full_softmax_loss`."""
        return full_softmax_loss(users, vectors, target - 1, bound=bound)

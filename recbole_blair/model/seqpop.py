"""Popularity as a sequential recommender, comparable with the others."""

import torch
from recbole.model.abstract_recommender import SequentialRecommender


class SeqPop(SequentialRecommender):
    """Rank items by how often they are train targets, the same for every row.

    RecBole's `Pop` ranks per user with the history masked, which no sequential model here does by default.
    """

    trains = False  # nothing to fit: the trainer goes straight to evaluation

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        counts = torch.as_tensor(dataset.item_counts("train"), dtype=torch.float32)
        self.register_buffer("counts", counts)

    def full_sort_predict(self, interaction):
        """Return the counts for every row, (B, N)."""
        return self.counts.expand(len(interaction[self.ITEM_SEQ]), -1).clone()

    def predict(self, interaction):
        """Return the counts of the rows' own items, (B,)."""
        return self.counts[interaction[self.ITEM_ID]]

"""Popularity as a sequential recommender, comparable with the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from torch import Tensor

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction

    from recbole_blair.config import Config
    from recbole_blair.data.dataset import BlairDataset


class SeqPop(SequentialRecommender):
    """Rank items by how often they are train targets, the same for every row.

    RecBole's `Pop` ranks per user with the history masked, which no sequential model here does by default.
    """

    counts: Tensor
    trains = False  # nothing to fit: the trainer goes straight to evaluation

    def __init__(self, config: Config, dataset: BlairDataset) -> None:
        super().__init__(config, dataset)
        counts = torch.as_tensor(dataset.item_counts("train"), dtype=torch.float32)
        self.register_buffer("counts", counts)  # (N,)

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Return the counts for every row, (B, N)."""
        return self.counts.expand(len(interaction[self.ITEM_SEQ]), -1).clone()

    def predict(self, interaction: Interaction) -> Tensor:
        """Return the counts of the rows' own items, (B,)."""
        return self.counts[interaction[self.ITEM_ID]]

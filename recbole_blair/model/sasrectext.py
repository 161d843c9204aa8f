"""SASRec (Text): SASRec whose item vectors are an MLP of text features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from recbole_blair.model.adaptors import MLPAdaptor
from recbole_blair.model.dot_product import DotProductRecommender
from recbole_blair.model.layers import HistoryEncoder
from recbole_blair.model.softmax import Softmax

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction

    from recbole_blair.config import Config
    from recbole_blair.data.dataset import BlairDataset


class SASRecText(DotProductRecommender):
    """SASRec over item text, frozen unless `train_encoder` says otherwise: no item ids, temperature or normalisation.

    Trains on rows (`train_style: prefix`, as released) or on whole sequences, every position supervised in one pass.

    Differences to the released code, all intended: an item that occurs many times in a batch is projected once, so
    its occurrences share one dropout mask; the padding item is no candidate of the softmax.

    Source: the baseline of arXiv:2403.03952, section 3.2, after arXiv:1808.09781.
    """

    uses_text = True
    trains_encoder = True

    def __init__(self, config: Config, dataset: BlairDataset) -> None:
        super().__init__(config, dataset)
        self.compute_dtype = config["compute_dtype"]
        self.encoder = HistoryEncoder.from_config(config)
        self.make_items(config, dataset)
        self.softmax = Softmax(
            config["softmax"],
            config["n_negatives"],
            config["negatives"],
            dataset.item_counts("train"),
            drawn_items=dataset.drawn_items,
        )

    def make_items(self, config: Config, dataset: BlairDataset) -> None:
        """Make what `project_items` reads."""
        self.item_texts = dataset.item_texts(self.compute_dtype)  # items (M,) -> (M, D)
        sizes = [self.item_texts.width, *config["adaptor_hidden_sizes"], config["hidden_size"]]
        self.adaptor = MLPAdaptor(sizes, config["adaptor_dropout_prob"], config["initializer_range"])

    def project_items(self, items: Tensor | None = None) -> Tensor:
        """Project items `items` (M,), ids from 1, or all of them: (M, H) or (N - 1, H)."""
        return self.adaptor(self.item_texts(items), self.compute_dtype)

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Return the cross-entropy of the next item, a scalar: -log softmax over the candidates j of s . v_j."""
        items, negatives = self.draw_items(interaction)  # (M,), (K,), or None: every item is a candidate
        vectors = self.project_items(items)  # (M, H)
        users, target = self.supervised_states(interaction, vectors, items)  # (S, H), (S,)
        if items is None:
            users, vectors = users.to(self.compute_dtype), vectors.to(self.compute_dtype)
        return self.softmax.loss(users, vectors, target, items, negatives)

    def item_vectors(self, projected: Tensor | None = None) -> Tensor:
        """Return the vectors of all items, (N, H); the padding row is zero."""
        return F.pad((self.project_items() if projected is None else projected).float(), (0, 0, 1, 0))

    def user_vectors(self, interaction: Interaction, projected: Tensor | None = None) -> Tensor:
        """Return the vectors of the histories, (B, H); `projected` saves projecting their items."""
        return self.encode_users(interaction, projected).float()

"""SASRec over item ids, with the encoder, losses and training styles of the text models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from recbole_blair.model.sasrectext import SASRecText

if TYPE_CHECKING:
    from recbole_blair.config import Config
    from recbole_blair.data.dataset import BlairDataset


class SASRecID(SASRecText):
    """SASRec: learnt item ids as inputs and candidates, no text.

    The model of RecBole's SASRec with `loss_type: CE`. It can also be trained on whole sequences (`train_style:
    sequence`), as the original was and as HSTU is, and with a sampled softmax.

    Source: arXiv:1808.09781, with cross-entropy over the items instead of one sampled negative per position.
    """

    uses_text = False

    def make_items(self, config: Config, dataset: BlairDataset) -> None:
        """Make the item embedding."""
        self.id_embedding = nn.Embedding(self.n_items - 1, config["hidden_size"])
        nn.init.normal_(self.id_embedding.weight, std=config["initializer_range"])

    def project_items(self, items: Tensor | None = None) -> Tensor:
        """Return the vectors of items `items` (M,), ids from 1, or of all of them: (M, H) or (N - 1, H)."""
        return self.id_embedding.weight if items is None else self.id_embedding(items - 1)

"""SASRec over item ids, with the encoder, losses and training styles of the text models: the strong id baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_blair.model.dot_product import DotProductRecommender
from recbole_blair.model.layers import HistoryEncoder
from recbole_blair.model.softmax import LossOptions, Softmax
from recbole_blair.ops import normalise_rows

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction

    from recbole_blair.config import Config
    from recbole_blair.data.dataset import BlairDataset


class SASRecID(DotProductRecommender):
    """SASRec: learnt item ids as inputs and candidates, no text.

    The defaults are RecBole's SASRec with `loss_type: CE`, trained on whole sequences as the original was and as HSTU
    is. Its parts can be chosen one by one:

    - `layers: ligr` and `softmax: sampled` make it eSASRec; eSASRec has no LayerNorm on the inputs, which is kept here.
    - `loss: gbce` with negatives per position is gSASRec's loss.
    - `score: cosine`, `softmax: sampled`, `negatives_of: position`, `logq: False` is HSTU's loss; with 4 layers, 4
      heads and `inner_size: 64`, `hidden_act: relu` the SASRec of HSTU-BLaIR's tables, whose layers are pre-norm.

    Source: arXiv:1808.09781, with cross-entropy over the items instead of one sampled negative per position;
    arXiv:2508.06450 (eSASRec), arXiv:2308.07192 (gSASRec), arXiv:2504.10545 (HSTU-BLaIR).
    """

    uses_text = False

    def __init__(self, config: Config, dataset: BlairDataset) -> None:
        super().__init__(config, dataset)
        self.compute_dtype, self.temperature = config["compute_dtype"], config["temperature"]
        self.cosine = config["score"] == "cosine"
        self.encoder = HistoryEncoder.from_config(config, config["layers"])
        self.id_embedding = nn.Embedding(self.n_items - 1, config["hidden_size"])
        nn.init.normal_(self.id_embedding.weight, std=config["initializer_range"])
        self.softmax = Softmax(
            config["softmax"], config["n_negatives"], config["negatives"], dataset.item_counts("train"),
            LossOptions.from_config(config), dataset.drawn_items,
        )  # fmt: skip

    def project_items(self, items: Tensor | None = None) -> Tensor:
        """Return the vectors of items `items` (M,), ids from 1, or of all of them: (M, H) or (N - 1, H)."""
        return self.id_embedding.weight if items is None else self.id_embedding(items - 1)

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Return the mean loss of the supervised positions, a scalar.

        The logit of item j at a position of state s is s . v_j / temperature, or cos(s, v_j) / temperature.
        """
        items, negatives = self.draw_items(interaction)  # (M,), (K,) or (S, K); None: every item is a candidate
        vectors = self.project_items(items)  # (M, H)
        users, target = self.supervised_states(interaction, vectors, items)  # (S, H), (S,)
        users, bound = users / self.temperature, None
        if self.cosine:
            bound = 1.0 / self.temperature
            users = normalise_rows(users, torch.float32) / self.temperature
            vectors = normalise_rows(vectors, vectors.dtype)
        if negatives is None:
            users, vectors = users.to(self.compute_dtype), vectors.to(self.compute_dtype)
        return self.softmax.loss(users, vectors, target, items, negatives, bound)

    def item_vectors(self, projected: Tensor | None = None) -> Tensor:
        """Return the vectors of all items, (N, H), of length 1 where scores are cosines; the padding row is zero."""
        vectors = (self.project_items() if projected is None else projected).float()
        return F.pad(F.normalize(vectors, dim=1) if self.cosine else vectors, (0, 0, 1, 0))

    def user_vectors(self, interaction: Interaction, projected: Tensor | None = None) -> Tensor:
        """Return the vectors of the histories, (B, H); `projected` saves projecting their items."""
        users = self.encode_users(interaction, projected).float()
        return F.normalize(users, dim=1) if self.cosine else users

"""UniSRec over BLaIR features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_blair.errors import InputError
from recbole_blair.losses import in_batch_softmax_loss
from recbole_blair.model.adaptors import MoEAdaptor
from recbole_blair.model.dot_product import DotProductRecommender
from recbole_blair.model.layers import HistoryEncoder
from recbole_blair.model.softmax import Softmax
from recbole_blair.ops import normalise_rows

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction

    from recbole_blair.config import Config
    from recbole_blair.data.dataset import BlairDataset


class UniSRecBlair(DotProductRecommender):
    """UniSRec: item text through a mixture-of-experts adaptor into a SASRec encoder, cosine scores.

    The text's encoder is frozen unless `train_encoder` says otherwise.

    `train_stage`: `inductive_ft` sees text alone, so new items need only their text; `transductive_ft` adds an
    embedding of the item's id; `pretrain` trains the contrastive objectives instead of next-item softmax.

    Differences to the released code, all intended: an item that occurs many times in a batch is projected once, so
    its occurrences share one dropout mask and gate noise; the padding item is no candidate of the softmax; masked
    same-item negatives of the pretraining losses contribute nothing (there each counts as exp(0) = 1); the second
    view of pretraining is item drop alone (word drop needs features of altered texts).

    Source: arXiv:2206.05941, sections 2.1 to 2.4; arXiv:2403.03952, section 3.2.
    """

    uses_text = True
    trains_encoder = True

    def __init__(self, config: Config, dataset: BlairDataset) -> None:
        super().__init__(config, dataset)
        self.train_stage = config["train_stage"]
        if self.train_stage == "pretrain" and config["train_style"] == "sequence":
            raise InputError(
                "train_stage=pretrain contrasts whole histories with their targets, so it trains on rows; set "
                "train_style: prefix"
            )
        self.temperature = config["temperature"]
        self.lam = config["lambda"]
        self.item_drop_ratio = config["item_drop_ratio"]
        self.compute_dtype = config["compute_dtype"]
        self.item_texts = dataset.item_texts(self.compute_dtype)  # items (M,) -> (M, D)
        self.encoder = HistoryEncoder.from_config(config)
        self.adaptor = MoEAdaptor(
            config["n_exps"], self.item_texts.width, config["hidden_size"], config["adaptor_dropout_prob"],
            config["noisy_gating"], config["initializer_range"],
        )  # fmt: skip
        self.id_embedding = None
        if self.train_stage == "transductive_ft":
            self.id_embedding = nn.Embedding(self.n_items - 1, config["hidden_size"])
            self.id_embedding.weight.data.normal_(0.0, config["initializer_range"])
        self.softmax = Softmax(
            config["softmax"],
            config["n_negatives"],
            config["negatives"],
            dataset.item_counts("train"),
            drawn_items=dataset.drawn_items,
        )

    def project_items(self, items: Tensor | None = None) -> Tensor:
        """Project items `items` (M,), ids from 1, or all of them: (M, H) or (N - 1, H).

        v_i = adaptor(x_i), or adaptor(x_i) + e_i with an id embedding e.
        """
        vectors = self.adaptor(self.item_texts(items), self.compute_dtype)
        if self.id_embedding is not None:
            vectors = vectors + (self.id_embedding.weight if items is None else self.id_embedding(items - 1))
        return vectors

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Return the loss of the stage, a scalar.

        For a history's state s and its target i, -log softmax over the candidates j of cos(s, v_j) / temperature
        (equation 9), taken at j = i.
        """
        if self.train_stage == "pretrain":
            return self.pretrain_loss(interaction)
        items, negatives = self.draw_items(interaction)  # (M,), (K,), or None: every item is a candidate
        vectors = self.project_items(items)  # (M, H)
        state, target = self.supervised_states(interaction, vectors, items)  # (S, H), (S,)
        users = (normalise_rows(state, torch.float32) / self.temperature).to(self.compute_dtype)
        vectors = normalise_rows(vectors, self.compute_dtype)
        bound = 1.0 / self.temperature  # of a cosine over the temperature
        return self.softmax.loss(users, vectors, target, items, negatives, bound)

    def pretrain_loss(self, interaction: Interaction) -> Tensor:
        """Sequence-item plus lambda times sequence-sequence contrastive loss, a scalar (equations 6 to 8)."""
        item_seq, item_seq_len = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]  # (B, L), (B,)
        target = interaction[self.POS_ITEM_ID]
        items = torch.unique(torch.cat([target, item_seq[item_seq > 0]]))
        vectors = self.project_items(items)  # (M, H)
        view_seq, view_len = drop_items(item_seq, item_seq_len, self.item_drop_ratio)
        state = F.normalize(self.encode_history(item_seq, item_seq_len, vectors, items).float(), dim=1)  # (B, H)
        view = F.normalize(self.encode_history(view_seq, view_len, vectors, items).float(), dim=1)
        positive = F.normalize(vectors[torch.searchsorted(items, target)].float(), dim=1)  # (B, H)
        same = target[:, None] == target  # (B, B): no negatives of each other
        item_loss = in_batch_softmax_loss(state, positive, self.temperature, same)
        return item_loss + self.lam * in_batch_softmax_loss(state, view, self.temperature, same)

    def item_vectors(self, projected: Tensor | None = None) -> Tensor:
        """Return L2-normalised vectors of all items, (N, H); the padding row is zero."""
        projected = self.project_items() if projected is None else projected
        return F.pad(F.normalize(projected.float(), dim=1), (0, 0, 1, 0))

    def user_vectors(self, interaction: Interaction, projected: Tensor | None = None) -> Tensor:
        """Return L2-normalised vectors of the histories, (B, H); `projected` saves projecting their items."""
        return F.normalize(self.encode_users(interaction, projected).float(), dim=1)


def drop_items(item_seq: Tensor, item_seq_len: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """Drop each history item but the first with probability `ratio` and close the gaps.

    Args:
        item_seq (B, L) int64: right-padded with 0.
        item_seq_len (B,) int64

    Returns:
        item_seq (B, L), item_seq_len (B,) of the second view.

    Source: arXiv:2206.05941, section 2.3, item drop.
    """
    keep = (torch.rand(item_seq.shape, device=item_seq.device) >= ratio) & (item_seq > 0)
    keep[:, 0] = True
    order = torch.argsort((~keep).int(), dim=1, stable=True)  # (B, L): kept items first, in their order
    length = keep.sum(1)
    closed = item_seq.gather(1, order)
    step = torch.arange(item_seq.shape[1], device=item_seq.device)
    return closed.masked_fill(step >= length[:, None], 0), length

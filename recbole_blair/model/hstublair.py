"""HSTU whose items are an id embedding and text, fused in one of three ways."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_blair.errors import InputError
from recbole_blair.model.hstu import HSTU
from recbole_blair.ops import apply_linear, gated_cross_entropy, gated_scores, row_chunks
from recbole_blair.text.trained.item_texts import FrozenTexts

if TYPE_CHECKING:
    from typing import Any

    from recbole.data.interaction import Interaction

    from recbole_blair.config import Config
    from recbole_blair.data.dataset import BlairDataset

CHECKED_ROWS = 1 << 16  # of the features at a time

Sources = tuple[Tensor, Tensor, Tensor]  # e (M, H), t (M, H) and trained (M, 1) of items


class HSTUBlair(HSTU):
    """HSTU over the sum of an item's id embedding and a linear map of its text, or a learnt mix of the two.

    The text's encoder is frozen unless `train_encoder` says otherwise.

    `fusion`, with e the id embedding of an item and t = W text + b:

    - `add`: the item is e + t, as inputs, positives and negatives (the paper).
    - `gate`: a candidate is (1 - g) e + g t, g = sigmoid(query(user) . key(e + t)): each user weighs text and id of
      each item anew. Inputs are e + t, since no user state exists before them.
    - `attention`: each head attends from e + t to the sources e and t and sums them by those weights, times their
      number; items are scored by a dot product.

    Gate and attention start as `add`. An item that was neither input nor target in training has no trained id: its
    id contributes nothing anywhere, so it is its text alone.

    Source: arXiv:2504.10545, section 3 (add); gate and attention are what its section 6 leaves to future work.
    """

    uses_text = True
    trains_encoder = True

    def __init__(self, config: Config, dataset: BlairDataset) -> None:
        super().__init__(config, dataset)
        hidden, heads, self.fusion = config["hidden_size"], config["n_heads"], config["fusion"]
        self.compute_dtype = config["compute_dtype"]
        self.item_texts = dataset.item_texts(self.compute_dtype)  # items (M,) -> (M, D)
        check_texts(self.item_texts, dataset)
        trained = torch.from_numpy(dataset.seen_items("train")[1:])
        self.register_buffer("trained_id", trained, persistent=False)  # (N - 1,) True: was input or target
        self.text_projection = nn.Linear(self.item_texts.width, hidden)
        self.n_fusion_heads = heads
        # A gate is no dot product of two vectors, so the evaluator asks for full_sort_predict.
        self.scores_by_dot_product = self.fusion != "gate"
        if self.fusion == "gate":
            self.query = nn.Linear(hidden, config["gate_size"])
            self.key = nn.Linear(hidden, config["gate_size"], bias=False)
        elif self.fusion == "attention":
            if hidden % heads:
                raise InputError(
                    f"hidden_size={hidden} is not a multiple of n_heads={heads}, which fusion=attention splits it by; "
                    "set an n_heads that divides hidden_size"
                )
            self.query = nn.Linear(hidden, hidden, bias=False)
            self.key = nn.Linear(hidden, hidden, bias=False)
        if self.fusion != "add":
            nn.init.zeros_(self.query.weight)  # every gate and every attention starts at one half: `add`
            if self.query.bias is not None:
                nn.init.zeros_(self.query.bias)

    def project_text(self, features: Tensor) -> Tensor:
        """Return t (M, H) of text features (M, D): the whole vector of an item without a trained id."""
        dtype = features.dtype
        with torch.autocast(features.device.type, enabled=False):
            t = apply_linear(features, self.text_projection.weight.to(dtype), self.text_projection.bias.to(dtype))
        return t.to(self.id_embedding.weight.dtype)

    def sources(self, items: Tensor | None = None) -> Sources:
        """Return e (M, H), zero without a trained id, t (M, H) and that mask (M, 1) of items, or of all."""
        if items is None:
            e, trained = self.id_embedding.weight, self.trained_id
        else:
            e, trained = self.id_embedding(items - 1), self.trained_id[items - 1]
        trained = trained[:, None]  # (M, 1)
        return e * trained, self.project_text(self.item_texts(items)), trained

    def project_items(self, items: Tensor | None = None) -> Tensor:
        """Return the input vectors of items `items` (M,), ids from 1, or of all: (M, H) or (N - 1, H)."""
        return self.fuse(*self.sources(items))

    def fuse(self, e: Tensor, t: Tensor, trained: Tensor) -> Tensor:
        """Fuse sources (M, H) to item vectors (M, H).

        With `attention`, for each head and the sources s of {e, t}, n of them, x' being x scaled to length sqrt(H):

            n sum over s of softmax_s(W_q (e + t)' . W_k s' / sqrt(H / heads)) s
        """
        if self.fusion != "attention":
            return e + t
        split = (self.n_fusion_heads, -1)
        query = self.query(unit(e + t)).unflatten(1, split)  # (M, heads, H / heads)
        products = [(query * self.key(unit(s)).unflatten(1, split)).sum(2) for s in (e, t)]  # of (M, heads)
        logits = torch.stack(products, 2).float() / math.sqrt(query.shape[2])  # (M, heads, 2)
        logits[..., 0].masked_fill_(~trained, float("-inf"))
        share = (logits.softmax(2) * (1 + trained[..., None].float())).to(e.dtype)
        mixed = share[..., :1] * e.unflatten(1, split) + share[..., 1:] * t.unflatten(1, split)
        return mixed.flatten(1)

    def step_vectors(self, items: Tensor | None) -> tuple[Tensor, Any]:
        """Return input vectors (M, H) and candidates: normalised vectors, or the sources of a gate."""
        sources = self.sources(items)
        vectors = self.fuse(*sources)
        return vectors, sources if self.fusion == "gate" else self.normalise(vectors)

    # The gate.

    def gate_inputs(self, users: Tensor, sources: Sources) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return what gates of normalised users (P, H) over items are made of, as `gated_scores` takes it."""
        e, t, trained = sources
        query = self.query(users * math.sqrt(users.shape[1])).to(users.dtype)  # (P, G)
        return users, query, e, t, self.key(e + t), trained

    def softmax_loss(self, users: Tensor, table: Any, candidates: Tensor) -> Tensor:
        """See HSTU; with a gate the table holds sources."""
        if self.fusion != "gate":
            return super().softmax_loss(users, table, candidates)
        with torch.autocast(users.device.type, enabled=False):
            return gated_cross_entropy(*self.gate_inputs(users, table), candidates, self.temperature)

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Score every item, (B, N); column 0 is the padding item and no candidate."""
        if self.fusion != "gate":
            return super().full_sort_predict(interaction)
        sources = self.sources()
        users = self.user_vectors(interaction, self.fuse(*sources))
        with torch.autocast(users.device.type, enabled=False):
            return gated_scores(*self.gate_inputs(users, sources))


def unit(x: Tensor) -> Tensor:
    """Scale rows to length sqrt(H), so that a product of two has the same spread whatever the features' scale."""
    return F.normalize(x, dim=1) * math.sqrt(x.shape[1])


def check_texts(texts: nn.Module, dataset: BlairDataset) -> None:
    """Refuse frozen features with a row that is not finite: it would turn every score into NaN.

    Raises:
        InputError: names the first such item.
    """
    features = texts.features if isinstance(texts, FrozenTexts) else torch.empty(0, 0)
    for part in row_chunks(len(features), CHECKED_ROWS):
        bad = (~torch.isfinite(features[part]).all(1)).nonzero()
        if len(bad):
            item = part.start + int(bad[0]) + 1
            raise InputError(
                f"the text features of {dataset.name} hold no finite numbers for item "
                f"{dataset.id2token('item_id', item)[0]!r} (row {item - 1}); encode again"
            )

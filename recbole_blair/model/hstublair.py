"""HSTU whose items are an id embedding and frozen text, fused in one of three ways."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from recbole_blair.errors import InputError
from recbole_blair.model.hstu import HSTU
from recbole_blair.model.hstu_gate import GatedLoss, gated_scores, pack_sources
from recbole_blair.ops import apply_linear, row_chunks

GATE_ROWS = 256  # users whose gates over all items exist at a time


class HSTUBlair(HSTU):
    """HSTU over the sum of an item's id embedding and a linear map of its frozen text, or a learnt mix of the two.

    `fusion`, with e the id embedding of an item and t = W text + b:

    - `add`: the item is e + t, as inputs, positives and negatives (the paper).
    - `gate`: a candidate is (1 - g) e + g t, g = sigmoid(query(user) . key(e + t)): each user weighs text and id of
      each item anew. Inputs are e + t, since no user state exists before them. The cosine with the user follows from
      three products (user . e, user . t, query . key) and three numbers an item, so all items are scored in chunks
      without a vector a (user, item) pair.
    - `attention`: each head attends from e + t to the sources e and t and sums them by those weights, times their
      number; items are scored by a dot product.

    Gate and attention start as `add`. An item that was neither input nor target in training has no trained id: its
    id contributes nothing anywhere, so it is its text alone.

    Source: arXiv:2504.10545, section 3 (add); gate and attention are what its section 6 leaves to future work.
    """

    uses_text = True

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        hidden, heads, self.fusion = config["hidden_size"], config["n_heads"], config["fusion"]
        self.compute_dtype = config["compute_dtype"]
        features = dataset.text_features
        check_features(features, dataset)
        self.register_buffer("text_features", features.to(self.compute_dtype), persistent=False)  # (N - 1, D)
        trained = torch.from_numpy(dataset.seen_items("train")[1:])
        self.register_buffer("trained_id", trained, persistent=False)  # (N - 1,) True: was input or target
        self.text_projection = nn.Linear(features.shape[1], hidden)
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

    def project_text(self, features):
        """Return t (M, H) of text features (M, D): the whole vector of an item without a trained id."""
        dtype = self.compute_dtype if features.dtype == self.compute_dtype else features.dtype
        with torch.autocast(features.device.type, enabled=False):
            t = apply_linear(features, self.text_projection.weight.to(dtype), self.text_projection.bias.to(dtype))
        return t.to(self.id_embedding.weight.dtype)

    def sources(self, items=None):
        """Return e (M, H), zero without a trained id, t (M, H) and that mask (M, 1) of items, or of all."""
        if items is None:
            e, features, trained = self.id_embedding.weight, self.text_features, self.trained_id
        else:
            e, features, trained = (
                self.id_embedding(items - 1),
                self.text_features[items - 1],
                self.trained_id[items - 1],
            )
        trained = trained[:, None]
        return e * trained, self.project_text(features), trained

    def project_items(self, items=None):
        """Return the input vectors of items `items` (M,), ids from 1, or of all: (M, H) or (N - 1, H)."""
        return self.fuse(*self.sources(items))

    def fuse(self, e, t, trained):
        """Fuse sources (M, H) to item vectors (M, H)."""
        if self.fusion != "attention":
            return e + t
        split = (self.n_fusion_heads, -1)
        query = self.query(unit(e + t)).unflatten(1, split)  # (M, heads, H / heads)
        logits = [(query * self.key(unit(s)).unflatten(1, split)).sum(2) for s in (e, t)]
        logits = torch.stack(logits, 2).float() / math.sqrt(query.shape[2])  # (M, heads, 2)
        logits[..., 0].masked_fill_(~trained, float("-inf"))
        share = (logits.softmax(2) * (1 + trained[..., None].float())).to(e.dtype)
        mixed = share[..., :1] * e.unflatten(1, split) + share[..., 1:] * t.unflatten(1, split)
        return mixed.flatten(1)

    def step_vectors(self, items):
        """Return input vectors (M, H) and candidates: normalised vectors, or the packed sources of a gate."""
        e, t, trained = self.sources(items)
        vectors = self.fuse(e, t, trained)
        if self.fusion == "gate":
            return vectors, self.pack(e, t, trained)
        return vectors, F.normalize(vectors, dim=1)

    # The gate.

    def pack(self, e, t, trained):
        """Lay out what scoring with gates needs of each item, (M, 2 H + G + 4)."""
        return pack_sources(e, t, self.key(e + t), trained)

    def gate_query(self, users):
        """Return the query (P, G) of normalised users (P, H)."""
        return self.query(users * math.sqrt(users.shape[1])).to(users.dtype)

    def softmax_loss(self, users, candidates, target, negatives):
        """See HSTU; with a gate the candidates are packed sources."""
        if self.fusion != "gate":
            return super().softmax_loss(users, candidates, target, negatives)
        with torch.autocast(users.device.type, enabled=False):
            return GatedLoss.apply(users, self.gate_query(users), candidates, target, negatives, self.temperature)

    def full_sort_predict(self, interaction):
        """Score every item, (B, N); column 0 is the padding item and no candidate."""
        if self.fusion != "gate":
            return super().full_sort_predict(interaction)
        e, t, trained = self.sources()
        users = self.user_vectors(interaction, self.fuse(e, t, trained))
        with torch.autocast(users.device.type, enabled=False):
            packed = self.pack(e, t, trained)
            scores = users.new_zeros(len(users), self.n_items)
            for part in row_chunks(len(users), GATE_ROWS):
                scores[part, 1:] = gated_scores(users[part], self.gate_query(users[part]), packed)
        return scores


def unit(x):
    """Scale rows to length sqrt(H), so that a product of two has the same spread whatever the features' scale."""
    return F.normalize(x, dim=1) * math.sqrt(x.shape[1])


def check_features(features, dataset):
    """Refuse features with a row that is not finite: it would turn every score into NaN.

    Raises:
        InputError: names the first such item.
    """
    for part in row_chunks(len(features), 1 << 16):
        bad = (~torch.isfinite(features[part]).all(1)).nonzero()
        if len(bad):
            item = part.start + int(bad[0]) + 1
            raise InputError(
                f"the text features of {dataset.name} hold no finite numbers for item "
                f"{dataset.id2token('item_id', item)[0]!r} (row {item - 1}); encode again"
            )

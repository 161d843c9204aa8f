"""HSTU, the generative recommender, in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import nn

from recbole_blair.errors import InputError
from recbole_blair.losses import full_softmax_loss
from recbole_blair.model.dot_product import DotProductRecommender
from recbole_blair.model.hstu_layers import HSTUEncoder
from recbole_blair.model.hstu_loss import SampledSoftmaxLoss, step_items
from recbole_blair.schema import TARGET_SEQ, TIMESTAMP, TIMESTAMP_SEQ


class HSTU(DotProductRecommender):
    """HSTU over item ids: pointwise attention with relative position and time biases, cosine scores.

    Trains on whole sequences (`train_style: sequence`, every position supervised) or on rows (`prefix`, the last one).
    With `time_bias: request` the model is told when the event to predict happens, as in the paper; `history` knows
    past times alone, `none` none.

    Differences to the released code, all intended: position 0 is the oldest item the model sees; validation on the
    last-but-one event and ranks over all items are the trainer's; users longer than the history are trained on
    in windows, where the released code drops what came before.

    Source: arXiv:2402.17152, section 3; arXiv:2504.10545, sections 3 and 4.1.
    """

    uses_text = False

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.max_length = config["MAX_ITEM_LIST_LENGTH"]
        self.temperature, self.softmax, self.n_negatives = (
            config["temperature"], config["softmax"], config["n_negatives"],
        )  # fmt: skip
        if config["time_bias"] != "none" and not dataset.has_times:
            raise InputError(
                f"{dataset.name} carries no times ({TIMESTAMP}, {TIMESTAMP_SEQ}), which "
                f"time_bias={config['time_bias']} needs; set time_bias: none or make the build with `recbole-blair "
                "prepare`"
            )
        d_qk, d_v = (config[k] or head_width(config, k) for k in ("d_qk", "d_v"))
        self.encoder = HSTUEncoder(
            self.max_length, config["n_layers"], config["n_heads"], config["hidden_size"], d_qk, d_v,
            config["dropout_prob"], config["padded_length"], config["time_bias"], config["initializer_range"],
        )  # fmt: skip
        self.id_embedding = nn.Embedding(self.n_items - 1, config["hidden_size"])
        nn.init.trunc_normal_(self.id_embedding.weight, std=config["initializer_range"])
        if config["compile"]:
            self.keep_from_compiler()

    def keep_from_compiler(self):
        """Leave what loops over tiles and chunks of each batch's own sizes out of torch.compile's graphs.

        Traced, every batch's loops would be unrolled and compiled again.
        """
        self.history_layout = torch.compiler.disable(self.history_layout)
        self.softmax_loss = torch.compiler.disable(self.softmax_loss)
        for layer in self.encoder.layers:
            layer.attend = torch.compiler.disable(layer.attend)

    def project_items(self, items=None):
        """Return the vectors of items `items` (M,), ids from 1, or of all of them: (M, H) or (N - 1, H)."""
        return self.id_embedding.weight if items is None else self.id_embedding(items - 1)

    def step_vectors(self, items):
        """Return what a training step needs of its items: vectors for inputs (M, H) and candidates for the loss."""
        vectors = self.project_items(items)
        return vectors, F.normalize(vectors.to(self.id_embedding.weight.dtype), dim=1)

    def history_layout(self, interaction):
        """Lay out a batch.

        Raises:
            InputError: the batch lacks times that the time bias needs, or histories longer than the model's.
        """
        item_seq, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        mode = self.encoder.time_bias
        needed = {"request": (TIMESTAMP_SEQ, TIMESTAMP), "history": (TIMESTAMP_SEQ,), "none": ()}[mode]
        lacking = [field for field in needed if field not in interaction]
        if lacking:
            raise InputError(f"time_bias={mode} needs {' and '.join(lacking)} with every history; none was given")
        if item_seq.shape[1] > self.max_length:
            item_seq = item_seq[:, : int(length.max())]
            if item_seq.shape[1] > self.max_length:
                raise InputError(
                    f"a history of {item_seq.shape[1]} items exceeds MAX_ITEM_LIST_LENGTH={self.max_length}; give its "
                    "latest items only"
                )
        width = item_seq.shape[1]
        times = interaction[TIMESTAMP_SEQ][:, :width] if TIMESTAMP_SEQ in needed else None
        return self.encoder.layout(length, width, times, interaction[TIMESTAMP] if TIMESTAMP in needed else None)

    def calculate_loss(self, interaction):
        """Return the mean cross-entropy of the supervised positions, a scalar."""
        layout = self.history_layout(interaction)
        item_seq = interaction[self.ITEM_SEQ][:, : layout.real.shape[1]]
        target = layout.flatten(self.target_seq(interaction)[:, : item_seq.shape[1]])
        supervised = target > 0
        target, negatives = target[supervised], None
        if self.softmax == "sampled":
            draws = (len(target), self.n_negatives)
            negatives = torch.randint(1, self.n_items, draws, device=target.device)
            items, row = step_items(self.n_items, item_seq, target, negatives)
        else:
            items, row = None, torch.arange(-1, self.n_items - 1, device=target.device)
        vectors, candidates = self.step_vectors(items)
        states = self.encoder(vectors[row[layout.flatten(item_seq)]], layout)[supervised]
        users = F.normalize(states.to(self.id_embedding.weight.dtype), dim=1)
        return self.softmax_loss(users, candidates, row[target], None if negatives is None else row[negatives])

    def target_seq(self, interaction):
        """Return the item to predict at each position, (B, L), 0 where none is supervised."""
        if TARGET_SEQ in interaction:
            return interaction[TARGET_SEQ]
        last = interaction[self.ITEM_SEQ_LEN][:, None] - 1
        return torch.zeros_like(interaction[self.ITEM_SEQ]).scatter_(1, last, interaction[self.POS_ITEM_ID][:, None])

    def softmax_loss(self, users, candidates, target, negatives):
        """Cross-entropy of normalised users (P, H) over candidates (M, H), all or the sampled rows (P, K)."""
        users = users / self.temperature
        if negatives is None:
            return full_softmax_loss(users, candidates, target)
        return SampledSoftmaxLoss.apply(users, candidates, target, negatives)

    def item_vectors(self, projected=None):
        """Return L2-normalised vectors of all items, (N, H); the padding row is zero."""
        projected = self.project_items() if projected is None else projected
        return F.pad(F.normalize(projected.to(self.id_embedding.weight.dtype), dim=1), (0, 0, 1, 0))

    def user_vectors(self, interaction, projected=None):
        """Return L2-normalised vectors of the histories, (B, H); `projected` saves projecting their items."""
        layout = self.history_layout(interaction)
        flat = layout.flatten(interaction[self.ITEM_SEQ][:, : layout.real.shape[1]])
        if projected is None:
            items, flat = torch.unique(flat, return_inverse=True)
            states = self.encoder(self.project_items(items)[flat], layout)
        else:
            states = self.encoder(projected[flat - 1], layout)
        return F.normalize(layout.last_of(states).to(self.id_embedding.weight.dtype), dim=1)


def head_width(config, key):
    """Return hidden_size / n_heads, for a width a head that is not given."""
    width, rest = divmod(config["hidden_size"], config["n_heads"])
    if rest:
        raise InputError(
            f"hidden_size={config['hidden_size']} is not a multiple of n_heads={config['n_heads']}, so {key} has no "
            f"default; set {key}, or an n_heads that divides hidden_size"
        )
    return width

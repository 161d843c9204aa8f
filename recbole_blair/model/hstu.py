"""HSTU, the generative recommender, in plain PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_blair.errors import InputError
from recbole_blair.losses import full_softmax_loss
from recbole_blair.model.dot_product import DotProductRecommender
from recbole_blair.model.hstu_layers import HSTUEncoder
from recbole_blair.model.softmax import step_items
from recbole_blair.ops import normalise_rows, sampled_cross_entropy
from recbole_blair.schema import TARGET_SEQ, TIMESTAMP, TIMESTAMP_SEQ

if TYPE_CHECKING:
    from typing import Any

    from recbole.data.interaction import Interaction

    from recbole_blair.config import Config
    from recbole_blair.data.dataset import BlairDataset
    from recbole_blair.ops import HistoryPairs, PackedHistories


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
    drawn_items: Tensor | None

    def __init__(self, config: Config, dataset: BlairDataset) -> None:
        super().__init__(config, dataset)
        self.max_length = config["MAX_ITEM_LIST_LENGTH"]
        self.temperature, self.softmax, self.n_negatives = (
            config["temperature"], config["softmax"], config["n_negatives"],
        )  # fmt: skip
        self.shares_negatives = config["negatives_of"] == "step"
        drawn = None if dataset.drawn_items is None else torch.from_numpy(dataset.drawn_items)
        self.register_buffer("drawn_items", drawn, persistent=False)  # (M,) ids; None: all
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

    def keep_from_compiler(self) -> None:
        """Leave what loops over groups and chunks of each batch's own sizes out of torch.compile's graphs.

        Traced, every batch's loops would be unrolled and compiled again.
        """
        methods: list[tuple[nn.Module, str]] = [(self, "pack_histories"), (self, "softmax_loss")]
        methods += [(layer, "attend") for layer in self.encoder.layers]
        for module, name in methods:
            setattr(module, name, torch.compiler.disable(getattr(module, name)))

    def project_items(self, items: Tensor | None = None) -> Tensor:
        """Return the vectors of items `items` (M,), ids from 1, or of all of them: (M, H) or (N - 1, H)."""
        return self.id_embedding.weight if items is None else self.id_embedding(items - 1)

    def step_vectors(self, items: Tensor | None) -> tuple[Tensor, Any]:
        """Return what a training step needs of its items: vectors for inputs (M, H) and candidates for the loss."""
        vectors = self.project_items(items)
        return vectors, self.normalise(vectors)

    def normalise(self, x: Tensor) -> Tensor:
        """Scale rows to length 1, in the parameters' precision."""
        return normalise_rows(x, self.id_embedding.weight.dtype)

    def pack_histories(self, interaction: Interaction) -> HistoryPairs:
        """Pack a batch.

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
            longest = int(length.max())
            if longest > self.max_length:
                raise InputError(
                    f"a history of {longest} items exceeds MAX_ITEM_LIST_LENGTH={self.max_length}; give its latest "
                    "items only"
                )
        times, request_time = (interaction[field] if field in needed else None for field in (TIMESTAMP_SEQ, TIMESTAMP))
        return self.encoder.pack(length, item_seq.shape[1], times, request_time)

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Return the mean cross-entropy of the supervised positions, a scalar.

        With u the normalised state at a position, i+ the item that follows, and i the normalised items:

            -log(exp(u . i+ / temperature) / sum over i+ and the negatives of exp(u . i / temperature))

        Source: arXiv:2504.10545, section 4.1.
        """
        # What a GPU must be waited for comes first, while it has nothing to do: lengths, targets, the step's items.
        pairs = self.pack_histories(interaction)
        target, supervised = self.supervised(interaction, pairs.histories)  # (S,), (S,) among the P packed items
        candidates = target[:, None]
        if self.softmax == "sampled":
            draws = (1 if self.shares_negatives else len(target), self.n_negatives)
            negatives = self.draw_negatives(draws)  # (S, K), or (1, K)
            items, row = step_items(self.n_items, interaction[self.ITEM_SEQ], target, negatives)  # (M,), (N,)
            candidates = torch.cat([candidates, negatives.expand(len(target), -1)], 1)  # (S, 1 + K)
        else:
            items, row = None, torch.arange(-1, self.n_items - 1, device=target.device)
        vectors, table = self.step_vectors(items)
        inputs = row[pairs.histories.take(interaction[self.ITEM_SEQ])]  # (P,)
        states = self.encoder(vectors.index_select(0, inputs), pairs)  # (P, H)
        if len(target) < len(states):
            states = states.index_select(0, supervised)
        return self.softmax_loss(self.normalise(states), table, row[candidates])

    def draw_negatives(self, shape: tuple[int, int]) -> Tensor:
        """Draw item ids of a shape uniformly, among all or among `drawn_items`."""
        device = self.id_embedding.weight.device
        if self.drawn_items is None:
            return torch.randint(1, self.n_items, shape, device=device)
        return self.drawn_items[torch.randint(len(self.drawn_items), shape, device=device)]

    def supervised(self, interaction: Interaction, histories: PackedHistories) -> tuple[Tensor, Tensor]:
        """Return the items to predict (S,) and the numbers (S,) of the packed items that they follow."""
        if TARGET_SEQ not in interaction:
            return interaction[self.POS_ITEM_ID][histories.order], histories.last
        target = histories.take(interaction[TARGET_SEQ])  # (P,), 0 where nothing is supervised
        supervised = target.nonzero().squeeze(1)
        return target[supervised], supervised

    def softmax_loss(self, users: Tensor, table: Any, candidates: Tensor) -> Tensor:
        """Cross-entropy of normalised users (S, H) over rows of the table (M, H): candidates (S, 1 + K), or all.

        The first candidate is the target; it stands alone where the softmax is over all items.
        """
        users = users / self.temperature
        if candidates.shape[1] == 1:
            return full_softmax_loss(users, table, candidates[:, 0])
        return sampled_cross_entropy(users, table, candidates)

    def item_vectors(self, projected: Tensor | None = None) -> Tensor:
        """Return L2-normalised vectors of all items, (N, H); the padding row is zero."""
        return F.pad(self.normalise(self.project_items() if projected is None else projected), (0, 0, 1, 0))

    def user_vectors(self, interaction: Interaction, projected: Tensor | None = None) -> Tensor:
        """Return L2-normalised vectors of the histories, (B, H); `projected` saves projecting their items."""
        pairs = self.pack_histories(interaction)
        inputs = pairs.histories.take(interaction[self.ITEM_SEQ])  # (P,)
        if projected is None:
            items, inputs = torch.unique(inputs, return_inverse=True)
            projected = self.project_items(items)
        else:
            inputs = inputs - 1
        states = self.encoder(projected.index_select(0, inputs), pairs)  # (P, H)
        return self.normalise(pairs.histories.unsort(states.index_select(0, pairs.histories.last)))


def head_width(config: Config, key: str) -> int:
    """Return hidden_size / n_heads, for a width a head that is not given."""
    width, rest = divmod(config["hidden_size"], config["n_heads"])
    if rest:
        raise InputError(
            f"hidden_size={config['hidden_size']} is not a multiple of n_heads={config['n_heads']}, so {key} has no "
            f"default; set {key}, or an n_heads that divides hidden_size"
        )
    return width

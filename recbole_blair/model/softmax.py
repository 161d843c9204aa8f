"""The training losses over items: all of them or sampled ones, softmax or gBCE."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from recbole_blair.errors import InputError
from recbole_blair.losses import full_softmax_loss, gbce_loss, sampled_softmax_loss
from recbole_blair.ops import sampled_binary_cross_entropy, sampled_cross_entropy

if TYPE_CHECKING:
    import numpy as np

    from recbole_blair.config import Config


class LossOptions(NamedTuple):
    """How a loss over sampled items is made; the defaults are those of the text models."""

    loss: str = "softmax"  # softmax or gbce
    negatives_of: str = "step"  # step: one draw shared by the batch; position: every position its own
    logq: bool = True  # a sampled logit is lowered by the logarithm of its expected count
    gbce_t: float = 0.75  # calibration of gBCE: 0 is BCE, 1 gives the probabilities of BCE over all items
    label_smoothing: float = 0.0  # share of the target that is spread over the candidates

    @classmethod
    def from_config(cls, config: Config) -> LossOptions:
        """Read the keys of the same names.

        Raises:
            InputError: options that exclude each other.
        """
        options = cls(**{key: config[key] for key in cls._fields})
        if options.loss == "gbce" and config["softmax"] == "full":
            raise InputError("loss=gbce is of sampled negatives; set softmax: sampled")
        if options.loss == "gbce" and options.label_smoothing:
            raise InputError(
                f"label_smoothing={options.label_smoothing} is of the softmax; set it to 0 with loss=gbce, whose "
                "calibration is gbce_t"
            )
        return options


TEXT_MODELS = LossOptions()  # what the models of text use


class Softmax(nn.Module):
    """The training loss of a recommender: over all items, or over sampled ones for large catalogues.

    Args:
        kind: full or sampled.
        n_negatives: negatives per step, shared by the batch, or per position.
        negatives: uniform or popularity (train targets, plus one).
        item_counts (N,) int64: train targets per item, for popularity.
        options: what else a sampled loss may be.
        drawn_items (M,) int64: ids that negatives are drawn from; None: all.
    """

    log_share: Tensor
    cumulative: Tensor
    drawn: Tensor | None

    def __init__(
        self, kind: str, n_negatives: int, negatives: str, item_counts: np.ndarray,
        options: LossOptions = TEXT_MODELS, drawn_items: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.kind, self.n_negatives, self.options = kind, n_negatives, options
        self.uniform = negatives == "uniform"
        weights = torch.as_tensor(item_counts[1:], dtype=torch.float64) + 1.0
        if self.uniform:
            weights = torch.ones_like(weights)
        drawn = None if drawn_items is None else torch.from_numpy(drawn_items)
        if drawn is not None:
            weights = torch.zeros_like(weights).index_copy_(0, drawn - 1, weights[drawn - 1])
        share = weights / weights.sum()  # (N - 1,)
        self.register_buffer("log_share", share.log().float(), persistent=False)
        share = share if drawn is None else share[drawn - 1]
        self.register_buffer("cumulative", share.cumsum(0).float(), persistent=False)  # (N - 1,), or (M,)
        self.register_buffer("drawn", drawn, persistent=False)

    @property
    def beta(self) -> float:
        """The power of the positive's probability in gBCE.

            beta = alpha (t (1 - 1 / alpha) + 1 / alpha) = 1 - t (1 - alpha),   alpha = K / (items - 1)

        Source: arXiv:2308.07192, which defines gBCE and chooses beta by t.
        """
        alpha = min(1.0, self.n_negatives / max(1, len(self.log_share) - 1))
        return 1.0 - self.options.gbce_t * (1.0 - alpha)

    def draw(self, target: Tensor) -> Tensor:
        """Draw negatives for the targets (S,): ids (K,) that all share, or (S, K)."""
        shape = (len(target), self.n_negatives) if self.options.negatives_of == "position" else (self.n_negatives,)
        if self.uniform and len(shape) == 2 and self.drawn is None:  # many draws: without a search per draw
            return torch.randint(1, len(self.log_share) + 1, shape, device=target.device)
        draws = torch.rand(shape, device=target.device)
        found = torch.searchsorted(self.cumulative, draws).clamp_(max=len(self.cumulative) - 1)
        return found + 1 if self.drawn is None else self.drawn[found]

    def log_expected(self, ids: Tensor) -> Tensor | None:
        """Return the logarithm of how often each id is expected in a draw of K; None without the correction."""
        return self.log_share[ids - 1] + math.log(self.n_negatives) if self.options.logq else None

    def loss(
        self, users: Tensor, vectors: Tensor, target: Tensor, items: Tensor | None, negatives: Tensor | None,
        bound: float | None = None,
    ) -> Tensor:  # fmt: skip
        """Full or sampled loss.

        Args:
            users (S, H): divided by the temperature.
            vectors (M, H): of the sorted ids `items` (M,), or of items 1 and up where `items` is None.
            target (S,) int64
            negatives: what `draw` returned; None: the softmax is over all items.
            bound: of the logits, as of `full_softmax_loss`.
        """
        row = target - 1 if items is None else torch.searchsorted(items, target)
        if negatives is None:
            loss = full_softmax_loss(users, vectors, row, bound)
            return loss + self.smoothing_term(users, vectors, row) if self.options.label_smoothing else loss
        negative_row = negatives - 1 if items is None else torch.searchsorted(items, negatives)
        if negatives.dim() == 2:
            return self.loss_of_positions(users, vectors, torch.cat([row[:, None], negative_row], 1), items)
        pairs = users, vectors[row], vectors[negative_row], target, negatives
        if self.options.loss == "gbce":
            return gbce_loss(*pairs, self.beta)
        return sampled_softmax_loss(*pairs, self.log_expected(negatives), self.options.label_smoothing)

    def loss_of_positions(self, users: Tensor, vectors: Tensor, candidates: Tensor, items: Tensor | None) -> Tensor:
        """Loss of positions with negatives of their own; candidates (S, 1 + K) are rows of `vectors` (M, H)."""
        users = users.to(vectors.dtype)
        if self.options.loss == "gbce":
            return sampled_binary_cross_entropy(users, vectors, candidates, self.beta)
        if items is None:
            items = torch.arange(1, len(vectors) + 1, device=vectors.device)
        expected = self.log_expected(items)  # (M,)
        return sampled_cross_entropy(users, vectors, candidates, expected, self.options.label_smoothing)

    def smoothing_term(self, users: Tensor, vectors: Tensor, row: Tensor) -> Tensor:
        """Return what label smoothing e adds to the softmax over M items, x being the logits of a user.

        (1 - e) (-log p_target) + e / M sum over j of (-log p_j) = -log p_target + e (x_target - mean over j of x_j)
        """
        wide = torch.promote_types(vectors.dtype, torch.float32)
        contrast = vectors[row].to(wide) - vectors.to(wide).mean(0)  # (S, H)
        return self.options.label_smoothing * (users.to(wide) * contrast).sum(1).mean()


def step_items(n_items: int, *ids: Tensor) -> tuple[Tensor | None, Tensor]:
    """List the distinct items of a step without sorting its draws.

    Args:
        n_items: N.
        *ids: int64 tensors of item ids; 0 is left out.

    Returns:
        items (M,): sorted ids, None when a step is so large that listing them would save nothing; row (N,): each id's
        row among them, that of padding is not to be used.
    """
    device = ids[0].device
    if sum(x.numel() for x in ids) >= 4 * n_items:
        return None, torch.arange(-1, n_items - 1, device=device)
    mark = torch.zeros(n_items, dtype=torch.bool, device=device)
    for x in ids:
        mark[x.flatten()] = True
    mark[0] = False
    return mark.nonzero().squeeze(1), mark.cumsum(0) - 1

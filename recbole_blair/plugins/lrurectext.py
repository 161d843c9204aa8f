"""LRURec (Text): a linear recurrence over frozen item text; the worked example of docs/plugins.md."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_blair.model.adaptors import MLPAdaptor
from recbole_blair.model.dot_product import DotProductRecommender
from recbole_blair.model.layers import ACTIVATIONS, HistoryEncoder
from recbole_blair.model.softmax import Softmax
from recbole_blair.ops import apply_dropout, normalise_rows

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction

    from recbole_blair.config import Config
    from recbole_blair.data.dataset import BlairDataset
    from recbole_blair.ops import PackedHistories


class LRULayer(nn.Module):
    """A linear recurrent unit and a feed-forward layer, each followed by dropout, residual and LayerNorm.

    The state is h_t = lambda * h_(t-1) + gamma * W x_t with a complex, diagonal lambda inside the unit circle. It has
    no attention and no positions: an item's weight fades with its distance from the end, each channel at its own rate.

    Source: arXiv:2310.02367, section 3.2, after arXiv:2303.06349. Complex matrices are kept as pairs of real ones,
    so that the weights are plain floats on disk.
    """

    def __init__(
        self, hidden_size: int, state_size: int, inner_size: int, dropout_prob: float, hidden_act: str,
        layer_norm_eps: float, radius: tuple[float, float],
    ) -> None:  # fmt: skip
        super().__init__()
        self.dropout_prob, self.act = dropout_prob, ACTIVATIONS[hidden_act]
        low, high = radius
        modulus2 = torch.rand(state_size) * (high**2 - low**2) + low**2  # |lambda|^2, uniform on the ring
        self.log_nu = nn.Parameter(torch.log(-0.5 * torch.log(modulus2)))
        self.log_theta = nn.Parameter(torch.log(torch.rand(state_size).clamp_(min=1e-4) * 2 * math.pi))
        self.log_gamma = nn.Parameter(0.5 * torch.log(1 - modulus2))  # keeps the state's variance at the input's
        self.state_in = nn.Linear(hidden_size, 2 * state_size)  # real and imaginary parts side by side
        self.state_out = nn.Linear(2 * state_size, hidden_size)
        self.state_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.ff_in = nn.Linear(hidden_size, inner_size)
        self.ff_out = nn.Linear(inner_size, hidden_size)
        self.ff_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)

    def recur(self, x: Tensor) -> Tensor:
        """Run the recurrence over (B, L, 2S) inputs in log2(L) steps; returns the states, (B, L, 2S)."""
        log_lambda = torch.complex(-self.log_nu.exp(), self.log_theta.exp())  # (S,)
        state = torch.view_as_complex(x.float().unflatten(-1, (-1, 2))) * self.log_gamma.exp()  # (B, L, S)
        step = 1
        while step < state.shape[1]:  # state sums the last `step` inputs; from here on twice as many
            state = torch.cat([state[:, :step], state[:, step:] + (step * log_lambda).exp() * state[:, :-step]], 1)
            step *= 2
        return torch.view_as_real(state).flatten(-2)

    def forward(self, x: Tensor, histories: PackedHistories, last: bool = False) -> Tensor:
        """Map packed items (P, H) to (P, H), or to (B, H) at each history's last item."""
        state = histories.mix(self.state_in(x), self.recur)  # (P, 2S)
        if last:
            state, x = state[histories.last], x[histories.last]
        x = self.state_norm(x + apply_dropout(self.state_out(state), self.dropout_prob, self.training))
        inner = self.ff_out(apply_dropout(self.act(self.ff_in(x)), self.dropout_prob, self.training))
        return self.ff_norm(x + apply_dropout(inner, self.dropout_prob, self.training))


class LRUEncoder(HistoryEncoder):
    """SASRec's encoder with recurrent layers in place of attention, and without positions."""

    def __init__(self, config: Config) -> None:
        nn.Module.__init__(self)
        hidden, eps = config["hidden_size"], config["layer_norm_eps"]
        self.dropout_prob = config["hidden_dropout_prob"]
        self.norm = nn.LayerNorm(hidden, eps=eps)
        radius = config["min_radius"], config["max_radius"]
        sizes = hidden, config["state_size"], config["inner_size"]
        self.layers = nn.ModuleList(
            LRULayer(*sizes, self.dropout_prob, config["hidden_act"], eps, radius) for _ in range(config["n_layers"])
        )

    def add_positions(self, x: Tensor, histories: PackedHistories) -> Tensor:
        """Add nothing: the order alone tells the positions apart."""
        return x


class LRURecText(DotProductRecommender):
    """LRURec over frozen item text: a linear recurrence reads the history, cosines with all items score it.

    A user's state is a sum that decays, so one more event costs one step, whatever came before. No item ids: items that
    training never saw are scored like the others. Trains on rows (`train_style: prefix`) or, as in the paper, on whole
    sequences, every position supervised in one pass.

    Differences to the paper, all intended: item vectors are an MLP of text features, not id embeddings; the loss is the
    softmax over cosines of UniSRec (arXiv:2206.05941, equation 9).

    Source: arXiv:2310.02367.
    """

    uses_text = True

    def __init__(self, config: Config, dataset: BlairDataset) -> None:
        super().__init__(config, dataset)
        self.temperature, self.compute_dtype = config["temperature"], config["compute_dtype"]
        features = dataset.text_features.to(self.compute_dtype)
        self.register_buffer("text_features", features, persistent=False)  # (N - 1, D)
        sizes = [features.shape[1], *config["adaptor_hidden_sizes"], config["hidden_size"]]
        self.adaptor = MLPAdaptor(sizes, config["adaptor_dropout_prob"], config["initializer_range"])
        self.encoder = LRUEncoder(config)
        self.softmax = Softmax(
            config["softmax"], config["n_negatives"], config["negatives"], dataset.item_counts("train")
        )

    def project_items(self, items: Tensor | None = None) -> Tensor:
        """Project items `items` (M,), ids from 1, or all of them: (M, H) or (N - 1, H)."""
        return self.adaptor(self.text_features if items is None else self.text_features[items - 1], self.compute_dtype)

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Return the cross-entropy of the next item over cosines / temperature, a scalar."""
        items, negatives = self.draw_items(interaction)  # (M,), (K,), or None: every item is a candidate
        vectors = self.project_items(items)  # (M, H)
        state, target = self.supervised_states(interaction, vectors, items)  # (S, H), (S,)
        users = (normalise_rows(state, torch.float32) / self.temperature).to(self.compute_dtype)
        vectors = normalise_rows(vectors, self.compute_dtype)
        return self.softmax.loss(users, vectors, target, items, negatives, bound=1.0 / self.temperature)

    def item_vectors(self, projected: Tensor | None = None) -> Tensor:
        """Return L2-normalised vectors of all items, (N, H); the padding row is zero."""
        projected = self.project_items() if projected is None else projected
        return F.pad(F.normalize(projected.float(), dim=1), (0, 0, 1, 0))

    def user_vectors(self, interaction: Interaction, projected: Tensor | None = None) -> Tensor:
        """Return L2-normalised vectors of the histories, (B, H); `projected` saves projecting their items."""
        return F.normalize(self.encode_users(interaction, projected).float(), dim=1)

"""SASRec's history encoder, shared by the recommenders."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_blair.ops import Linear, PackedHistories, apply_dropout, apply_linear, attend, gather_rows

if TYPE_CHECKING:
    from recbole_blair.config import Config

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu, "relu": F.relu, "swish": F.silu, "tanh": torch.tanh, "sigmoid": torch.sigmoid,
}  # fmt: skip


class SelfAttention(nn.Module):
    """Causal self-attention of packed items; what the layers below have in common.

    All but the attention itself works on packed items, no padding among them: x (P, H) holds the P items of all
    histories, one after the other.
    """

    def __init__(self, n_heads: int, hidden_size: int, hidden_dropout: float, attn_dropout: float) -> None:
        super().__init__()
        if hidden_size % n_heads:
            raise ValueError(f"hidden_size={hidden_size} is not a multiple of n_heads={n_heads}")
        self.n_heads, self.attn_dropout, self.hidden_dropout = n_heads, attn_dropout, hidden_dropout
        self.qkv = Linear(hidden_size, 3 * hidden_size)
        self.attn_out = Linear(hidden_size, hidden_size)

    def mix(self, x: Tensor, histories: PackedHistories, last: Tensor | None) -> Tensor:
        """W_o attention(x), dropped out: (P, H), or of `last` (B, H), x at each history's last item, alone: (B, H)."""
        mixed = histories.mix(self.qkv(x), self.attend) if last is None else self.attend_last(x, last, histories)
        return self.drop(self.attn_out(mixed))

    def drop(self, x: Tensor) -> Tensor:
        """Apply the layer's dropout."""
        return apply_dropout(x, self.hidden_dropout, self.training)

    def attend(self, qkv: Tensor) -> Tensor:
        """Attention in a group of padded histories: (b, l, 3H) to (b, l, H)."""
        q, k, v = self.split_heads(qkv, 3)  # (b, heads, l, H / heads) each
        p = self.attn_dropout if self.training else 0.0
        return attend(q, k, v, p).transpose(1, 2).flatten(2)

    def attend_last(self, x: Tensor, last: Tensor, histories: PackedHistories) -> Tensor:
        """Attention of each history's last item, `last` (B, H), to all of its items, x (P, H): (B, H)."""
        hidden = x.shape[1]
        (weight_q, weight_kv), (bias_q, bias_kv) = (w.split([hidden, 2 * hidden]) for w in self.qkv.parameters())
        query = apply_linear(last, weight_q, bias_q)  # (B, H)

        def attend_group(kv: Tensor, length: Tensor, rows: slice) -> Tensor:
            q = query[rows].unflatten(1, (self.n_heads, 1, -1))  # (b, heads, 1, H / heads)
            k, v = self.split_heads(kv, 2)  # (b, heads, l, H / heads) each
            seen = (torch.arange(kv.shape[1], device=x.device) < length[:, None])[:, None, None]  # (b, 1, 1, l)
            p = self.attn_dropout if self.training else 0.0
            return attend(q, k, v, p, seen).transpose(1, 2).flatten(1)  # (b, H)

        return histories.mix_last(apply_linear(x, weight_kv, bias_kv), attend_group)

    def split_heads(self, x: Tensor, n: int) -> Tensor:
        """Split (b, l, n H) into n of (b, heads, l, H / heads)."""
        return x.view(*x.shape[:2], n, self.n_heads, -1).permute(2, 0, 3, 1, 4)


class TransformerLayer(SelfAttention):
    """Causal self-attention and a feed-forward layer, each followed by dropout, residual and LayerNorm.

    Gives RecBole's `TransformerLayer` outputs at every item of a history.
    """

    def __init__(
        self, n_heads: int, hidden_size: int, inner_size: int, hidden_dropout: float, attn_dropout: float,
        hidden_act: str, layer_norm_eps: float,
    ) -> None:  # fmt: skip
        super().__init__(n_heads, hidden_size, hidden_dropout, attn_dropout)
        self.act = ACTIVATIONS[hidden_act]
        self.attn_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.ff_in = Linear(hidden_size, inner_size)
        self.ff_out = Linear(inner_size, hidden_size)
        self.ff_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)

    def forward(self, x: Tensor, histories: PackedHistories, last: bool = False) -> Tensor:
        """Map states to states.

            x = norm(x + dropout(W_o attention(x)))
            x = norm(x + dropout(W_2 act(W_1 x)))

        Args:
            x (P, H): of the packed items.
            histories
            last: only the state at each history's last item is wanted, as after the last layer.

        Returns:
            (P, H), or (B, H) with `last`.
        """
        own = x.index_select(0, histories.last) if last else x  # (B, H) with `last`
        x = self.attn_norm(self.mix(x, histories, own if last else None) + own)
        return self.ff_norm(self.drop(self.ff_out(self.act(self.ff_in(x)))) + x)


class LiGRLayer(SelfAttention):
    """Pre-norm self-attention and SwiGLU, each added through a gate that the layer's input opens.

    Source: arXiv:2502.03417, section 3 (the gated residual); arXiv:2508.06450, which puts it into SASRec.
    """

    def __init__(
        self, n_heads: int, hidden_size: int, inner_size: int, hidden_dropout: float, attn_dropout: float,
        hidden_act: str, layer_norm_eps: float,
    ) -> None:  # fmt: skip
        super().__init__(n_heads, hidden_size, hidden_dropout, attn_dropout)
        self.attn_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.attn_gate = Linear(hidden_size, hidden_size)
        self.ff_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.ff_in = Linear(hidden_size, 2 * inner_size, bias=False)
        self.ff_out = Linear(inner_size, hidden_size, bias=False)
        self.ff_gate = Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor, histories: PackedHistories, last: bool = False) -> Tensor:
        """Map states to states; arguments and result as of `TransformerLayer`, * is by element.

        x = x + sigmoid(G_1 x) * dropout(W_o attention(norm(x)))
        x = x + sigmoid(G_2 x) * dropout(W_3 dropout(SiLU(W_1 norm(x)) * (W_2 norm(x))))
        """
        normed = self.attn_norm(x)  # (P, H)
        mixed = self.mix(normed, histories, normed.index_select(0, histories.last) if last else None)
        x = x.index_select(0, histories.last) if last else x  # (B, H) with `last`
        x = x + torch.sigmoid(self.attn_gate(x)) * mixed
        opening, value = self.ff_in(self.ff_norm(x)).chunk(2, 1)  # (P, inner) each
        inner = self.ff_out(self.drop(F.silu(opening) * value))
        return x + torch.sigmoid(self.ff_gate(x)) * self.drop(inner)


LAYERS: dict[str, type[TransformerLayer | LiGRLayer]] = {"sasrec": TransformerLayer, "ligr": LiGRLayer}


class HistoryEncoder(nn.Module):
    """SASRec's encoder: positions, LayerNorm, dropout, transformer layers, the state at the last item, or at every one.

    Histories are packed: their items one after the other, padded among rows of like lengths only where a layer looks
    across positions. Where only the last state is wanted, the last layer computes the last position alone.

    Source: arXiv:1808.09781, section 3, with RecBole's post-norm BERT layers.
    """

    def __init__(
        self, max_seq_length: int, n_layers: int, n_heads: int, hidden_size: int, inner_size: int,
        hidden_dropout_prob: float, attn_dropout_prob: float, hidden_act: str, layer_norm_eps: float,
        initializer_range: float, layer: type[TransformerLayer | LiGRLayer] = TransformerLayer,
    ) -> None:  # fmt: skip
        super().__init__()
        self.position_embedding = nn.Embedding(max_seq_length, hidden_size)
        self.norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.dropout_prob = hidden_dropout_prob
        sizes = n_heads, hidden_size, inner_size, hidden_dropout_prob, attn_dropout_prob, hidden_act, layer_norm_eps
        self.layers = nn.ModuleList(layer(*sizes) for _ in range(n_layers))
        self.apply(lambda module: init_weights(module, initializer_range))

    @classmethod
    def from_config(cls, config: Config, layers: str = "sasrec") -> HistoryEncoder:
        """Build from RecBole's keys, of layers by their name in `LAYERS`."""
        keys = (
            "n_layers", "n_heads", "hidden_size", "inner_size", "hidden_dropout_prob", "attn_dropout_prob",
            "hidden_act", "layer_norm_eps", "initializer_range",
        )  # fmt: skip
        return cls(config["MAX_ITEM_LIST_LENGTH"], **{k: config[k] for k in keys}, layer=LAYERS[layers])

    def forward(self, vectors: Tensor, row: Tensor, item_seq_len: Tensor) -> Tensor:
        """Encode histories.

        Args:
            vectors (M, H): vectors of items.
            row (B, L) int64: the histories as rows of `vectors`, right-padded; what padded slots hold changes nothing.
            item_seq_len (B,) int64: items in each history, at least 1.

        Returns:
            (B, H): the state at each history's last item.
        """
        histories, x = self.pack(vectors, row, item_seq_len)
        for layer in self.layers[:-1]:
            x = layer(x, histories)  # (P, H)
        return histories.unsort(self.layers[-1](x, histories, last=True))  # (B, H) in the batch's order

    def every_position(self, vectors: Tensor, row: Tensor, item_seq_len: Tensor) -> tuple[Tensor, Tensor]:
        """Encode histories, as `forward`, and return the state at each of their items.

        Returns:
            states (P, H): of the P real positions, in some order; place (P,) int64: which of the batch's B x L
            positions each is, counted row by row.
        """
        histories, x = self.pack(vectors, row, item_seq_len)
        for layer in self.layers:
            x = layer(x, histories)
        return x, histories.place

    def pack(self, vectors: Tensor, row: Tensor, item_seq_len: Tensor) -> tuple[PackedHistories, Tensor]:
        """Return PackedHistories of the batch and what the first layer gets, (P, H)."""
        histories = PackedHistories(item_seq_len, row.shape[1])
        x = gather_rows(vectors, histories.take(row), self.norm.weight.dtype)  # (P, H)
        return histories, apply_dropout(self.norm(self.add_positions(x, histories)), self.dropout_prob, self.training)

    def add_positions(self, x: Tensor, histories: PackedHistories) -> Tensor:
        """Add what tells the positions apart to item vectors (P, H)."""
        return x + self.position_embedding(histories.step)


def init_weights(module: nn.Module, std: float) -> None:
    """RecBole's initial values: normal weights, zero biases."""
    if isinstance(module, nn.Linear | nn.Embedding):
        module.weight.data.normal_(mean=0.0, std=std)
    if isinstance(module, nn.Linear) and module.bias is not None:
        module.bias.data.zero_()

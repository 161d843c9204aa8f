"""Layers the recommenders share: dropout, the history encoder, sizes by device."""

import torch
import torch.nn.functional as F
from torch import nn

from recbole_blair.ops import Linear, PackedHistories, apply_dropout, apply_linear, gather_rows

ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu, "swish": F.silu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


def attention(q, k, v, p, seen=None):
    """Attention softmax(q k^T / sqrt(d)) v, its probabilities dropped at rate p.

    On the CPU PyTorch's own copies all to float32 as soon as something is dropped; in bfloat16 this takes half that
    time.

    Args:
        q (b, heads, m, d), k (b, heads, l, d), v (b, heads, l, e)
        p (float)
        seen (b, 1, 1, l) bool | None: True: may be seen; None: causal, m = l.

    Returns:
        (b, heads, m, e).
    """
    if not p or q.device.type != "cpu" or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=p, is_causal=seen is None)
    (n_rows, n_heads, m, width), length = q.shape, k.shape[2]
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    scores = (torch.bmm(q, k.transpose(1, 2)) * width**-0.5).view(n_rows, n_heads, m, length)
    if seen is None:
        seen = torch.ones(m, length, dtype=torch.bool).tril_()
    share = apply_dropout(scores.masked_fill(~seen, float("-inf")).softmax(-1), p, True)
    return torch.bmm(share.flatten(0, 1), v).view(n_rows, n_heads, m, -1)


class TransformerLayer(nn.Module):
    """Causal self-attention and a feed-forward layer, each followed by dropout, residual and LayerNorm.

    Gives RecBole's `TransformerLayer` outputs at every item of a history. All but the attention itself works on packed
    items, no padding among them.
    """

    def __init__(self, n_heads, hidden_size, inner_size, hidden_dropout, attn_dropout, hidden_act, layer_norm_eps):
        super().__init__()
        if hidden_size % n_heads:
            raise ValueError(f"hidden_size={hidden_size} is not a multiple of n_heads={n_heads}")
        self.n_heads, self.attn_dropout, self.hidden_dropout = n_heads, attn_dropout, hidden_dropout
        self.act = ACTIVATIONS[hidden_act]
        self.qkv = Linear(hidden_size, 3 * hidden_size)
        self.attn_out = Linear(hidden_size, hidden_size)
        self.attn_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.ff_in = Linear(hidden_size, inner_size)
        self.ff_out = Linear(inner_size, hidden_size)
        self.ff_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)

    def forward(self, x, histories, last=False):
        """Map states to states.

        Args:
            x (P, H): of the packed items.
            histories (PackedHistories)
            last (bool): only the state at each history's last item is wanted, as after the last layer.

        Returns:
            (P, H), or (B, H) with `last`.
        """
        mixed = self.attend_last(x, histories) if last else histories.mix(self.qkv(x), self.attend)
        x = x.index_select(0, histories.last) if last else x
        x = self.attn_norm(apply_dropout(self.attn_out(mixed), self.hidden_dropout, self.training) + x)
        inner = self.ff_out(self.act(self.ff_in(x)))
        return self.ff_norm(apply_dropout(inner, self.hidden_dropout, self.training) + x)

    def attend(self, qkv):
        """Attention in a group of padded histories: (b, l, 3H) to (b, l, H)."""
        q, k, v = self.heads(qkv, 3)
        p = self.attn_dropout if self.training else 0.0
        return attention(q, k, v, p).transpose(1, 2).flatten(2)

    def attend_last(self, x, histories):
        """Attention of each history's last item alone: (P, H) to (B, H)."""
        hidden = x.shape[1]
        (weight_q, weight_kv), (bias_q, bias_kv) = (w.split([hidden, 2 * hidden]) for w in self.qkv.parameters())
        query = apply_linear(x.index_select(0, histories.last), weight_q, bias_q)

        def attend(kv, length, rows):
            (q,), (k, v) = self.heads(query[rows, None], 1), self.heads(kv, 2)
            seen = (torch.arange(kv.shape[1], device=x.device) < length[:, None])[:, None, None]  # True: may be seen
            p = self.attn_dropout if self.training else 0.0
            return attention(q, k, v, p, seen).transpose(1, 2).flatten(1)

        return histories.mix_last(apply_linear(x, weight_kv, bias_kv), attend)

    def heads(self, x, n):
        """Split (b, l, n H) into n of (b, heads, l, H / heads)."""
        return x.view(*x.shape[:2], n, self.n_heads, -1).permute(2, 0, 3, 1, 4)


class HistoryEncoder(nn.Module):
    """SASRec's encoder: positions, LayerNorm, dropout, transformer layers, the state at the last item, or at every one.

    Histories are packed: their items one after the other, padded among rows of like lengths only where a layer looks
    across positions. Where only the last state is wanted, the last layer computes the last position alone.

    Source: arXiv:1808.09781, section 3, with RecBole's post-norm BERT layers.
    """

    def __init__(
        self, max_seq_length, n_layers, n_heads, hidden_size, inner_size, hidden_dropout_prob, attn_dropout_prob,
        hidden_act, layer_norm_eps, initializer_range,
    ):  # fmt: skip
        super().__init__()
        self.position_embedding = nn.Embedding(max_seq_length, hidden_size)
        self.norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.dropout_prob = hidden_dropout_prob
        self.layers = nn.ModuleList(
            TransformerLayer(
                n_heads,
                hidden_size,
                inner_size,
                hidden_dropout_prob,
                attn_dropout_prob,
                hidden_act,
                layer_norm_eps,
            )
            for _ in range(n_layers)
        )
        self.apply(lambda module: init_weights(module, initializer_range))

    @classmethod
    def from_config(cls, config):
        """Build from RecBole's keys."""
        keys = (
            "n_layers", "n_heads", "hidden_size", "inner_size", "hidden_dropout_prob", "attn_dropout_prob",
            "hidden_act", "layer_norm_eps", "initializer_range",
        )  # fmt: skip
        return cls(config["MAX_ITEM_LIST_LENGTH"], **{k: config[k] for k in keys})

    def forward(self, vectors, row, item_seq_len):
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
            x = layer(x, histories)
        return histories.unsort(self.layers[-1](x, histories, last=True))

    def every_position(self, vectors, row, item_seq_len):
        """Encode histories, as `forward`, and return the state at each of their items.

        Returns:
            states (P, H): of the P real positions, in some order; place (P,) int64: which of the batch's B x L
            positions each is, counted row by row.
        """
        histories, x = self.pack(vectors, row, item_seq_len)
        for layer in self.layers:
            x = layer(x, histories)
        return x, histories.place

    def pack(self, vectors, row, item_seq_len):
        """Return PackedHistories of the batch and what the first layer gets, (P, H)."""
        histories = PackedHistories(item_seq_len, row.shape[1])
        x = gather_rows(vectors, histories.take(row), self.norm.weight.dtype)
        return histories, apply_dropout(self.norm(self.placed(x, histories)), self.dropout_prob, self.training)

    def placed(self, x, histories):
        """Add what tells the positions apart to item vectors (P, H)."""
        return x + self.position_embedding(histories.step)


def init_weights(module, std):
    """RecBole's initial values: normal weights, zero biases."""
    if isinstance(module, nn.Linear | nn.Embedding):
        module.weight.data.normal_(mean=0.0, std=std)
    if isinstance(module, nn.Linear) and module.bias is not None:
        module.bias.data.zero_()

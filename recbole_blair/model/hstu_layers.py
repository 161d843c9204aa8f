"""HSTU's layer and encoder."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_blair.ops import (
    N_TIME_BUCKETS,
    HeadSizes,
    HistoryPairs,
    PackedHistories,
    apply_dropout,
    hstu_attention,
)  # fmt: skip

NORM_EPS = 1e-6  # of the released layers' LayerNorm


class HSTULayer(nn.Module):
    """One layer of HSTU on packed items.

        u, v, q, k = split(SiLU(LayerNorm(x) W))          (equation 2)
        a = SiLU(q k^T + b_pos + b_time) v / n            (equation 3)
        y = x + W_o dropout(u * LayerNorm(a)) + b_o       (equation 4)

    Neither LayerNorm has an affine map; the biases are shared by the heads.

    Source: arXiv:2402.17152, equations 2 to 4.
    """

    def __init__(
        self, hidden_size: int, sizes: HeadSizes, dropout_prob: float, max_seq_length: int, time_bias: bool, std: float
    ) -> None:
        super().__init__()
        self.sizes, self.dropout_prob = sizes, dropout_prob
        self.uvqk = nn.Parameter(torch.randn(hidden_size, 2 * sizes.heads * (sizes.d_qk + sizes.d_v)) * std)
        self.output = nn.Linear(sizes.heads * sizes.d_v, hidden_size)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.pos_bias = nn.Parameter(torch.randn(max_seq_length) * std)
        self.time_bias = nn.Parameter(torch.randn(N_TIME_BUCKETS) * std) if time_bias else None

    def attend(self, vqk: Tensor, pairs: HistoryPairs) -> Tensor:
        """Attention of every head, (P, heads d_v); see `hstu_attention`."""
        return hstu_attention(vqk, self.pos_bias, self.time_bias, pairs)

    def forward(self, x: Tensor, pairs: HistoryPairs) -> Tensor:
        """Map states (P, H) of the packed items to (P, H)."""
        heads, d_qk, d_v, _ = self.sizes
        normed = F.layer_norm(x, x.shape[1:], eps=NORM_EPS)
        mixed = F.silu(normed @ self.uvqk)  # (P, heads (2 d_v + 2 d_qk))
        u, vqk = mixed.split([heads * d_v, heads * (d_v + 2 * d_qk)], 1)
        attended = self.attend(vqk, pairs)  # (P, heads d_v)
        gated = u * F.layer_norm(attended, attended.shape[1:], eps=NORM_EPS)
        return x + self.output(apply_dropout(gated, self.dropout_prob, self.training))


class HSTUEncoder(nn.Module):
    """Item vectors times sqrt(H) plus positions, dropout, HSTU layers; a state at every real position.

    Args:
        d_qk, d_v: widths per head of queries and keys, and of values.
        padded_length: n, which attention is divided by.
        time_bias: request: position i knows the time of event i + 1; history: only its own; none.

    Source: arXiv:2402.17152; the time bias and the input as in the released code of arXiv:2504.10545.
    """

    def __init__(
        self, max_seq_length: int, n_layers: int, n_heads: int, hidden_size: int, d_qk: int, d_v: int,
        dropout_prob: float, padded_length: int, time_bias: str, initializer_range: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.time_bias, self.dropout_prob = time_bias, dropout_prob
        self.sizes = HeadSizes(n_heads, d_qk, d_v, padded_length)
        self.position_embedding = nn.Embedding(max_seq_length, hidden_size)
        nn.init.trunc_normal_(self.position_embedding.weight, std=math.sqrt(1 / hidden_size))
        self.layers = nn.ModuleList(
            HSTULayer(hidden_size, self.sizes, dropout_prob, max_seq_length, time_bias != "none", initializer_range)
            for _ in range(n_layers)
        )

    def pack(
        self, item_seq_len: Tensor, width: int, times: Tensor | None = None, request_time: Tensor | None = None
    ) -> HistoryPairs:
        """Pack a batch.

        Args:
            item_seq_len (B,) int64; width: L.
            times (B, L) int64 ms: of the history's events; not read with time_bias=none.
            request_time (B,) int64 ms: of the event after each history; read with time_bias=request alone.
        """
        histories = PackedHistories(item_seq_len, width)
        if self.time_bias == "none":
            return HistoryPairs(histories, self.sizes)
        assert times is not None
        asked = times  # (B, L): the time that position i asks at
        if self.time_bias == "request":
            assert request_time is not None
            asked = torch.cat([times[:, 1:], times[:, -1:]], 1)  # that of event i + 1
            asked = asked.scatter(1, item_seq_len[:, None] - 1, request_time[:, None])
        return HistoryPairs(histories, self.sizes, times, asked)

    def forward(self, vectors: Tensor, pairs: HistoryPairs) -> Tensor:
        """Encode vectors (P, H) of the packed items to states (P, H)."""
        x = vectors * math.sqrt(vectors.shape[1]) + self.position_embedding(pairs.histories.step)
        x = apply_dropout(x, self.dropout_prob, self.training)
        for layer in self.layers:
            x = layer(x, pairs)
        return x

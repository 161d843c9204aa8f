"""Frozen item text to item vectors: the adaptors of UniSRec and SASRec (Text)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_blair.model.layers import init_weights
from recbole_blair.ops import apply_dropout, apply_linear, mix_experts


class MoEAdaptor(nn.Module):
    """Mixture of parametric-whitening experts with noisy gates: text features to item vectors.

    The W_e are one tensor, and W_e b_e is taken once for all rows. The experts share one dropout mask; the released
    code draws one per expert.

    Source: arXiv:2206.05941, equations 1 to 4.
    """

    NOISE_FLOOR = 1e-2  # least deviation of the gate noise, as released

    def __init__(
        self, n_exps: int, plm_size: int, hidden_size: int, dropout_prob: float, noisy_gating: bool = True,
        initializer_range: float = 0.02,
    ) -> None:  # fmt: skip
        super().__init__()
        self.dropout_prob, self.noisy_gating = dropout_prob, noisy_gating
        self.weight = nn.Parameter(torch.randn(n_exps, hidden_size, plm_size) * initializer_range)  # W_e: (E, H, D)
        self.bias = nn.Parameter(torch.zeros(n_exps, plm_size))  # b_e: (E, D)
        self.w_gate = nn.Parameter(torch.zeros(plm_size, n_exps))
        self.w_noise = nn.Parameter(torch.zeros(plm_size, n_exps))

    def gate_values(self, x: Tensor) -> Tensor:
        """Return the gates (n, E) of features (n, D), in float32 or wider.

        g = softmax(x W_gate + noise * (softplus(x W_noise) + floor)), the noise normal, in training alone.
        """
        noisy = self.noisy_gating and self.training
        weight = torch.cat([self.w_gate.T, self.w_noise.T]) if noisy else self.w_gate.T.contiguous()  # (E or 2E, D)
        # One row per expert: a softmax over eight neighbours takes twenty times as long.
        logits = apply_linear(x, weight.to(x.dtype)).T.contiguous().to(weight.dtype)  # (E or 2E, n)
        if noisy:
            logits, deviation = logits.chunk(2)  # (E, n) each
            logits = torch.addcmul(logits, torch.randn_like(logits), F.softplus(deviation) + self.NOISE_FLOOR)
        return logits.softmax(0).T  # (n, E)

    def forward(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Map features x (n, D) to sum over experts e of g_e W_e (dropout(x) - b_e), (n, H).

        The products run in `dtype`, and so does what they give.
        """
        x = x.to(dtype or self.weight.dtype)
        with torch.autocast(x.device.type, enabled=False):
            gates = self.gate_values(x)  # (n, E)
            shift = torch.bmm(self.weight, self.bias[:, :, None]).squeeze(2)  # W_e b_e: (E, H)
            dropped = apply_dropout(x, self.dropout_prob, self.training)
            return mix_experts(dropped, self.weight.to(x.dtype), shift.to(x.dtype), gates)


class MLPAdaptor(nn.Module):
    """Dropout, linear, ReLU layers from text features to item vectors, the last one linear.

    Source: the SASRec (Text) baseline of arXiv:2403.03952, section 3.2.
    """

    def __init__(self, sizes: Sequence[int], dropout_prob: float, initializer_range: float = 0.02) -> None:
        super().__init__()
        self.dropout_prob = dropout_prob
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.apply(lambda module: init_weights(module, initializer_range))

    def forward(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Map features x (n, D) to (n, H); the products run in `dtype`, and so does what they give."""
        x = x.to(dtype or next(self.parameters()).dtype)
        with torch.autocast(x.device.type, enabled=False):
            for i, layer in enumerate(cast(Sequence[nn.Linear], self.layers)):
                x = apply_dropout(F.relu(x) if i else x, self.dropout_prob, self.training)
                x = apply_linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))  # (n, width of the layer)
        return x

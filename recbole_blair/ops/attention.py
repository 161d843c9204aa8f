"""Softmax attention on the CPU: of histories, with dropout, and of texts, without gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recbole_blair.ops import plain
from recbole_blair.ops.dropout import apply_dropout
from recbole_blair.ops.switch import fast_form_of

# Scores of texts at once. 1 MB costs a quarter more, 32 MB no less; a text with more keeps PyTorch's way.
SCORE_BYTES = 1 << 24
SUM_MIN, SUM_MAX = 1e-30, 1e30  # bf16 and float32 end at 1e-38 and 3e38
LOG2_E = math.log2(math.e)


@fast_form_of(plain.attend)
def attend(q: Tensor, k: Tensor, v: Tensor, p: float, seen: Tensor | None = None) -> Tensor:
    """Attention softmax(q k^T / sqrt(d)) v, its probabilities dropped at rate p.

    On the CPU PyTorch's own copies all to float32 as soon as something is dropped; in bfloat16 this takes half that
    time.

    Args:
        q (b, heads, m, d), k (b, heads, l, d), v (b, heads, l, e)
        p: 0 to 1.
        seen (b, 1, 1, l) bool: True: may be seen; None: causal, m = l.

    Returns:
        (b, heads, m, e).
    """
    if not p or q.device.type != "cpu" or torch.compiler.is_compiling():
        return plain.attend(q, k, v, p, seen)
    (n_rows, n_heads, m, width), length = q.shape, k.shape[2]
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    scores = (torch.bmm(q, k.transpose(1, 2)) * width**-0.5).view(n_rows, n_heads, m, length)
    if seen is None:
        seen = torch.ones(m, length, dtype=torch.bool).tril_()
    share = apply_dropout(scores.masked_fill(~seen, float("-inf")).softmax(-1), p, True)
    return torch.bmm(share.flatten(0, 1), v).view(n_rows, n_heads, m, -1)


@fast_form_of(plain.attend_text)
def attend_text(query: Tensor, key: Tensor, value: Tensor, keep: Tensor | None, scale: float) -> Tensor | None:
    """Take softmax(query key^T * scale) value without looking for each row's largest score.

    PyTorch's own works in blocks of 32 rows, small beside what a call costs. Here the exponentials are taken as they
    are, and a last column of ones in `value` brings their sums. The softmax is right as long as no sum overflows or is
    so small that its terms were lost, which is seen afterwards.

    Args:
        query, key, value (B, heads, T, D)
        keep (B, T) bool: False = padding; None: none is.
        scale: factor of the scores.

    Returns:
        (B, T, heads, D); None where a sum lies outside SUM_MIN to SUM_MAX or is NaN.
    """
    batch, heads, length, width = query.shape
    ones = value.new_ones(batch, length) if keep is None else keep.to(value.dtype)
    if keep is not None:
        value = value * ones[:, None, :, None]
    out = query.new_empty(batch, length, heads, width)
    size = max(1, SCORE_BYTES // max(1, score_bytes(query)))
    for start in range(0, batch, size):
        part = slice(start, start + size)
        if not _attend_part(query[part], key[part], value[part], ones[part], scale, out[part]):
            return None
    return out


def score_bytes(query: Tensor) -> int:
    """Bytes of one text's scores."""
    return query.shape[1] * query.shape[2] ** 2 * query.element_size()


def fits_attend_text(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """True for bf16 on the CPU without gradients, as many keys as queries, and few enough of them."""
    return (
        query.shape == key.shape == value.shape
        and not torch.is_grad_enabled()
        and all(x.dtype == torch.bfloat16 and x.device.type == "cpu" for x in (query, key, value))
        and score_bytes(query) <= SCORE_BYTES
    )


def _attend_part(query: Tensor, key: Tensor, value: Tensor, ones: Tensor, scale: float, out: Tensor) -> bool:
    """`attend_text` for some texts into `out`; returns whether the sums are in range."""
    n, heads, length, width = query.shape
    queries, keys = (x.reshape(n * heads, length, width) for x in (query, key))
    summed = value.new_empty(n, heads, length, width + 1)
    summed[..., :width], summed[..., width] = value, ones[:, None]
    nothing = queries.new_zeros(1)
    weights = torch.baddbmm(nothing, queries, keys.mT, beta=0, alpha=scale * LOG2_E).exp2_()  # (n * heads, T, T)
    mixed = torch.bmm(weights, summed.view(n * heads, length, width + 1)).view(summed.shape)
    sums = mixed[..., width:]
    torch.div(mixed[..., :width], sums, out=out.transpose(1, 2))
    low, high = sums.aminmax()
    return bool(low > SUM_MIN and high < SUM_MAX)

"""Attention of text encoders on the CPU: PyTorch's own works in blocks of 32 rows, small beside what a call costs.

It plugs in where transformers lets attention be registered (`AttentionInterface`).
"""

import math

import torch

from recbole_blair.ops import plain_ops, prefers_onednn, takes_onednn

NAME = "recbole_blair"
SCORE_BYTES = 1 << 24  # scores at once. 1 MB costs a quarter more, 32 MB no less; a text with more keeps PyTorch's way
SUM_MIN, SUM_MAX = 1e-30, 1e30  # bf16 and float32 end at 1e-38 and 3e38
SILENT = {"position_ids", "sliding_window", "deterministic"}  # arguments that PyTorch's way does not read either
LOG2_E = math.log2(math.e)


def use_attention(model):
    """Give a bidirectional transformers encoder this attention, in bf16 on AMD's processors, for use without gradients.

    Elsewhere, and in models with attention of their own, nothing changes. Call it once the model is on the CPU.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    causal = any(getattr(module, "is_causal", False) for module in model.modules())
    offered = getattr(model, "_supports_attention_backend", False) and model.config._attn_implementation == "sdpa"
    if plain_ops() or causal or not offered or model.dtype != torch.bfloat16:
        return
    if prefers_onednn() and takes_onednn(next(model.parameters())):
        AttentionInterface.register(NAME, attention_forward)
        AttentionMaskInterface.register(NAME, padding_mask)
        model.set_attn_implementation(NAME)


def padding_mask(*args, mask_function, **options):
    """transformers' mask (B, 1, T, T) | None, True = attended; of padding alone it is one row, repeated (stride 0)."""
    from transformers.masking_utils import bidirectional_mask_function, sdpa_mask

    mask = sdpa_mask(*args, mask_function=mask_function, **options)
    if mask is None or mask_function is not bidirectional_mask_function:
        return mask
    return mask[:, :, :1].expand(mask.shape)


def attention_forward(module, query, key, value, attention_mask, dropout=0.0, scaling=None, **options):
    """What `AttentionInterface` asks for: (B, T, heads, D) and None; `attend` where it may, else PyTorch's way."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    silent = all(value is None or value is False or name in SILENT for name, value in options.items())
    if is_plain(module, attention_mask) and silent and not dropout and scaling and fits(query, key, value):
        keep = None if attention_mask is None else attention_mask[:, 0, 0]
        found = attend(query, key, value, keep, scaling)
        if found is not None:
            return found, None
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
    )


def is_plain(module, mask):
    """True where each token sees every token of its text that is not padding."""
    if mask is None:
        return not getattr(module, "is_causal", True)
    return mask.dtype == torch.bool and mask.ndim == 4 and mask.shape[1] == 1 and mask.stride(2) == 0


def fits(query, key, value):
    """True for bf16 on the CPU without gradients, as many keys as queries, and few enough of them."""
    return (
        query.shape == key.shape == value.shape
        and not torch.is_grad_enabled()
        and all(x.dtype == torch.bfloat16 and x.device.type == "cpu" for x in (query, key, value))
        and score_bytes(query) <= SCORE_BYTES
    )


def score_bytes(query):
    """Bytes of one text's scores."""
    return query.shape[1] * query.shape[2] ** 2 * query.element_size()


def attend(query, key, value, keep, scale):
    """Take softmax(query keyᵀ · scale) value without looking for each row's largest score.

    The exponentials are taken as they are, and a last column of ones in `value` brings their sums. The softmax is
    right as long as no sum overflows or is so small that its terms were lost, which is seen afterwards.

    Args:
        query, key, value (Tensor): (B, heads, T, D).
        keep (Tensor | None): (B, T) bool, False = padding.
        scale (float): factor of the scores.

    Returns:
        Tensor | None: (B, T, heads, D); None where a sum lies outside SUM_MIN to SUM_MAX or is NaN.
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


def _attend_part(query, key, value, ones, scale, out):
    """`attend` for some texts into `out`; returns whether the sums are in range."""
    n, heads, length, width = query.shape
    queries, keys = (x.reshape(n * heads, length, width) for x in (query, key))
    summed = value.new_empty(n, heads, length, width + 1)
    summed[..., :width], summed[..., width] = value, ones[:, None]
    nothing = queries.new_zeros(1)
    weights = torch.baddbmm(nothing, queries, keys.mT, beta=0, alpha=scale * LOG2_E).exp2_()  # (n * heads, T, T)
    found = torch.bmm(weights, summed.view(n * heads, length, width + 1)).view(summed.shape)
    sums = found[..., width:]
    torch.div(found[..., :width], sums, out=out.transpose(1, 2))
    low, high = sums.aminmax()
    return bool(low > SUM_MIN and high < SUM_MAX)

"""`attend_text` in transformers encoders, by the interface through which they let attention be registered."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from recbole_blair.ops import attend_text, fits_attend_text, plain_ops, prefers_onednn, takes_onednn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "recbole_blair"
SILENT = {"position_ids", "sliding_window", "deterministic"}  # arguments that PyTorch's way does not read either


def use_attention(model: PreTrainedModel) -> None:
    """Give a bidirectional transformers encoder this attention, in bf16 on AMD's processors, for use without gradients.

    Elsewhere, and in models with attention of their own, nothing changes. Call it once the model is on the CPU.
    """
    # heavy: transformers
    from transformers import AttentionInterface, AttentionMaskInterface

    causal = any(getattr(module, "is_causal", False) for module in model.modules())
    offered = getattr(model, "_supports_attention_backend", False) and model.config._attn_implementation == "sdpa"
    if plain_ops() or causal or not offered or model.dtype != torch.bfloat16:
        return
    if prefers_onednn() and takes_onednn(next(model.parameters())):
        AttentionInterface.register(NAME, attention_forward)
        AttentionMaskInterface.register(NAME, padding_mask)
        model.set_attn_implementation(NAME)


def padding_mask(*args: Any, mask_function: Callable, **options: Any) -> Tensor | None:
    """transformers' mask (B, 1, T, T) | None, True = attended; of padding alone it is one row, repeated (stride 0)."""
    # heavy: transformers
    from transformers.masking_utils import bidirectional_mask_function, sdpa_mask

    mask = sdpa_mask(*args, mask_function=mask_function, **options)  # type: ignore[misc]
    if mask is None or mask_function is not bidirectional_mask_function:
        return mask
    return mask[:, :, :1].expand(mask.shape)


def attention_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    dropout: float = 0.0, scaling: float | None = None, **options: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """What `AttentionInterface` asks for: (B, T, heads, D) and None; `attend_text` where it may, else PyTorch's way."""
    # heavy: transformers
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    silent = all(value is None or value is False or name in SILENT for name, value in options.items())
    fits = fits_attend_text(query, key, value)
    if fits and is_bidirectional(module, attention_mask) and silent and not dropout and scaling:
        keep = None if attention_mask is None else attention_mask[:, 0, 0]  # (B, T)
        attended = attend_text(query, key, value, keep, scaling)
        if attended is not None:
            return attended, None
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
    )


def is_bidirectional(module: nn.Module, mask: Tensor | None) -> bool:
    """True where each token sees every token of its text that is not padding."""
    if mask is None:
        return not getattr(module, "is_causal", True)
    return mask.dtype == torch.bool and mask.ndim == 4 and mask.shape[1] == 1 and mask.stride(2) == 0

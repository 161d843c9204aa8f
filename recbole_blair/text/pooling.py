"""From token states to one vector per text: the [CLS] state, the mean over tokens or the last token's state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from recbole_blair.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

POOLINGS = ("cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
OWN_POOLINGS = ("cls", "mean", "lasttoken")  # computed here; sentence-transformers' Pooling does the others
TRAINED_POOLINGS = ("cls", "mean")  # that `pretrain` trains with
# Older sentence-transformers wrote one flag per mode, newer ones write `pooling_mode`; several join in this order.
_LEGACY_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def pool(states: Tensor, lengths: Tensor, pooling: str) -> Tensor:
    """Pool the last hidden states of right-padded texts.

    Args:
        states: (B, T, D) floating, the encoder's last hidden states.
        lengths: (B,) int64, tokens of each text, at least 1; positions from `lengths` on are padding.
        pooling: `cls` takes position 0, `lasttoken` the text's own last position, `mean` averages the text's own
            positions, special tokens included (as sentence-transformers does).

    Returns:
        (B, D) float32, not normalised; float64 stays float64.

    Raises:
        ValueError: another pooling.

    Source: arXiv:2403.03952, section 3.1 ([CLS]); arXiv:1908.10084, section 3 (mean); arXiv:2401.00368, section 3
    (last token).
    """
    import torch  # heavy

    dtype = torch.promote_types(states.dtype, torch.float32)
    if pooling == "cls":
        return states[:, 0].to(dtype)  # (B, D)
    if pooling == "lasttoken":
        return states[torch.arange(len(states), device=states.device), lengths - 1].to(dtype)  # (B, D)
    if pooling != "mean":
        raise ValueError(f"pooling {pooling!r} is not one of {', '.join(OWN_POOLINGS)}")
    keep = torch.arange(states.shape[1], device=states.device) < lengths[:, None]  # (B, T)
    total = (states.to(dtype) * keep[..., None]).sum(dim=1)  # (B, D)
    return total / lengths[:, None].to(total.dtype)


def read_modes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the poolings of a Pooling module's configuration, in either form.

    Raises:
        InputError: one that sentence-transformers does not know.
    """
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for flag, mode in _LEGACY_FLAGS.items() if config.get(flag)] or ["mean"]
    return check_modes([modes] if isinstance(modes, str) else list(modes), "the encoder's pooling configuration")


def parse_modes(text: str) -> tuple[str, ...]:
    """Return the poolings of `plm_pooling: a+b`.

    Raises:
        InputError: one that is unknown, or one twice.
    """
    modes = check_modes(text.split("+"), f"--plm_pooling={text}")
    if len(set(modes)) < len(modes):
        raise InputError(f"--plm_pooling={text} names a pooling twice; give each once, as in cls+mean")
    return modes


def check_modes(modes: list[str], where: str) -> tuple[str, ...]:
    """Return poolings, or refuse one that is unknown."""
    for mode in modes:
        if mode not in POOLINGS:
            raise InputError(f"{where}: {mode!r} is not one of {', '.join(POOLINGS)}")
    return tuple(modes)

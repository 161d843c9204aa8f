"""From token states to one vector per text: the [CLS] state or the mean over tokens, never normalised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_blair.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

POOLINGS = ("cls", "mean")
# Older sentence-transformers wrote one flag per mode, newer ones write `pooling_mode`.
_LEGACY_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def pool(states: Tensor, lengths: Tensor, pooling: str) -> Tensor:
    """Pool the last hidden states of right-padded texts.

    Args:
        states (Tensor): (B, T, D) floating, the encoder's last hidden states.
        lengths (Tensor): (B,) int64, tokens of each text, at least 1; positions from `lengths` on are
            padding.
        pooling: `cls` takes position 0, `mean` averages the text's own positions, special tokens
            included (as sentence-transformers does).

    Returns:
        (B, D) float32, not normalised.

    Raises:
        ValueError: a pooling that is neither.

    Source: arXiv:2403.03952, section 4.1 ([CLS]); arXiv:1908.10084, section 3 (mean).
    """
    if pooling == "cls":
        return states[:, 0].float()  # (B, D)
    if pooling != "mean":
        raise ValueError(f"pooling {pooling!r} is not one of {', '.join(POOLINGS)}")
    import torch  # heavy

    keep = torch.arange(states.shape[1], device=states.device) < lengths[:, None]  # (B, T)
    total = (states.float() * keep[..., None]).sum(dim=1)  # (B, D)
    return total / lengths[:, None].to(total.dtype)


def folder_pooling(folder: Path | str) -> str | None:
    """Read the pooling that a model folder declares for itself, sentence-transformers style.

    Returns:
        `cls` or `mean`; None when the folder says nothing.

    Raises:
        InputError: the folder declares a pooling that is not offered here, or its file is not JSON.
    """
    path = _pooling_file(Path(folder))
    if path is None:
        return None
    config = _read_json(path)
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for flag, mode in _LEGACY_FLAGS.items() if config.get(flag)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else list(modes)
    if len(modes) == 1 and modes[0] in POOLINGS:
        return modes[0]
    raise InputError(
        f"{path} asks for pooling {'+'.join(map(str, modes))}, expected one of {', '.join(POOLINGS)}; "
        "choose one with --pooling=cls or --pooling=mean"
    )


def _pooling_file(folder: Path) -> Path | None:
    """Return the pooling module's config.json: the one modules.json names, else 1_Pooling's."""
    place = "1_Pooling"
    if (folder / "modules.json").is_file():
        modules = _read_json(folder / "modules.json")
        named = [m["path"] for m in modules if str(m.get("type", "")).endswith("Pooling")]
        if not named:
            return None
        place = named[0]
    path = folder / place / "config.json"
    return path if path.is_file() else None


def _read_json(path: Path) -> Any:
    """Load a JSON file; a broken one is the user's to mend."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}); download or save the encoder again") from None

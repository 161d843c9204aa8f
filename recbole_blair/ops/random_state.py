"""The states of the generators that dropout draws from: kept, and put back to draw the same again."""

from __future__ import annotations

import torch
from torch import Tensor

RandomState = tuple[Tensor, "Tensor | None"]  # of the CPU's and the GPU's generator


def get_random_state(device: torch.device) -> RandomState:
    """Return the states of the generators of the CPU and of `device`."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def set_random_state(state: RandomState, device: torch.device) -> None:
    """Put the generators back into the states that `get_random_state` returned."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)

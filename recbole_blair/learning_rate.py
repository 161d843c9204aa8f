"""How the learning rate changes from step to step: a function of the step alone, so that a resumed run has it too."""

from __future__ import annotations

import math


def rate_factor(step: int, schedule: str, warmup_steps: int, total_steps: int) -> float:
    """Return what the learning rate is multiplied by in a step.

    It rises linearly from 0 in the warm-up, w steps of T; then, with p = (step - w) / (T - w),

        constant 1      linear 1 - p      cosine (1 + cos(pi p)) / 2

    Args:
        step: steps taken before, from 0.
        schedule: linear or cosine; any other name is constant.
        warmup_steps: w.
        total_steps: T.
    """
    if step < warmup_steps:
        return step / max(1, warmup_steps)
    if schedule == "linear":
        return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))
    if schedule == "cosine":
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
    return 1.0

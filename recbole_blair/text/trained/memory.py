"""What training an encoder takes in memory, compared with what is free before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from recbole_blair.errors import InputError
from recbole_blair.text.trained.layers import find_layers

if TYPE_CHECKING:
    from recbole_blair.text.text_model import TextModel
    from recbole_blair.text.trained.choice import EncoderTraining

CGROUP = Path("/sys/fs/cgroup")  # a container's own limit
# Numbers per token, layer and unit of width that a transformer layer keeps for its backward pass: inputs of the two
# normalisations, queries, keys, values, their sum, and an inner layer of four times the width before and after its
# activation.
KEPT_PER_UNIT = 16
RESERVE = 1.1  # for what the libraries themselves take


def training_bytes(
    model: TextModel, training: EncoderTraining, train_tokens: int, n_items: int, moments: int
) -> dict[str, int]:
    """Return what a training takes beside the encoder's weights, in bytes by purpose.

    Args:
        model: of the encoder, whole.
        training: what is trained.
        train_tokens: padded tokens per pass.
        n_items: rows of the table of vectors.
        moments: numbers that the optimiser keeps per weight: 2 of Adam.
    """
    config = model.transformer.config.get_text_config()
    layers = training.amount if training.kind == "last" else int(getattr(config, "num_hidden_layers", 1))
    return {
        "gradients and optimiser": 4 * count_trained(model, training) * (1 + moments),
        "activations of a pass": 4 * train_tokens * layers * int(config.hidden_size) * KEPT_PER_UNIT,
        "vectors of all items": 4 * n_items * model.width,
    }


def count_trained(model: TextModel, training: EncoderTraining) -> int:
    """Return how many weights are trained."""
    if training.kind == "lora":  # A (rank, in) and B (out, rank) of each linear layer
        linear = [module for module in model.transformer.modules() if isinstance(module, nn.Linear)]
        return sum(training.amount * (module.in_features + module.out_features) for module in linear)
    layers = find_layers(model.transformer)[-training.amount :] if training.kind == "last" else model.transformer
    return sum(p.numel() for p in layers.parameters())


def free_bytes(device: torch.device) -> int:
    """Return the memory that is free on a device; on a CPU what the machine, or the container, has available."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil  # heavy

    free = int(psutil.virtual_memory().available)
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        files = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())["file"]
        free = min(free, int(limit) - int(used) + int(files)) if limit != "max" else free  # cached files give way
    except (OSError, ValueError, KeyError):
        pass  # no container, or one of an older kind
    return free


def check_memory(needed: dict[str, int], training: EncoderTraining, device: torch.device) -> None:
    """Refuse a training that does not fit.

    Raises:
        InputError: names what is needed, for what, what is free, and the fixes.
    """
    total, free = int(RESERVE * sum(needed.values())), free_bytes(device)
    if total > free:
        parts = ", ".join(f"{name} {size / 2**30:.1f}" for name, size in needed.items())
        raise InputError(
            f"train_encoder={training} needs about {total / 2**30:.1f} GiB more on {device} ({parts}), but "
            f"{free / 2**30:.1f} GiB are free; take last:2 or lora:8, or lower encoder_batch_tokens"
        )

"""The one door for speed: every operation that has a fast form, and what speed needs of the machine.

    from recbole_blair.ops import full_softmax_loss

ops/plain.py says what each operation means; the other files hold its fast forms and are private to this room.
`use_ops("plain")` runs the plain forms everywhere.

- use_ops, plain_ops: choose fast or plain; which was chosen.
- full_softmax_loss: mean cross-entropy over all items.
- LossWithGradients: a loss whose gradients are made in the forward pass; for losses over candidates.
- apply_linear, Linear: x W^T + b.
- apply_dropout: dropout.
- pack_encoder: pack a frozen encoder's weights for products on the CPU.
- prefers_onednn, takes_onednn: whether products go to oneDNN on this processor, and of these tensors.
- resolve_device, resolve_precision, has_fast_bf16: the device and the precision of a run.
- per_device, row_chunks: sizes by device, slices of so many rows.
- keep_freed_memory, give_back_memory: how the C library treats freed memory.
- no_collection: a while without Python's search for cycles.
"""

# ruff: noqa: F401  the imports below are for type checkers
from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recbole_blair.ops.device import has_fast_bf16, per_device, resolve_device, resolve_precision, row_chunks
    from recbole_blair.ops.dropout import apply_dropout
    from recbole_blair.ops.linear import Linear, apply_linear, pack_encoder, prefers_onednn, takes_onednn
    from recbole_blair.ops.memory import give_back_memory, keep_freed_memory, no_collection
    from recbole_blair.ops.softmax import LossWithGradients, full_softmax_loss
    from recbole_blair.ops.switch import plain_ops, use_ops

# PEP 562: a name's file is loaded when the name is first asked for, so that `keep_freed_memory` does not load torch.
# No file has the name of something it holds: `ops.linear` is the file, whatever was loaded before.
_NAMES = {
    "device": ("has_fast_bf16", "per_device", "resolve_device", "resolve_precision", "row_chunks"),
    "dropout": ("apply_dropout",),
    "linear": ("Linear", "apply_linear", "pack_encoder", "prefers_onednn", "takes_onednn"),
    "memory": ("give_back_memory", "keep_freed_memory", "no_collection"),
    "softmax": ("LossWithGradients", "full_softmax_loss"),
    "switch": ("plain_ops", "use_ops"),
}
_FILES = {name: file for file, names in _NAMES.items() for name in names}
__all__ = sorted(_FILES)


def __getattr__(name: str) -> object:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_FILES[name]}"), name)
    globals()[name] = value
    return value

"""The one door for speed: every operation that has a fast form, and what speed needs of the machine.

    from recbole_blair.ops import full_softmax_loss

ops/plain.py says what each operation means; the other files hold its fast forms and are private to this room.
`use_ops("plain")` runs the plain forms everywhere.

- use_ops, plain_ops: choose fast or plain; which was chosen.
- full_softmax_loss: mean cross-entropy over all items.
- LossWithGradients: a loss whose gradients are made in the forward pass; for losses over candidates.
- sampled_cross_entropy: cross-entropy of each position over its target and its own negatives.
- sampled_binary_cross_entropy: generalised binary cross-entropy of each position over the same.
- gated_scores, gated_cross_entropy: cosines with items that a gate of user and item mixes, and the loss over them.
- PackedHistories: the items of a batch's histories without padding; gather_rows: rows of item vectors.
- hstu_attention, HistoryPairs, HeadSizes, N_TIME_BUCKETS: HSTU's pointwise attention, what it needs of a batch.
- apply_linear, Linear: x W^T + b.
- apply_dropout: dropout.
- mix_experts: sum over experts of gate x (W x - shift).
- normalise_rows: rows to length 1.
- attend: softmax attention of histories, with dropout.
- attend_text, fits_attend_text: softmax attention of texts without gradients; whether it takes these tensors.
- all_gather_rows: rows of all devices as one tensor that gradients flow through.
- pack_encoder: pack a frozen encoder's weights for products on the CPU.
- rank_targets, rank_in_chunks: the targets' ranks among all scores; the same, some rows at a time.
- drop_scores: leave scores out of a ranking.
- DotScores: ranks by products with one table of items.
- prefers_onednn, takes_onednn: whether products go to oneDNN on this processor, and of these tensors.
- resolve_device, resolve_precision, has_fast_bf16: the device and the precision of a run.
- per_device, row_chunks: sizes by device, slices of so many rows.
- get_random_state, set_random_state: the states of the generators that dropout draws from.
- keep_freed_memory, give_back_memory: how the C library treats freed memory.
- start_peak_memory, peak_memory_mb: the largest size of the process since a moment.
- no_collection: a while without Python's search for cycles.
"""

# ruff: noqa: F401  the imports below are for type checkers
from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recbole_blair.ops.all_gather import all_gather_rows
    from recbole_blair.ops.attention import attend, attend_text, fits_attend_text
    from recbole_blair.ops.device import has_fast_bf16, per_device, resolve_device, resolve_precision, row_chunks
    from recbole_blair.ops.dot_scores import DotScores
    from recbole_blair.ops.dropout import apply_dropout
    from recbole_blair.ops.linear import Linear, apply_linear, pack_encoder, prefers_onednn, takes_onednn
    from recbole_blair.ops.memory import (
        give_back_memory,
        keep_freed_memory,
        no_collection,
        peak_memory_mb,
        start_peak_memory,
    )
    from recbole_blair.ops.mixture import mix_experts
    from recbole_blair.ops.normalise import normalise_rows
    from recbole_blair.ops.pointwise_attention import N_TIME_BUCKETS, HeadSizes, HistoryPairs, hstu_attention
    from recbole_blair.ops.ragged import PackedHistories, gather_rows
    from recbole_blair.ops.random_state import get_random_state, set_random_state
    from recbole_blair.ops.ranking import drop_scores, rank_in_chunks, rank_targets
    from recbole_blair.ops.sampled_softmax import (
        gated_cross_entropy,
        gated_scores,
        sampled_binary_cross_entropy,
        sampled_cross_entropy,
    )
    from recbole_blair.ops.softmax import LossWithGradients, full_softmax_loss
    from recbole_blair.ops.switch import plain_ops, use_ops

# PEP 562: a name's file is loaded when the name is first asked for, so that `keep_freed_memory` does not load torch.
# No file has the name of something it holds: `ops.linear` is the file, whatever was loaded before.
_NAMES = {
    "all_gather": ("all_gather_rows",),
    "attention": ("attend", "attend_text", "fits_attend_text"),
    "device": ("has_fast_bf16", "per_device", "resolve_device", "resolve_precision", "row_chunks"),
    "dot_scores": ("DotScores",),
    "dropout": ("apply_dropout",),
    "linear": ("Linear", "apply_linear", "pack_encoder", "prefers_onednn", "takes_onednn"),
    "memory": ("give_back_memory", "keep_freed_memory", "no_collection", "peak_memory_mb", "start_peak_memory"),
    "pointwise_attention": ("HeadSizes", "HistoryPairs", "N_TIME_BUCKETS", "hstu_attention"),
    "ragged": ("PackedHistories", "gather_rows"),
    "sampled_softmax": (
        "gated_cross_entropy", "gated_scores", "sampled_binary_cross_entropy", "sampled_cross_entropy",
    ),
    "mixture": ("mix_experts",),
    "normalise": ("normalise_rows",),
    "random_state": ("get_random_state", "set_random_state"),
    "ranking": ("drop_scores", "rank_in_chunks", "rank_targets"),
    "softmax": ("LossWithGradients", "full_softmax_loss"),
    "switch": ("plain_ops", "use_ops"),
}  # fmt: skip
_FILES = {name: file for file, names in _NAMES.items() for name in names}
__all__ = sorted(_FILES)


def __getattr__(name: str) -> object:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_FILES[name]}"), name)
    globals()[name] = value
    return value

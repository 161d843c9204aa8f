"""One training step: the loss of a batch and its gradients, plainly or with gradient caching.

Gradient caching (arXiv:2101.06983) runs the encoder twice. The first pass keeps vectors only; the loss over all of
them gives each vector's gradient; the second pass runs chunk by chunk with the same dropout and feeds that gradient
in. Memory then holds one chunk's activations, and the batch can be as large as the loss needs.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recbole_blair.losses import info_nce_loss
from recbole_blair.ops import all_gather_rows, get_random_state, set_random_state
from recbole_blair.parallel.distributed import gather_values, mean_over_devices, rank, world_size
from recbole_blair.pretrain.noise import IGNORE, counter_uniform, drop_spans, mask_tokens

if TYPE_CHECKING:
    from recbole_blair.pretrain.model import PairEncoder


class Objective(NamedTuple):
    """What is minimised: contrastive + mlm_weight * the backbone's own loss, or one of the two.

    The released code gathers the vectors of all n devices but keeps the gradients of each device's own rows, and then
    averages over the devices: its contrastive gradient is 1/n of the whole batch's, so that the weight of the other
    loss beside it is n * mlm_weight. `contrastive_scale="released"` does that.

    Source: arXiv:2403.03952, section 3.1, equations 1 to 3; section 3.4 (BLaIR-MLM: the metadata alone).
    """

    contrastive: bool = True
    mlm: bool = True
    temperature: float = 0.05
    mlm_weight: float = 0.1
    mlm_share: float = 0.15
    symmetric: bool = False
    mask_same_item: bool = True
    mask_same_history: bool = False
    mlm_on: str = "both"  # sides of a pair whose tokens are hidden: both or metadata
    contrastive_scale: str = "full"  # full or released

    @property
    def contrastive_weight(self) -> float:
        """What the contrastive gradient is multiplied by."""
        return 1.0 / world_size() if self.contrastive_scale == "released" else 1.0

    @property
    def own_weight(self) -> float:
        """The weight of the backbone's own loss; alone it counts fully."""
        return self.mlm_weight if self.contrastive else 1.0


class Vocabulary(NamedTuple):
    """What hiding tokens needs to know of the tokenizer."""

    size: int
    mask_id: int | None
    special_ids: tuple[int, ...]
    sentinels: tuple[int, ...] = ()
    end_id: int | None = None
    pad_id: int = 0


def contrastive_loss(vectors: Tensor, batch: dict[str, Any], objective: Objective) -> Tensor:
    """In-batch contrastive loss of this device's contexts over every device's metadata.

    Pairs that share the item, or whose metadata reads the same, are left out of each other's sums; with
    `mask_same_history` those of one user's history, or whose contexts read the same, as well.

    Args:
        vectors (2B, D): the B contexts, then their metadata.
        batch: `item_key`, `metadata_key`, `history_key`, `context_key`, each (B,) int64: equal where item, metadata
            text, history or context text are.

    Returns:
        scalar.
    """
    n_pairs = len(vectors) // 2
    contexts, metadata = vectors[:n_pairs], vectors[n_pairs:]
    target = torch.arange(n_pairs, device=vectors.device) + rank() * n_pairs
    names = [*(("item_key", "metadata_key") if objective.mask_same_item else ())]
    names += ("history_key", "context_key") if objective.mask_same_history else ()
    mask = None
    for name in names:
        same = batch[name][:, None] == gather_values(batch[name])  # (B, world * B)
        mask = same if mask is None else mask | same
    loss = info_nce_loss(contexts, all_gather_rows(metadata), target, objective.temperature, mask)
    if objective.symmetric:
        back = info_nce_loss(metadata, all_gather_rows(contexts), target, objective.temperature, mask)
        loss = (loss + back) / 2
    return loss


class Step:
    """Computes losses and gradients of batches.

    Args:
        cache_chunk: texts a forward pass with gradient caching; 0: no caching.
        autocast: returns the context manager that forward passes run in.
        backward: backward of a scalar (a gradient scaler's, say).
        seed: of the hidden tokens.
    """

    def __init__(
        self,
        model: PairEncoder,
        objective: Objective,
        vocabulary: Vocabulary,
        cache_chunk: int = 0,
        autocast: Callable[[], AbstractContextManager] | None = None,
        backward: Callable[[Tensor], object] | None = None,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.objective = objective
        self.vocabulary = vocabulary
        self.cached = cache_chunk > 0
        self.autocast = autocast or contextlib.nullcontext
        self.backward = backward or torch.Tensor.backward
        self.seed = seed

    def run(self, batch: dict[str, Any], number: int) -> dict[str, Tensor]:
        """Add the gradients of one batch to the parameters.

        Args:
            batch: from `PairCollator`.
            number: the step's number; hidden tokens depend on it.

        Returns:
            dict: `loss` and its parts `contrastive` and `mlm`, detached scalars.
        """
        parts: dict[str, Tensor] = {}
        if self.objective.contrastive:
            parts["contrastive"] = self._cached_contrastive(batch) if self.cached else self._plain_contrastive(batch)
        if self.objective.mlm:
            parts["mlm"] = self._own_loss(batch, self.noisy_batch(batch, number))
        total = functools.reduce(torch.add, [self._weight(name) * value for name, value in parts.items()])
        return {"loss": total, **parts}

    def _weight(self, name: str) -> float:
        return self.objective.contrastive_weight if name == "contrastive" else self.objective.own_weight

    def _plain_contrastive(self, batch: dict[str, Any]) -> Tensor:
        """Every chunk forward, then one backward pass."""
        with self.autocast():
            vectors = [self._embed_chunk(batch, rows) for rows in batch["chunks"]]
        loss = contrastive_loss(_in_order(vectors, batch["chunks"]), batch, self.objective)
        self.backward(self.objective.contrastive_weight * loss)
        return loss.detach()

    def _cached_contrastive(self, batch: dict[str, Any]) -> Tensor:
        """Two passes: vectors without graph, then each chunk again under its own random state."""
        states, vectors = [], []
        device = batch["ids"].device
        with torch.no_grad(), self.autocast():
            for rows in batch["chunks"]:
                states.append(get_random_state(device))
                vectors.append(self._embed_chunk(batch, rows))
        after = get_random_state(device)
        leaf = _in_order(vectors, batch["chunks"]).requires_grad_()
        loss = contrastive_loss(leaf, batch, self.objective)
        (gradient,) = torch.autograd.grad(self.objective.contrastive_weight * loss, leaf)  # (2B, D)
        for rows, state in zip(batch["chunks"], states):
            set_random_state(state, device)
            with self.autocast():
                again = self._embed_chunk(batch, rows)
            self.backward((again * gradient[rows]).sum())
        set_random_state(after, device)
        return loss.detach()

    def _own_loss(self, batch: dict[str, Any], own: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """The backbone's own loss does not couple texts: each chunk goes backward at once."""
        count = self._predicted(own)
        losses: list[Tensor] = []
        for rows in self._own_chunks(batch):
            with self.autocast():
                loss = self._own_chunk(own, rows) / count
            self.backward(self.objective.own_weight * loss)
            losses.append(loss.detach())
        return functools.reduce(torch.add, losses)

    def _own_chunks(self, batch: dict[str, Any]) -> list[Tensor]:
        """Return the chunks of texts with hidden tokens: of the contexts and the metadata, or of the metadata alone."""
        if self.objective.mlm_on == "both":
            return batch["chunks"]
        parts = [rows[rows >= len(batch["row"])] for rows in batch["chunks"]]  # the metadata come after the contexts
        return [rows for rows in parts if len(rows)]

    def _embed_chunk(self, batch: dict[str, Any], rows: Tensor) -> Tensor:
        lengths = batch["lengths"][rows]
        return self.model.embed(batch["ids"][rows, : int(lengths.max())], lengths)

    def _own_chunk(self, own: tuple[Tensor, Tensor, Tensor], rows: Tensor) -> Tensor:
        noisy, lengths, labels = own
        lengths = lengths[rows]
        width = int(lengths.max())
        if self.model.denoiser is not None:
            filled = int((labels[rows] != IGNORE).sum(1).max())
            return self.model.denoising_loss(noisy[rows, :width], lengths, labels[rows, :filled])
        return self.model.masked_token_loss(noisy[rows, :width], lengths, labels[rows, :width])

    def _predicted(self, own: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Tokens a device predicts on average, so that every predicted token weighs the same on all of them."""
        return mean_over_devices((own[2] != IGNORE).sum().double()).clamp_min(1.0)

    def noisy_batch(self, batch: dict[str, Any], number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return (noisy ids, lengths, labels) of the 2B texts; with `mlm_on=metadata` no context has a label."""
        noisy, lengths, labels = self._hide(batch, number)
        if self.objective.mlm_on == "metadata":
            labels[: len(batch["row"])] = IGNORE
        return noisy, lengths, labels

    def _hide(self, batch: dict[str, Any], number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Hide tokens of all 2B texts."""
        rows = torch.cat([batch["row"] * 2, batch["row"] * 2 + 1])  # a number for each text
        if self.model.denoiser is not None:
            return self._dropped_spans(batch, rows, number)
        ids, lengths = batch["ids"], batch["lengths"]
        special = torch.tensor(self.vocabulary.special_ids, device=ids.device)
        inside = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        maskable = inside & ~torch.isin(ids, special)

        def draw(stream: int) -> Tensor:
            return counter_uniform(self.seed, number, rows, ids.shape[1], stream)

        words = self.vocabulary
        assert words.mask_id is not None  # read_vocabulary sees to it
        noisy, labels = mask_tokens(ids, maskable, draw, words.mask_id, words.size, self.objective.mlm_share)
        return noisy, lengths, labels

    def _dropped_spans(self, batch: dict[str, Any], rows: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor]:
        ids, lengths = batch["ids"].tolist(), batch["lengths"].tolist()
        noisy, targets, words = [], [], self.vocabulary
        assert words.end_id is not None
        for row, text, length in zip(rows.tolist(), ids, lengths):
            rng = np.random.default_rng([self.seed, number, row])
            pair = (
                drop_spans(text[: length - 1], words.sentinels, words.end_id, rng)
                if length > 2
                else (text[:length],) * 2
            )
            noisy.append(pair[0])
            targets.append(pair[1])
        device = batch["ids"].device
        sizes = torch.tensor([len(text) for text in noisy], device=device)
        return _padded(noisy, words.pad_id, device), sizes, _padded(targets, IGNORE, device)


def _padded(lists: list[list[int]], fill: int, device: torch.device) -> Tensor:
    """Right-pad lists of ids to (n, longest)."""
    width = max(len(ids) for ids in lists)
    return torch.tensor([ids + [fill] * (width - len(ids)) for ids in lists], dtype=torch.int64, device=device)


def _in_order(parts: list[Tensor], chunks: Sequence[Tensor]) -> Tensor:
    """Put the rows of chunks back in the batch's order."""
    order = torch.cat(list(chunks))
    return torch.cat(parts)[torch.argsort(order)]

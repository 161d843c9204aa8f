"""The text vectors of items, as recommenders ask for them: `item_texts(items)`, frozen or trained.

A trained encoder runs twice per step (gradient caching, arXiv:2101.06983). The first pass encodes the step's items
chunk by chunk and keeps their vectors alone. The backward pass of the recommender's loss gives each vector's gradient
g_i; each chunk is then encoded again, under the same dropout and with its graph, and sum_i <g_i, v_i> goes backward
through it. The gradients are those of one pass over all items, and memory holds one chunk's activations.

Where `Passes.per_step` limits the texts of a step, the vectors come from the table of all items, and the backward pass
encodes K of the M items alone, drawn with probabilities p_i that are proportional to |g_i|:

    gradient = 1/K sum over the draws i of 1/p_i <g_i, v_i>,    whose mean is sum_i <g_i, v_i>

Where all texts move the weights alike, so that the draws' terms differ by |g_i| / p_i alone, no other p has less
variance (arXiv:1401.2753, section 3). The table is encoded at the beginning of an epoch, and each text that a step
encodes gets its new vector there.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from recbole_blair.ops import get_random_state, set_random_state
from recbole_blair.parallel.distributed import add_up, rank, world_size
from recbole_blair.text.batching import plan_batches
from recbole_blair.text.trained.layers import without_dropout

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from recbole_blair.text.text_model import TextModel
    from recbole_blair.text.trained.ragged_rows import RaggedRows

PREFIX = "item_texts."  # of its weights among those of a recommender
SCALE = f"{PREFIX}scale"


class FrozenTexts(nn.Module):
    """Text vectors of a frozen encoder.

    Args:
        features (N - 1, D): row i - 1 is item i; in the precision that the model computes with.
    """

    features: Tensor

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.register_buffer("features", features, persistent=False)

    @property
    def width(self) -> int:
        """Return the numbers per vector, D."""
        return self.features.shape[1]

    def forward(self, items: Tensor | None = None) -> Tensor:
        """Return the vectors of items `items` (M,), ids from 1, or of all of them: (M, D) or (N - 1, D)."""
        return self.features if items is None else self.features[items - 1]

    def append(self, features: Tensor) -> None:
        """Add items (M, D) behind those there are."""
        self.features = torch.cat([self.features, features.to(self.features.device, self.features.dtype)])


@dataclass(frozen=True)
class Passes:
    """How an encoder runs.

    Args:
        dtype: of the vectors that are returned; bfloat16 encodes in mixed precision, too.
        train_tokens, table_tokens: padded tokens per forward pass, in a step and for the table of all items.
        caching: gradient caching; False: one graph over all items of a step.
        prompt_tokens: of the prompt before each text.
        width: numbers kept of each vector.
        per_step: texts that a step encodes, drawn by the size of their gradients; None: all that it needs.
    """

    dtype: torch.dtype
    train_tokens: int
    table_tokens: int
    caching: bool
    prompt_tokens: int
    width: int
    per_step: int | None = None


class TrainedTexts(nn.Module):
    """Text vectors of an encoder that trains with the recommender.

    In training a call encodes the items that it is asked for, or reads a table (`Passes.per_step`). In evaluation all
    items are encoded at the first call, shared out over the processes, and the table is kept until training goes on or
    weights are loaded. While `frozen` is set, training reads that table, too.

    Only what is trained is in the state dict; the rest comes from the encoder's folder.

    Args:
        network: its trained weights require gradients; it begins where `rows` end.
        rows: of all texts, row i - 1 is item i.
        passes: how it runs.
        scale: every vector is multiplied by it.
    """

    scale: Tensor

    def __init__(self, network: TextModel, rows: RaggedRows, passes: Passes, scale: float = 1.0) -> None:
        super().__init__()
        self.network, self.rows, self.passes = network, rows, passes
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float64))
        self.table: Tensor | None = None  # (N - 1, D) of all items, not scaled
        self.mixed = False  # whether a step has put vectors of other weights into the table
        self.frozen = False  # training reads the table and gives the network no gradient
        self.n_encoded = 0  # texts that went through the network with or without a graph, for measurements
        self.register_state_dict_post_hook(_drop_frozen)
        self.register_load_state_dict_pre_hook(_fill_frozen)

    @property
    def width(self) -> int:
        """Return the numbers per vector, D."""
        return self.passes.width

    def train(self, mode: bool = True) -> TrainedTexts:
        """Set the mode; training makes the table out of date.

        With `Passes.per_step`, or while `frozen`, an epoch begins with the table of the evaluation before it, or
        encodes one.
        """
        reads_table = self.frozen or self.passes.per_step is not None
        if self.mixed or (mode and not reads_table):
            self.table, self.mixed = None, False
        super().train(mode)
        if mode and reads_table:  # here, where all processes come
            self.all_vectors()
        return self

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return the weights that are trained."""
        return [p for p in self.network.parameters() if p.requires_grad]

    def forward(self, items: Tensor | None = None) -> Tensor:
        """Return the vectors of items `items` (M,), ids from 1, or of all of them: (M, D) or (N - 1, D)."""
        if self.frozen or not self.training:
            table = self.all_vectors()
            vectors = table if items is None else table[items - 1]
        else:
            rows = np.arange(len(self.rows)) if items is None else items.cpu().numpy() - 1
            if self.passes.per_step is not None:
                vectors = _DrawnEncoding.apply(self, rows, self.trained_parameters()[0])
            elif self.passes.caching and torch.is_grad_enabled():
                vectors = _CachedEncoding.apply(self, rows, self.trained_parameters()[0])
            else:
                vectors = self.encode(rows, self.passes.train_tokens)
        return (vectors * self.scale).to(self.passes.dtype)

    @torch.inference_mode(False)
    @torch.no_grad()
    def all_vectors(self) -> Tensor:
        """Return the vectors of all items (N - 1, D) in evaluation mode, before the scale; encoded once."""
        if self.table is None:
            mine = np.arange(rank(), len(self.rows), world_size())
            weight = next(self.network.parameters())
            wide = torch.promote_types(weight.dtype, torch.float32)
            table = torch.zeros(len(self.rows), self.width, dtype=wide, device=weight.device)
            if len(mine):
                with without_dropout(self.network):
                    for chunk in self.chunks(mine, self.passes.table_tokens):
                        table[torch.from_numpy(mine[chunk])] = self.encode_chunk(mine[chunk])
            self.table = add_up(table)
        return self.table

    def chunks(self, rows: np.ndarray, budget: int) -> list[np.ndarray]:
        """Cut rows (M,) into chunks of like lengths within a budget of padded tokens: places in `rows`."""
        return plan_batches(self.rows.lengths[rows], budget)

    def encode(self, rows: np.ndarray, budget: int) -> Tensor:
        """Encode rows (M,) -> (M, D), in the caller's gradient mode."""
        chunks = self.chunks(rows, budget)
        vectors = torch.cat([self.encode_chunk(rows[chunk]) for chunk in chunks])
        return vectors[torch.from_numpy(np.argsort(np.concatenate(chunks))).to(vectors.device)]

    def encode_chunk(self, rows: np.ndarray) -> Tensor:
        """Encode rows (b,) in one pass -> (b, D), float32 at least."""
        self.n_encoded += len(rows)
        weight = next(self.network.parameters())
        inputs, lengths = (x.to(weight.device, non_blocking=True) for x in self.rows.take(rows))
        padded = bool(self.rows.lengths[rows].min() < inputs.shape[1])
        with self.precision(weight.device):
            return self.network(inputs, lengths, padded, self.passes.prompt_tokens)[:, : self.width]

    def precision(self, device: torch.device) -> AbstractContextManager:
        """Return the precision context of a pass: its own, in the forward and in the backward pass of a step."""
        mixed = self.passes.dtype == torch.bfloat16
        return torch.autocast(device.type, torch.bfloat16) if mixed else torch.autocast(device.type, enabled=False)


class _CachedEncoding(torch.autograd.Function):
    """Vectors of a step's items without their graph; the backward pass encodes them again, chunk by chunk.

    A trained weight among the arguments makes autograd come here; its gradient and those of all others are added up by
    the inner backward passes.
    """

    @staticmethod
    def forward(ctx: Any, texts: TrainedTexts, rows: np.ndarray, weight: Tensor) -> Tensor:
        """Encode rows (M,) -> (M, D)."""
        ctx.texts, ctx.rows, ctx.device = texts, rows, weight.device
        ctx.chunks = texts.chunks(rows, texts.passes.train_tokens)
        ctx.states, vectors = [], []
        for chunk in ctx.chunks:
            ctx.states.append(get_random_state(ctx.device))
            vectors.append(texts.encode_chunk(rows[chunk]))
        order = torch.from_numpy(np.argsort(np.concatenate(ctx.chunks))).to(ctx.device)
        return torch.cat(vectors)[order]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        """Send the vectors' gradients (M, D) through the network."""
        (gradient,) = gradients
        with _kept_random_state(ctx.device):
            for chunk, state in zip(ctx.chunks, ctx.states):
                set_random_state(state, ctx.device)
                with torch.enable_grad():
                    again = ctx.texts.encode_chunk(ctx.rows[chunk])
                torch.autograd.backward(again, gradient[torch.from_numpy(chunk).to(ctx.device)])
        return None, None, None


class _DrawnEncoding(torch.autograd.Function):
    """Vectors of a step's items from the table; the backward pass encodes `Passes.per_step` of them, with graphs."""

    @staticmethod
    def forward(ctx: Any, texts: TrainedTexts, rows: np.ndarray, weight: Tensor) -> Tensor:
        """Look rows (M,) up -> (M, D)."""
        ctx.texts, ctx.rows = texts, rows
        assert texts.table is not None  # train() encodes it
        return texts.table[torch.from_numpy(rows).to(weight.device)]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        """Send the gradients (M, D) of the drawn vectors through the network, each divided by its probability."""
        (gradient,) = gradients
        texts = ctx.texts
        drawn, weights = draw_rows(gradient, texts.passes.per_step)  # (k,), (k,)
        pulls = gradient[drawn] * weights[:, None]  # (k, D)
        rows = ctx.rows[drawn.cpu().numpy()]  # of the table
        for chunk in texts.chunks(rows, texts.passes.train_tokens):
            with torch.enable_grad():
                vectors = texts.encode_chunk(rows[chunk])
            torch.autograd.backward(vectors, pulls[torch.from_numpy(chunk).to(pulls.device)])
            texts.table[torch.from_numpy(rows[chunk]).to(pulls.device)] = vectors.detach()
        texts.mixed = True
        return None, None, None


def draw_rows(gradient: Tensor, n_draws: int) -> tuple[Tensor, Tensor]:
    """Draw rows of a gradient by their size, so that the weighted sum of what is drawn has the mean of the whole.

    Args:
        gradient (M, D)
        n_draws: K, with replacement; from M on every row is taken, with weight 1.

    Returns:
        rows (k,) int64, k <= K, each once; weights (k,): draws of row i / (K p_i), p_i = |g_i| / sum_j |g_j|.
    """
    size = gradient.float().norm(dim=1)  # (M,)
    if n_draws >= len(size):
        return torch.arange(len(size), device=size.device), torch.ones_like(gradient[:, 0])
    if not 0 < float(size.sum()) < math.inf:  # no gradient, or none that is finite: the loss is reported elsewhere
        size = torch.ones_like(size)
    share = size / size.sum()
    rows, counts = torch.multinomial(share, n_draws, replacement=True).unique(return_counts=True)
    return rows, (counts / (n_draws * share[rows])).to(gradient.dtype)


@contextlib.contextmanager
def _kept_random_state(device: torch.device) -> Iterator[None]:
    """Leave the generators as they were."""
    state = get_random_state(device)
    try:
        yield
    finally:
        set_random_state(state, device)


def _frozen_state(module: TrainedTexts) -> dict[str, Tensor]:
    """Return what of a network's state is not trained: weights without gradients, and buffers."""
    state = module.network.state_dict(keep_vars=True)
    return {f"network.{name}": value.detach() for name, value in state.items() if not value.requires_grad}


def _drop_frozen(module: TrainedTexts, state: dict[str, Tensor], prefix: str, _: dict[str, Any]) -> None:
    """Leave what is not trained out of a state dict."""
    for name in _frozen_state(module):
        state.pop(f"{prefix}{name}", None)


def _fill_frozen(module: TrainedTexts, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Take what is not trained from the module itself when a state dict is loaded; the table is out of date."""
    module.table = None
    for name, value in _frozen_state(module).items():
        state.setdefault(f"{prefix}{name}", value)

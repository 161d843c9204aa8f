"""A Hugging Face encoder: tokenise once, batch by length, run in bf16 where the chip has it, on every device.

Weights come from safetensors; a folder that only has pytorch_model.bin is read by transformers with torch's
weights-only loader, which runs no code from the file. Code that a model repository brings is never run.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from recbole_blair.errors import InputError
from recbole_blair.ops import keep_freed_memory
from recbole_blair.text.api_client import RowError
from recbole_blair.text.batching import pad_batch, plan_batches, plan_chunks
from recbole_blair.text.devices import pick_devices, pick_precision
from recbole_blair.text.layout import DOCUMENT, QUERY, Layout, read_layout
from recbole_blair.text.options import EncoderOptions
from recbole_blair.text.pipeline import Pipeline
from recbole_blair.text.pooling import parse_modes
from recbole_blair.text.prompts import find_prompt, known_widths

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from recbole_blair.text.text_model import TextModel

    Replica = tuple[torch.device, TextModel]

# Padded tokens per batch. CPU: what stays in the last-level cache (tests/bench/bench_encoding.py); GPU:
# enough to fill the multiprocessors with a base-size model.
BATCH_TOKENS = {"cpu": 4096, "cuda": 65536}


@dataclass(frozen=True)
class Side:
    """What an encoder of documents or of queries is made from.

    Args:
        name: the encoder's part in file names.
        layout: what the model's folder declares for this side.
        options: as asked for.
        precision: `fp32`, `bf16` or `fp16`.
        source: header fields that say where the weights come from.
        task: `document` or `query`.
    """

    name: str
    layout: Layout
    options: EncoderOptions
    precision: str
    source: dict[str, str]
    task: str = DOCUMENT


class TransformerEncoder:
    """A pretrained text encoder with its tokenizer, replicated on each device; made for documents or for queries.

    Args:
        replicas: the same model in eval mode on each device.
        tokenizer: the model's tokenizer.
        side: what this encoder is made from and for.
    """

    libraries: Sequence[str] = ("torch", "transformers")

    def __init__(
        self,
        replicas: list[Replica],
        tokenizer: PreTrainedTokenizerBase,
        side: Side,
    ) -> None:
        device, model = replicas[0]
        layout, options, task = side.layout, side.options, side.task
        self.replicas, self.tokenizer, self.side, self.name, self.precision = (
            replicas, tokenizer, side, side.name, side.precision,
        )  # fmt: skip
        self.pooling = "+".join(model.poolings)
        self.prompt = find_prompt(layout, task, options, side.source.get("source"))
        self.prompt_tokens = self._count_prompt_tokens()
        own_limit = layout.transformer.get(f"{task}_length")
        self.max_length = min(options.max_length, position_limit(model.transformer, tokenizer), own_limit or 1 << 30)
        self.width = check_width(options.dimensions, model.width, layout, side.source.get("source"), side.name)
        self.batch_tokens = BATCH_TOKENS[device.type]
        tokens = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        self.pad_id = next(t for t in tokens if t is not None)

    @classmethod
    def load(cls, folder: Path, options: EncoderOptions, *, name: str, source: Mapping[str, str]) -> TransformerEncoder:
        """Load a folder as `load_encoder` does; see there."""
        return cls._load(read_layout(folder).ending(options.normalise), options, name, source, DOCUMENT)

    @classmethod
    def _load(
        cls, layout: Layout, options: EncoderOptions, name: str, source: Mapping[str, str], task: str
    ) -> TransformerEncoder:
        """Load one side."""
        from recbole_blair.text.text_model import load_text_model  # heavy: torch

        devices = pick_devices(options.device)
        precision = pick_precision(options.precision, devices[0])
        poolings = parse_modes(options.pooling) if options.pooling else ()
        model, tokenizer = load_text_model(layout, precision, poolings)
        if devices[0].type == "cpu" and not options.trainable:
            _speed_up(model.transformer)
        about = Side(name, layout, options, precision, dict(source), task)
        return cls(_replicate(model, devices), tokenizer, about)

    @cached_property
    def queries(self) -> TransformerEncoder:
        """The encoder for search queries: the same model with the prompt for queries, or a Router's other side."""
        mine = self.side.layout
        layout = read_layout(mine.folder, QUERY).ending(self.side.options.normalise)
        if (layout.place, layout.heads) != (mine.place, mine.heads):
            return self._load(layout, self.side.options, self.name, self.side.source, QUERY)
        return type(self)(self.replicas, self.tokenizer, replace(self.side, layout=layout, task=QUERY))

    def encode_queries(self, texts: Sequence[str], progress: bool = True) -> np.ndarray:
        """Encode search queries with their own prompt and, in a Router, their own side.

        Returns:
            (n, width) float32, in the order given.
        """
        return self.queries.encode(texts, progress=progress)

    def description(self) -> dict[str, Any]:
        """Header fields that tell this encoder from others; see text/encode.py for the whole header."""
        return {
            "encoder": self.name,
            "kind": "huggingface",
            **self.side.source,
            "width": self.width,
            "pooling": self.pooling,
            "modules": self.side.layout.describe(),
            "prompt": self.prompt,
            "max_length": self.max_length,
            "precision": self.precision,
            "normalised": any(head.kind == "Normalize" for head in self.side.layout.heads)
            and not self.side.options.dimensions,
        }

    def _count_prompt_tokens(self) -> int:
        """Return the tokens of the prompt that pooling may leave out: special ones before it, not those after it."""
        if not self.prompt:
            return 0
        ids = self.tokenizer(self.prompt)["input_ids"]
        return len(ids) - (ids[-1] in self.tokenizer.all_special_ids)

    @property
    def device_type(self) -> str:
        """Return `cpu` or `cuda`."""
        return self.replicas[0][0].type

    def encode(
        self, texts: Sequence[str], *, batch_tokens: int | None = None, progress: bool = True, normalise: bool = False
    ) -> np.ndarray:
        """Encode texts.

        Args:
            texts: n texts.
            batch_tokens: token budget of a batch; None: by device.
            progress: show a bar.
            normalise: scale each vector to length 1 (retrieval); a zero vector stays zero.

        Returns:
            (n, width) float32, in the order given.
        """
        out = np.empty((len(texts), self.width), dtype=np.float32)
        with progress_bar(len(texts), self.name, progress) as bar:
            for _, rows, vectors in self.encode_chunks(texts, batch_tokens=batch_tokens):
                out[rows] = vectors
                bar.update(len(rows))
        return normalise_rows(out) if normalise else out

    def plan(self, texts: Sequence[str], batch_tokens: int | None = None) -> list[np.ndarray]:
        """Return the chunks that `encode_chunks` works through; they depend on texts and settings alone."""
        return plan_chunks(texts, self.max_length, batch_tokens or self.batch_tokens)

    def encode_chunks(
        self, texts: Sequence[str], *, batch_tokens: int | None = None, done: Container[int] = ()
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Encode chunk by chunk, tokenising ahead in a thread and feeding every device.

        Args:
            texts: n texts.
            batch_tokens: token budget of a batch; None: by device.
            done: chunks to leave out.

        Yields:
            chunk number, its rows (m,) int64, their vectors (m, width) float32.
            With several devices chunks may come out of order.

        Raises:
            InputError: a text that gives no token, or a model that gives NaN or infinity.
        """
        budget = batch_tokens or self.batch_tokens
        yield from self.encode_planned(
            texts, [(i, rows) for i, rows in enumerate(self.plan(texts, budget)) if i not in done], budget
        )

    def encode_planned(
        self, texts: Sequence[str] | Mapping[int, str], todo: Sequence[tuple[int, np.ndarray]], budget: int
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Encode given chunks; see `encode_chunks`.

        Args:
            texts: row -> text, of the chunks' rows at least.
            todo: chunk numbers and their rows.
            budget: tokens per batch.
        """
        memory = keep_freed_memory() if self.device_type == "cpu" else contextlib.nullcontext()
        with memory, Pipeline(self, texts, todo, budget) as results:
            for _ in todo:
                number, rows, vectors = results.next()
                if not np.isfinite(vectors).all():
                    bad = int(rows[~np.isfinite(vectors).all(axis=1)][0])
                    raise RowError(
                        bad,
                        f"{self.name} gives NaN or infinity for the text in row {bad} in {self.precision}; "
                        "try --precision=fp32, or take another encoder",
                    )
                yield number, rows, vectors

    def tokenise(
        self, texts: Sequence[str] | Mapping[int, str], rows: np.ndarray, budget: int
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Tokenise the texts of one chunk and cut it into padded batches.

        Returns:
            for each batch: positions in the chunk, padded ids (B, T), lengths (B,).
        """
        token_ids = self.tokenizer(
            [self.prompt + texts[row] for row in rows] if self.prompt else [texts[row] for row in rows],
            truncation=True,
            max_length=self.max_length,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        lengths = np.fromiter((len(ids) for ids in token_ids), np.int64, len(token_ids))
        if not lengths.all():
            row = int(rows[lengths == 0][0])
            raise RowError(
                row,
                f"the text in row {row} gives no token with the tokenizer of {self.name}; give the item a title or a "
                "description, or take another encoder",
            )
        return [
            (where, pad_batch([token_ids[i] for i in where], lengths[where], self.pad_id), lengths[where])
            for where in plan_batches(lengths, budget)
        ]

    def forward_chunk(
        self, replica: Replica, batches: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], n_rows: int
    ) -> np.ndarray:
        """Run one chunk on one device; the results stay there until the chunk is through.

        Returns:
            (n_rows, width) float32, in the chunk's order.
        """
        import torch

        device, model = replica
        pooled, order = [], []
        with torch.inference_mode():
            for where, token_ids, lengths in batches:
                ids, sizes = _to_device(token_ids, device), _to_device(lengths, device)
                padded = bool(lengths.min() < token_ids.shape[1])
                pooled.append(model(ids, sizes, padded, self.prompt_tokens)[:, : self.width])  # (B, D)
                order.append(where)
            vectors = torch.cat(pooled).cpu().numpy()
        out = np.empty((n_rows, self.width), dtype=np.float32)
        out[np.concatenate(order)] = vectors
        return out


def normalise_rows(vectors: np.ndarray) -> np.ndarray:
    """Scale rows to length 1 in place and return them; a zero row stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    np.divide(vectors, norms, out=vectors, where=norms > 0)
    return vectors


def progress_bar(total: int, name: str, show: bool, initial: int = 0) -> tqdm:
    """Return a bar over items."""
    return tqdm(total=total, initial=initial, desc=f"encode {name}", unit=" items", disable=not show)


def _speed_up(model: PreTrainedModel) -> None:
    """Give a model on the CPU the faster products and the faster attention."""
    # heavy: torch
    from recbole_blair.ops import pack_encoder
    from recbole_blair.text.attention import use_attention

    pack_encoder(model)
    use_attention(model)


def _replicate(model: TextModel, devices: Sequence[torch.device]) -> list[Replica]:
    """Put one copy of the model on each device."""
    copies: list[Any] = [model, *(copy.deepcopy(model) for _ in devices[1:])]
    return [(device, replica.to(device=device)) for device, replica in zip(devices, copies)]


def position_limit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the longest input the model has positions for. RoBERTa's begin after its padding index: 514 gives 512."""
    import torch

    limit = tokenizer.model_max_length or 1 << 30
    declared = getattr(model.config, "max_position_embeddings", None) or 0
    limit = min(limit, declared) if declared > 0 else limit  # rotary positions have no table
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            offset = 0 if module.padding_idx is None else module.padding_idx + 1
            limit = min(limit, module.num_embeddings - offset)
    return int(limit)


def check_width(asked: int | None, width: int, layout: Layout, source: str | None, name: str) -> int:
    """Return the width asked for, or the model's own.

    Raises:
        InputError: more than the model gives, or one that it was not trained to be truncated to.
    """
    if asked is None or asked == width:
        return width
    known = sorted({*(layout.widths or known_widths(source)), width})
    if asked in known or (asked < width and len(known) == 1):
        return asked
    legal = ", ".join(map(str, known)) if len(known) > 1 else f"1 to {width}"
    raise InputError(f"--plm_dimensions={asked} is not a width of {name}; it has {legal}")


def _to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy an array to a device; through pinned memory and without waiting on a GPU."""
    import torch

    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor

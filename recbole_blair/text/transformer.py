"""A Hugging Face encoder: tokenise once, batch by length, run in bf16 where the chip has it, on every device.

Weights come from safetensors; a folder that only has pytorch_model.bin is read by transformers with torch's
weights-only loader, which runs no code from the file. Code that a model repository brings is never run.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_blair.errors import InputError
from recbole_blair.ops import keep_freed_memory
from recbole_blair.text.batching import pad_batch, plan_batches, plan_chunks
from recbole_blair.text.devices import pick_devices, pick_precision
from recbole_blair.text.hub import first_line
from recbole_blair.text.pipeline import Pipeline
from recbole_blair.text.pooling import POOLINGS, folder_pooling, pool
from recbole_blair.text.weights import weight_files

if TYPE_CHECKING:
    import torch
    from tqdm import tqdm
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Replica = tuple[torch.device, PreTrainedModel]

# Padded tokens per batch. CPU: what stays in the last-level cache (tests/bench/bench_encoding.py); GPU:
# enough to fill the multiprocessors with a base-size model.
BATCH_TOKENS = {"cpu": 4096, "cuda": 65536}


class TransformerEncoder:
    """A pretrained text encoder with its tokenizer, replicated on each device.

    Args:
        replicas: the same model in eval mode on each device.
        tokenizer: the model's tokenizer.
        name: the encoder's part in file names.
        pooling: `cls` or `mean`.
        max_length: tokens kept of a text, special ones included.
        precision: `fp32` or `bf16`.
        source: header fields that say where the weights come from.
    """

    libraries: Sequence[str] = ("torch", "transformers")

    def __init__(
        self,
        replicas: list[Replica],
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        pooling: str,
        max_length: int,
        precision: str,
        source: Mapping[str, str],
    ) -> None:
        self.replicas = replicas
        self.tokenizer = tokenizer
        self.name = name
        self.pooling = pooling
        self.max_length = max_length
        self.precision = precision
        self.source = dict(source)
        self.width = int(replicas[0][1].config.hidden_size)
        self.batch_tokens = BATCH_TOKENS[replicas[0][0].type]
        tokens = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        self.pad_id = next(t for t in tokens if t is not None)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        name: str,
        source: Mapping[str, str],
        device: str = "auto",
        precision: str = "auto",
        pooling: str | None = None,
        max_length: int = 512,
    ) -> TransformerEncoder:
        """Load a folder as `load_encoder` does; see there."""
        devices = pick_devices(device)
        precision = pick_precision(precision, devices[0])
        declared = folder_pooling(folder) if pooling is None else None
        if pooling is not None and pooling not in POOLINGS:
            raise InputError(f"--pooling={pooling} is not one of {', '.join(POOLINGS)}")
        model, tokenizer = _load_model(folder, precision)
        if pooling is None:
            pooling = declared or ("cls" if tokenizer.cls_token_id is not None else "mean")  # T5 has no [CLS]
        if devices[0].type == "cpu":
            _speed_up(model)
        replicas = _replicate(model, devices)
        limit = min(max_length, _position_limit(model, tokenizer))
        return cls(
            replicas,
            tokenizer,
            name=name,
            pooling=pooling,
            max_length=limit,
            precision=precision,
            source=source,
        )

    def description(self) -> dict[str, Any]:
        """Header fields that tell this encoder from others; see text/encode.py for the whole header."""
        return {
            "encoder": self.name,
            "kind": "huggingface",
            **self.source,
            "width": self.width,
            "pooling": self.pooling,
            "max_length": self.max_length,
            "precision": self.precision,
        }

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
                    raise InputError(
                        f"{self.name} gives NaN or infinity for the text in row {bad} in {self.precision}; "
                        "try --precision=fp32, or take another encoder"
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
            [texts[row] for row in rows],
            truncation=True,
            max_length=self.max_length,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        lengths = np.fromiter((len(ids) for ids in token_ids), np.int64, len(token_ids))
        if not lengths.all():
            raise InputError(
                f"the text in row {int(rows[lengths == 0][0])} gives no token with the tokenizer of {self.name}; give "
                "the item a title or a description, or take another encoder"
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
                mask = None
                if lengths.min() < token_ids.shape[1]:  # no padding, no mask: the faster attention
                    mask = (torch.arange(ids.shape[1], device=device) < sizes[:, None]).long()  # (B, T)
                states = model(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, T, D)
                pooled.append(pool(states, sizes, self.pooling))
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
    from tqdm import tqdm

    return tqdm(total=total, initial=initial, desc=f"encode {name}", unit=" items", disable=not show)


def _load_model(folder: Path, precision: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load model (its encoder half, if it has two) and tokenizer from a folder, or say what is wrong with it."""
    # heavy: torch and transformers
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer
    from transformers.utils import logging

    weight_files(folder)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        # T5 and its like: the encoder half; the rest as they are.
        auto = AutoModelForTextEncoding if config.is_encoder_decoder else AutoModel
        model, info = auto.from_pretrained(
            folder, config=config, dtype=dtype, local_files_only=True, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{folder} could not be loaded as a Hugging Face encoder ({type(error).__name__}: {first_line(error)}); it "
            "needs config.json, weights and tokenizer files as save_pretrained writes them"
        ) from error
    finally:
        if bars:
            logging.enable_progress_bar()
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise InputError(
            f"the weights in {folder} lack {len(missing)} of the model's tensors (first: {missing[0]}), which would "
            "stay random; give a folder with the whole encoder"
        )
    return model.eval().requires_grad_(False), tokenizer


def _speed_up(model: PreTrainedModel) -> None:
    """Give a model on the CPU the faster products and the faster attention."""
    # heavy: torch
    from recbole_blair.ops import pack_encoder
    from recbole_blair.text.attention import use_attention

    pack_encoder(model)
    use_attention(model)


def _replicate(model: PreTrainedModel, devices: Sequence[torch.device]) -> list[Replica]:
    """Put one copy of the model on each device."""
    copies: list[Any] = [model, *(copy.deepcopy(model) for _ in devices[1:])]
    return [(device, replica.to(device=device)) for device, replica in zip(devices, copies)]


def _position_limit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the longest input the model has positions for. RoBERTa's begin after its padding index: 514 gives 512."""
    import torch

    limit = tokenizer.model_max_length if tokenizer.model_max_length else 1 << 30
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            offset = 0 if module.padding_idx is None else module.padding_idx + 1
            limit = min(limit, module.num_embeddings - offset)
    return int(limit)


def _to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy an array to a device; through pinned memory and without waiting on a GPU."""
    import torch

    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor

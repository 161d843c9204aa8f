"""From a configuration's keys to an encoder that trains: its texts, its lower layers' states, its network."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from recbole_blair.errors import InputError
from recbole_blair.text.batching import plan_batches
from recbole_blair.text.encoders import load_encoder
from recbole_blair.text.item_text import ids_hash, text_hash
from recbole_blair.text.trained.item_texts import Passes, TrainedTexts
from recbole_blair.text.trained.layers import (
    choose_trained,
    cut_below,
    encode_below,
    first_trained_layer,
)
from recbole_blair.text.trained.memory import check_memory, training_bytes
from recbole_blair.text.trained.ragged_rows import RaggedRows, make_rows, open_rows, rows_folder
from recbole_blair.text.transformer import BATCH_TOKENS, TransformerEncoder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import nn

    from recbole_blair.text.text_model import TextModel
    from recbole_blair.text.trained.choice import EncoderTraining

TRAIN_TOKENS = {"cpu": 4096, "cuda": 32768}  # padded tokens per pass with its graph
TOKENISED = 4096  # texts at a time
CHECKED_TEXTS = 4  # on which an encoder without its lower layers is compared with the whole one


@dataclass(frozen=True)
class TextSource:
    """What a trained encoder is made from; each run makes its own.

    Args:
        training: what is trained.
        build_dir: folder of the build, whose `.cache/` keeps what is computed once.
        plm: hub id or folder of the encoder.
        options: of `EncoderOptions`, without device and precision.
        ids, texts: of all items, in `.item` order.
        own_texts_sha256: of the texts in the `.item` file, where `texts` are of another recipe.
        device: where it trains.
        dtype: that the recommender computes with; bfloat16 means mixed precision.
        batch_tokens: padded tokens per pass of a step; None: by device.
        caching, per_step: see `Passes`.
        scale: every vector is multiplied by it.
        moments: numbers that the optimiser keeps per weight.
        progress: show bars.
    """

    training: EncoderTraining
    build_dir: Path
    plm: str
    options: Mapping[str, Any]
    ids: Sequence[str]
    texts: Sequence[str]
    device: torch.device
    dtype: torch.dtype
    own_texts_sha256: str | None = None
    batch_tokens: int | None = None
    caching: bool = True
    per_step: int | None = None
    scale: float = 1.0
    moments: int = 2
    progress: bool = False

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of the ids and of the texts."""
        return {"ids_sha256": ids_hash(self.ids), "text_sha256": text_hash(self.texts)}

    def load(self) -> TransformerEncoder:
        """Load the encoder whole, in float32 (float64 where the recommender computes in that)."""
        device = "cpu" if self.device.type == "cpu" else str(self.device)
        encoder = load_encoder(self.plm, **{**self.options, "device": device, "precision": "fp32", "trainable": True})
        assert isinstance(encoder, TransformerEncoder)  # chosen_training: a hub id or a folder
        model = encoder.replicas[0][1]
        if model.whole and self.options.get("pooling"):
            raise InputError(
                f"train_encoder={self.training} with plm_pooling={encoder.pooling}: {encoder.name} pools by its own "
                "modules there; leave out plm_pooling, or take cls, mean or lasttoken"
            )
        model.to(self.device, torch.promote_types(self.dtype, torch.float32))
        return encoder

    def prepare(self) -> None:
        """Compute what is kept on the disk: token ids, and states below the trained layers."""
        self.open(self.load())

    def build(self) -> TrainedTexts:
        """Load the encoder and make it ready to train.

        Raises:
            InputError: too little memory or disk, or an encoder that cannot be trained so.
        """
        encoder = self.load()
        model = encoder.replicas[0][1]
        tokens, below, rows = self.open(encoder)
        layers = None if below is None else self.cut(model, tokens, below)
        choose_trained(model, self.training, layers)
        kind = self.device.type
        passes = Passes(
            self.dtype, self.batch_tokens or TRAIN_TOKENS[kind], BATCH_TOKENS[kind], self.caching,
            encoder.prompt_tokens, encoder.width, self.per_step,
        )  # fmt: skip
        return TrainedTexts(model, rows, passes, self.scale)

    def open(self, encoder: TransformerEncoder) -> tuple[RaggedRows, int | None, RaggedRows]:
        """Return the token ids, the number of the first trained layer (None: all are), and what its steps begin from.

        Args:
            encoder: whole.
        """
        below = first_trained_layer(encoder.replicas[0][1].transformer, self.training)
        self.check_memory(encoder.replicas[0][1])
        about = {
            "encoder": encoder.side.source["weights_sha256"], "prompt": encoder.prompt,
            "max_length": encoder.max_length, "layer": None, "dtype": "int32", **self.hashes,
        }  # fmt: skip
        tokens = self.open_tokens(encoder, about)
        if below is None:
            return tokens, None, tokens
        return tokens, below, self.open_states(encoder, {**about, "layer": below, "dtype": str(self.dtype)}, tokens)

    def cut(self, model: TextModel, tokens: RaggedRows, below: int) -> nn.ModuleList:
        """Cut a model below its first trained layer; see `cut_below`."""
        ids, lengths = (x.to(self.device) for x in tokens.take(np.arange(min(CHECKED_TEXTS, len(tokens)))))
        return cut_below(model, ids, lengths, below)

    def check_memory(self, model: TextModel) -> None:
        """Refuse a training that does not fit, before hours of work."""
        tokens = self.batch_tokens or TRAIN_TOKENS[self.device.type]
        needed = training_bytes(model, self.training, tokens, len(self.texts), self.moments)
        check_memory(needed, self.training, self.device)

    def open_tokens(self, encoder: TransformerEncoder, about: Mapping[str, Any]) -> RaggedRows:
        """Return the token ids of all texts, tokenised where they are not kept."""
        folder = rows_folder(self.build_dir, about)
        kept = open_rows(folder, about, 0, torch.int32)
        if kept is not None:
            return kept
        lists: list[np.ndarray] = []
        with tqdm(total=len(self.texts), desc="tokenise", unit=" items", disable=not self.progress) as bar:
            for start in range(0, len(self.texts), TOKENISED):
                texts = [encoder.prompt + text for text in self.texts[start : start + TOKENISED]]
                found = encoder.tokenizer(
                    texts, truncation=True, max_length=encoder.max_length, padding=False,
                    return_attention_mask=False, return_token_type_ids=False,
                )["input_ids"]  # fmt: skip
                lists += [np.asarray(ids, np.int32) for ids in found]
                bar.update(len(texts))
        lengths = np.array([len(ids) for ids in lists], np.int64)
        if not lengths.all():
            item = self.ids[int(np.flatnonzero(lengths == 0)[0])]
            raise InputError(f"the text of item {item!r} gives no token with {encoder.name}; give it a title")

        def write(values: np.ndarray, starts: np.ndarray, rows: np.ndarray) -> None:
            values[:] = np.concatenate(lists)

        return make_rows(folder, about, lengths, 0, torch.int32, [np.arange(len(lists))], write, tqdm(disable=True))

    def open_states(self, encoder: TransformerEncoder, about: Mapping[str, Any], tokens: RaggedRows) -> RaggedRows:
        """Return the states below the trained layers of all texts, computed where they are not kept."""
        folder, model = rows_folder(self.build_dir, about), encoder.replicas[0][1]
        width = int(model.transformer.config.get_text_config().hidden_size)
        kept = open_rows(folder, about, width, self.dtype)
        if kept is not None:
            return kept
        self.cut(copy.deepcopy(model), tokens, int(about["layer"]))  # refused before hours of work

        def write(values: np.ndarray, starts: np.ndarray, rows: np.ndarray) -> None:
            states = self.encode_below(model, tokens, rows, int(about["layer"]))
            for state, row in zip(states, rows):
                values[starts[row] : starts[row + 1]] = state[: tokens.lengths[row]]

        batches = plan_batches(tokens.lengths, BATCH_TOKENS[self.device.type])
        with tqdm(total=len(tokens), desc="frozen layers", unit=" items", disable=not self.progress) as bar:
            return make_rows(folder, about, tokens.lengths, width, self.dtype, batches, write, bar)

    def encode_below(self, model: TextModel, tokens: RaggedRows, rows: np.ndarray, layer: int) -> np.ndarray:
        """Return the states (b, T, H) below a layer, as they are stored."""
        ids, lengths = (x.to(self.device) for x in tokens.take(rows))
        mixed = self.dtype == torch.bfloat16
        with torch.autocast(self.device.type, torch.bfloat16 if mixed else None, enabled=mixed):
            states = encode_below(model, ids, lengths, layer).to(self.dtype).cpu()
        return (states.view(torch.int16) if mixed else states).numpy()

"""What can be asked of an encoder, and what of it decides the vectors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from recbole_blair.errors import InputError

KEYS = {  # of props/overall.yaml, by option; messages name these, and a command's line names its own flags instead
    "revision": "plm_revision", "pooling": "plm_pooling", "max_length": "plm_max_length", "prompt": "plm_prompt",
    "normalise": "plm_normalise", "dimensions": "plm_dimensions",
    "text_fields": "text_fields", "text_recipe": "text_recipe",
    "base_url": "plm_base_url", "concurrency": "plm_concurrency", "send_dimensions": "plm_send_dimensions",
}  # fmt: skip
# Other values, other vectors.
DECIDING = ("revision", "pooling", "max_length", "prompt", "normalise", "dimensions", "text_fields", "text_recipe")


@dataclass(frozen=True)
class EncoderOptions:
    """Options of `load_encoder` and `encode_build`.

    Args:
        device: `auto` and `cuda` take every GPU there is, `cuda:1` one, `cpu` none.
        precision: `fp32`, `bf16`, `fp16` (GPU alone), or `auto`: bf16 where the chip multiplies it natively.
        revision: hub branch, tag or commit.
        pooling: one of `pooling.POOLINGS`, or several joined by `+`; None: what the model declares for itself, else
            the last token of a decoder, `cls` where the tokenizer has one, `mean` for the others.
        max_length: tokens kept of a text; the model's own limit holds if it is lower.
        prompt: put before each item text, or the name of one of the model's own prompts; None: what the model declares
            for documents.
        query_prompt: the same for search queries; None: what the model declares for queries.
        normalise: False leaves out a Normalize module that the model ends in; None: the model's modules as they are.
        dimensions: numbers kept of each vector (Matryoshka); an API is asked for them. None: all.
        text_fields: columns of the `.item` file that make an item's text, joined by commas; None: its `text`.
        text_recipe: `own`, or `released`: from the raw metadata, to the byte as the released code makes it;
            `text_fields` are then fields of the metadata.
        trainable: the weights stay where gradients reach them: no forms that only encode faster.
        cache_dir: where hub downloads are kept; None: the hub's own cache.
        base_url, concurrency, send_dimensions: of an API's model; see `OpenAIEncoder`.
    """

    device: str = "auto"
    precision: str = "auto"
    revision: str | None = None
    pooling: str | None = None
    max_length: int = 512
    prompt: str | None = None
    query_prompt: str | None = None
    normalise: bool | None = None
    dimensions: int | None = None
    text_fields: str | None = None
    text_recipe: str = "own"
    trainable: bool = False
    cache_dir: str | None = None
    base_url: str | None = None
    concurrency: int = 4
    send_dimensions: bool = True

    def __post_init__(self) -> None:
        for key in ("max_length", "dimensions"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise InputError(f"--{KEYS[key]}={value} is not a number of {_UNITS[key]}; {_USUAL[key]}")

    @property
    def item_columns(self) -> str | None:
        """Return the columns of the `.item` file that are read: those of `text_fields` in this tool's own recipe."""
        return self.text_fields if self.text_recipe == "own" else None

    def asked(self) -> dict[str, Any]:
        """Return what decides the vectors; the header of a feature file keeps it."""
        return {key: getattr(self, key) for key in DECIDING}

    def given(self) -> dict[str, Any]:
        """Return the options that differ from their defaults, by name."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}

    def suffix(self, keys: Sequence[str] = DECIDING) -> str:
        """Return what a feature file's name gets where one of `keys` differs from its default: `-<8 hex>`, else ""."""
        given = self.given()
        other = {key: given[key] for key in keys if key in given}
        if not other:
            return ""
        return f"-{hashlib.sha256(json.dumps(other, sort_keys=True).encode()).hexdigest()[:8]}"


_UNITS = {"max_length": "tokens", "dimensions": "dimensions"}
_USUAL = {"max_length": "512 is usual", "dimensions": "leave it out for the model's own width"}

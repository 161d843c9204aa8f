"""Which encoder `--plm` means: its name in file names, where its weights are, and how to load it.

Neither torch nor transformers is imported here until an encoder is loaded: training asks for names only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from recbole_blair.errors import InputError
from recbole_blair.schema import DEFAULT_PLM, TFIDF_SVD
from recbole_blair.text.api_models import api_encoder_name
from recbole_blair.text.hub import WITHOUT_NETWORK, fetch_snapshot
from recbole_blair.text.lexical import LexicalEncoder
from recbole_blair.text.weights import weights_hash

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


class Encoder(Protocol):
    """What every encoder offers: transformers, tfidf-svd, an API's models, the workers of a cluster."""

    @property
    def name(self) -> str: ...

    @property
    def width(self) -> int | None: ...

    @property
    def pooling(self) -> str: ...

    @property
    def precision(self) -> str: ...

    @property
    def batch_tokens(self) -> int | None: ...

    @property
    def device_type(self) -> str: ...

    @property
    def libraries(self) -> Sequence[str] | Mapping[str, str]: ...

    def description(self) -> dict[str, Any]: ...

    def plan(self, texts: Sequence[str], batch_tokens: int | None = None) -> list[np.ndarray]: ...

    def encode(
        self, texts: Sequence[str], *, batch_tokens: int | None = None, progress: bool = True, normalise: bool = False
    ) -> np.ndarray: ...

    def encode_chunks(
        self, texts: Sequence[str], *, batch_tokens: int | None = None, done: Container[int] = ()
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]: ...


def encoder_name(plm: Path | str, dimensions: int | None = None) -> str:
    """Return the encoder's part of a feature file's name; no model is loaded.

    Args:
        plm: hub id, folder, `tfidf-svd` or `openai:NAME`.
        dimensions: width asked of an API's model; None: its own.

    Returns:
        the hub id's last part; `<folder name>-<8 hex of the weights' SHA-256>`; `tfidf-svd`;
        `openai-<model>-<dimensions>`.

    Raises:
        InputError: a folder that is missing or holds no weights; an id that cannot be one; dimensions of an encoder
            whose width is fixed.
    """
    kind, value = resolve_plm(plm)
    check_api_options(plm, {"dimensions": dimensions})
    if kind == "openai":
        return api_encoder_name(value, dimensions)
    if kind == TFIDF_SVD:
        return TFIDF_SVD
    if kind == "hub":
        return value.rsplit("/", 1)[-1]
    return f"{value.name}-{weights_hash(value)[:8]}"


def load_encoder(
    plm: Path | str,
    *,
    device: str = "auto",
    precision: str = "auto",
    revision: str | None = None,
    pooling: str | None = None,
    max_length: int = 512,
    cache_dir: str | None = None,
    **api: Any,
) -> Encoder:
    """Load an encoder.

    Args:
        plm: hub id, folder, `tfidf-svd` or `openai:NAME`.
        device: `auto` and `cuda` take every GPU there is, `cuda:1` one, `cpu` none.
        precision: `fp32`, `bf16`, or `auto`: bf16 where the chip multiplies it natively.
        revision: hub branch, tag or commit.
        pooling: `cls` or `mean`; None: what the model declares for itself, else `cls`.
        max_length: tokens kept of a text; the model's own limit holds if it is lower.
        cache_dir: where hub downloads are kept; None: the hub's own cache.
        **api: `dimensions`, `base_url`, `concurrency`, `send_dimensions` of an API's model; see `OpenAIEncoder`.

    Returns:
        The encoder, its weights loaded.

    Raises:
        InputError: unknown id, no network, missing folder, folder without model, unknown pooling or device.
    """
    kind, value = resolve_plm(plm)
    if max_length < 1:
        raise InputError(f"--max_length={max_length} is not a number of tokens; 512 is usual")
    check_api_options(plm, api)
    if kind == "openai":
        return _load_openai(plm, value, revision, pooling, max_length, api)
    return _LOADERS[kind](
        plm,
        value,
        device=device,
        precision=precision,
        revision=revision,
        pooling=pooling,
        max_length=max_length,
        cache_dir=cache_dir,
    )


def resolve_plm(plm: Path | str) -> tuple[str, Any]:
    """Say what `plm` means: (`tfidf-svd`, None), (`openai`, NAME), (`folder`, absolute Path) or (`hub`, id)."""
    text = str(plm).strip()
    if text == TFIDF_SVD:
        return TFIDF_SVD, None
    if text.startswith("openai:"):
        return "openai", text[len("openai:") :]
    folder = Path(os.path.abspath(os.path.expanduser(text)))
    if text and folder.is_dir():
        return "folder", folder
    if text and folder.exists():
        raise InputError(f"--plm={text} is a file, expected the encoder's folder (config.json, weights, tokenizer)")
    if not _HUB_ID.fullmatch(text):
        raise InputError(
            f"--plm={text}: no such folder, and not a hub id (like {DEFAULT_PLM}) either; check the path, "
            f"{WITHOUT_NETWORK}"
        )
    return "hub", text


def check_api_options(plm: Path | str, api: Mapping[str, Any]) -> None:
    """Refuse options of an API's model for an encoder that has none.

    Raises:
        InputError
    """
    given = [f"--plm_{key}={api[key]}" for key in ("dimensions", "base_url") if api.get(key) is not None]
    if given and resolve_plm(plm)[0] != "openai":
        raise InputError(f"{' '.join(given)} belongs to --plm=openai:NAME, but --plm={plm}; leave it out")


def _load_lexical(
    plm: Path | str, value: None, *, pooling: str | None, revision: str | None, **_: object
) -> LexicalEncoder:
    """Build the lexical encoder; options that mean nothing to it are refused."""
    given = [f"--{k}={v}" for k, v in (("pooling", pooling), ("revision", revision)) if v is not None]
    if given:
        raise InputError(f"{' '.join(given)} means nothing to --plm={TFIDF_SVD}; leave it out")
    return LexicalEncoder()


def _load_folder(
    plm: Path | str, value: Path, *, revision: str | None, cache_dir: str | None, **options: Any
) -> Encoder:
    """Load a Hugging Face folder."""
    from recbole_blair.text.transformer import TransformerEncoder  # heavy: its ops load torch

    if revision is not None:
        raise InputError(f"--revision={revision} belongs to a hub id, but --plm={plm} is a folder; leave it out")
    return TransformerEncoder.load(
        value,
        name=encoder_name(plm),
        source={"source": value.name, "weights_sha256": weights_hash(value)},
        **options,
    )


def _load_hub(plm: Path | str, value: str, *, revision: str | None, cache_dir: str | None, **options: Any) -> Encoder:
    """Download what is missing of a hub model, then load its snapshot folder."""
    from recbole_blair.text.transformer import TransformerEncoder  # heavy: its ops load torch

    folder = fetch_snapshot(value, revision, cache_dir)
    source = {"source": value, "revision": folder.name, "weights_sha256": weights_hash(folder)}
    return TransformerEncoder.load(folder, name=encoder_name(plm), source=source, **options)


def _load_openai(
    plm: Path | str,
    value: str,
    revision: str | None,
    pooling: str | None,
    max_length: int,
    api: Mapping[str, Any],
) -> Encoder:
    """Open a model behind an API; what only a model of one's own has is refused."""
    from recbole_blair.text.openai_api import OpenAIEncoder  # used by this kind alone; its client is an extra

    given = [f"--{k}={v}" for k, v in (("pooling", pooling), ("revision", revision)) if v is not None]
    if given:
        raise InputError(f"{' '.join(given)} means nothing to --plm={plm}, whose server decides it; leave it out")
    return OpenAIEncoder(value, max_length=max_length, **api)


_LOADERS: dict[str, Callable[..., Encoder]] = {TFIDF_SVD: _load_lexical, "folder": _load_folder, "hub": _load_hub}

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

from recbole_blair.errors import InputError, require
from recbole_blair.schema import DEFAULT_PLM, TFIDF_SVD
from recbole_blair.text.api_models import api_encoder_name, width_of
from recbole_blair.text.hub import WITHOUT_NETWORK, fetch_snapshot
from recbole_blair.text.lexical import LexicalEncoder
from recbole_blair.text.options import DECIDING, KEYS, EncoderOptions
from recbole_blair.text.pooling import parse_modes
from recbole_blair.text.vectors import PREFIX, VectorsEncoder, find_vectors
from recbole_blair.text.weights import weights_hash

OWN_ORGANISATION = "hyp1231/"  # of the papers' encoders, whose published feature files go by the model's name alone
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

    def encode_queries(self, texts: Sequence[str], progress: bool = True) -> np.ndarray: ...

    def encode_chunks(
        self, texts: Sequence[str], *, batch_tokens: int | None = None, done: Container[int] = ()
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]: ...


def encoder_name(plm: Path | str, **options: Any) -> str:
    """Return the encoder's part of a feature file's name; no model is loaded.

    Args:
        plm: hub id, folder, `tfidf-svd`, `openai:NAME` or `vectors:FILE`.
        **options: of `EncoderOptions`.

    Returns:
        `<organisation>--<model>` of a hub id, without the organisation where it has none or is this project's own;
        `<folder name>-<8 hex of the weights' SHA-256>`; `tfidf-svd`; `openai-<model>-<dimensions>`. Where options
        that decide the vectors differ from their defaults, `-<8 hex>` of those follows.

    Raises:
        InputError: a folder that is missing or holds no weights; an id that cannot be one; options that the encoder
            does not have.
    """
    kind, value = resolve_plm(plm)
    wanted = check_options(plm, EncoderOptions(**options))
    if kind == "openai":
        named = [key for key in DECIDING if key != "dimensions"]  # these are in the name
        return api_encoder_name(value, wanted.dimensions) + wanted.suffix(named)
    if kind == TFIDF_SVD:
        return TFIDF_SVD + wanted.suffix(["text_fields", "text_recipe"])
    if kind == "vectors":
        return value.name + wanted.suffix(["dimensions"])
    if kind == "hub":
        return value.removeprefix(OWN_ORGANISATION).replace("/", "--") + wanted.suffix()
    return f"{value.name}-{weights_hash(value)[:8]}{wanted.suffix()}"


def first_format_name(plm: Path | str, **options: Any) -> str:
    """Return the name that an encoder has in feature files of format 1: without organisation and without options."""
    kind, value = resolve_plm(plm)
    if kind == "openai":
        return f"openai-{value.rsplit('/', 1)[-1]}-{width_of(value, options.get('dimensions'))}"
    if kind == "hub":
        return value.rsplit("/", 1)[-1]
    if kind == "folder":
        return f"{value.name}-{weights_hash(value)[:8]}"
    return encoder_name(plm, **options)


def load_encoder(plm: Path | str, **options: Any) -> Encoder:
    """Load an encoder.

    Args:
        plm: hub id, folder, `tfidf-svd`, `openai:NAME` or `vectors:FILE`.
        **options: of `EncoderOptions`.

    Returns:
        The encoder, its weights loaded.

    Raises:
        InputError: unknown id, no network, missing folder, folder without model, an option that is not offered.
    """
    kind, value = resolve_plm(plm)
    wanted = check_options(plm, EncoderOptions(**options))
    return _LOADERS[kind](value, wanted, encoder_name(plm, **options))


def resolve_plm(plm: Path | str) -> tuple[str, Any]:
    """Return the kind and the value of `plm`: tfidf-svd None, openai NAME, vectors VectorsFile, folder Path, hub id."""
    text = str(plm).strip()
    if text == TFIDF_SVD:
        return TFIDF_SVD, None
    if text.startswith("openai:"):
        return "openai", text[len("openai:") :]
    if text.startswith(PREFIX):
        return "vectors", find_vectors(text[len(PREFIX) :])
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


def check_options(plm: Path | str, options: EncoderOptions) -> EncoderOptions:
    """Return the options, or refuse one that belongs to another kind of encoder.

    Raises:
        InputError: names the option, the encoder and what it is for.
    """
    of_device = ("device", "precision")  # training has them, too
    check_used(plm, {option: value for option, value in options.given().items() if option not in of_device})
    if options.pooling:
        parse_modes(options.pooling)
    return options


def check_used(plm: Path | str, given: Mapping[str, Any]) -> None:
    """Refuse an option that means nothing for this encoder.

    Raises:
        InputError: see `check_options`.
    """
    kind = resolve_plm(plm)[0]
    for option, value in given.items():
        kinds, why = _USED_BY.get(option, (None, ""))
        if kinds is not None and kind not in kinds:
            raise InputError(f"--{KEYS.get(option, option)}={value} belongs to {why}, but --plm={plm}; leave it out")


def check_for_encoding(plm: Path | str, options: Mapping[str, Any], batch_tokens: int | None = None) -> None:
    """Check the options of a command that only encodes: precision and batch size, too, mean something or are refused.

    Raises:
        InputError: see `check_options`.
    """
    wanted = check_options(plm, EncoderOptions(**options))
    require_client(plm)
    if wanted.precision not in ("auto", "fp32"):  # fp32 is what all the others give
        check_used(plm, {"precision": wanted.precision})
    if batch_tokens is not None:
        check_used(plm, {"batch_tokens": batch_tokens})


def require_client(plm: Path | str) -> None:
    """Refuse a model behind an API where its client library is missing."""
    if resolve_plm(plm)[0] == "openai":
        require(f"--plm={plm}", "openai")


def drop_unused(plm: Path | str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options without those that mean nothing for this encoder."""
    kind = resolve_plm(plm)[0]
    return {option: value for option, value in options.items() if kind in _USED_BY.get(option, ((kind,), ""))[0]}


_OWN, _ALL_MODELS = ("hub", "folder"), ("hub", "folder", "openai")
_TEXTS = (*_ALL_MODELS, TFIDF_SVD)
_USED_BY = {  # option: the kinds of encoders that it means something for, what those are; others: all kinds
    "base_url": (("openai",), "--plm=openai:NAME"),
    "concurrency": (("openai",), "--plm=openai:NAME"),
    "send_dimensions": (("openai",), "--plm=openai:NAME"),
    "revision": (("hub",), "a hub id"),
    "cache_dir": (("hub",), "a hub id"),
    "pooling": (_OWN, "a model of one's own, whose states are pooled here"),
    "normalise": (_OWN, "a model of one's own, whose modules are run here"),
    "dimensions": ((*_ALL_MODELS, "vectors"), "a pretrained encoder"),
    "max_length": (_ALL_MODELS, "a pretrained encoder"),
    "prompt": (_ALL_MODELS, "a pretrained encoder"),
    "query_prompt": (_ALL_MODELS, "a pretrained encoder"),
    "text_fields": (_TEXTS, "encoders of texts"),
    "text_recipe": (_TEXTS, "encoders of texts"),
    "precision": (_OWN, "a model of one's own, which is run here"),  # of commands that only encode
    "batch_tokens": (_ALL_MODELS, "a pretrained encoder"),
}


def _load_lexical(value: None, options: EncoderOptions, name: str) -> Encoder:
    """Build the lexical encoder."""
    return LexicalEncoder(name=name)


def _load_folder(value: Path, options: EncoderOptions, name: str) -> Encoder:
    """Load a Hugging Face folder."""
    from recbole_blair.text.transformer import TransformerEncoder  # heavy: its ops load torch

    source = {"source": value.name, "weights_sha256": weights_hash(value)}
    return TransformerEncoder.load(value, options, name=name, source=source)


def _load_hub(value: str, options: EncoderOptions, name: str) -> Encoder:
    """Download what is missing of a hub model, then load its snapshot folder."""
    from recbole_blair.text.transformer import TransformerEncoder  # heavy: its ops load torch

    folder = fetch_snapshot(value, options.revision, options.cache_dir)
    source = {"source": value, "revision": folder.name, "weights_sha256": weights_hash(folder)}
    return TransformerEncoder.load(folder, options, name=name, source=source)


def _load_openai(value: str, options: EncoderOptions, name: str) -> Encoder:
    """Open a model behind an API."""
    from recbole_blair.text.openai_api import OpenAIEncoder  # used by this kind alone; its client is an extra

    return OpenAIEncoder(
        value,
        name=name,
        dimensions=options.dimensions,
        base_url=options.base_url,
        max_length=options.max_length,
        prompts=(options.prompt or "", options.query_prompt or ""),
        send_dimensions=options.send_dimensions,
        concurrency=options.concurrency,
    )


_LOADERS: dict[str, Callable[[Any, EncoderOptions, str], Encoder]] = {
    TFIDF_SVD: _load_lexical,
    "folder": _load_folder,
    "hub": _load_hub,
    "openai": _load_openai,
    "vectors": VectorsEncoder,
}

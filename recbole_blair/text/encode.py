"""Encode a build's item texts into its feature file, unless it is there already."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from recbole_blair.errors import InputError
from recbole_blair.schema import FEATURE_SUFFIX, TFIDF_SVD
from recbole_blair.text import features
from recbole_blair.text.api_client import RowError
from recbole_blair.text.encoders import Encoder, encoder_name, load_encoder, resolve_plm
from recbole_blair.text.item_text import ids_hash, text_hash
from recbole_blair.text.partial import PartialFeatures
from recbole_blair.text.pooling import folder_pooling
from recbole_blair.text.weights import weights_hash

FORMAT = 1  # of the header and the progress file


def encode_build(
    build_dir: Path | str,
    plm: Path | str,
    *,
    device: str = "auto",
    precision: str = "auto",
    revision: str | None = None,
    pooling: str | None = None,
    max_length: int = 512,
    batch_tokens: int | None = None,
    cache_dir: str | None = None,
    progress: bool = True,
    force: bool = False,
    load: Callable[..., Encoder] | None = None,
    **api: Any,
) -> Path:
    """Encode the `text` column of a build's `.item` file into `<build>.<encoder>.feature` and its header.

    Features are raw pooled states, not normalised. A feature file that is whole and was made from the same
    ids, texts and settings is left alone, without loading a model; an interrupted one is gone on with; a whole
    one that was made from something else is refused unless `force`.

    Args:
        build_dir: folder of the build, `<build>.item` in it.
        plm: hub id, folder, `tfidf-svd` or `openai:NAME`.
        device, precision, revision, pooling, max_length, cache_dir: see `encoders.load_encoder`.
        batch_tokens: token budget of a batch; None: by device.
        progress: show a bar.
        force: replace a whole file too. What an interrupted run of the same work left is used anyway.
        load: gives the encoder when it is needed; None: `encoders.load_encoder`. It takes the same
            arguments; `cluster/encode.py` gives one whose work is done elsewhere.
        **api: of an API's model; see `encoders.load_encoder`.

    Returns:
        The feature file.

    Raises:
        InputError: no `.item` file, an empty one, an encoder that cannot be had, or a whole feature file made from
            other ids, texts or settings.

    Source: arXiv:2403.03952, section 4.1 (raw [CLS] states as features).
    """
    if batch_tokens is not None and batch_tokens < 1:
        raise InputError(f"--batch_tokens={batch_tokens} is not a number of tokens; leave it out for the default")
    name = encoder_name(plm, api.get("dimensions"))
    ids, texts = features.read_items(build_dir)
    if not ids:
        raise InputError(f"{features.build_path(build_dir, '.item')} holds no item, so there is nothing to encode")
    asked = {"revision": revision, "pooling": pooling, "max_length": max_length}
    about = {"ids_sha256": ids_hash(ids), "text_sha256": text_hash(texts), "rows": len(ids)}
    path = features.feature_path(build_dir, name)
    if not force and features.features_are_whole(build_dir, name):
        _check_matches(path, plm, asked, about, precision)
        return path
    encoder = (load or load_encoder)(
        plm,
        device=device,
        precision=precision,
        revision=revision,
        pooling=pooling,
        max_length=max_length,
        cache_dir=cache_dir,
        **api,
    )
    about = {"format": FORMAT, **encoder.description(), **about, "asked": asked}
    with naming_items(ids):
        plan = encoder.plan(texts, batch_tokens)
        with PartialFeatures(path, about, len(plan), encoder, batch_tokens) as work:
            _encode_rows(work, encoder, texts, plan, batch_tokens, progress)
            work.about.update(encoder.description())  # what only the run itself could tell
            work.finish()
    return path


@contextlib.contextmanager
def naming_items(ids: Sequence[str]) -> Iterator[None]:
    """Turn the refusal of a text into one that names its item."""
    try:
        yield
    except RowError as error:
        raise InputError(f"item {ids[error.row]!r} (row {error.row + 1} of the .item file): {error}") from None


def _check_matches(path: Path, plm: Path | str, asked: dict[str, Any], about: dict[str, Any], precision: str) -> None:
    """Refuse to replace a whole feature file that is not what is asked for. Loads no model, calls no hub."""
    other = _differences(path, plm, asked, about, precision)
    if other:
        raise InputError(
            f"{path} is there already, but {'; '.join(other)}. Move it away, or replace it with the same command "
            "and --force"
        )


def _differences(
    path: Path, plm: Path | str, asked: dict[str, Any], about: dict[str, Any], precision: str
) -> list[str]:
    """List in words how a feature file differs from what is asked for."""
    header_file = Path(f"{path}.json")
    if not header_file.is_file():
        if features.data_maps_file(path.parent, path.name[len(path.parent.name) + 1 : -len(FEATURE_SUFFIX)]):
            return []  # upstream's pair; load_features checks it
        return [f"it has no header {header_file.name}, so this tool did not write it"]
    header = features.read_header(header_file)
    size = path.stat().st_size
    told = {"ids_sha256": "was made for other items", "text_sha256": "was made from other item texts"}
    other = [f"it {words}" for key, words in told.items() if header[key] != about[key]]
    if size != 4 * header["rows"] * header["width"]:
        other.append(f"it has {size} bytes instead of 4 x {header['rows']} rows x width {header['width']}")
    kind, value = resolve_plm(plm)
    if kind == "openai" and header.get("source") != value:
        other.append(f"it was made with {header.get('source')}, not {value}")
    if kind == TFIDF_SVD:
        fit = load_encoder(plm).description()["fit"]
        return other if header.get("fit") == fit else [*other, "it was made with other settings of tfidf-svd"]
    return other + _other_settings(header, asked, precision, kind, value)


def _other_settings(header: dict[str, Any], asked: dict[str, Any], precision: str, kind: str, value: Any) -> list[str]:
    """List the settings of a Hugging Face or API encoder that differ from a header's."""
    before, other = header.get("asked", {}), []
    if asked["max_length"] not in (before.get("max_length"), header.get("max_length")):
        other.append(f"it was cut at max_length {header.get('max_length')}, not {asked['max_length']}")
    if precision not in ("auto", header.get("precision")):
        other.append(f"it was made in {header.get('precision')}, not {precision}")
    if asked["revision"] not in (before.get("revision"), header.get("revision")):
        other.append(f"it is of revision {header.get('revision')}, not {asked['revision']}")
    if kind == "folder" and header.get("weights_sha256") != weights_hash(value):
        other.append("it was made with other weights")
    pooling = asked["pooling"] or (folder_pooling(value) if kind == "folder" else None)
    if (pooling or before.get("pooling")) and header["pooling"] != pooling:
        other.append(f"it was pooled by {header['pooling']}, not {pooling or 'as the model says'}")
    return other


def _encode_rows(
    work: PartialFeatures,
    encoder: Encoder,
    texts: Sequence[str],
    plan: Sequence[np.ndarray],
    batch_tokens: int | None,
    progress: bool,
) -> None:
    """Encode what is not in the partial file yet."""
    ready = sum(len(rows) for number, rows in enumerate(plan) if number in work.done)
    if ready and progress:
        tqdm.write(f"{work.path.name}: going on after {ready} of {len(texts)} items")
    with tqdm(
        total=len(texts), initial=ready, desc=f"encode {encoder.name}", unit=" items", disable=not progress
    ) as bar:
        for number, rows, vectors in encoder.encode_chunks(texts, batch_tokens=batch_tokens, done=work.done):
            work.add(number, rows, vectors)
            bar.update(len(rows))

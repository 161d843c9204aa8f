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
from recbole_blair.text.encoders import (
    OWN_ORGANISATION,
    Encoder,
    encoder_name,
    first_format_name,
    load_encoder,
    resolve_plm,
)
from recbole_blair.text.hub import cached_snapshot
from recbole_blair.text.item_text import ids_hash, text_hash
from recbole_blair.text.layout import DOCUMENT, Layout, read_layout
from recbole_blair.text.options import DECIDING, EncoderOptions
from recbole_blair.text.partial import PartialFeatures
from recbole_blair.text.prompts import find_prompt
from recbole_blair.text.reuse import (
    OF_THE_DATA,
    Reusing,
    drop_kept_items,
    find_former_rows,
    is_same_encoder,
    rows_of_build,
)  # fmt: skip
from recbole_blair.text.vectors import VectorsEncoder
from recbole_blair.text.weights import hash_files, weights_hash

FORMAT = 2  # of the header and the progress file; 1 knew neither modules nor prompts


def encode_build(
    build_dir: Path | str,
    plm: Path | str,
    *,
    batch_tokens: int | None = None,
    progress: bool = True,
    force: bool = False,
    load: Callable[..., Encoder] | None = None,
    read_released: Callable[[Sequence[str]], list[str]] | None = None,
    donor: Path | None = None,
    **options: Any,
) -> Path:
    """Encode the texts of a build's `.item` file into `<build>.<encoder>.feature` and its header.

    Features are what the encoder's own modules give. A feature file that is whole and was made from the same ids,
    texts and settings is left alone, without loading a model; an interrupted one is gone on with; one of a former build
    in the same folder keeps the rows of texts that are still there, and only new texts are encoded; a whole one that
    was made from something else is refused unless `force`.

    Args:
        build_dir: folder of the build, `<build>.item` in it.
        plm: hub id, folder, `tfidf-svd` or `openai:NAME`.
        batch_tokens: tokens per batch; None: by device.
        progress: show a bar.
        force: replace a whole file too. What an interrupted run of the same work left is used anyway.
        load: gives the encoder when it is needed; None: `encoders.load_encoder`. It takes the same arguments;
            `cluster/encode.py` gives one whose work is done elsewhere.
        donor: folder of another build, whose rows of equal texts by the same encoder are taken.
        read_released: gives the texts of item ids for `text_recipe=released`, when they are needed.
        **options: of `EncoderOptions`.

    Returns:
        The feature file.

    Raises:
        InputError: no `.item` file, an empty one, an encoder that cannot be had, or a whole feature file made from
            other ids, texts or settings.

    Source: arXiv:2403.03952, section 3.2 (raw [CLS] states as features).
    """
    if batch_tokens is not None and batch_tokens < 1:
        raise InputError(f"--batch_tokens={batch_tokens} is not a number of tokens; leave it out for the default")
    name = find_feature_name(build_dir, plm, **options)
    wanted = EncoderOptions(**options)
    ids, texts = features.read_item_texts(build_dir, wanted.item_columns)
    if not ids:
        raise InputError(f"{features.build_path(build_dir, '.item')} holds no item, so there is nothing to encode")
    about = {"ids_sha256": ids_hash(ids), "text_sha256": text_hash(texts), "rows": len(ids)}
    path = features.feature_path(build_dir, name)
    whole = not force and features.features_are_whole(build_dir, name)
    if whole and not _differences(path, plm, about, wanted):
        return path
    former = None if force else find_former_rows(path, wanted.item_columns)
    if donor is not None and not (whole or force):
        former = rows_of_build(donor, name, wanted.item_columns)
    if whole:
        _check_matches(path, plm, {**about, **({k: former.header[k] for k in OF_THE_DATA} if former else {})}, wanted)
    if wanted.text_recipe != "own":
        if read_released is None:
            raise InputError("text_recipe=released needs the raw metadata of a build of Amazon's; leave it out here")
        texts = read_released(ids)
        about |= {"text_recipe": wanted.text_recipe, "recipe_text_sha256": text_hash(texts)}
    encoder = (load or load_encoder)(plm, **options)
    about = {"format": FORMAT, **encoder.description(), "text_fields": wanted.item_columns, **about}
    about["asked"] = wanted.asked()
    reusing = Reusing(encoder, former, texts) if former and is_same_encoder(former.header, about) else None
    if reusing and progress:
        tqdm.write(f"{path.name}: {len(reusing.new):,} of {len(texts):,} texts are new, the rows of the others stay")
    with naming_items([ids[row] for row in reusing.new] if reusing else ids):
        if isinstance(encoder, VectorsEncoder):
            encoder.take_items(ids, texts)
        plan = reusing.plan(batch_tokens) if reusing else encoder.plan(texts, batch_tokens)
        reused = len(reusing.old) if reusing else 0
        with PartialFeatures(path, about, len(plan), encoder, batch_tokens, reused) as work:
            _encode_rows(work, reusing or encoder, texts, plan, batch_tokens, progress)
            work.about.update(encoder.description())  # what only the run itself could tell
            work.finish()
    drop_kept_items(build_dir)
    return path


@contextlib.contextmanager
def naming_items(ids: Sequence[str]) -> Iterator[None]:
    """Turn the refusal of a text into one that names its item."""
    try:
        yield
    except RowError as error:
        raise InputError(f"item {ids[error.row]!r} (row {error.row + 1} of the .item file): {error}") from None


def find_feature_name(build_dir: Path | str, plm: Path | str, **options: Any) -> str:
    """Return the encoder's part of the feature file that a build has for these options, or will get.

    That is `encoders.encoder_name`, unless a file of format 1 is there under its old name that says the same.
    """
    name, old = encoder_name(plm, **options), first_format_name(plm, **options)
    if name == old or features.feature_path(build_dir, name).is_file():
        return name
    header_file = features.header_path(build_dir, old)
    if not header_file.is_file() or not features.features_are_whole(build_dir, old):
        return name
    header = features.read_header(header_file)
    same = header.get("format", 1) == 1 and not other_settings(header, plm, EncoderOptions(**options))
    return old if same else name


def _check_matches(path: Path, plm: Path | str, about: dict[str, Any], options: EncoderOptions) -> None:
    """Refuse to replace a whole feature file that is not what is asked for. Loads no model, calls no hub."""
    other = _differences(path, plm, about, options)
    if other:
        raise InputError(
            f"{path} is there already, but {'; '.join(other)}. Move it away, or replace it with the same command "
            "and --force"
        )


def _differences(path: Path, plm: Path | str, about: dict[str, Any], options: EncoderOptions) -> list[str]:
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
    return other + other_settings(header, plm, options)


def other_settings(header: dict[str, Any], plm: Path | str, options: EncoderOptions) -> list[str]:
    """List in words how the encoder of a header differs from the one that is asked for.

    Loads no model and calls no hub: what the model decides by itself is compared where its folder is here.
    """
    kind, value = resolve_plm(plm)
    if kind == "vectors":
        return [] if header.get("file_sha256") == hash_files([value.path]) else ["it was made from other vectors"]
    if kind == TFIDF_SVD:
        fit = load_encoder(plm).description()["fit"]
        return [] if header.get("fit") == fit else ["it was made with other settings of tfidf-svd"]
    other = _other_source(header, kind, value)
    if (options.item_columns, options.text_recipe) != (header.get("text_fields"), header.get("text_recipe", "own")):
        other.append("it was made from other text fields or by another recipe")
    before = {**dict.fromkeys(DECIDING), **header.get("asked", {})}
    if options.max_length not in (before["max_length"], header.get("max_length")):
        other.append(f"it was cut at max_length {header.get('max_length')}, not {options.max_length}")
    if options.precision not in ("auto", header.get("precision")):
        other.append(f"it was made in {header.get('precision')}, not {options.precision}")
    if options.revision not in (before["revision"], header.get("revision")):
        other.append(f"it is of revision {header.get('revision')}, not {options.revision}")
    if options.dimensions not in (before["dimensions"], header["width"]):
        other.append(f"it has width {header['width']}, not {options.dimensions}")
    layout = _layout_here(kind, value, options)
    pooling = options.pooling or ("+".join(layout.poolings) or None if layout else None)
    if (pooling or before["pooling"]) and header["pooling"] != pooling:
        other.append(f"it was pooled by {header['pooling']}, not {pooling or 'as the model says'}")
    return other + _other_modules(header, before, layout, value, options)


def _other_source(header: dict[str, Any], kind: str, value: Any) -> list[str]:
    """List how the encoder itself differs: its name, or a folder's weights."""
    if kind == "folder":
        return [] if header.get("weights_sha256") == weights_hash(value) else ["it was made with other weights"]
    return [] if header.get("source") == value else [f"it was made with {header.get('source')}, not {value}"]


def _other_modules(
    header: dict[str, Any], before: dict[str, Any], layout: Layout | None, value: Any, options: EncoderOptions
) -> list[str]:
    """List how modules and prompt differ, as far as they are known without the model."""
    source = value if isinstance(value, str) else None
    if layout is None:
        own = source is not None and ("/" not in source or source.startswith(OWN_ORGANISATION))
        known_plain = own and header["pooling"] == "cls"
        if header.get("format", 1) == 1 and header.get("kind") == "huggingface" and not known_plain:
            return ["its format does not say which modules and prompt made it"]
        alike = (before["prompt"], before["normalise"]) == (options.prompt, options.normalise)
        return [] if alike else ["it was made with another prompt, or with another end of its modules"]
    prompt = find_prompt(layout, DOCUMENT, options, source)
    if header.get("format", 1) == 1:
        sure = layout.poolings or before["pooling"] or header["pooling"] == "cls"  # decoders were pooled by mean
        same = layout.is_plain and not prompt and sure
        return [] if same else ["it was made without the model's own modules, pooling or prompt"]
    other = [] if header.get("prompt") == prompt else ["it was made with another prompt"]
    return other if header.get("modules") == layout.describe() else [*other, "it was made with other modules"]


def _layout_here(kind: str, value: Any, options: EncoderOptions) -> Layout | None:
    """Return what the model's folder declares, or None where it is not on this machine."""
    if kind == "folder":
        return read_layout(value).ending(options.normalise)
    folder = cached_snapshot(value, options.revision, options.cache_dir) if kind == "hub" else None
    return read_layout(folder).ending(options.normalise) if folder else None


def _encode_rows(
    work: PartialFeatures,
    encoder: Encoder | Reusing,
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

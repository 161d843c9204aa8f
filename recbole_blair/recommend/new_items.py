"""Items that training never saw: read, checked, encoded with the run's own encoder, appended to a text model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from recbole_blair.data.build import encoder_options, released_texts
from recbole_blair.data.feature_transforms import chosen_transform, load_transform
from recbole_blair.errors import InputError
from recbole_blair.files.read import shown, why_no_file
from recbole_blair.recommend.users import iterate_entries
from recbole_blair.runs.open_run import OpenRun
from recbole_blair.schema import ITEM_ID, TFIDF_SVD
from recbole_blair.text.api_client import RowError
from recbole_blair.text.encode import find_feature_name
from recbole_blair.text.encoders import load_encoder, resolve_plm
from recbole_blair.text.features import feature_path, load_features, read_item_texts
from recbole_blair.text.item_text import RECIPES, atomic_text, clean_list, item_text, released_text, text_of_columns
from recbole_blair.text.trained.choice import FROZEN
from recbole_blair.text.weights import weights_hash

if TYPE_CHECKING:
    from recbole.model.abstract_recommender import SequentialRecommender

    from recbole_blair.text.lexical import LexicalEncoder

NewItems = str | Path | Sequence[Mapping[str, Any]]
RECIPE = "recommendation"  # of the `.item` file's text
RAW_ITEM_ID = "parent_asin"  # of Amazon's raw metadata, taken where there is no item_id
CHECKED_ITEMS = 8  # of the catalogue, encoded again to see that the encoder is the one of the features
LEAST_COSINE = 0.98  # between those and the feature file's rows; bf16 of another chip stays above .999
LARGEST_ERROR = 0.01  # of the catalogue's tfidf-svd vectors fitted again, relative to their length


def load_new_items(
    source: str | Path | Sequence[Mapping[str, Any]],
    known: Mapping[str, int],
    ascii_text: bool,
    text_fields: str | None = None,
    text_recipe: str = "own",
) -> tuple[list[str], list[dict[str, str]], list[str]]:
    """Load new items.

    Args:
        source: a JSONL file, or a sequence of mappings: `item_id` (or `parent_asin`) and raw metadata: `title`,
            `features`, `categories`, `description`. Other keys are left aside.
        known: item ids there are already.
        ascii_text: the build's setting.
        text_fields, text_recipe: see `EncoderOptions`.

    Returns:
        ids, columns of the `.item` file, texts.

    Raises:
        InputError: an item without id or text, one twice, or one that is known.
    """
    ids: list[str] = []
    rows: list[dict[str, str]] = []
    texts: list[str] = []
    places: dict[str, str] = {}
    for place, meta in item_entries(source):
        item_id = str(meta.get(ITEM_ID) or meta.get(RAW_ITEM_ID) or "").strip()
        if not item_id:
            raise InputError(f"{place} has no {ITEM_ID}; expected {{{ITEM_ID}, {', '.join(RECIPES[RECIPE])}}}")
        if not item_id.isprintable():
            raise InputError(f"{place}: {ITEM_ID} {item_id!r} holds characters that cannot be shown; give another id")
        if item_id in places or item_id in known:
            where = f"is in {places[item_id]} too" if item_id in places else "is in the catalogue already"
            raise InputError(f"{place}: the item {item_id!r} {where}; leave it out, or give it another id")
        columns = item_columns(meta, ascii_text)
        released = text_recipe == "released"
        text = released_text(meta, text_fields) if released else text_of_columns([columns], text_fields)[0]
        if not text.strip():
            raise InputError(f"{place}: the item {item_id!r} has no text; give it {', '.join(RECIPES[RECIPE])}, or one")
        places[item_id] = place
        ids.append(item_id)
        rows.append(columns)
        texts.append(text)
    if not ids:
        raise InputError(f"no item in {source!r}; expected JSON lines {{{ITEM_ID}, {', '.join(RECIPES[RECIPE])}}}")
    return ids, rows, texts


def item_columns(meta: Mapping[str, Any], ascii_text: bool) -> dict[str, str]:
    """Return the columns that a new item would have in an `.item` file."""
    lists = {name: clean_list(meta.get(name), ascii_text) for name in ("title", "categories", "store")}
    return {
        "title": atomic_text(", ".join(lists["title"])),
        "text": atomic_text(item_text(meta, RECIPE, ascii_text)),
        "categories": atomic_text(" ".join(name.replace(" ", "_") for name in lists["categories"])),
        "store": atomic_text(", ".join(lists["store"])),
        "price": str(meta.get("price") or "").strip().lstrip("$"),
    }


def item_entries(source: str | Path | Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (place, mapping) of a file or a sequence."""
    if isinstance(source, str | Path) and (reason := why_no_file(os.path.expanduser(source))):
        raise InputError(
            f"new_items={shown(source)} is no file ({reason}); expected JSON lines {{{ITEM_ID}, title, …}}"
        )
    for place, meta in iterate_entries(source, "new item", keep_surrogates=True):  # the text recipe removes them
        if not isinstance(meta, Mapping):
            raise InputError(f"{place} is no JSON object; expected {{{ITEM_ID}, title, …}}")
        yield place, meta


def check_takes_items(run: OpenRun) -> None:
    """Refuse a model that cannot score an item it has no weights for.

    A model can when its items come from `item_texts`, or from a buffer `text_features` (N - 1, D) of its own. An
    `id_embedding` of N - 1 rows is extended by zeros, a mask `trained_id` by False. Any other weight with one row per
    item stands in the way.

    Raises:
        InputError: names the model and what is in the way.
    """
    model, name = run.model, run.info.name
    if run.config["train_encoder"] != FROZEN:
        raise InputError(
            f"the text encoder of {run.folder} is not whole before its training has ended, so it takes no new items; "
            f"finish it by `recbole-blair train --resume={run.folder}`"
        )
    if not reads_texts(model):
        raise InputError(
            f"{name} knows items by their ids alone, so it cannot score items it was not trained on; train a text "
            "model: UniSRecBlair, SASRecText or HSTUBlair"
        )
    for weight, rows in rows_of_weights(model):
        if rows in (run.dataset.n_items - 1, run.dataset.n_items) and weight != "id_embedding":
            raise InputError(f"{name} has {weight} with one row per item, which new items lack; it cannot take any")


def reads_texts(model: nn.Module) -> bool:
    """True for a model whose items come from their texts."""
    return getattr(model, "uses_text", False) and (hasattr(model, "item_texts") or hasattr(model, "text_features"))


def rows_of_weights(model: nn.Module) -> Iterator[tuple[str, int]]:
    """Yield (name, rows) of a model's embeddings and own parameters, those of positions left out."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and "position" not in name:
            yield name, module.num_embeddings
    for name, weight in model.named_parameters(recurse=False):
        yield name, weight.shape[0] if weight.ndim else 0


class NewItemEncoder:
    """Encodes texts with the encoder, pooling, length and precision of a run's features, transformed as they are.

    Args:
        run: of a text model, see `check_takes_items`.
        plm: where the encoder is now; None: where the run had it.
        progress: progress bars.

    Raises:
        InputError: the encoder has gone, or is another than that of the features.
    """

    def __init__(self, run: OpenRun, plm: Path | str | None = None, progress: bool = True) -> None:
        assert run.encoder is not None  # check_takes_items: a text model
        self.progress = progress
        features, header = load_features(run.dataset.build_dir, run.encoder)
        item_ids, catalogue = read_item_texts(run.dataset.build_dir, header.get("text_fields"))
        if header.get("text_recipe") == "released":
            catalogue = released_texts(run.config, run.dataset.build_dir, item_ids)
        plm = plm or run.config["plm"]
        if header.get("kind") == "vectors":
            raise InputError(
                f"{run.folder} was trained on ready vectors ({header.get('source')}): there is no encoder for new "
                "items; train with an encoder to add some"
            )
        self.lexical: LexicalEncoder | None = None
        self.encoder: Any = None
        if run.encoder.startswith(TFIDF_SVD):
            self.lexical = fit_lexical(features, catalogue)
        else:
            self.encoder = load_same_encoder(run, header, plm)
            check_encoder(self.encoder, features, catalogue, plm)
        path, rows = feature_path(run.dataset.build_dir, run.encoder), run.dataset.items_of_rows("train") - 1
        self.scaled = run.scaled if run.text_scale is not None else None  # of an encoder that the run trained
        transform = "none" if self.scaled else chosen_transform(run.config)
        self.transform = load_transform(path, transform, features, header, rows)

    def encode(self, ids: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        """Encode texts (M) of new items `ids`, which errors name: (M, D) float32.

        Raises:
            InputError: a text that the encoder refuses (an API's), or of which it knows no word.
        """
        if self.lexical is not None:
            vectors = encode_lexical(self.lexical, texts)
        else:
            try:
                vectors = self.encoder.encode(texts, progress=self.progress)
            except RowError as error:
                raise InputError(f"new item {ids[error.row]}: {error}") from None
        return self.scaled(torch.from_numpy(vectors)).numpy() if self.scaled else self.transform.apply(vectors)


def load_same_encoder(run: OpenRun, header: Mapping[str, Any], plm: Path | str) -> Any:
    """Load the encoder a feature file was made with.

    Raises:
        InputError: it has gone, or its weights are others.
    """
    config = run.config.replace(plm=str(plm))
    fix = f"give the folder of {run.encoder} by --plm=FOLDER"
    try:
        kind, value = resolve_plm(plm)
        name = find_feature_name(run.dataset.build_dir, plm, **encoder_options(config))
    except InputError as error:
        if Path(plm).exists():
            raise
        raise InputError(f"the encoder folder of {run.folder}, {plm}, has gone; {fix}") from error
    if kind == "hub" and header.get("revision") is None and header.get("kind") == "huggingface":
        raise InputError(f"the encoder folder of {run.folder}, {plm}, has gone; {fix}")
    # A folder may have another name now: its weights tell. Upstream's files name none; check_encoder compares those.
    renamed = kind == "folder" and header.get("weights_sha256") in (None, weights_hash(value))
    if name != run.encoder and not renamed:
        raise InputError(f"{plm} is the encoder {name}, but the features of {run.folder} are of {run.encoder}; {fix}")
    asked = {
        **encoder_options(config),
        "revision": (header.get("revision") or config["plm_revision"]) if kind == "hub" else None,
        "max_length": header.get("max_length") or config["plm_max_length"],
    }
    if kind != "openai":
        asked["pooling"] = header.get("pooling") or config["plm_pooling"]
    precision = "auto" if kind == "openai" else header.get("precision") or "auto"
    return load_encoder(plm, device=str(config["device"]), precision=precision, **asked)


def check_encoder(encoder: Any, features: np.ndarray, catalogue: Sequence[str], plm: Path | str) -> None:
    """Encode a few items of the catalogue again and compare them with the feature file.

    Raises:
        InputError: they differ.
    """
    rows = np.unique(np.linspace(0, len(catalogue) - 1, CHECKED_ITEMS).astype(int))
    if encoder.width != features.shape[1]:
        raise InputError(f"{plm} gives vectors of width {encoder.width}, the run's features have {features.shape[1]}")
    again, before = encoder.encode([catalogue[row] for row in rows], progress=False), np.asarray(features[rows])
    norms = np.linalg.norm(again, axis=1) * np.linalg.norm(before, axis=1)
    cosine = (again * before).sum(1) / np.maximum(norms, 1e-30)
    if cosine.min() < LEAST_COSINE:
        raise InputError(
            f"{plm} encodes items of the catalogue otherwise than the run's feature file holds them (cosine "
            f"{cosine.min():.3f}); it is another encoder: give the run's own by --plm=FOLDER"
        )


def fit_lexical(features: np.ndarray, catalogue: Sequence[str]) -> LexicalEncoder:
    """Fit tfidf-svd on the catalogue again and check that it gives the same features.

    Raises:
        InputError: the fit differs.
    """
    from recbole_blair.text.lexical import LexicalEncoder  # heavy: loads scikit-learn

    encoder = LexicalEncoder()
    again = encoder.encode(catalogue)
    same = again.shape == features.shape
    error = np.linalg.norm(again - features) / max(float(np.linalg.norm(features)), 1e-30) if same else np.inf
    if error > LARGEST_ERROR:
        raise InputError(
            f"{TFIDF_SVD}, fitted again on the catalogue, gives other features than the run was trained on (error "
            f"{error:.2g}): another version of scikit-learn made them; encode again with --force and train again"
        )
    return encoder


def encode_lexical(encoder: LexicalEncoder, texts: Sequence[str]) -> np.ndarray:
    """Project new texts.

    Raises:
        InputError: a text holds no word of the catalogue.
    """
    vectors = encoder.transform(texts)
    empty = np.flatnonzero(~vectors.any(axis=1))
    if len(empty):
        raise InputError(
            f"{TFIDF_SVD} knows no word of new item {empty[0] + 1} ({texts[empty[0]][:60]!r}): it is fitted on the "
            "catalogue's words; leave the item out, or train with a pretrained encoder"
        )
    return vectors


def append_items(model: SequentialRecommender, features: np.ndarray) -> None:
    """Append items to a text model in place; the id of a new item contributes nothing.

    Args:
        model: see `check_takes_items`.
        features (M, D) float32: at the scale of the model's own.
    """
    added = torch.from_numpy(np.ascontiguousarray(features))  # (M, D)
    if hasattr(model, "item_texts"):
        model.item_texts.append(added)
    else:
        own = model.text_features
        model.text_features = torch.cat([own, added.to(own.device, own.dtype)])
    ids = getattr(model, "id_embedding", None)
    if ids is not None:
        weight = torch.cat([ids.weight.data, ids.weight.new_zeros(len(added), ids.weight.shape[1])])
        model.id_embedding = nn.Embedding.from_pretrained(weight)
    if hasattr(model, "trained_id"):
        model.trained_id = torch.cat([model.trained_id, model.trained_id.new_zeros(len(added))])
    model.n_items += len(added)

"""A trained encoder as a whole folder that transformers and sentence-transformers load, and its features of a build."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_blair.errors import InputError
from recbole_blair.files.checksum import file_crc32, write_checksums
from recbole_blair.files.own_json import write_own_json
from recbole_blair.files.write import whole_file, whole_folder
from recbole_blair.schema import VERSION
from recbole_blair.text.encode import FORMAT
from recbole_blair.text.encoders import encoder_name, load_encoder
from recbole_blair.text.export import write_sentence_transformer_files
from recbole_blair.text.features import CHECKSUM_KEY, feature_path, header_path
from recbole_blair.text.options import EncoderOptions
from recbole_blair.text.text_model import load_transformer
from recbole_blair.text.trained.layers import merge_into

if TYPE_CHECKING:
    from recbole_blair.text.trained.item_texts import TrainedTexts
    from recbole_blair.text.trained.source import TextSource
    from recbole_blair.text.transformer import TransformerEncoder

CARD = "README.md"
CHECKED_ITEMS = 8  # encoded by the written folder and compared with the table
LEAST_COSINE = 0.98  # between the two; bfloat16 stays above .999
OWN_FILES = ("model*.safetensors*", "pytorch_model*", "*.onnx", "*.h5", "*.msgpack", "*.md", ".*", "checksums.json")


def export_options(options: dict[str, Any] | Any) -> dict[str, Any]:
    """Return the options by which the exported folder gives the trained encoder's vectors.

    Its pooling and the end of its modules are written into it, and it is no hub revision.
    """
    return {**options, "revision": None, "pooling": None, "normalise": None}


def export_encoder(texts: TrainedTexts, source: TextSource, folder: Path) -> None:
    """Write the trained encoder: config, weights, tokenizer, modules, model card, checksums.

    Args:
        texts: after training.
        source: what they were made from; its encoder is loaded again for the weights that were not trained.
        folder: where the encoder goes.
    """
    encoder = source.load()
    layout, model = encoder.side.layout, texts.network
    whole, tokenizer = load_transformer(layout.backbone, "fp32")
    whole = merge_into(whole, model, source.training)
    with whole_folder(folder) as temporary:
        if model.whole:  # modules after the pooling are as they were
            shutil.copytree(layout.folder, temporary, dirs_exist_ok=True, ignore=_own_files(layout.backbone))
            place = temporary / layout.place
        else:
            place = temporary
            write_sentence_transformer_files(
                temporary, model.poolings[0], int(whole.config.get_text_config().hidden_size), encoder.max_length,
                model.normalise, layout.transformer, _prompts(encoder),
            )  # fmt: skip
        whole.save_pretrained(place)
        tokenizer.save_pretrained(place)
        (temporary / CARD).write_text(_card(encoder, source), encoding="utf-8")
        files = [str(path.relative_to(temporary)) for path in temporary.rglob("*") if path.is_file()]
        write_checksums(temporary, [name for name in files if name != CARD])


def _own_files(backbone: Path) -> Any:
    """Return copytree's filter: the transformer's weights are written anew, heads' weights are copied."""
    skip = shutil.ignore_patterns(*OWN_FILES)

    def ignore(folder: str, names: list[str]) -> set[str]:
        if Path(folder) == backbone:
            return set(skip(folder, names))
        return set(shutil.ignore_patterns("*.md", ".*", "checksums.json", "onnx", "openvino")(folder, names))

    return ignore


def _prompts(encoder: TransformerEncoder) -> dict[str, str]:
    """Return the prompts that the folder declares: its base's, and those that are known by the base's name."""
    found = {"document": encoder.prompt, "query": encoder.queries.prompt}
    return {**encoder.side.layout.prompts, **{name: text for name, text in found.items() if text}}


def _card(encoder: TransformerEncoder, source: TextSource) -> str:
    """Return README.md."""
    return f"""---
base_model: {encoder.side.source.get("source")}
library_name: transformers
pipeline_tag: sentence-similarity
tags:
- sentence-transformers
- recommendation
---

# A text encoder trained with a recommender

Trained with `train_encoder: {source.training}` on the training rows of {source.build_dir.name}, from
`{encoder.side.source.get("source")}` (SHA-256 of its weights: `{encoder.side.source.get("weights_sha256")}`) by
recbole_blair {VERSION}. Texts of all items were encoded for evaluation; those of items that occur in validation or test
alone were in no training step as history or target. The base's licence applies.
"""


def write_features(texts: TrainedTexts, source: TextSource, folder: Path) -> str:
    """Write the table of the trained encoder as the features of its exported folder; returns the encoder's name.

    Raises:
        InputError: the folder gives other vectors than the table holds.
    """
    options = export_options(source.options)
    encoder = load_encoder(folder, device=str(source.device), precision="fp32", **options)
    table = texts.all_vectors().float().cpu().numpy()
    check_same(encoder, source, table)
    name = encoder_name(folder, **options)
    wanted = EncoderOptions(**options)
    header = {
        "format": FORMAT, **encoder.description(), "text_fields": wanted.item_columns, **source.hashes,
        "rows": len(table), "asked": wanted.asked(), "dtype": "float32", "order": "row-major",
        "tool": f"recbole_blair {VERSION}",
    }  # fmt: skip
    if source.own_texts_sha256 is not None:
        recipe = {"text_recipe": wanted.text_recipe, "recipe_text_sha256": source.hashes["text_sha256"]}
        header |= {**recipe, "text_sha256": source.own_texts_sha256}
    path = feature_path(source.build_dir, name)
    header_path(source.build_dir, name).unlink(missing_ok=True)  # rows without a header count as unfinished
    with whole_file(path) as temporary:
        table.tofile(temporary)
    write_own_json(header_path(source.build_dir, name), {**header, CHECKSUM_KEY: file_crc32(path)})
    return name


def check_same(encoder: Any, source: TextSource, table: np.ndarray) -> None:
    """Encode a few items with the exported folder and compare them with the table.

    Raises:
        InputError: they differ.
    """
    rows = np.unique(np.linspace(0, len(table) - 1, CHECKED_ITEMS).astype(int))
    again = encoder.encode([source.texts[row] for row in rows], progress=False)
    norms = np.linalg.norm(again, axis=1) * np.linalg.norm(table[rows], axis=1)
    cosine = (again * table[rows]).sum(1) / np.maximum(norms, 1e-30)
    if not cosine.min() > LEAST_COSINE:
        raise InputError(
            f"the exported encoder of a {source.plm} trained by train_encoder={source.training} gives other vectors "
            f"than it gave in training (cosine {cosine.min():.3f}); please report this model"
        )

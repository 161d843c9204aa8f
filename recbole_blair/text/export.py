"""The files by which sentence-transformers, and this tool, know how an encoder's states become a vector."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FLAGS = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max", "mean_sqrt_len_tokens": "mean_sqrt"}


def write_sentence_transformer_files(
    folder: Path,
    pooling: str,
    width: int,
    max_length: int,
    normalise: bool = False,
    transformer: Mapping[str, Any] | None = None,
    prompts: Mapping[str, str] | None = None,
) -> None:
    """Write what tells sentence-transformers (and `recbole-blair encode`) the pooling and the length.

    Args:
        folder: of the encoder.
        pooling: its mode.
        width: of its states.
        max_length: tokens kept of a text.
        normalise: whether vectors of length 1 end the chain.
        transformer: settings of the transformer module, such as `do_lower_case`.
        prompts: name -> text.
    """
    modules = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling")]
    modules += [("2", "2_Normalize", "Normalize")] if normalise else []
    listed = [
        {"idx": i, "name": name, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (name, path, kind) in enumerate(modules)
    ]
    modes: dict[str, Any] = {f"pooling_mode_{flag}": pooling == mode for flag, mode in FLAGS.items()}
    if pooling not in FLAGS.values():
        modes["pooling_mode_lasttoken"] = pooling == "lasttoken"
    files = {
        "modules.json": listed,
        "1_Pooling/config.json": {"word_embedding_dimension": width, **modes},
        "sentence_bert_config.json": {"do_lower_case": False, **(transformer or {}), "max_seq_length": max_length},
        "config_sentence_transformers.json": {
            "similarity_fn_name": "cosine",
            **({"prompts": prompts} if prompts else {}),
        },
    }
    for name, value in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    if normalise:
        (folder / "2_Normalize").mkdir()

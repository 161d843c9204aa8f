"""The weight files of a model folder and the hash that tells one encoder from another."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from recbole_blair.errors import InputError
from recbole_blair.text.layout import Layout, read_layout


def weight_files(folder: Path | str) -> list[Path]:
    """Return the weight files of a transformer's folder: *.safetensors, else pytorch_model*.bin, by name.

    Raises:
        InputError: config.json or weights are missing.
    """
    folder = Path(folder)
    found = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    if not found:
        missing.append("weights (model.safetensors)")
    if missing:
        raise InputError(
            f"{folder} holds no Hugging Face encoder: {' and '.join(missing)} missing; give the folder that "
            "save_pretrained wrote"
        )
    return found


def head_files(layout: Layout) -> list[Path]:
    """Return the weight files of the modules after the transformer, in order.

    Raises:
        InputError: a module's weights are missing.
    """
    files = []
    for head in layout.heads:
        if head.kind not in ("Dense", "LayerNorm"):
            continue
        places = [layout.folder / head.place / name for name in ("model.safetensors", "pytorch_model.bin")]
        there = [path for path in places if path.is_file()]
        if not there:
            raise InputError(f"{places[0]} is missing, the weights of {head.kind}; download or save the encoder again")
        files.append(there[0])
    return files


def weights_hash(folder: Path | str) -> str:
    """Return the SHA-256 of a model folder's weights, hex.

    One file: the same as `sha256sum` prints. Several, of shards or of modules after the transformer: of one after the
    other.

    Raises:
        InputError: no model in the folder, or one with modules that are not offered.
    """
    layout = read_layout(folder)
    return hash_files([*weight_files(layout.backbone), *head_files(layout)])


def hash_files(paths: Sequence[Path]) -> str:
    """Return the SHA-256 of files one after the other, hex; kept until one changes."""
    stats = [(path, path.stat()) for path in paths]
    return _hash_files(tuple((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats))


@lru_cache(maxsize=32)
def _hash_files(stamps: tuple[tuple[str, int, int], ...]) -> str:
    """Hash files, given as (path, bytes, modification time in ns), one after the other; kept until one changes."""
    digest = hashlib.sha256()
    for path, _, _ in stamps:
        with open(path, "rb") as handle:
            while block := handle.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()

"""The weight files of a model folder and the hash that tells one encoder from another."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from recbole_blair.errors import InputError


def weight_files(folder: Path | str) -> list[Path]:
    """Return the weight files of a model folder: *.safetensors, else pytorch_model*.bin, by name.

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


def weights_hash(folder: Path | str) -> str:
    """SHA-256 of a folder's weights, hex. One file: the same as `sha256sum` prints; shards: in name order."""
    stamps = []
    for path in weight_files(folder):
        stat = path.stat()
        stamps.append((str(path), stat.st_size, stat.st_mtime_ns))
    return _hash_files(tuple(stamps))


@lru_cache(maxsize=32)
def _hash_files(stamps: tuple[tuple[str, int, int], ...]) -> str:
    """Hash files, given as (path, bytes, modification time in ns), one after the other; kept until one changes."""
    digest = hashlib.sha256()
    for path, _, _ in stamps:
        with open(path, "rb") as handle:
            while block := handle.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()

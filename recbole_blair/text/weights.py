"""The weight files of a model folder and the hash that tells one encoder from another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from recbole_blair.errors import InputError
from recbole_blair.files.checksum import check_folder, read_checksums
from recbole_blair.text.layout import Layout, read_layout

FIX_DAMAGE = "copy the encoder again, or, if you changed it on purpose, delete its checksums.json"


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
        InputError: no model in the folder, one with modules that are not offered, or one whose files are not those
            that its `checksums.json` records (`recbole-blair pretrain` writes it).
    """
    layout = read_layout(folder)
    recorded = read_checksums(folder, FIX_DAMAGE) or {}
    check_unchanged(str(folder), stamp_files(path for path in map(Path(folder).joinpath, recorded) if path.exists()))
    return hash_files([*weight_files(layout.backbone), *head_files(layout)])


def hash_files(paths: Sequence[Path]) -> str:
    """Return the SHA-256 of files one after the other, hex; kept until one changes."""
    return _hash_files(stamp_files(paths))


def stamp_files(files: Iterable[Path]) -> tuple[tuple[str, int, int], ...]:
    """Return (path, bytes, modification time in ns) of files."""
    return tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files)


@lru_cache(maxsize=32)
def check_unchanged(folder: str, stamps: tuple[tuple[str, int, int], ...]) -> None:
    """Compare an encoder's files with its `checksums.json`; in one process again only when one has changed."""
    check_folder(folder, FIX_DAMAGE, may_lack=True)  # who wants vectors needs no heads


@lru_cache(maxsize=32)
def _hash_files(stamps: tuple[tuple[str, int, int], ...]) -> str:
    """Hash files, given as (path, bytes, modification time in ns), one after the other; kept until one changes."""
    digest = hashlib.sha256()
    for path, _, _ in stamps:
        with open(path, "rb") as handle:
            while block := handle.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()

"""Get the raw files of a dataset: those at hand, else downloaded, or generated for the sample.

Who needs a raw file asks here, so that a missing one is told in one way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dataset_tools.raw.domains import (
    PUBLISHED,
    find_raw_file,
    is_sample,
    raw_relative,
    raw_root,
    resolve_domain,
    sample_sizes,
)
from dataset_tools.raw.download import download_raw_file
from recbole_blair.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def find_raw(raw_dir: Path | str, name: str) -> tuple[Path | None, Path | None]:
    """Return (review path, metadata path); None for one that is not there."""
    return find_raw_file(raw_dir, "review", name), find_raw_file(raw_dir, "meta", name)


def require_raw(raw_dir: Path | str, kind: str, name: str) -> Path:
    """Return the path of a raw file that is at hand; `kind` is review or meta.

    Raises:
        InputError: it is missing; says which file to put where.
    """
    path = find_raw_file(raw_dir, kind, name)
    if path is None:
        way = "put the file there"
        if name in PUBLISHED or is_sample(name):
            way = f"fetch it with `recbole-blair prepare --dataset={name}`"
        raise InputError(f"{raw_root(raw_dir) / raw_relative(kind, name)}[.gz] is missing; {way}, or name "
                         "another --raw_dir")  # fmt: skip
    return path


def ensure_raw(raw_dir: Path | str, name: str, revision: str = "main", progress: bool = True) -> tuple[Path, Path]:
    """Return (review path, metadata path), downloaded where missing, or generated for the sample.

    Args:
        raw_dir: see `dataset_tools.raw.domains.raw_root`.
        name: official name, `sample`, `sample-u<users>-i<items>`, or that of raw files of one's own.
        revision: branch, tag or commit of the hub's repository.
        progress: draw progress bars.

    Raises:
        InputError: they cannot be had; says which files to put where.
    """
    users, items = sample_sizes(name)
    if users is not None and items is not None:
        from dataset_tools.raw.sample import write_sample  # heavy: NumPy

        return write_sample(raw_root(raw_dir), name, users, items, progress)
    return (
        ensure_raw_file(raw_dir, "review", name, revision, progress),
        ensure_raw_file(raw_dir, "meta", name, revision, progress),
    )


def ensure_raw_file(raw_dir: Path | str, kind: str, name: str, revision: str = "main", progress: bool = True) -> Path:
    """Return the path of one raw file of any dataset but the sample, downloaded where missing; see `ensure_raw`."""
    if name in PUBLISHED:
        return download_raw_file(raw_dir, kind, name, revision, progress)
    return require_raw(raw_dir, kind, name)


def find_metadata(raw_dir: Path | str, domains: Sequence[str] | None = None) -> dict[str, Path]:
    """Return domain -> metadata file at hand: of the named domains, or of all that have one, in the published order.

    Raises:
        InputError: a domain named has no metadata file, or there is none at all.
    """
    if domains:
        names = [resolve_domain(name, raw_dir) for name in domains]
    else:
        folder = raw_root(raw_dir) / "meta_categories"
        here = sorted({path.name[len("meta_") :].split(".jsonl")[0] for path in folder.glob("meta_*.jsonl*")})
        names = [name for name in PUBLISHED if name in here] + [name for name in here if name not in PUBLISHED]
    if not names:
        require_raw(raw_dir, "meta", PUBLISHED[0])
    return {name: require_raw(raw_dir, "meta", name) for name in dict.fromkeys(names)}

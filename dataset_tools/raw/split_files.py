"""The published split files of Amazon Reviews 2023: where they lie, and which are fetched.

`benchmark/0core/timestamp/<Domain>.{train,valid,test}.csv` and `benchmark/5core/last_out/…` of the hub's repository,
and their twins `…_w_his` with a column of histories. Here they lie in the folder that holds `raw/`, by the same names.

Source: the benchmark scripts of arXiv:2403.03952, which made them: of a user's reviews of one item the earliest is
kept, users in the order of the raw file, a user's rows by time; `5core` is the iterated 5-core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dataset_tools.raw.domains import check_name, raw_root
from dataset_tools.raw.download import check_revision, download_file
from recbole_blair.schema import SPLITS

if TYPE_CHECKING:
    from pathlib import Path

ALL = ("0core/timestamp", "0core/timestamp_w_his")  # all reviews: the random protocol deals them out anew
FOLDERS = {"timestamp": ALL, "random": ALL, "last_out": ("5core/last_out", "5core/last_out_w_his")}  # first: fetched


def benchmark_root(raw_dir: Path | str) -> Path:
    """Return the folder of the split files: `benchmark/` beside `raw/`."""
    return raw_root(raw_dir).parent / "benchmark"


def split_paths(raw_dir: Path | str, name: str, protocol: str) -> list[Path]:
    """Return the places of a domain's three files, plain before `.gz`, in the folder that holds most of them."""
    root, found = benchmark_root(raw_dir), {}
    for folder in FOLDERS[protocol]:
        plain = [root / folder / f"{check_name(name)}.{split}.csv" for split in SPLITS]
        packed = [path.with_name(f"{path.name}.gz") for path in plain]
        found[folder] = [gz if gz.is_file() and not path.is_file() else path for path, gz in zip(plain, packed)]
    return max(found.values(), key=lambda paths: sum(path.is_file() for path in paths))


def ensure_split_files(raw_dir: Path | str, name: str, protocol: str, revision: str, progress: bool) -> list[Path]:
    """Return the paths of a domain's train, valid and test file, downloaded where missing.

    Raises:
        InputError: they cannot be had; says which files to put where.
    """
    paths = split_paths(raw_dir, name, protocol)
    missing = " and ".join(str(path) for path in paths if not path.is_file())
    for path in paths:
        if path.is_file():
            check_revision(path, revision)
        else:
            place = f"benchmark/{path.relative_to(benchmark_root(raw_dir)).as_posix()}"
            download_file(path, place, revision, progress, missing)
    return paths

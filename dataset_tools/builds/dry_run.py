"""`--dry_run`: what prepare would do, with the estimated disk, memory and time."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from dataset_tools.builds.folder import build_is_whole
from dataset_tools.raw.domains import find_raw_file, raw_relative, raw_root
from dataset_tools.raw.split_files import split_paths

if TYPE_CHECKING:
    from pathlib import Path

    from dataset_tools.builds.settings import AmazonSettings, OwnSettings
    from dataset_tools.raw.own_formats import OwnFile

# The sizes of published files are not known without a request to the hub; those at hand give the estimate.
GZIP_RATIO = 3.5  # bytes of a raw file per byte of its .gz, measured on Video_Games
OUTPUT_SHARE = 0.35  # atomic files, as a share of the raw bytes
WORK_SHARE = 0.4  # temporary database and spill files, as a share of the raw bytes
CONVERT_BYTES_PER_S = 150e6  # raw, unpacked, on two cores
SAMPLE_BYTES_PER_USER = 3_000


def describe_plan(folder: Path, settings: AmazonSettings, raw_dir: Path | str, memory_limit: str) -> str:
    """Return the lines that say what exists, what would be made, and what it takes.

    Raises:
        InputError: the build in `folder` was made with other settings.
    """
    if build_is_whole(folder, settings):
        return _whole_line(folder)
    name = settings.raw_name
    lines, raw_bytes, missing = [], 0, False
    for kind in ("review", "meta"):
        path = find_raw_file(raw_dir, kind, name)
        if path is not None:
            size = path.stat().st_size
            raw_bytes += int(size * (GZIP_RATIO if path.suffix == ".gz" else 1))
            lines.append(f"raw        {path}: there, {_mib(size)}")
            continue
        missing = True
        place = raw_root(raw_dir) / raw_relative(kind, name)
        how = "to be generated" if settings.sample_users else "to be downloaded; its size is known on connecting"
        lines.append(f"raw        {place}: {how}")
    if settings.sample_users and missing:
        raw_bytes = settings.sample_users * SAMPLE_BYTES_PER_USER
    lines.append(_build_line(folder, settings, raw_bytes, memory_limit, missing and not settings.sample_users))
    return "\n".join(lines)


def describe_split_plan(folder: Path, settings: AmazonSettings, raw_dir: Path | str) -> str:
    """Return the same lines for the published split files."""
    if build_is_whole(folder, settings):
        return _whole_line(folder)
    paths = split_paths(raw_dir, settings.raw_name, settings.protocol)
    meta = find_raw_file(raw_dir, "meta", settings.raw_name)
    paths.append(meta or raw_root(raw_dir) / raw_relative("meta", settings.raw_name))
    lines = [
        f"raw        {path}: {f'there, {_mib(path.stat().st_size)}' if path.is_file() else 'to be downloaded'}"
        for path in paths
    ]
    return "\n".join([*lines, f"build      {folder}: to be converted ({settings.protocol})"])


def describe_own_plan(folder: Path, settings: OwnSettings, files: list[OwnFile], memory_limit: str) -> str:
    """Return the same lines for files of one's own."""
    if build_is_whole(folder, settings):
        return _whole_line(folder)
    lines = [
        f"raw        {file.path}: {file.kind}, {_mib(file.path.stat().st_size)}, columns {', '.join(file.columns)}"
        for file in files
    ]
    lines.append(f"build      {folder}: to be converted ({settings.protocol}), memory up to {memory_limit} for DuckDB")
    return "\n".join(lines)


def _whole_line(folder: Path) -> str:
    return f"build      {folder}: there and whole; nothing to do"


def _build_line(folder: Path, settings: AmazonSettings, raw_bytes: int, memory_limit: str, unknown: bool) -> str:
    """Return the line on the conversion; `unknown`: raw files are to be downloaded, so their size is not known."""
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = _mib(shutil.disk_usage(parent).free)
    if unknown:
        need = (
            f"disk about {OUTPUT_SHARE + WORK_SHARE:.0%} of the unpacked raw files (two thirds of it temporary)"
            f", a second per {CONVERT_BYTES_PER_S / 1e6:.0f} MB of them"
        )
    else:
        seconds = max(1, round(raw_bytes / CONVERT_BYTES_PER_S))
        need = (
            f"disk about {_mib(raw_bytes * OUTPUT_SHARE)} and {_mib(raw_bytes * WORK_SHARE)} while it runs, "
            f"roughly {seconds} s"
        )
    return (
        f"build      {folder}: to be converted ({settings.protocol}), {need}, memory up to {memory_limit} for "
        f"DuckDB and as much, 2 GiB at most, beside it; {free} are free"
    )


def _mib(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"

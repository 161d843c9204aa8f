"""The folder of a build: is it whole and made with these settings, and how a build is written so that it is whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_tools.builds.raw_digests import RawFile, raw_digest, remember_digests
from dataset_tools.builds.statistics_file import (
    check_settings,
    describe_build,
    describe_file,
    load_stats,
    require_stats,
    stats_path,
    write_stats,
)
from dataset_tools.conversion.file_names import build_file_names
from recbole_blair.errors import InputError
from recbole_blair.files.checksum import file_sha256
from recbole_blair.files.write import locked_folder, put_in_place, sync_to_disk, whole_file, work_folder
from recbole_blair.schema import CACHE_DIR, FEATURE_SUFFIX, ITEM_SUFFIX, KEPT_ITEMS

if TYPE_CHECKING:
    from dataset_tools.conversion.settings import BuildSettings

Fill = Callable[[Path], tuple[Sequence[RawFile], dict[str, Any]]]
AGAIN = (
    "prepare --force builds it again (features of texts that stay are kept), another --dataset or --data_path beside it"
)


def build_is_whole(folder: Path | str, settings: BuildSettings) -> bool:
    """Tell whether the build in `folder` is there, whole and made with `settings`.

    Returns:
        False when it has no stats.json or a data file is missing: it must be made.

    Raises:
        InputError: it was made with other settings, or a data file was changed since.
    """
    stats = load_stats(folder)
    if stats is None:
        return False
    check_settings(folder, stats, settings)
    return files_are_whole(folder, stats)


def files_are_whole(folder: Path | str, stats: dict[str, Any]) -> bool:
    """Tell whether all data files that `stats` names are there.

    Raises:
        InputError: a data file has another size than `stats` says.
    """
    for name, size in stats["files"].items():
        path = Path(folder) / name
        if not path.is_file():
            return False
        if path.stat().st_size != size:
            raise InputError(
                f"{path} has {path.stat().st_size:,} bytes but {stats_path(folder).name} says {size:,}; "
                f"delete {folder} to build it again"
            )
    return True


def check_raw_unchanged(folder: Path | str, paths: Iterable[Path | None]) -> None:
    """Refuse a build whose raw files, where they are still at hand, have other content now.

    Raises:
        InputError: names the file, what differs and the fix.
    """
    made_from = {entry["name"]: entry for entry in (load_stats(folder) or {}).get("raw_files", ())}
    for path in paths:
        if path is not None and path.name in made_from:
            refuse_other_content(folder, path, made_from[path.name])


def refuse_other_content(folder: Path | str, path: Path, entry: dict[str, Any]) -> None:
    """Refuse a raw file whose content is not what `entry` of stats.json says; a file may have another name.

    Raises:
        InputError: names the file, what differs and the fix.
    """
    differs = None
    if path.stat().st_size != entry["bytes"]:
        differs = f"has {path.stat().st_size:,} bytes, {entry['name']} had {entry['bytes']:,}"
    elif "sha256" in entry and raw_digest(folder, path) != entry["sha256"]:  # builds of older versions record no hash
        differs = f"has other content than {entry['name']} had, by its SHA-256"
    if differs:
        raise InputError(f"{folder} was made from another file: {path} {differs}; {AGAIN}")


def check_same_files(folder: Path | str, paths: Sequence[Path]) -> None:
    """Refuse a build of one's own data that was made from files of other content; a file may have another name.

    Args:
        folder: of the build.
        paths: the interactions and, where given, the items.

    Raises:
        InputError: names the file, what differs, and the fix.
    """
    made_from = require_stats(folder).get("raw_files", [])
    if len(made_from) != len(paths):
        built = f"with the items of {made_from[1]['name']}" if len(made_from) > 1 else "without items"
        asked = f"with those of {paths[1]}" if len(paths) > 1 else "without"
        raise InputError(f"{folder} was made {built}, asked is {asked}; {AGAIN}")
    for path, entry in zip(paths, made_from):
        refuse_other_content(folder, path, entry)


def ensure_written(folder: Path, settings: BuildSettings, fill: Fill, force: bool = False) -> None:
    """Write a build unless it is whole, once, whichever processes want it at the same time; keep its files' digests.

    Killed at any point and called again, it ends with the same bytes as a call that was not killed.

    Args:
        folder: of the build; its parent is made when missing.
        settings: what the build must be made with.
        fill: writes the data files into the folder it is given and returns the raw files that they were made from, each
            with its state before it was read and its SHA-256, and the counts for stats.json.
        force: write it even where it is whole or was made with other settings.
    """
    with locked_folder(folder.parent, f".{folder.name}.lock"):
        if force or not build_is_whole(folder, settings):  # another process may have made it meanwhile
            _write_build(folder, settings, fill)


def _write_build(folder: Path, settings: BuildSettings, fill: Fill) -> None:
    """Write a build under a temporary name and move its files into `folder` when whole; other files there stay."""
    with work_folder(folder) as temporary:
        files, counts = fill(temporary)
        raw_files = [describe_file(path, entry) for path, entry in files]
        stats = describe_build(temporary, folder.name, settings, raw_files, counts)
        folder.mkdir(exist_ok=True)
        keep_items(folder, temporary)
        stats_path(folder).unlink(missing_ok=True)  # from here until it is written again the build is not whole
        for name in build_file_names(folder.name):
            put_in_place(temporary / name, folder / name, sync=False)  # SyncedFile has waited for their bytes
        sync_to_disk(folder)  # once for all names
    write_stats(folder, stats)  # last: no temporary folder is left beside a whole build, whenever the process is killed
    remember_digests(folder, files)


def keep_items(folder: Path, temporary: Path) -> None:
    """Keep the `.item` file that a build's feature files were made from in `.cache/`, before that in `temporary` comes.

    `recbole_blair/text/reuse.py` reads from it which rows of those files are of texts that are still there.
    """
    items = folder / f"{folder.name}{ITEM_SUFFIX}"
    if not items.is_file() or not any(folder.glob(f"*{FEATURE_SUFFIX}")):
        return
    digest = file_sha256(items)
    if digest == file_sha256(temporary / items.name):
        return
    kept = folder / CACHE_DIR / f"{KEPT_ITEMS}{digest[:16]}{ITEM_SUFFIX}"
    kept.parent.mkdir(exist_ok=True)
    if not kept.exists():
        with whole_file(kept) as temporary:
            shutil.copy2(items, temporary)  # with its time: feature files that are older were made from another

"""Make the atomic files of a dataset: find, fetch or generate its raw files, convert, and leave whole builds alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dataset_tools.builds.dry_run import describe_plan, describe_split_plan
from dataset_tools.builds.folder import build_is_whole, check_raw_unchanged, ensure_written
from dataset_tools.builds.raw_digests import RawFile, file_state, read_raw_file
from dataset_tools.builds.settings import AmazonSettings
from dataset_tools.conversion.convert import convert, convert_split
from dataset_tools.conversion.settings import check_choice
from dataset_tools.raw.domains import PUBLISHED
from dataset_tools.raw.fetch import ensure_raw, ensure_raw_file, find_raw
from dataset_tools.raw.split_files import ensure_split_files
from dataset_tools.storage.resources import Resources
from recbole_blair.errors import InputError
from recbole_blair.files.checksum import file_sha256
from recbole_blair.schema import TEST_START_MS, VALID_START_MS


def build_name(dataset: str, **settings: Any) -> str:
    """Return the name of a build: `<Domain>`, `<Domain>-last_out`, `<Domain>-<hash of other settings>`, `sample`.

    Args:
        dataset: any name that `resolve_domain` takes.
        settings: the fields of `AmazonSettings`.

    Returns:
        Folder below `data_path` and prefix of its files.
    """
    return AmazonSettings.resolve(dataset, **settings).build_name


def prepare(
    dataset: str,
    data_path: Path | str = "dataset",
    raw_dir: Path | str = "raw",
    memory_limit: str = "4GB",
    threads: int | None = None,
    progress: bool = True,
    dry_run: bool = False,
    source: str = "amazon",
    force: bool = False,
    **settings: Any,
) -> Path:
    """Make the atomic files of one dataset, unless they are there.

    Args:
        dataset: official or short name, `sample`, or the name of raw files of your own.
        data_path, raw_dir: see `prepare_build`.
        memory_limit, threads, progress: see `Resources`.
        dry_run: print what would be done and return.
        source: `amazon`: the raw reviews; `split`: the published split files.
        force: see `prepare_build`.
        settings: the fields of `AmazonSettings`: protocol, valid_start_ms, test_start_ms, max_history, ascii_text,
            catalogue, revision, sample_users, sample_items.

    Returns:
        The folder of the build.

    Raises:
        InputError: anything the user can fix, in one line.
        OSError: ENOSPC when the disk is full; temporary files are gone by then.
    """
    resolved = AmazonSettings.resolve(dataset, raw_dir, **settings)
    resources = Resources(memory_limit, threads, progress)
    if source == "split":
        return prepare_split(resolved, data_path, raw_dir, resources, dry_run, force)
    check_choice("source", source, ("amazon", "split"))
    if dry_run:
        return plan_build(resolved, data_path, raw_dir, resources)
    return prepare_build(resolved, data_path, raw_dir, resources, force)


def plan_build(settings: AmazonSettings, data_path: Path | str, raw_dir: Path | str, resources: Resources) -> Path:
    """Print what `prepare_build` would do; return the folder of the build."""
    folder = Path(data_path) / settings.build_name
    print(describe_plan(folder, settings, raw_dir, resources.memory_limit))
    return folder


def prepare_build(
    settings: AmazonSettings, data_path: Path | str, raw_dir: Path | str, resources: Resources, force: bool = False
) -> Path:
    """Make a build, unless it is there; missing raw files are downloaded (or generated, for `sample`).

    Killed at any point and run again, it ends with the same bytes as one that was not killed.

    Args:
        settings: what the build holds.
        data_path: the build goes into `<data_path>/<build>/`.
        raw_dir: holds `raw/review_categories/`, or is itself that `raw/`.
        resources: what the conversion may use.
        force: make it again, whatever is there.

    Returns:
        The folder of the build.
    """
    folder = Path(data_path) / settings.build_name
    if not force and build_is_whole(folder, settings):
        check_raw_unchanged(folder, find_raw(raw_dir, settings.raw_name))
        return folder

    def fill(temporary: Path) -> tuple[list[RawFile], dict[str, Any]]:
        paths = ensure_raw(raw_dir, settings.raw_name, settings.revision, resources.progress)
        states = [file_state(path) for path in paths]  # before they are read
        with ThreadPoolExecutor(1) as pool, resources.open_session(temporary) as duck:
            digests = pool.map(file_sha256, paths)  # beside the conversion, which waits for DuckDB
            counts = convert(duck, paths[0], paths[1], temporary, folder.name, settings)
            return [(path, [*state, digest]) for path, state, digest in zip(paths, states, digests)], counts

    ensure_written(folder, settings, fill, force)
    return folder


def prepare_split(
    settings: AmazonSettings, data_path: Path | str, raw_dir: Path | str, resources: Resources, dry_run: bool = False,
    force: bool = False,
) -> Path:  # fmt: skip
    """Make a build from the published split files of a domain and its metadata, unless it is there.

    The build has the name and, but for what `dataset_tools.conversion.split_reviews` counts, the rows of the one that
    `prepare_build` makes; one that is there is left alone, whatever it was made from.

    Args:
        settings: of a published domain; without instants of its own.
        data_path, raw_dir, resources: as for `prepare_build`; the files lie in `benchmark/` beside `raw/`.
        dry_run: print what would be done and return.
        force: make it again, whatever is there.

    Raises:
        InputError: another dataset or other instants; what the reading of the files refuses.
    """
    if settings.dataset not in PUBLISHED:
        raise InputError(
            f"dataset={settings.dataset} has no published split files; they are those of {', '.join(PUBLISHED)}"
        )
    instants = settings.valid_start_ms, settings.test_start_ms
    if settings.protocol == "timestamp" and instants != (VALID_START_MS, TEST_START_MS):
        raise InputError(
            f"the published files are split at {VALID_START_MS} and {TEST_START_MS}; leave out valid_start_ms and "
            "test_start_ms, or make the build from the raw reviews"
        )
    if settings.keep_repeats or settings.core != "5-core":
        raise InputError("the published files hold no repeated pair, and for last_out the 5-core; leave out core and "
                         "keep_repeats, or make the build from the raw reviews")  # fmt: skip
    folder = Path(data_path) / settings.build_name
    if dry_run:
        print(describe_split_plan(folder, settings, raw_dir))
        return folder

    def fill(temporary: Path) -> tuple[list[RawFile], dict[str, Any]]:
        name, progress = settings.raw_name, resources.progress
        files = ensure_split_files(raw_dir, name, settings.protocol, settings.revision, progress)
        meta = ensure_raw_file(raw_dir, "meta", name, settings.revision, progress)
        raw_files = [read_raw_file(path) for path in (*files, meta)]  # before they are converted
        with resources.open_session(temporary) as duck:
            return raw_files, convert_split(duck, files, meta, temporary, folder.name, settings)

    ensure_written(folder, settings, fill, force)
    return folder

"""Make the atomic files of a dataset: find, fetch or generate its raw files, convert, and leave whole builds alone."""

import hashlib
import json
from pathlib import Path

from dataset_tools.builds.build_stats import (
    FORMAT,
    build_file_names,
    check_settings,
    load_stats,
    stats_path,
    write_stats,
)
from dataset_tools.raw.domains import PUBLISHED, is_sample, parse_sample_name, raw_root, resolve_domain
from recbole_blair.errors import InputError, nearest
from recbole_blair.files.write import put_in_place, work_folder
from recbole_blair.schema import MAX_HISTORY, PROTOCOLS, SAMPLE, TEST_START_MS, VALID_START_MS

CATALOGUES = ("interactions", "all")


def build_settings(
    dataset,
    protocol="timestamp",
    valid_start_ms=None,
    test_start_ms=None,
    max_history=MAX_HISTORY,
    ascii_text=False,
    catalogue="interactions",
    revision="main",
    sample_users=None,
    sample_items=None,
    raw_dir=None,
):
    """Return the settings that decide what a build holds, defaults filled in, as `stats.json` records them.

    Raises:
        InputError: an unknown dataset, protocol or catalogue; instants out of order; sizes that make no sense.
    """
    domain = resolve_domain(dataset, raw_dir)
    _one_of("protocol", protocol, PROTOCOLS)
    _one_of("catalogue", catalogue, CATALOGUES)
    if int(max_history) < 1:
        raise InputError(f"max_history is {max_history}, expected 1 or more; 50 is the papers' value")
    users, items = sample_sizes(domain, sample_users, sample_items)
    if protocol == "last_out":
        if valid_start_ms is not None or test_start_ms is not None:
            raise InputError("protocol=last_out has no instants; leave out valid_start_ms and test_start_ms")
    else:
        if domain in PUBLISHED or users:
            valid_start_ms = VALID_START_MS if valid_start_ms is None else valid_start_ms
            test_start_ms = TEST_START_MS if test_start_ms is None else test_start_ms
        check_instants(valid_start_ms, test_start_ms)
    return {
        "dataset": SAMPLE if users else domain,
        "protocol": protocol,
        "valid_start_ms": valid_start_ms,
        "test_start_ms": test_start_ms,
        "max_history": int(max_history),
        "ascii_text": bool(ascii_text),
        "catalogue": catalogue,
        "revision": str(revision),
        "sample_users": users,
        "sample_items": items,
    }


def _one_of(key, value, known):
    if value not in known:
        raise InputError(f"unknown {key} {value!r}; known: {', '.join(known)}.{nearest(value, known)}")


def check_instants(valid_start_ms, test_start_ms):
    """Refuse instants that are out of order or in seconds; None means "from the data"."""
    for key, value in (("valid_start_ms", valid_start_ms), ("test_start_ms", test_start_ms)):
        if value is not None and (not isinstance(value, int) or value <= 10**11):
            raise InputError(f"{key} is {value!r}, expected Unix milliseconds such as {VALID_START_MS}")
    if valid_start_ms is not None and test_start_ms is not None and valid_start_ms >= test_start_ms:
        raise InputError(
            f"valid_start_ms {valid_start_ms} is not before test_start_ms {test_start_ms}; swap or correct them"
        )


def sample_sizes(domain, sample_users, sample_items):
    """Return (users, items) of the generated dataset, (None, None) for any other.

    Raises:
        InputError: sizes for a dataset that is not generated, or sizes that contradict its name.
    """
    if not is_sample(domain):
        if sample_users is not None or sample_items is not None:
            raise InputError(f"sample_users and sample_items need dataset=sample, not {domain!r}")
        return None, None
    from dataset_tools.raw.sample import DEFAULT_ITEMS, DEFAULT_USERS, check_sizes

    named = parse_sample_name(domain)
    if named and ((sample_users or named[0]), (sample_items or named[1])) != named:
        raise InputError(f"dataset={domain} contradicts sample_users={sample_users}, sample_items={sample_items}")
    users, items = named or (sample_users or DEFAULT_USERS, sample_items or DEFAULT_ITEMS)
    return check_sizes(int(users), int(items))


def raw_name(settings):
    """Return the name of the raw files: the domain, or the sample with its size."""
    if settings["sample_users"] is None:
        return settings["dataset"]
    from dataset_tools.raw.sample import DEFAULT_ITEMS, DEFAULT_USERS

    users, items = settings["sample_users"], settings["sample_items"]
    return SAMPLE if (users, items) == (DEFAULT_USERS, DEFAULT_ITEMS) else f"{SAMPLE}-u{users}-i{items}"


def build_name_of(settings):
    """Return the folder and file prefix of the build with these settings (from `build_settings`)."""
    base = raw_name(settings)
    if settings["protocol"] == "last_out":
        base += "-last_out"
    amazon = settings["dataset"] in PUBLISHED or settings["sample_users"] is not None
    by_time = settings["protocol"] == "timestamp"
    defaults = {
        "valid_start_ms": VALID_START_MS if amazon and by_time else None,
        "test_start_ms": TEST_START_MS if amazon and by_time else None,
        "max_history": MAX_HISTORY,
        "ascii_text": False,
        "catalogue": "interactions",
        "revision": "main",
    }
    other = {key: settings[key] for key, default in defaults.items() if settings[key] != default}
    if not other:
        return base
    return f"{base}-{hashlib.sha256(json.dumps(other, sort_keys=True).encode()).hexdigest()[:8]}"


def build_name(dataset, **settings):
    """Return the name of a build: `<Domain>`, `<Domain>-last_out`, `<Domain>-<hash of other settings>`, `sample`.

    Args:
        dataset (str): any name that `resolve_domain` takes.
        settings: the keyword arguments of `build_settings`.

    Returns:
        str: folder below `data_path` and prefix of its files.
    """
    return build_name_of(build_settings(dataset, **settings))


def build_is_whole(folder, settings):
    """Tell whether the build in `folder` is there, whole and made with `settings` (from `build_settings`).

    Returns:
        bool: False when it has no stats.json or a data file is missing: it must be made.

    Raises:
        InputError: it was made with other settings, or a data file was changed since.
    """
    folder = Path(folder)
    stats = load_stats(folder)
    if stats is None:
        return False
    check_settings(folder, stats, settings)
    for name, size in stats["files"].items():
        path = folder / name
        if not path.is_file():
            return False
        if path.stat().st_size != size:
            raise InputError(
                f"{path} has {path.stat().st_size:,} bytes but {stats_path(folder).name} says {size:,}; "
                f"delete {folder} to build it again"
            )
    return True


def check_raw_unchanged(folder, review_path, meta_path):
    """Refuse a build whose raw files, where they are still at hand, have other sizes now.

    Raises:
        InputError: names the file, both sizes and the fix.
    """
    made_from = {entry["name"]: entry["bytes"] for entry in (load_stats(folder) or {}).get("raw_files", ())}
    for path in (review_path, meta_path):
        if path is not None and made_from.get(path.name, path.stat().st_size) != path.stat().st_size:
            raise InputError(
                f"{path} has {path.stat().st_size:,} bytes, the build in {folder} was made from "
                f"{made_from[path.name]:,}; delete {folder} to build it again, or pass another --data_path"
            )


def prepare(
    dataset,
    data_path="dataset",
    raw_dir="raw",
    protocol="timestamp",
    valid_start_ms=None,
    test_start_ms=None,
    max_history=MAX_HISTORY,
    ascii_text=False,
    catalogue="interactions",
    memory_limit="4GB",
    threads=None,
    revision="main",
    progress=True,
    sample_users=None,
    sample_items=None,
    dry_run=False,
):
    """Make the atomic files of one dataset, unless they are there.

    Missing raw files are downloaded (or generated, for `sample`). Killed at any point and run again, it ends with
    the same bytes as one that was not killed.

    Args:
        dataset (str): official or short name, `sample`, or the name of raw files of your own.
        data_path (path): the build goes into `<data_path>/<build>/`.
        raw_dir (path): holds `raw/review_categories/`, or is itself that `raw/`.
        protocol (str): `timestamp` or `last_out`.
        valid_start_ms, test_start_ms (int | None): instants, Unix ms; None takes the papers' for Amazon's domains
            and 8:1:1 over all interactions for other data.
        max_history (int): latest items kept as a row's history.
        ascii_text (bool): replace non-ASCII characters of item texts by spaces, as the released code does.
        catalogue (str): `interactions` keeps the items that occur in a row, `all` adds the rest with metadata.
        memory_limit (str): DuckDB's limit, as in "4GB".
        threads (int | None): None takes the cores.
        revision (str): hub version of the raw files.
        progress (bool): draw progress bars.
        sample_users, sample_items (int | None): size of the generated dataset.
        dry_run (bool): print what would be done and return.

    Returns:
        Path: the folder of the build.

    Raises:
        InputError: anything the user can fix, in one line.
        OSError: ENOSPC when the disk is full; temporary files are gone by then.
    """
    settings = build_settings(
        dataset,
        protocol,
        valid_start_ms,
        test_start_ms,
        max_history,
        ascii_text,
        catalogue,
        revision,
        sample_users,
        sample_items,
        raw_dir,
    )
    from dataset_tools.raw.fetch import find_raw, plan_line

    folder = Path(data_path) / build_name_of(settings)
    if dry_run:
        print(plan_line(folder, settings, raw_dir, memory_limit))
        return folder
    if build_is_whole(folder, settings):
        check_raw_unchanged(folder, *find_raw(raw_dir, raw_name(settings)))
        return folder
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if not build_is_whole(folder, settings):  # another process may have made it meanwhile
            _make(folder, settings, raw_dir, memory_limit, threads, progress)
    return folder


def _make(folder, settings, raw_dir, memory_limit, threads, progress):
    from dataset_tools.raw.fetch import ensure_raw

    review_path, meta_path = ensure_raw(raw_dir, settings, raw_name(settings), progress)

    def fill(temporary):
        return _convert_into(temporary, folder.name, settings, review_path, meta_path, memory_limit, threads, progress)

    make_build(folder, fill)


def make_build(folder, fill):
    """Write a build under a temporary name and rename it when whole.

    Args:
        folder (Path): of the build; its parent exists.
        fill (callable): writes the data files into the folder it is given, returns the content of stats.json.
    """
    with work_folder(folder) as temporary:
        stats = fill(temporary)
        folder.mkdir(exist_ok=True)
        stats_path(folder).unlink(missing_ok=True)  # from here until it is written again the build is not whole
        for name in build_file_names(folder.name):
            put_in_place(temporary / name, folder / name)
        write_stats(folder, stats)


def _convert_into(temporary, build, settings, review_path, meta_path, memory_limit, threads, progress):
    from dataset_tools.conversion.convert import convert
    from dataset_tools.storage.duckdb_session import Duck
    from recbole_blair.schema import VERSION

    with Duck(temporary, memory_limit, threads, progress) as duck:
        found = convert(duck, review_path, meta_path, temporary, build, settings)
    return {
        "build": build,
        "format": FORMAT,
        "tool_version": VERSION,
        "settings": settings,
        "raw_files": [{"name": path.name, "bytes": path.stat().st_size} for path in (review_path, meta_path)],
        "files": {name: (temporary / name).stat().st_size for name in build_file_names(build)},
        **found,
    }


__all__ = ["build_is_whole", "build_name", "build_settings", "prepare", "raw_root"]

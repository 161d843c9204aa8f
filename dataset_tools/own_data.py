"""Interactions and items of any shop or public log -> atomic files, by the conversion that Amazon's reviews take.

Only the reading differs: here it fills the tables `review` and `meta` that `convert_tables` takes from there.
"""

from pathlib import Path

from dataset_tools.builds.build_stats import FORMAT, build_file_names, load_stats, stats_path
from dataset_tools.conversion.own_tables import INTERACTION_FIELDS, RULES, TIME_UNITS, load_interactions, load_items
from dataset_tools.items.items import META_FIELDS
from dataset_tools.prepare import CATALOGUES, build_is_whole, check_instants, check_raw_unchanged, make_build
from dataset_tools.raw.domains import PUBLISHED, check_name, is_sample
from dataset_tools.raw.own_formats import ENCODINGS, open_own
from recbole_blair.errors import InputError, nearest
from recbole_blair.schema import ALIASES, ITEM_ID, MAX_HISTORY, PROTOCOLS

SOURCES = ("csv", "jsonl", "parquet", "python")
ITEM_FIELDS = (ITEM_ID, *META_FIELDS)


def parse_mapping(option, text, fields):
    """Read `field=column,field=column`; a field may take several columns, `features=tags+specs`.

    Args:
        option (str): its name, for messages.
        text (str | None): fields that are not named take the column of their own name.
        fields (sequence of str): the fields there are.

    Returns:
        dict: field to list of columns, of the fields that are named.

    Raises:
        InputError: a field that does not exist, one twice, or no column.
    """
    found: dict = {}
    for part in filter(None, (part.strip() for part in (text or "").split(","))):
        field, _, columns = (piece.strip() for piece in part.partition("="))
        if field not in fields:
            raise InputError(
                f"--{option}: unknown field {field!r}; known: {', '.join(fields)}.{nearest(field, fields)}"
            )
        names = [name.strip() for name in columns.split("+") if name.strip()]
        if not names or field in found:
            raise InputError(f"--{option}: {part!r}; expected {field}=<column>, once")
        found[field] = names
    return found


def prepare_own(
    dataset,
    interactions,
    items=None,
    source="csv",
    columns=None,
    item_columns=None,
    timestamp_unit="ms",
    list_separator=None,
    delimiter=None,
    encoding="utf-8",
    data_path="dataset",
    protocol="timestamp",
    valid_start_ms=None,
    test_start_ms=None,
    max_history=MAX_HISTORY,
    ascii_text=False,
    catalogue="interactions",
    memory_limit="4GB",
    threads=None,
    progress=True,
    dry_run=False,
):
    """Make the atomic files of data of one's own, unless they are there.

    Args:
        dataset (str): name of the build, and what `--dataset` is then; `-last_out` is added for that protocol.
        interactions (path): CSV, JSON lines, Parquet (by extension; `.gz` for the text ones), one event a row.
        items (path | None): the items' text, one item a row; None: no item has text.
        source (str): see `open_own`.
        columns (str): `user_id=…,item_id=…,timestamp=…`; numbers from 1 for a CSV without header.
        item_columns (str): `item_id=…,title=…` and any of features, categories, description, store, price. Fields that
            are not named take the column of their own name, where there is one.
        timestamp_unit (str): ms, s, iso (`2018-07-07 22:09:11`, with or without T, zone or time), or a strptime
            format such as `%d.%m.%Y %H:%M`; UTC without zone.
        list_separator (str | None): splits the text of categories and features, as in `Action|Comedy`.
        delimiter, encoding (str): of CSV files.
        valid_start_ms, test_start_ms (int | None): instants; None takes 8:1:1 over all interactions.

    The other arguments are those of `dataset_tools.prepare.prepare`.

    Returns:
        Path: the folder of the build.

    Raises:
        InputError: anything the user can fix, in one line.
    """
    settings = own_settings(
        dataset, protocol, valid_start_ms, test_start_ms, max_history, ascii_text, catalogue, source, columns,
        item_columns, timestamp_unit, list_separator, delimiter, encoding,
    )  # fmt: skip
    mapping = parse_mapping("columns", columns, INTERACTION_FIELDS)
    mapping = {field: mapping.get(field, [field]) for field in INTERACTION_FIELDS}
    files = [
        open_own(interactions, source, [c for names in mapping.values() for c in names], delimiter, encoding),
        None,
    ]
    item_mapping = None
    if items is not None:
        item_mapping, files[1] = open_items(items, settings)
    elif item_columns:
        raise InputError("--item_columns needs --items=FILE")
    folder = Path(data_path) / own_name(dataset, protocol)
    paths = (files[0].path, files[1].path if files[1] else None)
    if build_is_whole(folder, settings):
        check_raw_unchanged(folder, *paths)
        if dry_run:
            print(f"build      {folder}: there and whole; nothing to do")
        return folder
    if dry_run:
        for file in filter(None, files):
            size = file.path.stat().st_size / 2**20
            print(f"raw        {file.path}: {file.kind}, {size:,.1f} MiB, columns {', '.join(file.columns)}")
        print(f"build      {folder}: to be converted ({protocol}), memory up to {memory_limit} for DuckDB")
        return folder
    write_own(folder, settings, files, (mapping, item_mapping), memory_limit, threads, progress)
    return folder


def own_settings(
    dataset, protocol, valid_start_ms, test_start_ms, max_history, ascii_text, catalogue, source, columns,
    item_columns, timestamp_unit, list_separator, delimiter, encoding,
):  # fmt: skip
    """Return what decides the build, as `stats.json` records it; refuses what cannot be."""
    check_name(dataset)
    if dataset in (*PUBLISHED, *ALIASES) or is_sample(dataset):
        raise InputError(f"dataset={dataset} is a name of Amazon Reviews 2023 or the sample; give your data another")
    for key, value, known in (
        ("source", source, SOURCES), ("protocol", protocol, PROTOCOLS), ("catalogue", catalogue, CATALOGUES),
        ("timestamp_unit", timestamp_unit, TIME_UNITS), ("encoding", encoding, tuple(ENCODINGS)),
    ):  # fmt: skip
        if value not in known and not (key == "timestamp_unit" and "%" in value):
            raise InputError(f"unknown {key} {value!r}; known: {', '.join(known)}.{nearest(value, known)}")
    if int(max_history) < 1:
        raise InputError(f"max_history is {max_history}, expected 1 or more; 50 is the papers' value")
    if protocol == "last_out" and (valid_start_ms is not None or test_start_ms is not None):
        raise InputError("protocol=last_out has no instants; leave out valid_start_ms and test_start_ms")
    check_instants(valid_start_ms, test_start_ms)
    return {
        "dataset": dataset,
        "protocol": protocol,
        "valid_start_ms": valid_start_ms,
        "test_start_ms": test_start_ms,
        "max_history": int(max_history),
        "ascii_text": bool(ascii_text),
        "catalogue": catalogue,
        "source": source,
        "columns": columns,
        "item_columns": item_columns,
        "timestamp_unit": timestamp_unit,
        "list_separator": list_separator,
        "delimiter": delimiter,
        "encoding": encoding,
    }


def own_name(dataset, protocol):
    """Return the folder and file prefix of a build."""
    return dataset if protocol == "timestamp" else f"{dataset}-{protocol}"


def open_items(path, settings):
    """Return (mapping of the fields the file has, OwnFile).

    Raises:
        InputError: see `open_own`; or the file has no field that makes a text.
    """
    named = parse_mapping("item_columns", settings["item_columns"], ITEM_FIELDS)
    used = [name for names in named.values() for name in names]
    file = open_own(path, settings["source"], used or [ITEM_ID], settings["delimiter"], settings["encoding"])
    mapping = {f: named.get(f, [f]) for f in ITEM_FIELDS if f in named or f in file.columns}
    if ITEM_ID not in mapping:
        raise InputError(f"{path} has no column {ITEM_ID!r}; name it by --item_columns={ITEM_ID}=…; it has: "
                         f"{', '.join(file.columns)}")  # fmt: skip
    if not set(mapping) - {ITEM_ID}:
        raise InputError(
            f"{path}: no column is named title, features, categories or description; name them by "
            f"--item_columns=…,title=…; it has: {', '.join(file.columns)}"
        )
    return mapping, file


def write_own(folder, settings, files, mappings, memory_limit, threads, progress):
    """Convert into the build's folder, once, whoever else is at it."""
    from filelock import FileLock

    from dataset_tools.conversion.convert import convert_tables
    from dataset_tools.storage.duckdb_session import Duck, keep_buffers
    from recbole_blair.schema import VERSION

    def fill(temporary):
        with keep_buffers(), Duck(temporary, memory_limit, threads, progress) as duck:
            encoded = load_interactions(duck, files[0], mappings[0], settings["timestamp_unit"])
            load_items(duck, files[1], mappings[1], settings["list_separator"])
            found = convert_tables(duck, files[0].path, temporary, folder.name, settings, RULES)
        found["cleaning"]["interactions"] = found["cleaning"].pop("reviews")
        raw = [{"name": f.path.name, "bytes": f.path.stat().st_size} for f in files if f]
        written = {name: (temporary / name).stat().st_size for name in build_file_names(folder.name)}
        return {
            "build": folder.name, "format": FORMAT, "tool_version": VERSION, "settings": settings,
            "raw_files": raw, "files": written, "percent_encoded_ids": encoded, **found,
        }  # fmt: skip

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if not build_is_whole(folder, settings):
            make_build(folder, fill)


def find_own_build(dataset, data_path, protocol):
    """Return the folder of a build that `prepare_own` made, or None.

    Raises:
        InputError: it was made, but for the other protocol; or its files are not whole.
    """
    folder = Path(data_path) / own_name(dataset, protocol)
    stats = load_stats(folder)
    if stats is None or "source" not in stats["settings"]:
        for other in PROTOCOLS:
            there = load_stats(Path(data_path) / own_name(dataset, other))
            if stats is None and there and "source" in there["settings"]:
                raise InputError(
                    f"{dataset} in {data_path} was prepared with --protocol={other}; pass that, or prepare it with "
                    f"--protocol={protocol} too"
                )
        return None
    if not build_is_whole(folder, stats["settings"]):
        raise InputError(
            f"{folder} lacks files that {stats_path(folder).name} names; run the same prepare command again"
        )
    return folder

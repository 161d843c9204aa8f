"""Interactions and items of any shop or public log -> atomic files, by the conversion that Amazon's reviews take.

Only the reading differs: here it fills the tables `review` and `meta` that `convert_tables` takes from there.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dataset_tools.builds.dry_run import describe_own_plan
from dataset_tools.builds.folder import build_is_whole, check_same_files, ensure_written, files_are_whole
from dataset_tools.builds.raw_digests import RawFile, read_raw_file
from dataset_tools.builds.settings import OwnSettings, own_build_name
from dataset_tools.builds.statistics_file import check_format, load_stats, stats_path
from dataset_tools.conversion.convert import convert_tables
from dataset_tools.conversion.own_limits import apply_limits, count_log
from dataset_tools.conversion.own_tables import INTERACTION_FIELDS, RULES, load_interactions, load_items
from dataset_tools.items.item_lines import META_FIELDS
from dataset_tools.raw.own_formats import ATOMIC, OwnFile, open_own
from dataset_tools.storage.duckdb_session import keep_buffers
from dataset_tools.storage.resources import Resources
from recbole_blair.errors import InputError, nearest
from recbole_blair.schema import ITEM_ID, PROTOCOLS, TIMESTAMP

if TYPE_CHECKING:
    from collections.abc import Sequence

ITEM_FIELDS = (ITEM_ID, *META_FIELDS)
ATOMIC_COLUMNS = {  # of fields that are not named, the first that an atomic file has
    "title": ("title", "movie_title", "item_name", "name", "app_name", "book_title"),
    "categories": ("categories", "category", "genres", "genre", "class"),
    "store": ("store", "brand", "publisher"),
}
TIMED_PROTOCOLS = ("timestamp", "last_out")  # the others need no times


class OwnSource(NamedTuple):
    """The files of a build and, for each, which columns hold which field."""

    interactions: OwnFile
    columns: dict[str, list[str]]
    items: OwnFile | None
    item_columns: dict[str, list[str]]

    @property
    def files(self) -> list[OwnFile]:
        """Return the files that are given."""
        return [self.interactions] if self.items is None else [self.interactions, self.items]


def parse_mapping(option: str, text: str | None, fields: Sequence[str]) -> dict[str, list[str]]:
    """Read `field=column,field=column`; a field may take several columns, `features=tags+specs`, or alternatives.

    Args:
        option: its name, for messages.
        text: fields that are not named take the column of their own name.
        fields: the fields there are.

    Returns:
        Field to list of columns, of the fields that are named.

    Raises:
        InputError: a field that does not exist, one twice, or no column.
    """
    columns_of: dict[str, list[str]] = {}
    for part in filter(None, (part.strip() for part in (text or "").split(","))):
        field, _, columns = (piece.strip() for piece in part.partition("="))
        if field not in fields:
            raise InputError(
                f"--{option}: unknown field {field!r}; known: {', '.join(fields)}.{nearest(field, fields)}"
            )
        names = [name.strip() for name in columns.split("+") if name.strip()]
        if not names or field in columns_of:
            raise InputError(f"--{option}: {part!r}; expected {field}=<column>, once")
        columns_of[field] = names
    return columns_of


def prepare_own(
    dataset: str,
    interactions: Path | str,
    items: Path | str | None = None,
    data_path: Path | str = "dataset",
    memory_limit: str = "4GB",
    threads: int | None = None,
    progress: bool = True,
    dry_run: bool = False,
    force: bool = False,
    **settings: Any,
) -> Path:
    """Make the atomic files of data of one's own, unless they are there.

    Args:
        dataset: name of the build, and what `--dataset` is then; `-last_out` is added for that protocol.
        interactions: CSV, JSON lines, Parquet (by extension; `.gz` for the text ones), one event per row.
        items: the items' text, one item per row; None: no item has text.
        data_path: the build goes into `<data_path>/<build>/`.
        memory_limit, threads, progress: see `Resources`.
        dry_run: print what would be done and return.
        force: make them again, whatever is there.
        settings: the fields of `OwnSettings`.

    Returns:
        The folder of the build.

    Raises:
        InputError: anything the user can fix, in one line.
    """
    resolved, resources = OwnSettings(dataset, **settings), Resources(memory_limit, threads, progress)
    source = open_source(resolved, interactions, items)
    folder = Path(data_path) / resolved.build_name
    if resolved.source == ATOMIC and any(file.path.resolve().parent == folder.resolve() for file in source.files):
        raise InputError(
            f"the build would be written among its source's files in {folder}; name it otherwise: "
            f"--source_dir={folder} --dataset={dataset}-time, or give another --data_path"
        )
    whole = not force and build_is_whole(folder, resolved)
    if whole:
        check_same_files(folder, [file.path for file in source.files])
    if dry_run:
        print(describe_own_plan(folder, resolved, source.files, memory_limit))
    elif not whole:
        write_own(folder, resolved, source, resources, force)
    return folder


def open_source(settings: OwnSettings, interactions: Path | str, items: Path | str | None) -> OwnSource:
    """Find out how to read the files and which columns hold the fields.

    Raises:
        InputError: a file or column that is not there.
    """
    named = parse_mapping("columns", settings.columns, INTERACTION_FIELDS)
    columns = {field: named.get(field, [field]) for field in INTERACTION_FIELDS}
    if settings.protocol not in TIMED_PROTOCOLS and TIMESTAMP not in named:
        del columns[TIMESTAMP]
    file = open_own(interactions, settings.file_format, [name for names in columns.values() for name in names])
    if items is not None:
        return OwnSource(file, columns, *open_items(items, settings))
    for key in ("item_columns", "titled_only"):
        if getattr(settings, key):
            raise InputError(f"--{key} needs --items=FILE")
    return OwnSource(file, columns, None, {})


def open_items(path: Path | str, settings: OwnSettings) -> tuple[OwnFile, dict[str, list[str]]]:
    """Return how to read the items' file and the columns of the fields it has.

    Raises:
        InputError: see `open_own`; or the file has no field that makes a text.
    """
    named = parse_mapping("item_columns", settings.item_columns, ITEM_FIELDS)
    if settings.source == ATOMIC and ITEM_ID not in named:
        named[ITEM_ID] = parse_mapping("columns", settings.columns, INTERACTION_FIELDS).get(ITEM_ID, [ITEM_ID])
    used = [name for names in named.values() for name in names]
    file = open_own(path, settings.items_format, used or [ITEM_ID])
    others = ATOMIC_COLUMNS if settings.source == ATOMIC else {}
    for field in ITEM_FIELDS:
        column = next((name for name in others.get(field, (field,)) if name in file.columns), None)
        if column is not None:
            named.setdefault(field, [column])
    columns = {field: named[field] for field in ITEM_FIELDS if field in named}
    if ITEM_ID not in columns:
        raise InputError(f"{path} has no column {ITEM_ID!r}; name it by --item_columns={ITEM_ID}=…; it has: "
                         f"{', '.join(file.columns)}")  # fmt: skip
    if not set(columns) - {ITEM_ID}:
        raise InputError(
            f"{path}: no column is named title, features, categories or description; name them by "
            f"--item_columns=…,title=…; it has: {', '.join(file.columns)}"
        )
    return file, columns


def write_own(
    folder: Path, settings: OwnSettings, source: OwnSource, resources: Resources, force: bool = False
) -> None:
    """Convert into the build's folder, once, whoever else is at it; `force`: even where it is whole."""

    def fill(temporary: Path) -> tuple[list[RawFile], dict[str, Any]]:
        file, items = source.interactions, source.items
        raw_files = [read_raw_file(one.path) for one in source.files]  # before they are converted
        with keep_buffers(), resources.open_session(temporary) as duck:
            encoded = load_interactions(duck, file, source.columns, settings.timestamp_unit)
            load_items(duck, items, source.item_columns, settings.item_rules)
            log = count_log(duck)
            untitled = apply_limits(duck, settings.limits)
            counts = convert_tables(duck, file.path, temporary, folder.name, settings, RULES)
        counts["counts"] = {**counts["counts"], "log": log}
        counts["cleaning"]["metadata"]["item_without_title"] = untitled
        counts["cleaning"]["interactions"] = counts["cleaning"].pop("reviews")
        return raw_files, {"percent_encoded_ids": encoded, **counts}

    ensure_written(folder, settings, fill, force)


def find_own_build(dataset: str, data_path: Path | str, protocol: str) -> Path | None:
    """Return the folder of a build that `prepare_own` made, or None.

    Raises:
        InputError: it was made, but for the other protocol; or its files are not whole.
    """
    folder = Path(data_path) / own_build_name(dataset, protocol)
    stats = load_stats(folder)
    if stats is None or "source" not in stats["settings"]:
        for other in PROTOCOLS:
            there = load_stats(Path(data_path) / own_build_name(dataset, other))
            if stats is None and there and "source" in there["settings"]:
                raise InputError(
                    f"{dataset} in {data_path} was prepared with --protocol={other}; pass that, or prepare it with "
                    f"--protocol={protocol} too"
                )
        return None
    check_format(folder, stats)
    if not files_are_whole(folder, stats):
        raise InputError(
            f"{folder} lacks files that {stats_path(folder).name} names; run the same prepare command again"
        )
    return folder

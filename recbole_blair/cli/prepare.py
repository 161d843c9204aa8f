"""`recbole-blair prepare`: raw reviews and metadata -> atomic files."""

from __future__ import annotations

import shlex
import sys
import time
from argparse import Action
from typing import TYPE_CHECKING, Any

from recbole_blair.cli.options import RAY_ONLY, add_ray_options, print_next, ray_options
from recbole_blair.config import check_dataset_name
from recbole_blair.config.keys import props_keys
from recbole_blair.errors import InputError
from recbole_blair.files.output import check_output_folder
from recbole_blair.files.read import why_no_folder
from recbole_blair.schema import MAX_HISTORY, TEST_START_MS, VALID_START_MS, format_ms

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from dataset_tools.builds.settings import AmazonSettings
    from recbole_blair.cli.options import Parser
    from recbole_blair.parallel.ray_cluster import RayOptions

# Inside the functions: what loads DuckDB (dataset_tools) or starts processes (cluster).

SUMMARY = "make the atomic files of datasets: download or generate what is missing, clean, split, write"
EXAMPLE = (
    "recbole-blair prepare --dataset=Games,Baby --raw_dir=raw --memory_limit=8GB; data of your own (docs/own_data.md): "
    "recbole-blair prepare --dataset=shop --source=csv --interactions=log.csv --items=items.csv "
    "--columns=user_id=customer,item_id=sku,timestamp=time --timestamp_unit=s"
)
RECIPE = ("recipe", "source_dir")
OWN_ONLY = (
    *RECIPE, "interactions", "items", "columns", "item_columns", "list_separator", "delimiter", "header",
    "items_source", "items_delimiter", "items_encoding", "items_header", "missing_text", "events_from", "events_until",
)  # fmt: skip
ITEMS_OPTIONS = {
    "source": "str, csv|jsonl|parquet|python|atomic", "delimiter": "str", "encoding": "str, utf-8|utf-16|latin-1",
    "header": "str",
}  # fmt: skip
AMAZON_ONLY = ("raw_dir", "revision", "sample_users", "sample_items")


class Given(Action):
    """Stores a value and notes that the command line gave it: it then outranks a recipe's."""

    def __call__(self, parser: ArgumentParser, namespace: Namespace, value: Any, name: str | None = None) -> None:
        """Store the value of one option."""
        setattr(namespace, self.dest, value)
        namespace.given = (*getattr(namespace, "given", ()), self.dest)


def configure(parser: Parser) -> None:
    """Add the options."""

    def add(*names: str, **settings: Any) -> None:
        parser.add(*names, **{"action": Given, **settings})

    add(
        "--dataset",
        help="official or short names joined by commas, sample, all (33 categories), or any for own data; needed "
        "without --recipe, whose name it is else",
    )
    add_own_options(add)
    add("--data_path", kind="path", default="dataset", help="the builds go into <data_path>/<build>/")
    add(
        "--raw_dir",
        kind="path",
        default="raw",
        help="holds raw/review_categories/ and raw/meta_categories/, or is that raw/",
    )
    add("--protocol", key="protocol", default="timestamp", help="how rows are split")
    add(
        "--valid_start_ms",
        key="valid_start_ms",
        help=f"first instant of valid; empty: {VALID_START_MS}, or 8:1:1 for own data",
    )
    add(
        "--test_start_ms",
        key="test_start_ms",
        help=f"first instant of test; empty: {TEST_START_MS}, or 8:1:1 for own data",
    )
    add("--split_seed", key="split_seed", help="protocol=random: seed of the shuffle; empty: 101")
    add("--split_shares", key="split_shares", help="protocol=random: shares of train, valid and test; empty: 4,3,3")
    add("--max_history", key="max_history", default=MAX_HISTORY, help="latest items kept as a row's history")
    add("--ascii_text", kind="bool", nargs="?", const=True, default=False, help="drop non-ASCII, as released")
    add("--catalogue", key="catalogue", default="interactions", help="items in .item: of rows, or all")
    add(
        "--core",
        key="core",
        default="5-core",
        help="of last_out: 5-core, or users with five events, whatever the items",
    )
    add(
        "--keep_repeats",
        kind="bool",
        nargs="?",
        const=True,
        default=False,
        help="keep a user's later events with an item; else the first alone",
    )
    add("--memory_limit", key="memory_limit", default="4GB", help="memory DuckDB may use before it spills to disk")
    add("--threads", kind="int, >=1, <=4096", help="at most the cores; empty: the cores, at most 8")
    add("--revision", default="main", help="hub version of the raw files")
    add("--sample_users", key="sample_users", help="users of the generated dataset")
    add("--sample_items", key="sample_items", help="items of the generated dataset")
    add("--dry_run", kind="bool", nargs="?", const=True, default=False, help="print the plan and do nothing")
    add("--force", kind="bool", nargs="?", const=True, default=False, help="build again, whatever is there")
    add("--quiet", action="store_true", help="no progress bars")
    add_ray_options(parser)


def add_own_options(add: Callable[..., None]) -> None:
    """Add the options of data of one's own."""
    add(
        "--recipe",
        help="options for a public data set, by name or from a YAML file (docs/own_data.md); others outrank it",
    )
    add(
        "--source_dir",
        kind="path",
        help="the folder of the recipe's files, each as published or packed as .gz, or of the files of --source=atomic "
        "(empty: <data_path>/<dataset>/)",
    )
    add(
        "--source",
        kind="str, amazon|split|csv|jsonl|parquet|python|atomic",
        help="amazon; split: the published split files; or with --interactions the format of files whose extensions do "
        "not tell (csv); python: Python literals; atomic: a data set of RecBole's (docs/from_recbole.md)",
    )
    add(
        "--interactions",
        kind="path",
        help="own data: CSV, JSON lines or Parquet, one event a row; .gz for the text ones",
    )
    add("--items", kind="path", help="own data: the items' texts, one item a row; empty: for models of ids alone")
    add(
        "--columns",
        help="own data: user_id=…,item_id=…,timestamp=…; numbers from 1 for a CSV without header; a date in several: "
        "timestamp=year+month+day",
    )
    add(
        "--item_columns",
        help="own data: item_id=…,title=… and features, categories, description, store, price; "
        "several columns for one: features=tags+specs; the first that is not empty: title=title|name",
    )
    add("--timestamp_unit", default="ms", help="own data: ms, s, iso, or a format such as %%d.%%m.%%Y %%H:%%M")
    add("--list_separator", help="own data: splits categories and features, as | does in Action|Comedy")
    add(
        "--parse_lists",
        kind="bool",
        nargs="?",
        const=True,
        default=False,
        help="own data: ['a', 'b'] in a cell is a list",
    )
    add("--missing_text", help="own data: texts of items that mean no value, by commas")
    add(
        "--repeated_items",
        kind="str, first|commonest",
        default="first",
        help="own data: which of an item's rows counts: its first, or the first with its commonest title",
    )
    add("--titled_only", kind="bool", nargs="?", const=True, default=False, help="own data: only items with a title")
    add("--min_events", kind="int, >=1, <=1e6", default=1, help="own data: leave out users with fewer items")
    add("--min_item_events", kind="int, >=1, <=1e6", default=1, help="own data: then leave out items with fewer users")
    add("--events_from", help="own data: only events from this date on, as 2019-01-01")
    add("--events_until", help="own data: only events before this date")
    add("--delimiter", help="own data: of CSV; empty: by extension (a comma, a tab for .tsv, :: for .dat)")
    add("--encoding", kind="str, utf-8|utf-16|latin-1", default="utf-8", help="own data: of CSV")
    add(
        "--quoting",
        kind="str, double|backslash|none",
        default="double",
        help='own data: of CSV; a quote inside quotes is "" (double) or \\" (backslash); none: quotes are letters',
    )
    add("--header", help="own data: names of the columns of a CSV without header, by commas")
    for key, kind in ITEMS_OPTIONS.items():
        add(f"--items_{key}", kind=kind, help=f"own data: --{key} of the items, where it differs")


def run(args: Namespace) -> int:
    """Make each dataset and print its statistics, in the columns of the paper's Table 3."""
    from dataset_tools.atomic_source import refuse_unsplit
    from dataset_tools.builds.settings import AMAZON_KEYS, AmazonSettings
    from dataset_tools.raw.domains import resolve_datasets

    if args.recipe is not None:
        use_recipe(args)
    elif args.source == "atomic" or (args.source is None and is_atomic(args.interactions)):
        use_atomic(args)
    elif args.source_dir is not None:
        raise InputError(
            "--source_dir is the folder of a recipe's files or of RecBole's; add --recipe=NAME or --source=atomic, or "
            "leave it out"
        )
    if args.dataset is None:
        raise InputError("the following arguments are required: --dataset; see recbole-blair prepare --help")
    for name in args.dataset.split(","):
        check_dataset_name(name.strip())
    if args.threads is not None and args.ray_address is None:  # a cluster's nodes have cores of their own
        props_keys("overall.yaml").check("threads", args.threads, "the command line")
    ray = ray_options(args.engine, vars(args))
    if not args.dry_run and why_no_folder(args.data_path):  # a folder that is there may hold the build already
        check_output_folder(args.data_path)
    given = next((key for key in OWN_ONLY if getattr(args, key) is not None), None)
    args.source = args.source or ("csv" if given else "amazon")
    if args.source != "amazon" and ray:
        raise InputError(f"--engine=ray makes Amazon's domains, a task each; --source={args.source} is made here")
    if args.source not in ("amazon", "split"):
        return run_own(args)
    if given:
        raise InputError(f"--{given} is for data of your own; leave out --source={args.source}")
    options = {key: getattr(args, key) for key in AMAZON_KEYS}
    try:
        names = resolve_datasets(args.dataset, args.raw_dir)
    except InputError:
        refuse_unsplit(args.dataset, args.data_path, args.protocol)
        raise
    builds = [AmazonSettings.resolve(name, args.raw_dir, **options) for name in names]  # nothing is started before
    return run_amazon(builds, args, ray)


def use_recipe(args: Namespace) -> None:
    """Set the options that a recipe gives and the command line does not."""
    from dataset_tools.recipes import load_recipe

    options = load_recipe(args.recipe, args.source_dir)
    set_options(args, options)


def use_atomic(args: Namespace) -> None:
    """Set the options that a data set of RecBole's gives and the command line does not."""
    from dataset_tools.atomic_source import UNIT, load_atomic

    if args.interactions is None:
        set_options(args, load_atomic(args.dataset, args.data_path, args.source_dir))
    elif args.source_dir is not None:
        raise InputError("--interactions and --source_dir both name the interactions; leave out one of the two")
    else:
        set_options(args, {"source": "atomic", "timestamp_unit": UNIT})


def is_atomic(path: str | None) -> bool:
    """Tell whether a file of interactions has RecBole's extension."""
    return path is not None and path.removesuffix(".gz").endswith(".inter")


def set_options(args: Namespace, options: Mapping[str, Any]) -> None:
    """Set the options that the command line does not give."""
    for key in options.keys() - set(getattr(args, "given", ())):
        setattr(args, key, options[key])


def run_amazon(builds: list[AmazonSettings], args: Namespace, ray: RayOptions | None) -> int:
    """Make each dataset; with several, one that fails is named and the others are made."""
    from dataset_tools.builds.settings import AMAZON_KEYS
    from dataset_tools.builds.statistics_file import require_stats, table3_line
    from dataset_tools.prepare import plan_build, prepare_build, prepare_split
    from dataset_tools.storage.resources import Resources
    from recbole_blair.cluster import prepare as many

    resources = Resources(args.memory_limit, args.threads, not args.quiet)
    workplace = many.Workplace(args.data_path, args.raw_dir, resources, args.force)
    if args.source == "split":
        for settings in builds:
            folder = prepare_split(settings, args.data_path, args.raw_dir, resources, args.dry_run, args.force)
            if not args.dry_run:
                print_split(require_stats(folder))
    elif args.dry_run:
        for settings in builds:
            plan_build(settings, args.data_path, args.raw_dir, resources)
    elif ray:
        return many.report(many.prepare_over_cluster(builds, workplace, ray), len(builds))
    elif len(builds) > 1:
        return many.report(many.prepare_each(builds, workplace), len(builds))
    else:
        started_ns = time.time_ns()
        folder = prepare_build(builds[0], args.data_path, args.raw_dir, resources, args.force)
        print_if_reused(folder, started_ns)
        print(table3_line(require_stats(folder)))
        print_next(train_command(args, suggest_model(args.protocol), ("raw_dir", "data_path", *AMAZON_KEYS)))
    return 0


def print_split(stats: dict[str, Any]) -> None:
    """Print the statistics of a build from split files, and what its files held."""
    from dataset_tools.builds.statistics_file import table3_line

    print(table3_line(stats))
    if "split_files" in stats:
        print("split files: " + ", ".join(f"{name} {number:,}" for name, number in stats["split_files"].items()))
        dropped = ", ".join(f"{name} {number:,}" for name, number in stats["cleaning"]["reviews"].items() if number)
        print(f"reviews: left out {dropped or 'nothing'}")
    else:
        print(
            "made before, from the raw reviews; to make it from the split files, delete it or pass another --data_path"
        )


def print_if_reused(folder: Path, started_ns: int) -> None:
    """Say so if a build was there before the command started."""
    from dataset_tools.builds.statistics_file import stats_path

    if stats_path(folder).stat().st_mtime_ns < started_ns:
        print(f"{folder}: existing build reused, made from files of the same content; --force builds it again")


def suggest_model(protocol: str, has_text: bool = True) -> str:
    """Return a model that runs on such rows."""
    if protocol == "random":
        return "AlphaRec" if has_text else "LightGCN"
    return "UniSRecBlair" if has_text else "SASRec"


def train_command(args: Namespace, model: str, keys: Sequence[str]) -> str:
    """Return the command that trains on what was prepared; of `keys` those that are not `train`'s defaults."""
    defaults = props_keys("overall.yaml").defaults
    given = {key: getattr(args, key) for key in keys if getattr(args, key) != defaults[key]}
    typed = {key: ",".join(map(str, value)) if isinstance(value, list) else value for key, value in given.items()}
    words = [f"--model={model}", f"--dataset={args.dataset}", *(f"--{key}={value}" for key, value in typed.items())]
    return shlex.join(["train", *words])


def run_own(args: Namespace) -> int:
    """Make a dataset from files of the user's own and print its statistics, instants and dropped rows."""
    from dataset_tools.builds.statistics_file import require_stats, table3_line
    from dataset_tools.own_data import prepare_own

    if args.interactions is None:
        raise InputError("data of your own needs --interactions=FILE")
    skipped = ("command", "quiet", "engine", "given", *RECIPE, *AMAZON_ONLY, *RAY_ONLY)
    options = {key: value for key, value in vars(args).items() if key not in skipped}
    started_ns = time.time_ns()
    folder = prepare_own(progress=not args.quiet, **options)
    if args.dry_run:
        return 0
    print_if_reused(folder, started_ns)
    stats = require_stats(folder)
    print(table3_line(stats))
    if args.protocol == "timestamp":
        print(f"train < {' <= valid < '.join(map(format_ms, stats['instants'].values()))} <= test")
    log, kept = stats["counts"].get("log"), stats["counts"]["interactions"]
    if log:  # builds of older versions have none
        print(
            f"log: {log['pairs']:,} pairs of {log['users']:,} users and {log['items']:,} items; kept {kept:,}; "
            f"{log['with_metadata']:,} have a row of the items, {log['with_title']:,} a title"
        )
    for table, counts in stats["cleaning"].items():
        dropped = ", ".join(f"{name} {number:,}" for name, number in counts.items() if number)
        print(f"{table}: left out {dropped or 'nothing'}")
    if "unmatched_ids" in stats:
        print(f"warning: some interactions have no item: {stats['unmatched_ids']}", file=sys.stderr)
    keys = ("data_path", "protocol", "max_history", "ascii_text", "catalogue", "split_seed", "split_shares")
    print_next(train_command(args, suggest_model(args.protocol, bool(args.items)), keys))
    return 0

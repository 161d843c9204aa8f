"""`recbole-blair recommend`: the best items for known users, or for any history."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from recbole_blair.errors import InputError
from recbole_blair.files.output import check_output_file

if TYPE_CHECKING:
    from argparse import Namespace

    from recbole_blair.cli.options import Parser
    from recbole_blair.recommend.recommender import Recommender

# Inside the functions: what loads torch and RecBole.

SUMMARY = "recommend items of a trained run to known users or to histories of anybody"
EXAMPLE = "recbole-blair recommend --checkpoint=runs/games --users=histories.jsonl --top=10 --output=top.jsonl"


def configure(parser: Parser) -> None:
    """Add the options."""
    add = parser.add
    add_run_options(parser)
    add(
        "--users",
        required=True,
        help="JSONL file of {user_id, item_id_list[, timestamp_list]}, file of ids, or ids of known users: A,B,C",
    )
    add("--top", kind="int, >=1, <=1e6", default=10, help="items per user")
    add_request_time(parser)
    add("--include_history", action="store_true", help="recommend items of the user's history, too")
    add("--exclude_history", action="store_true", help="leave them out: the default but for builds with --keep_repeats")
    add_filter_options(parser)
    add_output_options(parser)


def add_filter_options(parser: Parser) -> None:
    """Add the options that limit which items are shown."""
    add = parser.add
    add("--allow", kind="path", help="file with one item id per line: these items alone are shown")
    add("--block", kind="path", help="file with one item id per line: these items are never shown")
    add("--where", help='condition on item columns: --where="categories=Cables and price<20"')
    add("--skip_unknown", action="store_true", help="leave out ids that the run does not know; empty: refuse them")


def add_output_options(parser: Parser) -> None:
    """Add the options that say where and how results are written."""
    kind = "str, table|jsonl|csv|parquet"
    parser.add("--format", kind=kind, help="table, jsonl, csv or parquet; empty: by the ending of --output, else table")
    parser.add("--output", kind="path", help="file to write; empty: print")


def add_run_options(parser: Parser) -> None:
    """Add the options that say which run, and what there is around it."""
    add = parser.add
    add("--checkpoint", kind="path", required=True, help="a run's folder, or org/name[@revision] of one on the hub")
    add("--new_items", kind="path", help="JSONL file of {item_id, title, …}: items training never saw")
    add("--data_path", kind="path", help="folder that holds the build; empty: where the run had it")
    add("--plm", key="plm", help="encoder of new items; empty: where the run had it")
    add("--plugin", help="file of a model of one's own; empty: where the run had it")
    add("--device", key="device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--precision", key="precision", help="fp32, bf16 or auto; empty: the run's own")
    add("--ops", key="ops", help="fast or plain; empty: the run's own")
    add("--quiet", action="store_true", help="no progress bars")


def add_request_time(parser: Parser) -> None:
    """Add the option that says when the recommendations are asked for."""
    meaning = "for HSTU (time_bias: request): now, Unix ms or a date; empty: the end of the data"
    parser.add("--request_time", help=meaning)


def open_recommender(args: Namespace) -> Recommender:
    """Open the run the options name, its new items added."""
    from recbole_blair import load

    return load(
        args.checkpoint,
        args.new_items,
        data_path=args.data_path,
        plm=args.plm,
        plugin=args.plugin,
        device=args.device,
        precision=args.precision,
        ops=args.ops,
        show_progress=not args.quiet,
    )


def run(args: Namespace) -> int:
    """Write the recommendations."""
    from recbole_blair.recommend.output import choose_format, write_recommendations
    from recbole_blair.recommend.selection import Filters

    if args.include_history and args.exclude_history:
        raise InputError("--include_history and --exclude_history contradict each other; give one of them")
    name = choose_format(args.format, args.output)
    if args.output:
        check_output_file(args.output)
    recommender = open_recommender(args)
    filters = Filters(args.allow, args.block, args.where, args.skip_unknown)
    excluded = (
        True
        if args.exclude_history
        else False
        if args.include_history
        else not recommender.scorer.run.dataset.keeps_repeats()
    )
    if not args.quiet:
        print(f"items of a user's history are {'left out' if excluded else 'ranked, too'}", file=sys.stderr)
    frames = recommender.iter_recommendations(args.users, args.top, excluded, args.request_time, filters)
    rows = write_recommendations(frames, name, args.output)
    if args.output:
        print(f"{args.output}: {rows} recommendations", file=sys.stderr)
    return 0

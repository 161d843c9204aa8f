"""`recbole-blair recommend`: the best items for known users, or for any history."""

from recbole_blair.files.output import check_output_file

SUMMARY = "recommend items of a trained run to known users or to histories of anybody"
EXAMPLE = "recbole-blair recommend --checkpoint=runs/games --users=histories.jsonl --top=10 --output=top.jsonl"


def configure(parser):
    """Add the options."""
    add_run_options(parser)
    parser.add_argument(
        "--users",
        required=True,
        help="JSONL file of {user_id, item_id_list[, timestamp_list]}, file of ids, or ids of known users: A,B,C",
    )
    parser.add_argument("--top", type=int, default=10, help="items a user")
    parser.add_argument("--exclude_history", action="store_true", help="leave out the items of the user's history")
    parser.add_argument(
        "--format", default=None, help="table, jsonl, csv or parquet; empty: by the ending of --output, else table"
    )
    parser.add_argument("--output", default=None, help="file to write; empty: print")


def add_run_options(parser):
    """Add the options that say which run, and what there is around it."""
    parser.add_argument("--checkpoint", required=True, help="a run's folder")
    parser.add_argument("--new_items", default=None, help="JSONL file of {item_id, title, …}: items training never saw")
    parser.add_argument(
        "--request_time",
        default=None,
        help="for HSTU (time_bias: request): now, Unix ms or a date; empty: the end of the data",
    )
    parser.add_argument("--data_path", default=None, help="folder that holds the build; empty: where the run had it")
    parser.add_argument("--plm", default=None, help="encoder of new items; empty: where the run had it")
    parser.add_argument("--plugin", default=None, help="file of a model of one's own; empty: where the run had it")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", default=None, help="fp32, bf16 or auto; empty: the run's own")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def open_recommender(args):
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
        show_progress=not args.quiet,
    )


def run(args):
    """Write the recommendations."""
    import sys

    from recbole_blair.recommend.output import choose_format, write_recommendations

    name = choose_format(args.format, args.output)
    if args.output:
        check_output_file(args.output)
    recommender = open_recommender(args)
    frames = recommender.iter_recommendations(args.users, args.top, args.exclude_history, args.request_time)
    rows = write_recommendations(frames, name, args.output)
    if args.output:
        print(f"{args.output}: {rows} recommendations", file=sys.stderr)
    return 0

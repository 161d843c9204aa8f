"""`recbole-blair evaluate`: a run's best weights on a split again: other k, the history masked, parts of the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argparse import Namespace

    from recbole_blair.cli.options import Parser

# Inside the functions: what loads torch and RecBole (report).

SUMMARY = "evaluate a trained run again, whole or broken down"
EXAMPLE = "recbole-blair evaluate --checkpoint=runs/games --by=new_item,popularity --output=breakdown.json"


def configure(parser: Parser) -> None:
    """Add the options."""
    add = parser.add
    add(
        "--checkpoint",
        kind="path",
        required=True,
        help="a run's folder, or with --data_path org/name of one on the hub",
    )
    add("--split", kind="str, train|valid|test", default="test", help="rows to rank")
    add("--topk", key="topk", help="list of k, as in 10,50; empty: the run's own")
    add("--plugin", help="the run's plugin file, where it is now; empty: where it was")
    add("--plm", key="plm", help="the run's encoder, where it is now; empty: where it was")
    add("--data_path", kind="path", help="folder of the builds; empty: the run's own")
    add("--raw_dir", kind="path", help="folder of the raw files; empty: the run's own")
    add("--device", key="device", default="auto", help="auto, cuda, cuda:N or cpu")
    add("--ops", key="ops", help="fast or plain; empty: the run's own")
    add("--mask_history", action="store_true", help="take the history's items out of the ranking")
    kinds = "popularity, history_length, new_item, category, time"
    add("--by", help=f"breakdowns, separated by commas: {kinds}")
    add("--output", kind="path", help="file for all numbers, .json or .parquet")


def run(args: Namespace) -> int:
    """Print one line a metric, and a table a breakdown."""
    from recbole_blair.report.breakdown import parse_breakdowns

    changes: dict[str, Any] = {"mask_history": True} if args.mask_history else {}
    places = ("topk", "plugin", "plm", "data_path", "raw_dir", "device", "ops")
    changes.update({key: getattr(args, key) for key in places if getattr(args, key) is not None})
    by = [] if args.by is None else parse_breakdowns(args.by)
    from recbole_blair.report import evaluation

    if args.output is not None:
        evaluation.check_output(args.output)
    result = evaluation.evaluate_by(args.checkpoint, by, args.split, **changes)
    evaluation.print_result(result)
    if args.output is not None:
        evaluation.write_result(result, args.output)
        print(f"saved in {args.output}")
    return 0

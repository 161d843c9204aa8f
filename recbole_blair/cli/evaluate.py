"""`recbole-blair evaluate`: a run's best weights on a split again: other k, the history masked, parts of the rows."""

SUMMARY = "evaluate a trained run again, whole or broken down"
EXAMPLE = "recbole-blair evaluate --checkpoint=runs/games --by=new_item,popularity --output=breakdown.json"


def configure(parser):
    """Add the options."""
    parser.add_argument("--checkpoint", required=True, help="a run's folder")
    parser.add_argument("--split", default="test", choices=("train", "valid", "test"), help="rows to rank")
    parser.add_argument("--topk", default=None, help="list of k, as in 10,50; empty: the run's own")
    parser.add_argument("--plugin", default=None, help="the run's plugin file, where it is now; empty: where it was")
    parser.add_argument("--plm", default=None, help="the run's encoder, where it is now; empty: where it was")
    parser.add_argument("--data_path", default=None, help="folder of the builds; empty: the run's own")
    parser.add_argument("--raw_dir", default=None, help="folder of the raw files; empty: the run's own")
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:N or cpu")
    parser.add_argument("--mask_history", action="store_true", help="take the history's items out of the ranking")
    kinds = "popularity, history_length, new_item, category, time"
    parser.add_argument("--by", default=None, help=f"breakdowns, separated by commas: {kinds}")
    parser.add_argument("--output", default=None, help="file for all numbers, .json or .parquet")


def run(args):
    """Print one line a metric, and a table a breakdown."""
    from recbole_blair.errors import InputError
    from recbole_blair.report.breakdown import parse_breakdowns

    changes = {"mask_history": True} if args.mask_history else {}
    if args.topk:
        parts = args.topk.split(",")
        if not all(p.isdigit() and int(p) > 0 for p in parts):
            raise InputError(f"--topk={args.topk} is not a list of integers above 0, as in 10,50")
        changes["topk"] = [int(p) for p in parts]
    places = ("plugin", "plm", "data_path", "raw_dir", "device")
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

"""`recbole-blair evaluate`: a run's best weights on a split again, with other k or the history masked."""

SUMMARY = "evaluate a trained run again"
EXAMPLE = "recbole-blair evaluate --checkpoint=runs/games --split=test --topk=10,50,200"


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


def run(args):
    """Print one line a metric."""
    from recbole_blair.errors import InputError
    from recbole_blair.quick_start import evaluate_run

    changes = {"mask_history": True} if args.mask_history else {}
    if args.topk:
        parts = args.topk.split(",")
        if not all(p.isdigit() and int(p) > 0 for p in parts):
            raise InputError(f"--topk={args.topk} is not a list of integers above 0, as in 10,50")
        changes["topk"] = [int(p) for p in parts]
    places = ("plugin", "plm", "data_path", "raw_dir", "device")
    changes.update({key: getattr(args, key) for key in places if getattr(args, key) is not None})
    metrics, rank = evaluate_run(args.checkpoint, args.split, **changes)
    print(f"{args.split}: {len(rank)} rows")
    for name, value in metrics.items():
        print(f"{name:12} {value:.6f}")
    return 0

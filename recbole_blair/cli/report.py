"""`recbole-blair report`: runs as one HTML page that needs nothing but a browser."""

from recbole_blair.errors import InputError
from recbole_blair.files.output import check_output_file

SUMMARY = "make one self-contained HTML page from runs: table, tests, curves, breakdowns, examples"
EXAMPLE = "recbole-blair report runs/games --output=report.html"


def configure(parser):
    """Add the options."""
    add = parser.add_argument
    add("runs", nargs="+", metavar="folder", help="run folders, or folders that hold runs")
    add("--output", default="report.html", help="the page's file")
    add("--title", default=None, help="the page's title; empty: the data sets' names")
    add("--metric", default="ndcg@10", help="metric of headline, tests, breakdowns and charts")
    add("--by", default="new_item,popularity,history_length", help="breakdowns, as in `evaluate --by`")
    add("--examples", type=int, default=6, help="test users shown with each model's first five items; 0: none")
    add("--samples", type=int, default=10_000, help="bootstrap samples and sign flips of the paired tests")
    add("--seed", type=int, default=0, help="of the tests' samples and the choice of examples")
    add("--no_evaluate", action="store_true", help="do not evaluate runs again that saved no ranks")
    add("--data_path", default=None, help="folder of the builds; empty: as each run's config.yaml says")
    add("--plugin", default=None, help="plugin files of runs whose own moved, separated by commas")
    add("--device", default="auto", help="auto, cuda, cuda:N or cpu")
    add("--quiet", action="store_true", help="no progress bars")


def run(args):
    """Gather, draw, write."""
    from pathlib import Path

    from recbole_blair.files.write import write_text
    from recbole_blair.registry import use_plugins
    from recbole_blair.report.breakdown import parse_breakdowns
    from recbole_blair.report.collect import Options, collect
    from recbole_blair.report.page import render

    output = Path(args.output)
    if output.is_dir() or output.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--output={args.output}: expected the name of a page, as in report.html")
    check_output_file(output)
    if args.examples < 0 or args.samples < 100 or args.seed < 0:
        raise InputError("--examples and --seed must be 0 or above, --samples 100 or above")
    options = Options(
        metric=args.metric.lower(),
        by=tuple(parse_breakdowns(args.by)),
        examples=args.examples,
        samples=args.samples,
        seed=args.seed,
        evaluate=not args.no_evaluate,
        data_path=args.data_path,
        device=args.device,
        progress=not args.quiet,
    )
    use_plugins(args.plugin)
    report = collect(args.runs, options)
    page = render(report, args.title)
    write_text(output, page)
    for line in messages(report):
        print(line)
    print(f"{output}: {len(page.encode()) / 1024:,.0f} KiB")
    return 0


def messages(report):
    """Say what is in the page and, a line each, what is not and why."""
    for panel in report["panels"]:
        runs = sum(len(group["runs"]) for group in panel["groups"])
        models = len(panel["groups"])
        yield f"{panel['dataset']}, {panel['protocol']}: {runs} run(s) of {models} configuration(s)"
        for part, reasons in panel["missing"].items():
            yield from (f"  {part}: {reason}" for reason in dict.fromkeys(reasons))
    yield from (f"left out: {line}" for line in report["notes"])

"""`recbole-blair report`: runs as one HTML page that needs nothing but a browser."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_blair.errors import InputError
from recbole_blair.files.output import check_output_file
from recbole_blair.files.write import write_text
from recbole_blair.registry import use_plugins

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

    from recbole_blair.cli.options import Parser

# Inside the functions: what loads NumPy and torch (report).

SUMMARY = "make one self-contained HTML page from runs: table, tests, curves, breakdowns, examples"
EXAMPLE = "recbole-blair report runs/games --output=report.html"


def configure(parser: Parser) -> None:
    """Add the options."""
    add = parser.add
    add("runs", kind="path", nargs="+", metavar="folder", help="run folders, or folders that hold runs")
    add("--output", kind="path", default="report.html", help="the page's file")
    add("--title", help="the page's title; empty: the data sets' names")
    add("--metric", key="valid_metric", default="ndcg@10", help="metric of headline, tests, breakdowns and charts")
    add("--by", default="new_item,popularity,history_length", help="breakdowns, as in `evaluate --by`")
    add(
        "--examples",
        kind="int, >=0, <=1000",
        default=6,
        help="test users shown with each model's first five items; 0: none",
    )
    add(
        "--samples",
        kind="int, >=100, <=1e6",
        default=10_000,
        help="bootstrap samples and sign flips of the paired tests",
    )
    add("--seed", key="seed", default=0, help="of the tests' samples and the choice of examples")
    add("--no_evaluate", action="store_true", help="do not evaluate runs again that saved no ranks")
    add("--data_path", kind="path", help="folder of the builds; empty: as each run's config.yaml says")
    add("--plugin", help="plugin files of runs whose own moved, separated by commas")
    add("--device", key="device", default="auto", help="auto, cuda, cuda:N or cpu")
    add("--quiet", action="store_true", help="no progress bars")


def run(args: Namespace) -> int:
    """Gather, draw, write."""
    from recbole_blair.report.breakdown import parse_breakdowns
    from recbole_blair.report.collect import Options, collect
    from recbole_blair.report.page import render

    output = Path(args.output)
    if output.is_dir() or output.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--output={args.output}: expected the name of a page, as in report.html")
    check_output_file(output)
    options = Options(
        metric=args.metric,
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
    for line in missing_parts(report):
        print(line, file=sys.stderr)
    for panel in report["panels"]:
        runs = sum(len(group["runs"]) for group in panel["groups"])
        models = len(panel["groups"])
        print(f"{panel['dataset']}, {panel['protocol']}: {runs} run(s) of {models} configuration(s)")
    print(f"{output}: {len(page.encode()) / 1024:,.0f} KiB")
    return 0


def missing_parts(report: dict[str, Any]) -> Iterator[str]:
    """Say what is not on the page and why, one line each."""
    for panel in report["panels"]:
        for part, reasons in panel["missing"].items():
            yield from (f"{panel['dataset']}, {part}: {reason}" for reason in dict.fromkeys(reasons))
    yield from (f"left out: {line}" for line in report["notes"])

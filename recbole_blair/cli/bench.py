"""`recbole-blair bench`: text encoders compared on recommendation and search, with a leaderboard."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from recbole_blair.cli.options import add_ray_options, ray_options
from recbole_blair.errors import InputError
from recbole_blair.files.output import check_output_folder
from recbole_blair.files.read import why_no_folder

if TYPE_CHECKING:
    from argparse import Namespace

    from recbole_blair.bench.results import Board
    from recbole_blair.bench.run import Bench, Failure
    from recbole_blair.cli.options import Parser

# Inside the functions: what loads torch, DuckDB and RecBole (bench).

SUMMARY = "compare text encoders on sequential recommendation, collaborative filtering and search: a leaderboard"
EXAMPLE = "recbole-blair bench --suite=slices --plm=tfidf-svd,intfloat/e5-small-v2 --output_dir=runs/bench"


def configure(parser: Parser) -> None:
    """Add the options."""
    add = parser.add
    add("--plm", help="encoders joined by commas: hub ids, folders, tfidf-svd, openai:NAME; NAME=folder renames one")
    add("--suite", kind="name", default="blair-bench", help="blair-bench, slices or smoke: props/bench/")
    add("--tasks", help="of the suite, joined by commas: sequential, collaborative, search; empty: all")
    add("--datasets", help="of the suite, joined by commas; empty: all")
    add("--seeds", key="seeds", help="of training, in place of the suite's, as in 2020,2021,2022")
    add("--output_dir", kind="path", default="runs/bench", help="cells, results, leaderboard; the same one goes on")
    add("--data_path", kind="path", default="dataset", help="folder of the builds")
    add("--raw_dir", kind="path", default="raw", help="raw files as published")
    add("--measuring", kind="path", help="folder of platforms/ and product_search/; empty: the one that holds raw_dir")
    add("--merge", kind="path", nargs="+", metavar="FOLDER", help="join the finished cells of benches; runs nothing")
    add("--samples", kind="int, >=100, <=1e6", default=10_000, help="bootstrap samples of intervals and tests")
    add("--device", key="device", default="auto", help="auto, cpu, cuda, cuda:N")
    add("--threads", key="threads", help="CPU threads; empty: PyTorch's own choice")
    add("--dry_run", action="store_true", help="print the cells with disk, memory and hours, and stop")
    add("--quiet", action="store_true", help="no progress bars")
    add_ray_options(parser)


def run(args: Namespace) -> int:
    """Join benches, print the plan, or make the cells and print the table; 1 when a cell failed."""
    ray = ray_options(args.engine, vars(args))
    if args.merge:
        given = [name for name in ("plm", "tasks", "datasets", "seeds") if getattr(args, name)]
        if given or args.dry_run:
            raise InputError(f"--merge runs nothing: leave out --{given[0] if given else 'dry_run'}")
        from recbole_blair.bench.merge import merge

        check_output_folder(args.output_dir)
        show(merge(args.merge, args.output_dir, args.samples), [], args.output_dir)
        return 0
    if not args.plm:
        raise InputError(f"--plm is missing: the encoders to compare; example: {EXAMPLE}")
    bench = build_bench(args)
    if args.dry_run:
        from recbole_blair.bench.plan import plan_lines

        for line in plan_lines(bench, args.device):
            print(line)
        return 0
    from recbole_blair.bench.run import run_bench

    run_cells = None
    if ray:
        from recbole_blair.bench.over_cluster import cells_over_cluster

        run_cells = cells_over_cluster(ray)
    for folder in (args.output_dir, args.data_path):
        if why_no_folder(folder):  # one that is there may hold all that is asked for
            check_output_folder(folder)
    board, failures = run_bench(bench, run_cells)
    show(board, failures, args.output_dir)
    return 1 if failures else 0


def build_bench(args: Namespace) -> Bench:
    """Return what a command line asks for."""
    from recbole_blair.bench.cells import choose_encoders
    from recbole_blair.bench.run import Bench
    from recbole_blair.bench.suite import load_suite
    from recbole_blair.steps.step import Places

    suite = load_suite(args.suite).select(split(args.tasks), split(args.datasets), args.seeds)
    encoders = choose_encoders(args.plm)
    train: dict[str, Any] = {"device": args.device, **({"threads": args.threads} if args.threads else {})}
    places = Places(
        raw_dir=args.raw_dir, data_path=args.data_path, output_dir=args.output_dir, measuring=args.measuring,
        progress=not args.quiet, train=train,
    )  # fmt: skip
    return Bench(suite, tuple(encoders), places, shown_command(args, [one.label for one in encoders]), args.samples)


def split(text: str | None) -> list[str] | None:
    """Return the words of a list joined by commas; None for none."""
    return [word for word in (word.strip() for word in (text or "").split(",")) if word] or None


def shown_command(args: Namespace, labels: list[str]) -> str:
    """Return the command as others may read it: without this machine's paths."""
    given = {"suite": args.suite, "plm": ",".join(labels), "tasks": args.tasks, "datasets": args.datasets}
    given["seeds"] = ",".join(map(str, args.seeds)) if args.seeds else None
    return shlex.join(["recbole-blair", "bench", *(f"--{key}={value}" for key, value in given.items() if value)])


def show(board: Board, failures: list[Failure], folder: str) -> None:
    """Print the table, what is missing, and where the files are."""
    import sys

    from rich.console import Console  # heavy

    from recbole_blair.bench.leaderboard import board_table
    from recbole_blair.bench.results import LINES, PAGE, RESULTS

    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(board_table(board))
    print("* not certainly different from the best (paired bootstrap, Holm); intervals of 95 %")
    for encoder in board["encoders"]:
        if encoder["lacks"]:
            print(f"{encoder['label']} is not compared: it lacks {', '.join(encoder['lacks'])}")
    for cell, error in failures:
        print(f"failed: {cell}: {error}")
    print(f"{folder}: {PAGE}, {RESULTS}, {LINES}")

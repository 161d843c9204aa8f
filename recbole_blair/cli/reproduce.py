"""`recbole-blair reproduce`: a paper's table, or one of our own, by one command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recbole_blair.errors import InputError
from recbole_blair.files.output import check_output_file, check_output_folder
from recbole_blair.files.write import write_text

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterable

    from recbole_blair.cli.options import Parser
    from recbole_blair.steps.step import Places

# Inside the functions: what loads torch, DuckDB and RecBole (reproduce).

SUMMARY = "reproduce a table: run it, compare with the published values; or all of them small, on generated data"
EXAMPLE = (
    "recbole-blair reproduce blair-table4 --scale=smoke; recbole-blair reproduce blair-table4/unisrec-blair-base/games "
    "--scale=full --raw_dir=raw"
)


def configure(parser: Parser) -> None:
    """Add the options."""
    add = parser.add
    add("id", nargs="?", help="a table, a row, or several by commas; all; see --list")
    add(
        "--scale",
        kind="str, smoke|full",
        default="smoke",
        help="smoke: generated data, minutes for all rows; full: as published",
    )
    add("--list", action="store_true", help="print every row: data, model, published values, tolerance, cost")
    add("--status", action="store_true", help="print which rows have results, and where")
    add(
        "--output",
        kind="path",
        help="print the measured tables and write them to this .md file, or their figure to this .svg; runs nothing",
    )
    add("--raw_dir", kind="path", default="raw", help="full: raw files as published; steam/ in it holds Steam's")
    add("--data_path", kind="path", default="dataset", help="full: the builds and query sets")
    add(
        "--measuring",
        kind="path",
        help="full: folder of the measuring data (slices-…); empty: the one that holds raw_dir",
    )
    add("--plm", key="plm", help="full: the encoder of rows that name MiniLM, a folder")
    add("--output_dir", kind="path", default="runs/reproduce", help="results and run folders; the same one goes on")
    add("--seeds", key="seeds", help="full: in place of a row's own, as in 2020,2021")
    add("--device", key="device", default="auto", help="full: auto, cpu, cuda, cuda:N")
    add("--threads", key="threads", help="full: CPU threads; empty: PyTorch's own choice")
    add("--quiet", action="store_true", help="no progress bars")


def run(args: Namespace) -> int:
    """List, show the status, or reproduce and print each row's verdict; 1 when one is outside or fails."""
    from recbole_blair.reproduce import display
    from recbole_blair.reproduce.tables import ALL, find_rows

    if args.list or args.status:
        rows = find_rows(args.id or ALL)
        lines = display.list_lines(rows) if args.list else display.status_lines(rows, args.output_dir)
        print("\n".join(lines))
        return 0
    if not args.id:
        raise InputError(f"no id given; `recbole-blair reproduce --list` shows them; example: {EXAMPLE}")
    if args.output is not None:
        return draw(args)
    from recbole_blair.reproduce.run import reproduce

    check_output_folder(args.output_dir)

    results = reproduce(args.id, places(args), args.scale, lambda result: show(display.result_lines(result)))
    failed = [result["id"] for result in results if not display.is_success(result)]
    print(
        f"{len(results) - len(failed)} of {len(results)} rows hold; results in {args.output_dir}/{args.scale}/results"
    )
    return 1 if failed else 0


def draw(args: Namespace) -> int:
    """Print the tables of what was measured at the full scale; write them, or the table's figure, to `--output`."""
    from recbole_blair.reproduce import differences
    from recbole_blair.reproduce.parts import cost_lines, part_lines
    from recbole_blair.reproduce.tables import find_rows

    output = Path(args.output)
    if output.is_dir() or output.suffix.lower() not in (".svg", ".md"):
        raise InputError(
            f"--output={args.output}: expected the name of a figure or of Markdown tables, as in gain.svg, tables.md"
        )
    check_output_file(output)
    rows = find_rows(args.id)
    measured = differences.load_measured(rows, args.output_dir)
    rows = [row for row in rows if row.id in measured]
    builds = differences.describe_builds(rows, args.data_path)
    found = differences.find_differences(rows, measured)
    lines = [
        *differences.markdown_lines(rows, measured, builds, found),
        *part_lines(rows, measured, args.data_path),
        *cost_lines(rows, measured),
    ]
    if output.suffix.lower() == ".svg":
        write_text(output, differences.draw_differences(rows[0].table, found, builds))
    else:
        write_text(output, "\n".join(lines) + "\n")
    show(lines)
    return 0


def show(lines: Iterable[str]) -> None:
    """Print lines at once, so that a pipe shows them as they come."""
    print("\n".join(lines), flush=True)


def places(args: Namespace) -> Places:
    """Return where things are."""
    from recbole_blair.steps.step import Places

    train = {"device": args.device, **({"threads": args.threads} if args.threads else {})}
    return Places(
        args.raw_dir, args.data_path, args.output_dir, args.plm, args.measuring, args.seeds, not args.quiet, train
    )

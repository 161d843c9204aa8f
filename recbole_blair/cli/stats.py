"""`recbole-blair stats`: count raw reviews and metadata, beside the published figures."""

from __future__ import annotations

import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_blair.errors import InputError
from recbole_blair.files.write import write_json

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Sequence

    from recbole_blair.cli.options import Parser

# Inside the functions: what loads DuckDB (dataset_tools).

SUMMARY = "count reviews, users, items, words of raw files (Tables 1 and 3 of the BLaIR paper), per domain and in all"
EXAMPLE = "recbole-blair stats Games Baby --raw_dir=raw --output=stats.json"
TABLE1_HEADS = (
    *("domain", "reviews", "users", "items", "with metadata", "metadata items", "review words", "metadata words"),
    *("first", "last"),
)
TABLE3_HEADS = ("domain", "#Items", "#Inters", "Avg.n", "Avg.t", "from")


def configure(parser: Parser) -> None:
    """Add the options."""
    add = parser.add
    add(
        "domains", nargs="+", metavar="domain", help="official or short names, sample, all (33 categories), or own data"
    )
    add(
        "--raw_dir",
        kind="path",
        default="raw",
        help="holds raw/review_categories/ and raw/meta_categories/, or is that raw/",
    )
    add(
        "--data_path",
        kind="path",
        default="dataset",
        help="a build there gives Table 3; else it is computed and not kept",
    )
    add("--no_table3", action="store_true", help="count Table 1 only")
    add(
        "--memory_limit",
        key="memory_limit",
        default="4GB",
        help="memory DuckDB may use before it spills to the temporary folder (TMPDIR)",
    )
    add("--threads", key="threads", help="empty: the cores, at most 8")
    add("--revision", default="main", help="hub version of raw files that are missing and are downloaded")
    add(
        "--output",
        kind="path",
        help="JSON file for all counts, differences and notes; a count of several domains goes on after a kill",
    )
    add("--quiet", action="store_true", help="no progress bars")


def run(args: Namespace) -> int:
    """Count, print both tables, the differences to the published figures and what explains them."""
    from dataset_tools.counts.published import compare
    from dataset_tools.counts.raw_counts import count_domains
    from dataset_tools.raw.domains import resolve_datasets
    from dataset_tools.storage.resources import Resources

    output = Path(args.output) if args.output else None
    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        raise InputError(f"--output={output}: expected the name of a JSON file in a folder that exists")
    domains = resolve_datasets(",".join(args.domains), args.raw_dir)
    parts = output.with_name(f"{output.name}.parts") if output is not None and len(domains) > 1 else None
    found = count_domains(
        args.raw_dir,
        domains,
        data_path=args.data_path,
        table3=not args.no_table3,
        revision=args.revision,
        keep_dir=parts,
        resources=Resources(args.memory_limit, args.threads, not args.quiet),
    )
    differences, notes = compare(found)
    for line in report_lines(found, differences, notes):
        print(line)
    if output is not None:
        write_json(output, {**found, "published": [row._asdict() for row in differences], "notes": notes})
        if parts is not None:
            shutil.rmtree(parts)
        print(f"saved in {output}")
    return 0


def report_lines(found: dict[str, Any], differences: Sequence[Any], notes: Sequence[str]) -> Iterator[str]:
    """Yield the lines that are printed."""
    yield "Table 1: raw files"
    rows = [*found["domains"], *([found["total"]] if found["total"] else [])]
    yield from aligned([TABLE1_HEADS, *map(table1_cells, rows)])
    for one in rows:
        left = {name: one[name] for name in ("broken_reviews", "broken_metadata", "reviews_without_time") if one[name]}
        if left:
            yield f"{one['domain']}: " + ", ".join(f"{name} {number:,}" for name, number in left.items())
    with_table3 = [one for one in found["domains"] if one["table3"]]
    if with_table3:
        yield ""
        yield "Table 3: atomic files of the default protocol"
        yield from aligned([TABLE3_HEADS, *map(table3_cells, with_table3)])
        yield from (f"{one['domain']}: {one['table3']['reason']}" for one in with_table3 if "reason" in one["table3"])
    if differences:
        yield ""
        yield "Published figures"
        heads = ("where", "table", "column", "ours", "published", "ours / published")
        yield from aligned([heads, *map(difference_cells, differences)])
    yield ""
    yield from (f"- {note}" for note in notes)


def table1_cells(one: dict[str, Any]) -> list[str]:
    """Return the cells of a row of Table 1."""
    from dataset_tools.counts.raw_counts import COUNTS

    return [one["domain"], *(f"{one[name]:,}" for name in COUNTS), day(one["first_ms"]), day(one["last_ms"])]


def table3_cells(one: dict[str, Any]) -> list[str]:
    """Return the cells of a row of Table 3; a figure that could not be had is a dash."""
    found = one["table3"]
    if found["items"] is None:
        return [one["domain"], "-", "-", "-", "-", found["source"]]
    counts = [f"{found['items']:,}", f"{found['inters']:,}"]
    means = [f"{found['avg_history_length']:.2f}", f"{found['avg_item_chars']:.2f}"]
    return [one["domain"], *counts, *means, found["source"]]


def difference_cells(row: Any) -> list[str]:
    """Return the cells of one published figure; `equal` where ours rounds to it."""
    from dataset_tools.counts.published import parse_figure

    if isinstance(row.ours, str):
        return [row.where, str(row.table), row.column, row.ours, row.published, "equal" if row.equal else "differs"]
    ratio = "equal" if row.equal else f"{row.ours / parse_figure(row.published)[0]:.4g}"
    return [row.where, str(row.table), row.column, f"{row.ours:,}", shown(row.published), ratio]


def shown(figure: str) -> str:
    """Return a published figure as printed: whole numbers with commas."""
    return f"{int(figure):,}" if figure.isdigit() else figure


def day(time_ms: int | None) -> str:
    """Return the date of Unix milliseconds, UTC; a dash for None."""
    return "-" if time_ms is None else datetime.fromtimestamp(time_ms / 1000, timezone.utc).date().isoformat()


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows of cells as lines: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]
        yield "  ".join(cells).rstrip()

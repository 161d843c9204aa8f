"""`python -m dataset_tools.pools --queries=… --raw_dir=… --output=…` draws candidate pools."""

from __future__ import annotations

import argparse
import sys

from dataset_tools.pools.candidate_pools import CANDIDATES, PoolRequest, build_pool, read_item_ids
from dataset_tools.storage.resources import Resources
from recbole_blair.errors import InputError, run_guarded
from recbole_blair.files.read import read_json

CATEGORIES = "a JSON object item id -> category"


def build_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(
        prog="python -m dataset_tools.pools", description="draw a candidate pool for a query file", allow_abbrev=False
    )
    parser.add_argument("--queries", required=True, help="CSV with a column item_id")
    parser.add_argument("--raw_dir", required=True, help="folder of the raw metadata")
    parser.add_argument("--output", required=True, help="item_pool.jsonl[.gz]")
    parser.add_argument("--domains", help="A,B (default: all with metadata there)")
    parser.add_argument("--categories", help="asin2category.json, for items that several domains hold")
    parser.add_argument("--candidates", type=int, default=CANDIDATES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory_limit", default="4GB")
    return parser


def run(args: argparse.Namespace) -> None:
    """Draw a pool and print what it holds."""
    categories = read_json(args.categories, CATEGORIES) if args.categories else None
    if categories is not None and not isinstance(categories, dict):
        raise InputError(f"{args.categories} holds no JSON object; expected {CATEGORIES}")
    request = PoolRequest(read_item_ids(args.queries), categories, args.candidates, args.seed)
    domains = args.domains.split(",") if args.domains else None
    report = build_pool(request, args.raw_dir, args.output, domains, Resources(args.memory_limit))
    print(f"{args.output}: {report['items']} items for {report['pairs']} pairs, seed {args.seed}")
    without = report["wanted_items_without_metadata"]
    if without:
        print(f"wanted items without metadata: {len(without)}, first {', '.join(without[:5])}")


def main(argv: list[str] | None = None) -> int:
    """Run from the command line; return the exit status."""
    args = build_parser().parse_args(argv)
    return run_guarded(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())

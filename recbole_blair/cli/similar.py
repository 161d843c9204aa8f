"""`recbole-blair similar`: the items nearest to given ones, by a run's item vectors or by its text features."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from recbole_blair.cli.recommend import add_filter_options, add_output_options, add_run_options, open_recommender
from recbole_blair.files.output import check_output_file

if TYPE_CHECKING:
    from argparse import Namespace

    from recbole_blair.cli.options import Parser

# Inside the functions: what loads torch and RecBole (recommend).

SUMMARY = "find the items nearest to given ones, as a trained run or its text encoder sees them"
EXAMPLE = "recbole-blair similar --checkpoint=runs/games --items=B00ZS80PC2 --top=5"


def configure(parser: Parser) -> None:
    """Add the options."""
    add_run_options(parser)
    parser.add("--items", required=True, help="item ids: A,B,C, or a file with one id per line")
    parser.add("--top", kind="int, >=1, <=1e6", default=10, help="neighbours per item")
    parser.add("--by", kind="str, model|text", default="model", help="cosine of model vectors, or of text features")
    add_filter_options(parser)
    add_output_options(parser)


def run(args: Namespace) -> int:
    """Write the neighbours."""
    from recbole_blair.recommend.output import choose_format, write_recommendations

    name = choose_format(args.format, args.output)
    if args.output:
        check_output_file(args.output)
    filters = {key: getattr(args, key) for key in ("allow", "block", "where", "skip_unknown")}
    frame = open_recommender(args).similar(args.items, args.top, args.by, **filters)
    rows = write_recommendations([frame], name, args.output)
    if args.output:
        print(f"{args.output}: {rows} neighbours", file=sys.stderr)
    return 0

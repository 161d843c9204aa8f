"""`recbole-blair export-vectors`: item and user vectors of a trained run as Parquet, .npy and faiss index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recbole_blair.cli.recommend import add_request_time, add_run_options, open_recommender
from recbole_blair.errors import require
from recbole_blair.files.output import check_output_folder

if TYPE_CHECKING:
    from argparse import Namespace

    from recbole_blair.cli.options import Parser

# Inside the functions: what loads torch and RecBole (recommend).

SUMMARY = "write a trained run's item and user vectors; their inner products are its scores"
EXAMPLE = "recbole-blair export-vectors --checkpoint=runs/games --output_dir=vectors --faiss"


def configure(parser: Parser) -> None:
    """Add the options."""
    add = parser.add
    add_run_options(parser)
    add_request_time(parser)
    add("--output_dir", kind="path", default="vectors", help="folder for items.* and users.*")
    add("--users", help="as for recommend; none: no user vectors; empty: every user of the build")
    add("--faiss", action="store_true", help="write items.faiss too, an exact inner-product index")


def run(args: Namespace) -> int:
    """Write the vectors and print what they are."""
    from recbole_blair.recommend.export import export_vectors

    check_output_folder(args.output_dir)
    if args.faiss:
        require("--faiss", "faiss", instead=", or leave it out: items.npy is what faiss.IndexFlatIP(width).add() takes")
    about = export_vectors(open_recommender(args), args.output_dir, args.users, args.faiss, args.request_time)
    print(f"{args.output_dir}: {about['items']} items, {about['users']} users, width {about['width']}, inner product")
    return 0

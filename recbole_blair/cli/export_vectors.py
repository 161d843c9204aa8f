"""`recbole-blair export-vectors`: item and user vectors of a trained run as Parquet, .npy and faiss index."""

from recbole_blair.cli.recommend import add_run_options, open_recommender
from recbole_blair.files.output import check_output_folder

SUMMARY = "write a trained run's item and user vectors; their inner products are its scores"
EXAMPLE = "recbole-blair export-vectors --checkpoint=runs/games --output_dir=vectors --faiss"


def configure(parser):
    """Add the options."""
    add_run_options(parser)
    parser.add_argument("--output_dir", default="vectors", help="folder for items.* and users.*")
    parser.add_argument(
        "--users", default=None, help="as for recommend; none: no user vectors; empty: every user of the build"
    )
    parser.add_argument("--faiss", action="store_true", help="write items.faiss too, an exact inner-product index")


def run(args):
    """Write the vectors and print what they are."""
    from recbole_blair.recommend.export import export_vectors

    check_output_folder(args.output_dir)
    about = export_vectors(open_recommender(args), args.output_dir, args.users, args.faiss, args.request_time)
    print(f"{args.output_dir}: {about['items']} items, {about['users']} users, width {about['width']}, inner product")
    return 0

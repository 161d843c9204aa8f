"""`recbole-blair prepare`: raw reviews and metadata -> atomic files."""

from recbole_blair.schema import MAX_HISTORY, PROTOCOLS, TEST_START_MS, VALID_START_MS

SUMMARY = "make the atomic files of datasets: download or generate what is missing, clean, split, write"
EXAMPLE = "recbole-blair prepare --dataset=Games,Baby --raw_dir=raw --data_path=dataset --memory_limit=8GB"


def configure(parser):
    """Add the options."""
    add = parser.add_argument
    add("--dataset", required=True, help="official or short names joined by commas, sample, or all (33 categories)")
    add("--data_path", default="dataset", help="the builds go into <data_path>/<build>/")
    add("--raw_dir", default="raw", help="holds raw/review_categories/ and raw/meta_categories/, or is that raw/")
    add("--protocol", default="timestamp", choices=PROTOCOLS, help="how rows are split")
    add("--valid_start_ms", type=int, help=f"first instant of valid; empty: {VALID_START_MS}, or 8:1:1 for own data")
    add("--test_start_ms", type=int, help=f"first instant of test; empty: {TEST_START_MS}, or 8:1:1 for own data")
    add("--max_history", type=int, default=MAX_HISTORY, help="latest items kept as a row's history")
    add("--ascii_text", type=_boolean, nargs="?", const=True, default=False, help="drop non-ASCII, as released")
    add("--catalogue", default="interactions", choices=("interactions", "all"), help="items in .item: of rows, or all")
    add("--memory_limit", default="4GB", help="memory DuckDB may use before it spills to disk")
    add("--threads", type=int, help="empty: the cores, at most 8")
    add("--revision", default="main", help="hub version of the raw files")
    add("--sample_users", type=int, help="users of the generated dataset")
    add("--sample_items", type=int, help="items of the generated dataset")
    add("--dry_run", type=_boolean, nargs="?", const=True, default=False, help="print the plan and do nothing")
    add("--quiet", action="store_true", help="no progress bars")


def _boolean(text):
    """Read true or false, in the spellings of RecBole's command line."""
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise ValueError(text)
    return values[text.lower()]


def run(args):
    """Make each dataset and print its statistics, in the columns of the paper's Table 3."""
    from dataset_tools.build_stats import load_stats, table3_line
    from dataset_tools.domains import resolve_datasets
    from dataset_tools.prepare import prepare

    options = {key: value for key, value in vars(args).items() if key not in ("command", "dataset", "quiet")}
    for name in resolve_datasets(args.dataset, args.raw_dir):
        folder = prepare(name, progress=not args.quiet, **options)
        if not args.dry_run:
            print(table3_line(load_stats(folder)))
    return 0

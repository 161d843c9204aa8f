"""How much longer than one DuckDB scan of the raw reviews does the whole conversion take, and in how much memory?

Run `python tests/bench/bench_conversion.py --scale=games` (4.6 M reviews). Raw files are generated whose lines are as
long as the published ones (raw_reviews.py); the bytes of the conversion are compared with the plain line-by-line
converter's first, up to `--plain_reviews`. Each side runs in a process of its own, in turns; `peak_mb` is that
process's peak, interpreter and libraries included; `cpu` its seconds of processor time, child processes included: on a
machine that has other work to do they say more than seconds on the clock. Cases:

- `conversion/scan`: everything (metadata, item texts, files on disk) over one scan of the four fields of the reviews
- `conversion/scan_all`: over one scan of all fields of the reviews, types as DuckDB finds them
- `conversion/plain`: over the line-by-line converter in Python
- `growth`: the time at all the reviews over the time at a quarter of them (4.0 is linear)
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO), str(REPO / "tests" / "dataset_tools")]

from recbole_blair.parallel.environment import missing_variables

GAMES_ITEMS = 137_249  # with metadata; 115,816 of them occur in a row
GAMES_REVIEWS = 4_600_000


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reviews", type=int, default=200_000, help="reviews in the generated file")
    parser.add_argument("--items", type=int, help="items; empty: as many a review as Games has")
    parser.add_argument("--scale", choices=("small", "games"), default="small", help="games: 4.6 M reviews")
    parser.add_argument("--memory_limit", default="1GB", help="DuckDB's share of the memory")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--gzip", action="store_true", help="read .jsonl.gz instead of .jsonl")
    parser.add_argument(
        "--plain_reviews", type=int, default=1_000_000, help="beyond it the plain converter is left out"
    )
    parser.add_argument("--folder", help="work here and keep the raw files; empty: a temporary folder")
    parser.add_argument("--child", choices=("convert", "scan", "scan_all", "plain"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.scale == "games":
        args.reviews = GAMES_REVIEWS
    args.items = args.items or max(200, int(args.reviews * GAMES_ITEMS / GAMES_REVIEWS))
    return args


def names(args):
    from raw_reviews import EVENTS_A_USER

    users = round(args.reviews / EVENTS_A_USER)
    return f"bench-{users}-{args.items}", users


def raw_paths(args):
    """Generate the raw files once; return their paths."""
    from raw_reviews import write_raw

    name, users = names(args)
    return write_raw(Path(args.folder) / "raw", name, users, args.items, compress=args.gzip)


def convert(args, reviews, metadata):
    from dataset_tools.prepare import prepare
    from recbole_blair.schema import TEST_START_MS, VALID_START_MS

    prepare(
        names(args)[0], Path(args.folder) / "ours", args.folder, valid_start_ms=VALID_START_MS,
        test_start_ms=TEST_START_MS, memory_limit=args.memory_limit, threads=args.threads, progress=False,
    )  # fmt: skip


def scan(args, reviews, metadata):
    import duckdb

    con = duckdb.connect(config={"threads": args.threads, "memory_limit": args.memory_limit})
    con.execute(
        "SELECT count(user_id), count(parent_asin), count(rating), count(timestamp) FROM "
        f"read_json('{reviews}', format='newline_delimited', ignore_errors=true, columns="
        "{user_id: 'VARCHAR', parent_asin: 'VARCHAR', rating: 'DOUBLE', timestamp: 'BIGINT'})"
    ).fetchall()


def scan_all(args, reviews, metadata):
    import duckdb

    con = duckdb.connect(config={"threads": args.threads, "memory_limit": args.memory_limit})
    source = f"read_json('{reviews}', format='newline_delimited', ignore_errors=true)"
    fields = [row[0] for row in con.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()]
    con.execute(f"SELECT {', '.join(f'count({field})' for field in fields)} FROM {source}").fetchall()


def plain(args, reviews, metadata):
    from naive_convert import naive_convert

    from recbole_blair.schema import TEST_START_MS, VALID_START_MS

    folder = Path(args.folder) / "plain"
    folder.mkdir(exist_ok=True)
    naive_convert(reviews, metadata, folder, "build", VALID_START_MS, TEST_START_MS)


def run_child(args):
    """Run one side and print its seconds and peak memory."""
    reviews, metadata = raw_paths(args)
    import duckdb  # noqa: F401  libraries are loaded before the clock starts
    import pyarrow.compute  # noqa: F401

    begin, cpu = time.perf_counter(), cpu_seconds()
    {"convert": convert, "scan": scan, "scan_all": scan_all, "plain": plain}[args.child](args, reviews, metadata)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "cpu": cpu_seconds() - cpu, "peak_mb": round(peak)}))


def cpu_seconds():
    return sum(os.times()[:4])


def measure(args, sides, repeats):
    """Run the sides in turns; return, for each, its median and spread of seconds, median CPU seconds, peak MB."""
    found = {side: [] for side in sides}
    for _ in range(repeats):
        for side in sides:
            found[side].append(run_side(args, side))
    return [
        {
            "s": round(statistics.median(one["seconds"] for one in runs), 3),
            "spread_s": round(max(one["seconds"] for one in runs) - min(one["seconds"] for one in runs), 3),
            "cpu_s": round(statistics.median(one["cpu"] for one in runs), 3),
            "peak_mb": max(one["peak_mb"] for one in runs),
        }
        for runs in found.values()
    ]


def run_side(args, side):
    """Run one side once, in a fresh process; return what it printed."""
    if side == "convert":
        shutil.rmtree(Path(args.folder) / "ours", ignore_errors=True)
    options = [f"--{key}={getattr(args, key)}" for key in ("reviews", "items", "memory_limit", "threads", "folder")]
    command = [sys.executable, __file__, f"--child={side}", *options, *(["--gzip"] if args.gzip else [])]
    variables = {**os.environ, **missing_variables(os.environ)}  # as our command line sets them
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=variables)
    return json.loads(result.stdout.splitlines()[-1])


def check_agreement(args):
    """Compare the bytes of both converters."""
    (ours,) = [path for path in (Path(args.folder) / "ours").iterdir() if path.is_dir()]
    for path in (Path(args.folder) / "plain").iterdir():
        mine = ours / path.name.replace("build", ours.name, 1)
        if subprocess.run(["cmp", str(path), str(mine)]).returncode:
            raise SystemExit(f"{mine} differs from the plain converter's")


def report(args, case, ours, reference, **more):
    import duckdb
    import pyarrow

    line = {
        "case": case,
        "ours_s": ours["s"],
        "ours_spread_s": ours["spread_s"],
        "reference_s": reference["s"],
        "reference_spread_s": reference["spread_s"],
        "ratio": round(ours["s"] / reference["s"], 2),
        "ours_cpu_s": ours["cpu_s"],
        "reference_cpu_s": reference["cpu_s"],
        "ratio_cpu": round(ours["cpu_s"] / reference["cpu_s"], 2),
        "peak_mb": ours["peak_mb"],
        "reference_peak_mb": reference["peak_mb"],
        "reviews": args.reviews,
        "items": args.items,
        "gzip": args.gzip,
        "memory_limit": args.memory_limit,
        "threads": args.threads,
        "device": "cpu",
        "versions": {"duckdb": duckdb.__version__, "pyarrow": pyarrow.__version__, "python": sys.version.split()[0]},
        **more,
    }
    print(json.dumps(line), flush=True)


def main():
    args = parse_args()
    if args.child:
        return run_child(args)
    with tempfile.TemporaryDirectory() as temporary:
        args.folder = args.folder or temporary
        reviews, metadata = raw_paths(args)
        sizes = {"reviews_mb": round(reviews.stat().st_size / 1e6), "metadata_mb": round(metadata.stat().st_size / 1e6)}
        measure(args, ["convert"], 1)  # warm: the raw files are in the page cache from here on
        with_plain = args.reviews <= args.plain_reviews
        if with_plain:
            reference = measure_plain(args)
        ours, scanned, scanned_all = measure(args, ["convert", "scan", "scan_all"], args.repeats)
        report(args, "conversion/scan", ours, scanned, identical_to_plain=with_plain or None, **sizes)
        report(args, "conversion/scan_all", ours, scanned_all, **sizes)
        if with_plain:
            report(args, "conversion/plain", ours, reference, **sizes)
        quarter = argparse.Namespace(**{**vars(args), "reviews": args.reviews // 4, "items": max(200, args.items // 4)})
        raw_paths(quarter)
        report(args, "growth", ours, *measure(quarter, ["convert"], args.repeats))


def measure_plain(args):
    """Time the plain converter once and compare the bytes with those of the conversion before it."""
    (reference,) = measure(args, ["plain"], 1)
    check_agreement(args)
    return reference


if __name__ == "__main__":
    main()

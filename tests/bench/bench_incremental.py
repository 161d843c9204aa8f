"""A build made again with 1 % more events and items: how much faster than from nothing, and are the files the same?

The latest 1 % of a domain's events come one night later, and so do 1 % of its items with all their events. Both sides
convert the whole log; one has the features of the night before. Checks that the atomic files are equal byte for byte,
that no known text is encoded and that the features agree, then prints seconds, processor seconds, and the ratios of
both.
Usage: `python tests/bench/bench_incremental.py --raw_dir=raw --domain=Electronics --plm=<folder>`.
"""

import argparse
import gzip
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import measure
import numpy as np

from dataset_tools.own_data import prepare_own
from recbole_blair.text.encode import encode_build
from recbole_blair.text.features import load_features, read_item_texts
from recbole_blair.text.reuse import Reusing

COLUMNS = "user_id=user_id,item_id=parent_asin,timestamp=timestamp"
ITEM_COLUMNS = "item_id=parent_asin,title=title,features=features,categories=categories,description=description"


def read_lines(path):
    """Return a raw file's lines and their records."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.readlines()
    return lines, [json.loads(line) for line in lines]


def write_nights(args, folder):
    """Write the log and the items of two nights; returns {night: (log, items)}."""
    lines, reviews = read_lines(Path(args.raw_dir) / f"review_categories/{args.domain}.jsonl.gz")
    meta_lines, items = read_lines(Path(args.raw_dir) / f"meta_categories/meta_{args.domain}.jsonl.gz")
    order = np.argsort([review["timestamp"] for review in reviews], kind="stable")[: args.events or None]
    of_row = [reviews[row]["parent_asin"] for row in order]
    catalogue = sorted(set(of_row))
    late = set(np.random.default_rng(2020).choice(catalogue, int(len(catalogue) * args.share), replace=False))
    early = int(len(order) * (1 - args.share))
    nights = {}
    for night, kept in (
        ("yesterday", [row for row, item in zip(order[:early], of_row) if item not in late]), ("today", order)
    ):  # fmt: skip
        sold = {reviews[row]["parent_asin"] for row in kept}
        paths = folder / f"{night}.jsonl", folder / f"{night}-items.jsonl"
        paths[0].write_text("".join(lines[row] for row in kept), encoding="utf-8")
        texts = (line for line, item in zip(meta_lines, items) if item["parent_asin"] in sold)
        paths[1].write_text("".join(texts), encoding="utf-8")
        nights[night] = paths
    return nights


def build(files, data_path, plm, force=False):
    """Convert and encode; returns the build's folder, the encoder's name, and the seconds of each step and of both.

    `total_s` is the clock's, `cpu_s` the processor's, which other work on the machine does not stretch.
    """
    started, before = time.perf_counter(), processor_s()
    options = {"columns": COLUMNS, "item_columns": ITEM_COLUMNS, "source": "jsonl", "progress": False}
    folder = prepare_own("shop", *files, data_path=data_path, force=force, **options)
    converted = time.perf_counter()
    path = encode_build(folder, plm, progress=False)
    ended = time.perf_counter()
    seconds = {
        "convert_s": converted - started, "encode_s": ended - converted, "total_s": ended - started,
        "cpu_s": processor_s() - before,
    }  # fmt: skip
    return folder, path.name.removeprefix("shop.").removesuffix(".feature"), seconds


def processor_s():
    """Return the processor seconds of this process and of its children that have ended, all threads."""
    return sum(os.times()[:4])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw_dir", default="raw")
    parser.add_argument("--domain", default="Electronics")
    parser.add_argument("--plm", required=True)
    parser.add_argument("--share", type=float, default=0.01, help="of events and items that come a night later")
    parser.add_argument("--events", type=int, default=0, help="the earliest events alone; 0: all")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        nights = write_nights(args, Path(work))
        folder, name, _ = build(nights["yesterday"], f"{work}/grown", args.plm)
        known = set(read_item_texts(folder)[1])
        encoded = []
        real = Reusing.__init__

        def counting(self, *arguments):
            real(self, *arguments)
            encoded.extend(self.new_texts)

        Reusing.__init__ = counting
        folder, name, again = build(nights["today"], f"{work}/grown", args.plm, force=True)
        Reusing.__init__ = real
        fresh, _, full = build(nights["today"], f"{work}/fresh", args.plm)
        texts = read_item_texts(folder)[1]
        assert sorted(encoded) == sorted(text for text in texts if text not in known), "a known text was encoded"
        for path in [*fresh.glob("*.inter"), fresh / "shop.item", fresh / "shop.stats.json"]:
            assert path.read_bytes() == (folder / path.name).read_bytes(), path.name
        rows, others = (load_features(one, name)[0] for one in (folder, fresh))
        apart = float(np.abs(rows - others).max())
        assert apart < 1e-4 * float(np.abs(others).max()), apart
        measure.emit(
            "incremental build", ratio=again["total_s"] / full["total_s"], cpu_ratio=again["cpu_s"] / full["cpu_s"],
            items=len(texts), new_texts=len(encoded), largest_difference=apart,
            different_values=int((rows != others).sum()), values=rows.size,
            **{f"ours_{k}": v for k, v in again.items()},
            **{f"reference_{k}": v for k, v in full.items()},
        )  # fmt: skip


if __name__ == "__main__":
    main()

"""How much faster does a build load than with RecBole's own loader, first from text and then from the binary copy?

Writes atomic files of the wanted size, loads them with RecBole 1.2.1 (three token columns, its fastest way), with ours
from text and with ours from the copy, each in a process of its own, and compares the rows first.
Usage: `python tests/bench/bench_loading.py --scale=games`.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import measure
import numpy as np

from recbole_blair import compat

NAME = "bench"


def write_files(folder, n_rows, n_items, seed=0):
    """Write a build of about `n_rows` rows whose users' rows chain, in Games' proportions; returns the true rows."""
    rng = np.random.default_rng(seed)
    length = measure.history_lengths(max(n_rows // 3, 10), rng) + 1  # events a user, at least two
    length = length[: int(np.searchsorted(np.cumsum(length - 1), n_rows)) + 1]
    build = folder / NAME
    build.mkdir(parents=True)
    tokens = np.array([f"B{i:09d}" for i in range(n_items)])
    header = "user_id:token\titem_id_list:token_seq\titem_id:token\ttimestamp_list:float_seq\ttimestamp:float\n"
    files = {s: open(build / f"{NAME}.{s}.inter", "w", encoding="utf-8") for s in ("train", "valid", "test")}  # noqa: SIM115
    for file in files.values():
        file.write(header)
    rows = 0
    for user, n in enumerate(length):
        items = rng.choice(n_items, n)
        names, times = tokens[items], [str(1_500_000_000_000 + user * 1000 + i) for i in range(len(items))]
        for i in range(1, len(items)):
            start = max(0, i - 50)
            split = "train" if user % 10 < 8 else "valid" if user % 10 == 8 else "test"
            line = f"U{user:012d}\t{' '.join(names[start:i])}\t{names[i]}\t{' '.join(times[start:i])}\t{times[i]}\n"
            files[split].write(line)
            rows += 1
    for file in files.values():
        file.close()
    with open(build / f"{NAME}.item", "w", encoding="utf-8") as file:
        file.write("item_id:token\ttitle:token\ttext:token\tcategories:token_seq\tstore:token\tprice:float\n")
        file.writelines(f"{t}\ttitle\tsome text of the item\tc\ts\t1.0\n" for t in tokens)
    return rows


def load_recbole(folder):
    """RecBole's own dataset from the same files; returns it."""
    compat.apply()
    from recbole.config import Config
    from recbole.data import create_dataset
    from recbole.model.sequential_recommender.sasrec import SASRec

    sys.argv = ["bench"]
    os.chdir(folder)
    settings = {
        "data_path": str(folder), "benchmark_filename": ["train", "valid", "test"],
        "alias_of_item_id": ["item_id_list"],
        "load_col": {"inter": ["user_id", "item_id_list", "item_id"]}, "train_neg_sample_args": None,
        "MAX_ITEM_LIST_LENGTH": 50, "use_gpu": False,
    }  # fmt: skip
    config = Config(model=SASRec, dataset=NAME, config_dict=settings)
    dataset = create_dataset(config)
    return dataset, dataset.build()


def recbole_rows(folder, split, take):
    """The chosen rows of RecBole's dataset as raw ids: (history, target) pairs."""
    dataset, parts = load_recbole(folder)
    feat = parts[("train", "valid", "test").index(split)].inter_feat
    token = dataset.field2id_token["item_id"]
    rows = []
    for i in take:
        n = int(feat["item_length"][i])
        rows.append((token[feat["item_id_list"][i][:n].numpy()].tolist(), str(token[int(feat["item_id"][i])])))
    return rows


def our_rows(folder, split, take):
    """The same rows from our loader."""
    from recbole_blair.data.dataset import BlairDataset

    dataset = BlairDataset(folder / NAME)
    part, rows = dataset.rows[split], []
    for i in take:
        target, n = int(part.target[i]), int(part.length[i])
        history = dataset.id2token("item_id", dataset.seq_items[target - n : target])
        rows.append((history, dataset.id2token("item_id", [dataset.seq_items[target]])[0]))
    return rows


def side(args):
    """Time one way of loading in this process; prints its JSON line."""
    folder = Path(args.folder)
    compat.apply()
    from recbole_blair.data.dataset import BlairDataset  # imports are not loading

    base, started = measure.peak_mb(), time.perf_counter()
    if args.side == "recbole":
        load_recbole(folder)
    else:
        dataset = BlairDataset(folder / NAME)
        assert len(dataset.rows["train"])
    seconds = time.perf_counter() - started
    measure.emit(f"side:{args.side}", s=seconds, peak_mb=measure.peak_mb(), before_mb=base)


def main():
    """Write the files, compare rows, then time the three ways."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="small", choices=measure.SCALES)
    parser.add_argument("--folder", help="where the files are, for --side")
    parser.add_argument("--side", choices=("recbole", "text", "cached"))
    args = parser.parse_args()
    if args.side:
        side(args)
        return
    size = measure.SCALES[args.scale]
    folder = Path(tempfile.mkdtemp())
    try:
        write_files(folder / "check", 3000, 300)
        take = list(range(0, 200, 7))
        for split in ("train", "test"):
            assert our_rows(folder / "check", split, take) == recbole_rows(folder / "check", split, take), split
        rows = write_files(folder / "full", size["n_rows"], size["n_items"])
        lines = {}
        for name in ("recbole", "text", "cached"):
            lines[name] = measure.run_side(__file__, f"--side={name}", "--folder", folder / "full")
        for name in ("text", "cached"):
            measure.emit(
                f"load_{name}_{args.scale}", ours_s=lines[name]["s"], reference_s=lines["recbole"]["s"], rows=rows,
                ratio=lines["recbole"]["s"] / lines[name]["s"], peak_mb=lines[name]["peak_mb"],
                reference_peak_mb=lines["recbole"]["peak_mb"], imports_mb=lines[name]["before_mb"],
            )  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

"""What do objective, start, same-item mask, batch size and gradient caching do to retrieval on real pairs?

Runs every row of props/pretrain/rows.yaml for every seed, one after the other, and appends a JSON line a run. Started
again with the same --out it goes on behind the last line (and inside an interrupted run). A summary with mean and
standard deviation over the seeds is printed at the end, or alone with --summary.

    python tests/bench/bench_pretraining_rows.py --pairs=../shared/data/pretraining_pairs.jsonl.gz --plm=<folder> \
        --runs=runs/pretraining --out=runs/pretraining/rows.jsonl
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import yaml

ROWS = Path(__file__).resolve().parents[2] / "props" / "pretrain" / "rows.yaml"
METRICS = ("ndcg@10", "ndcg@100", "recall@10", "mrr")


def main():
    """Parse, run what is missing, print the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", default="../shared/data/pretraining_pairs.jsonl.gz")
    parser.add_argument("--plm", help="folder of the encoder that is trained on")
    parser.add_argument("--runs", type=Path, default=Path("runs/pretraining"), help="folder of the runs")
    parser.add_argument("--out", type=Path, default=Path("runs/pretraining/rows.jsonl"))
    parser.add_argument("--only", default=None, help="rows to run, separated by ;")
    parser.add_argument("--keep", action="store_true", help="keep the encoders")
    parser.add_argument("--summary", action="store_true", help="print the summary of --out and stop")
    args = parser.parse_args()
    if not args.summary:
        run_all(args, yaml.safe_load(ROWS.read_text(encoding="utf-8")))
    print_summary(read_lines(args.out))


def run_all(args, table):
    """Run every (seed, row) that has no line yet; all rows of a seed before the next seed."""
    for seed in table["seeds"]:
        for name, own in table["rows"].items():
            if args.only and name not in args.only.split(";"):
                continue
            if not any(line["row"] == name and line["seed"] == seed for line in read_lines(args.out)):
                run_one(args, name, seed, {**table["common"], **own})


def run_one(args, name, seed, keys):
    """Run one row in a process of its own and append its line."""
    keys = {key: str(value).replace("{scratch}", args.plm) for key, value in keys.items()}
    keys |= {"pairs": args.pairs, "seed": str(seed), "output_dir": str(args.runs / f"{slug(name)}-{seed}")}
    if "scratch" not in keys:
        keys["plm"] = args.plm
    folder = Path(keys["output_dir"])
    command = [sys.executable, "-m", "recbole_blair", "pretrain", *(f"--{k}={v}" for k, v in keys.items())]
    subprocess.run([*command, "--show_progress=False", "--save_steps=20"], check=True)
    found = json.loads((folder / "pretraining" / "metrics.json").read_text(encoding="utf-8"))
    line = {
        "row": name,
        "seed": seed,
        **found["after"],
        **{k: found[k] for k in ("pairs_per_second", "peak_memory", "precision", "device", "queries", "candidates")},
        "train_pairs": found["data"]["train"],
        "versions": found["versions"],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with open(args.out, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    if not args.keep:
        shutil.rmtree(folder)


def slug(name):
    """Return a row's name as a folder's."""
    return "".join(c if c.isalnum() else "-" for c in name).strip("-")


def read_lines(path):
    """Return the lines written so far."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def print_summary(lines):
    """Print a JSON line a row: metrics as mean and sample standard deviation over the seeds."""
    for name in dict.fromkeys(line["row"] for line in lines):
        mine = [line for line in lines if line["row"] == name]
        summary = {"case": name, "seeds": [line["seed"] for line in mine]}
        for metric in METRICS:
            values = [line[metric] for line in mine]
            deviation = statistics.stdev(values) if len(values) > 1 else None
            summary[metric] = [round(statistics.mean(values), 4), None if deviation is None else round(deviation, 4)]
        print(json.dumps(summary))


if __name__ == "__main__":
    main()

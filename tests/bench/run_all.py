"""Every bench, one after the other: `make bench` at a small size, `make bench SCALE=games` at full size.

A bench whose data is absent (../shared, the encoder of a test package) says so and is counted as left out.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SMALL = {  # what makes a bench short where it has no --scale
    "bench_encoding.py": ["--items=300", "--repeats=1"],
    "bench_search.py": ["--items=8000", "--queries=128", "--documents=2000", "--asked=100", "--repeats=1"],
    "bench_pretraining.py": ["--shape=tiny", "--repeats=1"],
    "bench_joint.py": ["--users=200", "--items=120", "--batch=32", "--steps=2", "--pairs=64", "--pairs_per_step=16"],
}
SCALED = (
    "bench_conversion.py", "bench_evaluation.py", "bench_growth.py", "bench_loading.py", "bench_products.py",
    "bench_training_step.py",
)  # fmt: skip
LEFT_OUT = {  # they train the rows of results tables, for long; needs a GPU
    "bench_pretraining_rows.py", "bench_new_items.py", "bench_gpu.py",
}  # fmt: skip


def flags(name, scale):
    """The size of one bench."""
    if name in SCALED:
        return [f"--scale={scale}"]
    return SMALL.get(name, []) if scale == "small" else []


def main():
    """Run them; exit 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="small", choices=("small", "games"))
    parser.add_argument("--only", default="", help="part of a file name")
    args = parser.parse_args()
    failed = []
    for path in sorted(HERE.glob("bench_*.py")):
        if path.name in LEFT_OUT or args.only not in path.name:
            continue
        command = [sys.executable, str(path), *flags(path.name, args.scale)]
        print(f"# {path.name} {' '.join(command[2:])}", flush=True)
        started = time.perf_counter()
        status = subprocess.run(command, check=False).returncode
        state = "done" if status == 0 else f"FAILED with {status}"
        print(f"# {path.name}: {state}, {time.perf_counter() - started:.0f} s", flush=True)
        failed += [path.name] if status else []
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()

"""What does a sweep of one trial cost beside the plain run, and does a second trial load the data again?

Both sides train the same configuration on the same threads, each in a process of its own, one after the other; the
sweep's result must equal the plain run's. The second question: the time from a trial's start to its first epoch, and
how many datasets its process opened, for the first trial of a process and for the next.

    python tests/bench/bench_tune.py --dataset=Electronics --model=UniSRecBlair --epochs=8
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

from measure import emit

ROOT = Path(__file__).resolve().parents[2]
SPACE = "learning_rate: {choice: [0.001, 0.002]}\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--scale", default="small", help="small: the generated sample; others need --dataset")
    parser.add_argument("--dataset", default="sample", help="a build, or what `train` makes one from")
    parser.add_argument("--data_path", default=None, help="folder of the builds; empty: a temporary one")
    parser.add_argument("--raw_dir", default="raw", help="folder of the raw files")
    parser.add_argument("--plm", default="tfidf-svd", help="encoder of the features")
    parser.add_argument("--model", default="SASRecText", help="model")
    parser.add_argument("--epochs", type=int, default=12, help="epochs of every run")
    parser.add_argument("--threads", type=int, default=2, help="threads of the plain run and CPUs of a trial")
    parser.add_argument("--repeats", type=int, default=1, help="times both sides run, in turn")
    parser.add_argument("--only", choices=("overhead", "second", "memory"), help="one question; empty: all three")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tune-") as folder:
        folder = Path(folder)
        keys = shared_keys(args, folder)
        command("train", [*keys, f"--output_dir={folder / 'warm'}", f"--threads={args.threads}", "--epochs=1"])
        for name, part in {"overhead": overhead, "second": second_trial, "memory": shared_memory}.items():
            if args.only in (None, name):
                part(args, keys, folder)


def shared_keys(args, folder):
    """The keys both sides have in common; the data is made by the warm-up run, which nobody times."""
    data = args.data_path or folder / "data"
    return [
        f"--model={args.model}", f"--dataset={args.dataset}", f"--data_path={data}", f"--raw_dir={args.raw_dir}",
        f"--plm={args.plm}", "--stopping_step=1000", "--show_progress=False", "--device=cpu", "--precision=fp32",
    ]  # fmt: skip


def command(name, argv):
    """Run one command line; returns its wall time in seconds."""
    extra = [] if name == "tune" else ["--seeds=", "--baselines="]
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "recbole_blair", name, *argv, *extra],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return time.perf_counter() - started


def sweep(args, keys, folder, samples):
    """Run a sweep of one or two trials, one at a time; returns its wall time."""
    return command("tune", sweep_argv(args, keys, folder, samples, args.threads, 1))


def sweep_argv(args, keys, folder, samples, cpus, at_a_time):
    """The command line of a sweep into an empty folder."""
    space = folder / "space.yaml"
    space.write_text(SPACE if samples == 2 else SPACE.replace(", 0.002", ""))
    own = [f"--space={space}", "--search=grid", "--scheduler=none", f"--cpus_per_trial={cpus}"]
    own += [f"--ray_cpus={cpus * at_a_time}", f"--max_concurrent={at_a_time}", f"--output_dir={folder / 'sweep'}"]
    shutil.rmtree(folder / "sweep", ignore_errors=True)
    return [*keys, f"--epochs={args.epochs}", *own]


def overhead(args, keys, folder):
    """Time both sides in turn, check that they agree, and print the ratio of the medians."""
    plain, swept = [], []
    for repeat in range(args.repeats):
        run = folder / f"plain-{repeat}"
        own = [f"--output_dir={run}", f"--threads={args.threads}", "--learning_rate=0.001", f"--epochs={args.epochs}"]
        plain.append(command("train", [*keys, *own]))
        swept.append(sweep(args, keys, folder, 1))
        expected = json.loads((run / "metrics.json").read_text())["test"]
        found = json.loads((folder / "sweep" / "best.json").read_text())["test"]
        if any(abs(found[k] - expected[k]) > 1e-6 for k in expected):
            raise SystemExit(f"the sweep ended elsewhere than the run: {found} instead of {expected}")
    ours, reference = sorted(swept)[len(swept) // 2], sorted(plain)[len(plain) // 2]
    emit(
        f"tune/one trial beside a run/{args.model}/{args.dataset}", ours_s=ours, reference_s=reference,
        ratio=ours / reference, overhead_s=ours - reference, epochs=args.epochs, repeats=args.repeats,
    )  # fmt: skip


def second_trial(args, keys, folder):
    """Compare the first and the second trial of one process."""
    sweep(args, keys, folder, 2)
    lines = [first_line(folder / "sweep", number) for number in (0, 1)]
    emit(
        f"tune/second trial beside the first/{args.model}/{args.dataset}",
        same_process=lines[0]["pid"] == lines[1]["pid"],
        first_opened=lines[0]["opened"], second_opened=lines[1]["opened"],
        ours_s=lines[1]["seconds"], reference_s=lines[0]["seconds"], ratio=lines[1]["seconds"] / lines[0]["seconds"],
    )  # fmt: skip
    if lines[0]["opened"] != 1 or lines[1]["opened"] != 0:
        raise SystemExit(f"the second trial opened the data again: {lines}")


def shared_memory(args, keys, folder):
    """While two trials train at a time: how much of the mapped data each holds, and how much of it for itself."""
    argv = sweep_argv(args, keys, folder, 2, 1, 2)
    sweeping = subprocess.Popen(
        [sys.executable, "-m", "recbole_blair", "tune", *argv], cwd=ROOT, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    held = None
    while sweeping.poll() is None and held is None:
        time.sleep(0.2)
        paths = [folder / "sweep" / "trials" / f"{n:04d}" / "progress.jsonl" for n in (0, 1)]
        if all(path.is_file() and path.read_text().endswith("\n") for path in paths):
            maps = [mapped_data(first_line(folder / "sweep", n)["pid"]) for n in (0, 1)]
            held = maps if all(maps) else None
    sweeping.wait()
    if held is None:
        raise SystemExit("the trials were over before their memory could be read; raise --epochs")
    each, own = (sum(m[field] for m in held) / 2 for field in ("rss", "pss"))
    emit(
        f"tune/mapped data of two trials at a time/{args.model}/{args.dataset}", mapped_mb=each, share_mb=own,
        ratio=own / each,
    )  # fmt: skip


def mapped_data(pid):
    """MiB of the build's mapped files in a process: resident, and its share of them; None when it is gone."""
    found, inside = {"rss": 0.0, "pss": 0.0}, False
    try:
        lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        first, *rest = line.split()
        if not first.endswith(":"):
            inside = rest[-1].endswith((".feature", ".npy", ".arrow")) if len(rest) == 5 else False
        elif inside and first in ("Rss:", "Pss:"):
            found[first[:3].lower()] += int(rest[0]) / 1024
    return found if found["rss"] else None


def first_line(folder, number):
    """The first epoch of a trial as its process wrote it."""
    path = folder / "trials" / f"{number:04d}" / "progress.jsonl"
    return json.loads(path.read_text().splitlines()[0])


if __name__ == "__main__":
    main()

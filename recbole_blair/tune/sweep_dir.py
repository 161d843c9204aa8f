"""The files of a sweep: what was asked for, one folder per trial, the results. No pickles; each is whole or absent.

<sweep_dir>/sweep.yaml               model, dataset, keys, space, options
            trials/NNNN/trial.json   number, point, status, error: written by the driver
                        progress.jsonl  one line per epoch: loss, metrics, seconds; written by the trial
                        done.json    the trial's training has ended
                        config.yaml, log.txt, checkpoint/: a run folder as of `train`
            results.parquet best.yaml best.json report.html
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from recbole_blair.config import load_yaml
from recbole_blair.errors import InputError
from recbole_blair.files.checksum import check_checksum_line, with_checksum_line
from recbole_blair.files.own_json import read_line, read_own_json, write_line, write_own_json
from recbole_blair.files.write import remove_leftovers, write_text
from recbole_blair.tune.settings import VOLATILE

SWEEP, TRIALS, TRIAL, PROGRESS, DONE = "sweep.yaml", "trials", "trial.json", "progress.jsonl", "done.json"
FIX = "restore it, or start a new sweep in another folder"
RAY, LOCK, REPORTED, BEST_RUN = ".ray", ".lock", "reported", "best.json"
PLANNED, FINISHED, STOPPED, FAILED, UNFINISHED = "planned", "finished", "stopped", "failed", "unfinished"


@dataclass
class Trial:
    """One configuration of a sweep.

    `status` is planned (not begun), unfinished (begun, and it can go on), finished (epochs or patience ran out),
    stopped (by the scheduler) or failed. `lines` are its epochs, `point` what it tries; with PBT the last it tried.
    """

    number: int
    point: dict[str, Any]
    status: str = PLANNED
    error: str | None = None
    lines: list[dict[str, Any]] = field(default_factory=list)
    adopted: int = 0

    def best(self, metric: str) -> dict[str, Any] | None:
        """Return the epoch line with the largest metric, the earliest of equals; None before the first validation."""
        return max((line for line in self.lines if metric in line), key=lambda line: line[metric], default=None)

    def best_value(self, metric: str) -> float:
        """Return the largest value of a metric, minus infinity before the first validation."""
        best = self.best(metric)
        return best[metric] if best else float("-inf")

    @property
    def over(self) -> bool:
        """Return whether the trial has ended and is not to be resumed."""
        return self.status in (FINISHED, STOPPED, FAILED)


def read_json(path: Path) -> Any:
    """Return a JSON file's content, or None when it is not there.

    Raises:
        InputError: it is not JSON.
    """
    if not Path(path).exists():
        return None
    return read_own_json(path, "a file of a sweep", FIX)


def trial_dir(sweep_dir: Path | str, number: int) -> Path:
    """Return the folder of one trial."""
    return Path(sweep_dir) / TRIALS / f"{number:04d}"


def save_sweep(sweep_dir: Path | str, spec: dict[str, Any]) -> None:
    """Write sweep.yaml."""
    text = yaml.safe_dump(spec, sort_keys=False, allow_unicode=True)
    write_text(Path(sweep_dir) / SWEEP, with_checksum_line(text))


def load_sweep(sweep_dir: Path | str) -> dict[str, Any]:
    """Read sweep.yaml.

    Raises:
        InputError: the folder holds none, or it is damaged.
    """
    path = Path(sweep_dir) / SWEEP
    if not path.is_file():
        raise InputError(f"{sweep_dir} holds no {SWEEP}: it is no sweep's folder")
    check_checksum_line(path)
    return load_yaml(path)


def check_same_sweep(sweep_dir: Path | str, saved: dict[str, Any], asked: dict[str, Any]) -> None:
    """Refuse to resume a sweep that was started with other keys, space or options.

    Raises:
        InputError: names the first that differ.
    """
    flat = [
        {(part, key): value for part in ("keys", "space", "options") for key, value in spec[part].items()}
        | {("", name): spec[name] for name in ("model", "dataset")}
        for spec in (saved, asked)
    ]
    names = sorted(flat[0].keys() | flat[1].keys())
    differ = [n for n in names if flat[0].get(n) != flat[1].get(n) and not (n[0] == "options" and n[1] in VOLATILE)]
    if differ:
        shown = ", ".join(f"{n[1]} {flat[0].get(n)!r} -> {flat[1].get(n)!r}" for n in differ[:4])
        raise InputError(
            f"{sweep_dir} holds another sweep ({shown}); choose another output_dir, or go on with its own by "
            f"--resume={sweep_dir}"
        )


def find_interrupted(new: Path, spec: dict[str, Any], not_before_ns: int) -> Path | None:
    """Return the newest folder beside `new`, named like it but for the time, that holds an unfinished sweep of `spec`.

    A sweep that has its best.json is finished, one whose lock is held is at work, and one that began before
    `not_before_ns` had other data.
    """
    name = new.name.split("-", 2)[2]
    for path in sorted(new.parent.glob(f"[0-9]*-[0-9]*-tune-*/{SWEEP}"), reverse=True):
        folder = path.parent
        if (
            folder.name.split("-", 2)[2] != name
            or (folder / BEST_RUN).exists()
            or path.stat().st_mtime_ns < not_before_ns
        ):
            continue
        try:
            check_same_sweep(folder, load_sweep(folder), spec)
            with FileLock(folder / LOCK, timeout=0):
                return folder
        except (InputError, Timeout, OSError):
            continue
    return None


def save_trial(sweep_dir: Path | str, trial: Trial) -> None:
    """Write a trial's trial.json."""
    record = {"number": trial.number, "point": trial.point, "status": trial.status, "error": trial.error}
    write_own_json(trial_dir(sweep_dir, trial.number) / TRIAL, record, ensure_ascii=True)


def mend_trial(sweep_dir: Path | str, trial: Trial) -> None:
    """Record what a killed driver could not, that its process finished a trial; remove what it left half written."""
    folder = trial_dir(sweep_dir, trial.number)
    for place in (folder, folder / REPORTED):
        remove_leftovers(place)
    record = read_json(folder / TRIAL)
    if record is None:
        save_trial(sweep_dir, trial)
    elif trial.status == FINISHED != record["status"]:
        write_own_json(folder / TRIAL, {**record, "status": FINISHED}, ensure_ascii=True)


def load_trials(sweep_dir: Path | str) -> list[Trial]:
    """Return every trial of a sweep by number.

    One that its process finished but no driver recorded counts as finished.
    """
    trials = []
    for folder in sorted((Path(sweep_dir) / TRIALS).glob("[0-9]*")):
        record = read_json(folder / TRIAL)
        if record is not None:
            trials.append(load_trial(folder, record))
    return sorted(trials, key=lambda trial: trial.number)


def load_trial(folder: Path, record: dict[str, Any]) -> Trial:
    """Read one trial's folder."""
    lines = read_progress(folder)
    epochs = [line for line in lines if "adopted" not in line]
    adoptions = [line for line in lines if "adopted" in line]
    point = adoptions[-1]["point"] if adoptions else record["point"]
    status = record["status"]
    if status in (PLANNED, UNFINISHED):
        status = FINISHED if (folder / DONE).is_file() else UNFINISHED if epochs else PLANNED
    return Trial(record["number"], point, status, record["error"], epochs, len(adoptions))


def read_progress(folder: Path | str) -> list[dict[str, Any]]:
    """Return the lines of progress.jsonl; a last line that a kill cut off is left out.

    Raises:
        InputError: a line is damaged.
    """
    path = Path(folder) / PROGRESS
    if not path.is_file():
        return []
    whole = path.read_bytes().split(b"\n")[:-1]  # a whole line ends with a newline
    lines = []
    for number, line in enumerate(whole, 1):
        if line:
            read = read_line(line)
            if read is None or not read.keys() & {"epoch", "adopted"}:
                raise InputError(f"{path} line {number} is damaged; {FIX}")
            lines.append(read)
    return lines


def append_progress(folder: Path | str, line: dict[str, Any]) -> None:
    """Add one line to progress.jsonl."""
    with open(Path(folder) / PROGRESS, "a", encoding="utf-8") as file:
        file.write(write_line(line))


def drop_repeated(folder: Path | str, epoch: int) -> None:
    """Drop the epochs after the last checkpoint: they are trained again. Those before an adoption stay."""
    path = Path(folder) / PROGRESS
    if not path.is_file():
        return
    lines = read_progress(folder)
    since = max((i for i, line in enumerate(lines) if "adopted" in line), default=-1) + 1
    kept = lines[:since] + [line for line in lines[since:] if line["epoch"] <= epoch]
    write_text(path, "".join(map(write_line, kept)))


def last_epoch(folder: Path | str) -> int:
    """Return the epoch of the newest whole checkpoint of a run folder; 0 when there is none."""
    from recbole_blair.train.run_folder import CHECKPOINT

    return max((int(path.name[6:]) for path in (Path(folder) / CHECKPOINT).glob("epoch-*")), default=0)


def delete_ray_files(sweep_dir: Path | str) -> None:
    """Delete Ray's own files; everything that a sweep resumes from is in this package's files."""
    shutil.rmtree(Path(sweep_dir) / RAY, ignore_errors=True)

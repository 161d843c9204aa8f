"""A run's folder: the names of its files, its configuration, its results, and the lock of the process that trains.

config.yaml       the resolved configuration          metrics.json    the results; a run without it is unfinished
checkpoint/       weights, see checkpoint.py          ranks.parquet   see ranks_file.py
encoder/          the trained text encoder, of runs that train one
log.txt           what the screen showed              events.*        TensorBoard's curves
trackers.json     ids at the trackers of `log`, see tracking/tracking.py
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from recbole_blair.config import VOLATILE_KEYS, Config, load_yaml
from recbole_blair.config.keys import props_keys
from recbole_blair.errors import InputError
from recbole_blair.files.checksum import check_checksum_line, with_checksum_line
from recbole_blair.files.own_json import read_own_json, write_own_json
from recbole_blair.files.paths import props_dir
from recbole_blair.files.read import shown
from recbole_blair.files.write import write_text
from recbole_blair.parallel.distributed import broadcast, rank

CHECKPOINT, METRICS, CONFIG, RANKS = "checkpoint", "metrics.json", "config.yaml", "ranks.parquet"
ENCODER = "encoder"  # the text encoder that was trained with the recommender, whole
LOCK = ".lock"  # held by the process that trains in a run folder; the file means nothing once that process has ended


@contextmanager
def only_trainer(run_dir: Path | str) -> Iterator[None]:
    """Hold a run folder's lock while training in it; of several processes that train together the first one holds it.

    Raises:
        InputError: another process trains there.
    """
    lock, acquired = FileLock(Path(run_dir) / LOCK), True
    if rank() == 0:
        Path(run_dir).mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            acquired = False
    if not broadcast(acquired):
        raise InputError(f"another process trains in {run_dir}; wait for it, stop it, or give another output_dir")
    try:
        yield
    finally:
        lock.release()


def save_config(run_dir: Path | str, config: Config) -> None:
    """Write the resolved configuration; its first line is a comment with the checksum of the others."""
    text = yaml.safe_dump(config.plain(), sort_keys=False, allow_unicode=True)
    write_text(Path(run_dir) / CONFIG, with_checksum_line(text))


def load_config(run_dir: Path | str) -> dict[str, Any]:
    """Read a run's resolved configuration as plain keys.

    Raises:
        InputError: no such file, or it is damaged.
    """
    path = Path(run_dir) / CONFIG
    if not path.is_file():
        raise InputError(f"{run_dir} holds no {CONFIG}: it is no run folder")
    check_checksum_line(path)
    saved = load_yaml(path)
    lacking = [key for key in ("model", "dataset", "seed") if saved.get(key) is None]
    if lacking:
        raise InputError(f"{shown(path)} is damaged: it has no {lacking[0]}; copy the run again, or train it again")
    return saved


def save_metrics(run_dir: Path | str, metrics: dict[str, Any]) -> None:
    """Write metrics.json, the last file of a run: from now on it is finished."""
    write_own_json(Path(run_dir) / METRICS, metrics, ensure_ascii=True)


def load_metrics(run_dir: Path | str) -> dict[str, Any] | None:
    """Return a finished run's metrics.json, or None.

    Raises:
        InputError: it cannot be read, is not JSON, or holds no object.
    """
    path = Path(run_dir) / METRICS
    if not path.exists():
        return None
    fix = f"delete it, and `recbole-blair train --resume={run_dir}` makes it again"
    return read_own_json(path, "a run's results", fix)


def require_metrics(run_dir: Path | str) -> dict[str, Any]:
    """Return the metrics.json of a run that must be finished."""
    metrics = load_metrics(run_dir)
    if metrics is None:
        raise InputError(f"{run_dir} is unfinished: it has no {METRICS}; go on with --resume={run_dir}")
    return metrics


def check_same_run(run_dir: Path | str, config: Config) -> None:
    """Refuse to go on in a folder whose run had another configuration.

    Raises:
        InputError: names the keys that differ.
    """
    own = f"model/{config['model']}.yaml"
    files = ["overall.yaml", *([own] if (props_dir() / own).is_file() else [])]
    # Keys that are younger than the run had the value that is their default now.
    younger = {key: value for file in files for key, value in props_keys(file).defaults.items()}
    saved = {**younger, **Config(load_config(run_dir)).fingerprint()}
    asked = Config(config.plain()).fingerprint()
    saved = {key: value for key, value in saved.items() if key not in VOLATILE_KEYS}
    differ = [k for k in saved.keys() | asked.keys() if saved.get(k) != asked.get(k)]
    differ.sort(key=lambda k: (k not in ("model", "dataset", "seed"), k))
    if differ:
        shown = ", ".join(f"{k} {saved.get(k)!r} -> {asked.get(k)!r}" for k in differ[:5])
        raise InputError(
            f"{run_dir} holds a run with another configuration ({shown}); choose another output_dir, or go on with its "
            f"own by --resume={run_dir}"
        )

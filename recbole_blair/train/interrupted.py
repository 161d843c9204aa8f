"""Finds the run that was interrupted under a configuration, so that the same command goes on with it."""

from __future__ import annotations

import glob
from pathlib import Path

from filelock import FileLock, Timeout

from recbole_blair.config import Config
from recbole_blair.data.build import find_build
from recbole_blair.errors import InputError
from recbole_blair.parallel.distributed import world_size
from recbole_blair.schema import SPLITS
from recbole_blair.train import run_folder
from recbole_blair.train.display import say
from recbole_blair.train.runtime import runtime_config


def find_interrupted(config: Config, default: Path) -> Path | None:
    """Return the newest folder beside `default` that holds an interrupted run of the same configuration, or None.

    A run counts if its keys are the same but for `VOLATILE_KEYS`, if nobody trains there, and if its build was not made
    again since it started.

    Args:
        config: of one run or several.
        default: the folder that a new run would get, `<time>-<name>`.
    """
    n_runs = len(config["seeds"] or [0]) * (1 + len(config["baselines"] or []))
    if n_runs == 1:
        config = config.replace(seed=(config["seeds"] or [config["seed"]])[0], seeds=None, baselines=None)
        config = runtime_config(config)
        if world_size() > 1:
            config = config.replace(nproc=world_size())
    name = default.name.split("-", 2)[2]  # without the two parts of the time
    pattern = f"{glob.escape(str(default.parent))}/[0-9]*-[0-9]*-{glob.escape(name)}"
    for folder in sorted(map(Path, glob.glob(pattern)), reverse=True):
        if len(folder.name.split("-", 2)) == 3 and folder.name.split("-", 2)[2] == name and is_same(folder, config):
            runs = [folder] if n_runs == 1 else run_folders(folder, config)
            if any(not (run / run_folder.METRICS).exists() for run in runs) and not any(map(is_at_work, runs)):
                return folder
    return None


def run_folders(root: Path, config: Config) -> list[Path]:
    """Return the folders of the runs of several seeds or models below `root`."""
    names = [config["model"], *(config["baselines"] or [])]
    return [root / f"{name}-{seed}" for name in names for seed in config["seeds"] or [config["seed"]]]


def is_same(folder: Path, config: Config) -> bool:
    """Tell whether a folder's configuration is `config`, and neither build nor plugin was written since."""
    path = folder / run_folder.CONFIG
    if not path.is_file():
        return False
    try:
        saved = run_folder.load_config(folder)
    except InputError:  # damaged
        return False
    asked = Config(config.plain())
    if Config(saved).fingerprint() != asked.fingerprint():
        return False
    if any(saved.get(key) != asked[key] for key in ("seeds", "baselines", "plugin")):
        return False
    if Path(saved["data_path"]).resolve() != Path(config["data_path"]).resolve():
        return False
    return newest_source_ns(config) <= path.stat().st_mtime_ns


def newest_source_ns(config: Config) -> int:
    """Return when the rows that a configuration reads, or its plugins, were last written; 0 where none are there."""
    build, _ = find_build(config)
    files = [build / f"{build.name}.{split}.inter" for split in SPLITS]
    files += [Path(file) for file in config["plugin"] or ()]
    return max((file.stat().st_mtime_ns for file in files if file.is_file()), default=0)


def is_at_work(run_dir: Path) -> bool:
    """Tell whether a process trains in a run folder."""
    path = run_dir / run_folder.LOCK
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except (Timeout, OSError):
        return True


def choose_root(config: Config, default: Path) -> Path:
    """Return the folder of what a configuration asks for: `output_dir`, else an interrupted run's, else `default`.

    Raises:
        InputError: `fresh` with the folder of a run.
    """
    if config["output_dir"]:
        folder = Path(config["output_dir"])
        if config["fresh"] and (folder / run_folder.CONFIG).is_file():
            raise InputError(f"--fresh starts a new run, but {folder} holds one; give another --output_dir, or none")
        return folder
    found = None if config["fresh"] else find_interrupted(config, default)
    if found:
        say(f"going on with the interrupted run {found} of this configuration; --fresh starts a new one")
    return found or default

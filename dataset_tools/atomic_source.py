"""Data sets in RecBole's layout, `<folder>/<name>.inter` and perhaps `<name>.item`, as options of `prepare_own`."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from dataset_tools.raw.own_formats import ATOMIC
from recbole_blair.errors import InputError
from recbole_blair.files.read import shown, why_no_folder
from recbole_blair.schema import ITEM_SUFFIX, SPLITS

INTER_SUFFIX = ".inter"
UNIT = "s"  # of the times in RecBole's own data sets


def load_atomic(dataset: str | None, data_path: Path | str, source_dir: Path | str | None) -> dict[str, Any]:
    """Return the options of an atomic data set: arguments of `prepare_own`, the files' paths among them.

    Args:
        dataset: the build's name; None: the folder's.
        data_path: folder of the builds.
        source_dir: the data set's folder, whose name its files have; None: `<data_path>/<dataset>`.

    Raises:
        InputError: no such folder or file; or its rows are split already.
    """
    if source_dir is None and dataset is None:
        raise InputError(
            "--source=atomic needs --dataset=NAME, for <data_path>/NAME/NAME.inter, or --source_dir=<folder>"
        )
    folder = Path(os.path.expanduser(source_dir)) if source_dir is not None else Path(data_path) / str(dataset)
    name = folder.resolve().name if folder.name in ("", ".", "..") else folder.name
    expected = f"a data set of RecBole's, {name}{INTER_SUFFIX} and perhaps {name}{ITEM_SUFFIX}"
    reason = why_no_folder(folder)
    if reason:
        raise InputError(f"{shown(folder)}: {reason}; expected the folder of {expected}; name it by --source_dir")
    interactions, items = (find_part(folder, f"{name}{suffix}") for suffix in (INTER_SUFFIX, ITEM_SUFFIX))
    if interactions is None:
        if all((folder / f"{name}.{split}{INTER_SUFFIX}").is_file() for split in SPLITS):
            raise InputError(f"{shown(folder)} is split already; train with --dataset={name}, nothing is to prepare")
        there = ", ".join(sorted(path.name for path in folder.glob(f"*{INTER_SUFFIX}*"))[:5]) or "no .inter file"
        raise InputError(f"{shown(folder)} holds {there}; expected {expected}, or --interactions=FILE")
    found = {"dataset": name, "source": ATOMIC, "timestamp_unit": UNIT, "interactions": interactions}
    return found if items is None else {**found, "items": items}


def find_part(folder: Path, name: str) -> Path | None:
    """Return the path of one file of a data set, plain before packed; None where it has none."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def refuse_unsplit(dataset: str, data_path: Path | str, protocol: str) -> None:
    """Refuse to train on a data set of RecBole's that is not split yet.

    Raises:
        InputError: names the command that splits it.
    """
    folder = Path(data_path) / dataset
    interactions = find_part(folder, f"{dataset}{INTER_SUFFIX}")
    if interactions is not None:
        raise InputError(f"{interactions} is not split yet; run {split_command(folder, protocol)}")


def split_command(folder: Path, protocol: str) -> str:
    """Return a command that splits the data set in `folder`; its build lies beside it."""
    words = ["recbole-blair", "prepare", "--source=atomic"]
    if protocol == "timestamp":  # else its build, named like the data set, would lie in the folder
        words += [f"--source_dir={folder}", f"--dataset={folder.name}-time"]
    else:
        words += [f"--dataset={folder.name}", f"--data_path={folder.parent}", f"--protocol={protocol}"]
    return shlex.join(words)

"""The text encoder that a run trained, copied out of its folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from recbole_blair.errors import InputError
from recbole_blair.files.checksum import check_folder
from recbole_blair.files.write import whole_folder
from recbole_blair.runs.open_run import holds_encoder
from recbole_blair.text.trained.choice import FROZEN
from recbole_blair.train.run_folder import ENCODER, load_config


def copy_encoder(run_dir: Path | str, output_dir: Path | str) -> Path:
    """Copy a run's trained encoder, whole; returns the new folder.

    Raises:
        InputError: the run's encoder was frozen, its training has not ended, or a file is damaged.
    """
    saved = load_config(run_dir)
    if saved.get("train_encoder", FROZEN) == FROZEN:
        raise InputError(
            f"{run_dir} was trained over a frozen encoder, {saved.get('plm')}: that is the encoder, there is no other"
        )
    if not holds_encoder(run_dir):
        raise InputError(
            f"{run_dir} has not ended, so it holds no {ENCODER}/ yet; finish it by `recbole-blair train "
            f"--resume={run_dir}`"
        )
    folder, out = Path(run_dir) / ENCODER, Path(output_dir).expanduser()
    check_folder(folder, "copy the run again")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--output_dir={output_dir} is there already and not empty; choose another folder")
    with whole_folder(out) as temporary:
        shutil.copytree(folder, temporary, dirs_exist_ok=True)
    return out

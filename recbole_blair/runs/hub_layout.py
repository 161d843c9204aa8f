"""The files of a run on the hub, and what becomes of each when it is fetched.

    README.md                    the card, with the metrics
    config.yaml, metrics.json    of the run; the configuration without its paths
    checkpoint/                  the best weights (safetensors) and their checksum
    catalogue/                   items.txt (the .item file), features.safetensors and .json; see CatalogueDataset
    encoder/                     the text encoder, where the run trained it
    checksums.json               SHA-256 of all of them but README.md

Nothing else is fetched: no pickle, no code.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_blair.config import VOLATILE_KEYS
from recbole_blair.data.catalogue_dataset import ABOUT, ABOUT_KEYS, COUNTS
from recbole_blair.errors import InputError
from recbole_blair.files.own_json import read_own_json
from recbole_blair.schema import FEATURE_HEADER_SUFFIX, FEATURE_SUFFIX, ITEM_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

CATALOGUE = "catalogue"
ITEMS, FEATURES, HEADER = f"{CATALOGUE}/items.txt", f"{CATALOGUE}/features.safetensors", f"{CATALOGUE}/features.json"
VECTORS = "features.safetensors"  # of features that are pushed alone, beside text/vectors.py's IDS_FILE
TENSOR = "features"  # the name of the one tensor (N - 1, D) float32 in them
CARD = "README.md"
ALLOWED = re.compile(
    r"config\.yaml|metrics\.json|checkpoint/(best\.safetensors|checksums\.json)"
    rf"|{CATALOGUE}/(about\.json|counts\.safetensors|items\.txt|features\.(json|safetensors))"
    r"|encoder/([\w-]+/)*[\w-][\w.-]*\.(safetensors|json|txt|model)",
    re.ASCII,
)
# Of this machine, or of nobody's concern: where things are, a server's address, how many cores.
OWN_KEYS = VOLATILE_KEYS | {"init_from", "plm_base_url", "nproc", "device"}
CHUNK_ROWS = 1 << 14  # of features, read and written at a time
FIX = "push the run again"


def pushed_build(run_dir: Path | str) -> Path | None:
    """Return the folder of the items that a fetched run brings; None for a run that was trained here."""
    found = sorted(Path(run_dir).glob(f"{CATALOGUE}/*/{ABOUT}"))
    return found[0].parent if found else None


def read_about(path: Path) -> dict[str, Any]:
    """Read a fetched about.json; its names become names of files.

    Raises:
        InputError: it is damaged, or a name leads out of the folder.
    """
    about = read_own_json(path, "what is known of a pushed run's data", FIX, ABOUT_KEYS)
    for key in ("dataset", "encoder"):
        name = about[key]
        unsafe = (
            not isinstance(name, str) or name in ("", ".", "..") or not name.isprintable() or set(name) & set("/\\")
        )
        if unsafe and (key, name) != ("encoder", None):
            raise InputError(f"{path}: {key} is {str(name)[:100]!r}, which can be no name of a file; {FIX}")
    return about


def local_name(name: str, about: dict[str, Any]) -> str:
    """Return where a file of the hub lies in the folder of a fetched run."""
    build, encoder = about["dataset"], about["encoder"]
    suffixes = {
        ITEMS: ITEM_SUFFIX, FEATURES: f".{encoder}{FEATURE_SUFFIX}", HEADER: f".{encoder}{FEATURE_HEADER_SUFFIX}",
    }  # fmt: skip
    if name in suffixes:
        return f"{CATALOGUE}/{build}/{build}{suffixes[name]}"
    return (
        f"{CATALOGUE}/{build}/{Path(name).name}" if name in (f"{CATALOGUE}/{ABOUT}", f"{CATALOGUE}/{COUNTS}") else name
    )


def write_tensor(path: Path, array: np.ndarray) -> None:
    """Write rows (N - 1, D) float32 as a safetensors file of one tensor; they may be a memory map."""
    about = {TENSOR: {"dtype": "F32", "shape": list(array.shape), "data_offsets": [0, 4 * array.size]}}
    header = json.dumps(about).encode()
    header += b" " * (-len(header) % 8)  # the numbers begin at a multiple of 8 bytes
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for start in range(0, len(array), CHUNK_ROWS):
            file.write(np.ascontiguousarray(array[start : start + CHUNK_ROWS], "<f4").tobytes())


def iter_tensor(path: Path) -> Iterator[np.ndarray]:
    """Yield the rows of a file that `write_tensor` wrote, some at a time.

    Raises:
        InputError: damaged, or a file of other tensors.
    """
    from safetensors import SafetensorError, safe_open  # heavy

    try:
        with safe_open(path, "np") as file:
            rows = file.get_slice(TENSOR)
            if rows.get_dtype() != "F32" or len(rows.get_shape()) != 2:
                raise InputError(
                    f"{path} holds {rows.get_dtype()} of shape {rows.get_shape()}; expected features; {FIX}"
                )
            n_rows = rows.get_shape()[0]
            for start in range(0, n_rows, CHUNK_ROWS):
                yield rows[start : min(start + CHUNK_ROWS, n_rows)]
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged ({str(error)[:100]}); {FIX}") from error

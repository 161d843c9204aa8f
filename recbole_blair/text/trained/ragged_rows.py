"""What an encoder's steps begin from, one row per text: token ids, or hidden states below the trained layers.

The rows lie one after the other in `values.bin`, memory-mapped, and `starts.npy` says where each begins. They are
computed once and kept in `<build>/.cache/encoder_states/<hash of what they depend on>/`; `stamp.json`, written last,
holds that and the checksums of both files. A damaged copy is made again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from recbole_blair.errors import InputError
from recbole_blair.files.checksum import crc32_blocks
from recbole_blair.files.write import remove_leftovers, whole_folder
from recbole_blair.parallel.launch import is_first_process
from recbole_blair.schema import CACHE_DIR

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

VERSION = 1  # raised when the layout changes
FOLDER, VALUES, STARTS, STAMP = "encoder_states", "values.bin", "starts.npy", "stamp.json"
# NumPy knows no bfloat16: its bits are kept as 16-bit integers.
STORED = {torch.bfloat16: np.int16, torch.float32: np.float32, torch.float64: np.float64, torch.int32: np.int32}


class RaggedRows:
    """Rows of different lengths in one array.

    Args:
        starts (N + 1,) int64: where each row begins, and the end of the last.
        values (S, ...): S places of all rows together; int32 token ids, or states of width H.
        dtype: what the values stand for.
    """

    def __init__(self, starts: np.ndarray, values: np.ndarray, dtype: torch.dtype) -> None:
        self.starts, self.values, self.dtype = starts, values, dtype
        self.lengths = np.diff(starts)  # (N,)

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return rows (b,) right-padded: (b, T) int64 token ids or (b, T, H) states, and their lengths (b,) int64.

        A shorter row repeats its last place up to T: finite numbers, which the attention mask leaves out.
        """
        lengths = self.lengths[rows]
        step = np.minimum(np.arange(int(lengths.max())), lengths[:, None] - 1)  # (b, T)
        values = torch.from_numpy(np.asarray(self.values[self.starts[rows][:, None] + step]))  # (b, T, ...)
        values = values.long() if self.dtype == torch.int32 else values.view(self.dtype)
        return values, torch.from_numpy(lengths)


def rows_folder(build_dir: Path, about: Mapping[str, Any]) -> Path:
    """Return where rows that depend on `about` are kept."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    return build_dir / CACHE_DIR / FOLDER / digest[:16]


def open_rows(folder: Path, about: Mapping[str, Any], width: int, dtype: torch.dtype) -> RaggedRows | None:
    """Map rows that were kept; None when there are none, or they are damaged, which is said in one line.

    Args:
        width: H of states; 0 of token ids.
        dtype: of the values.
    """
    if not folder.is_dir():
        return None
    try:
        stamp = json.loads((folder / STAMP).read_bytes())
        if stamp["about"] != dict(about):
            return None
        wrong = [name for name in (VALUES, STARTS) if crc32_blocks(folder / name) != stamp["crc32"][name]]
        if not wrong:
            starts = np.load(folder / STARTS, allow_pickle=False)
            shape = (int(starts[-1]), width) if width else (int(starts[-1]),)
            return RaggedRows(starts, np.memmap(folder / VALUES, STORED[dtype], "r", shape=shape), dtype)
        fault = f"{wrong[0]} has another checksum than when it was written"
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        fault = f"{type(error).__name__}: {error}"
    if is_first_process():
        print(f"{folder} is damaged ({fault[:200]}); it is made again", file=sys.stderr)
    return None


def make_rows(
    folder: Path,
    about: Mapping[str, Any],
    lengths: np.ndarray,
    width: int,
    dtype: torch.dtype,
    fill: Callable[[np.ndarray, np.ndarray], None],
) -> RaggedRows:
    """Compute rows, keep them, and map them.

    Args:
        folder, about: as of `open_rows`.
        lengths: (N,) places of each row, at least 1.
        fill: gets values (S, H), or (S,), to write into, and starts (N + 1,).

    Raises:
        InputError: the disk has too little space for them.
    """
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    shape = (int(starts[-1]), width) if width else (int(starts[-1]),)
    n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(STORED[dtype]).itemsize
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder.parent)
    check_space(folder.parent, n_bytes)
    with whole_folder(folder, sync=False) as temporary:
        values = np.memmap(temporary / VALUES, STORED[dtype], "w+", shape=shape)
        fill(values, starts)
        values.flush()
        del values
        np.save(temporary / STARTS, starts, allow_pickle=False)
        crc32 = {name: crc32_blocks(temporary / name) for name in (VALUES, STARTS)}
        (temporary / STAMP).write_text(json.dumps({"about": dict(about), "crc32": crc32}))
    return RaggedRows(starts, np.memmap(folder / VALUES, STORED[dtype], "r", shape=shape), dtype)


def check_space(folder: Path, n_bytes: int) -> None:
    """Refuse to write more than the disk has room for.

    Raises:
        InputError: names both sizes and the fixes.
    """
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise InputError(
            f"the hidden states below the trained layers take {n_bytes / 2**30:,.1f} GiB in {folder}, where "
            f"{free / 2**30:,.1f} GiB are free; free some space, lower plm_max_length, or take lora:8, which keeps none"
        )

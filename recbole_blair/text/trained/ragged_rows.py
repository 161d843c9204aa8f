"""What an encoder's steps begin from, one row per text: token ids, or hidden states below the trained layers.

The rows lie one after the other in `values.bin`, memory-mapped, and `starts.npy` says where each begins. They are
computed once and kept in `<build>/.cache/encoder_states/<hash of what they depend on>/`; `stamp.json`, written last,
holds that and the checksums of both files. A damaged copy is made again. While rows are computed they lie in
`<hash>.partial/`, where `progress.json` says how far they are.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from recbole_blair.errors import InputError
from recbole_blair.files.checksum import crc32_blocks
from recbole_blair.files.own_json import read_own_json, write_own_json
from recbole_blair.files.write import locked_folder, put_in_place, remove, remove_leftovers, whole_folder
from recbole_blair.parallel.launch import is_first_process
from recbole_blair.schema import CACHE_DIR

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor
    from tqdm import tqdm

VERSION = 1  # raised when the layout changes
FOLDER, VALUES, STARTS, STAMP = "encoder_states", "values.bin", "starts.npy", "stamp.json"
PARTIAL, PROGRESS, LOCK = ".partial", "progress.json", ".lock"
SAVED_EVERY_S = 20.0  # at most this much work is lost by a kill
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


def open_rows(
    folder: Path, about: Mapping[str, Any], width: int, dtype: torch.dtype, quiet: bool = False
) -> RaggedRows | None:
    """Map rows that were kept; None when there are none, or they are damaged, which is said in one line.

    Args:
        width: H of states; 0 of token ids.
        dtype: of the values.
        quiet: say nothing of damage.
    """
    if not folder.is_dir():
        return None
    try:
        stamp = read_own_json(folder / STAMP, "what kept rows depend on", "", ("about", "crc32"))
        if stamp["about"] != dict(about):
            return None
        wrong = [name for name in (VALUES, STARTS) if crc32_blocks(folder / name) != stamp["crc32"][name]]
        if not wrong:
            starts = np.load(folder / STARTS, allow_pickle=False)
            shape = (int(starts[-1]), width) if width else (int(starts[-1]),)
            return RaggedRows(starts, np.memmap(folder / VALUES, STORED[dtype], "r", shape=shape), dtype)
        fault = f"{wrong[0]} has another checksum than when it was written"
    except (InputError, OSError, ValueError, LookupError, TypeError) as error:
        fault = f"{type(error).__name__}: {error}"
    if is_first_process() and not quiet:
        print(f"{folder} is damaged ({fault[:200]}); it is made again", file=sys.stderr)
    return None


def make_rows(
    folder: Path, about: Mapping[str, Any], lengths: np.ndarray, width: int, dtype: torch.dtype,
    batches: Sequence[np.ndarray], write: Callable[[np.ndarray, np.ndarray, np.ndarray], None], bar: tqdm,
) -> RaggedRows:  # fmt: skip
    """Compute rows batch by batch, keep them, and map them; what a killed process left is gone on with.

    Until they are whole they lie in `<folder>.partial/`, whose lock another process waits for.

    Args:
        folder, about: as of `open_rows`.
        lengths: (N,) places of each row, at least 1.
        batches: rows that are computed together; their order is part of what a later process must share.
        write: gets values (S, H), or (S,), to write into, starts (N + 1,), and the rows of a batch.
        bar: counts rows.

    Raises:
        InputError: the disk has too little space for them.
    """
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    shape = (int(starts[-1]), width) if width else (int(starts[-1]),)
    n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(STORED[dtype]).itemsize
    remove_leftovers(folder.parent)
    partial = folder.with_name(f"{folder.name}{PARTIAL}")
    with locked_folder(partial, LOCK):
        kept = open_rows(folder, about, width, dtype, quiet=True)  # another process may have made them meanwhile
        if kept is not None:
            remove(partial)
            return kept
        state = {"about": dict(about), "batches": len(batches)}
        done = _batches_done(partial, state, n_bytes)
        if not done:
            check_space(partial, n_bytes)
        values = np.memmap(partial / VALUES, STORED[dtype], "r+" if done else "w+", shape=shape)
        bar.update(sum(map(len, batches[:done])))
        saved = time.monotonic()
        for number, rows in enumerate(batches[done:], done + 1):
            write(values, starts, rows)
            bar.update(len(rows))
            if time.monotonic() - saved > SAVED_EVERY_S:
                values.flush()  # first: what is written down as done is on the disk
                write_own_json(partial / PROGRESS, {**state, "done": number})
                saved = time.monotonic()
        values.flush()
        del values
        with whole_folder(folder, sync=False) as temporary:
            np.save(temporary / STARTS, starts, allow_pickle=False)
            put_in_place(partial / VALUES, temporary / VALUES, sync=False)
            crc32 = {name: crc32_blocks(temporary / name) for name in (VALUES, STARTS)}
            write_own_json(temporary / STAMP, {"about": dict(about), "crc32": crc32}, indent=None)
        remove(partial)
    return RaggedRows(starts, np.memmap(folder / VALUES, STORED[dtype], "r", shape=shape), dtype)


def _batches_done(partial: Path, state: Mapping[str, Any], n_bytes: int) -> int:
    """Return how many batches of the same work an earlier process left on the disk."""
    try:
        found = read_own_json(partial / PROGRESS, "the progress of encoding", "", ("done",))
        same = (partial / VALUES).stat().st_size == n_bytes and {**found, "done": 0} == {**state, "done": 0}
        return int(found["done"]) if same else 0
    except (InputError, OSError, ValueError, TypeError):
        return 0


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

"""One look for every progress bar."""

from __future__ import annotations

import sys

from tqdm import tqdm

from recbole_blair.parallel.launch import is_first_process


def progress_bar(total: int, label: str, unit: str, enabled: bool = True) -> tqdm:
    """Return a tqdm bar; silent when disabled, rarely redrawn when the output is no terminal."""
    every = 0.2 if sys.stderr.isatty() else 10.0  # seconds
    return tqdm(
        total=total, desc=f"{label:>16}", unit=unit, disable=not (enabled and is_first_process()), mininterval=every,
        leave=False, dynamic_ncols=True, delay=0.5,
    )  # fmt: skip

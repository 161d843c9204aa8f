"""One look for every progress bar."""

from tqdm import tqdm

from recbole_blair.parallel.launch import is_first_process


def progress_bar(total, label, unit, enabled=True):
    """A tqdm bar; silent when disabled, rarely redrawn when the output is no terminal."""
    import sys

    every = 0.2 if sys.stderr.isatty() else 10.0
    return tqdm(
        total=total, desc=f"{label:>16}", unit=unit, disable=not (enabled and is_first_process()), mininterval=every,
        leave=False, dynamic_ncols=True, delay=0.5,
    )  # fmt: skip

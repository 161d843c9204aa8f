"""The one exception that means "the user can fix this": printed as a single line, exit status 2."""

from __future__ import annotations

import difflib
import errno
import importlib.util
import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

EXTRAS = {  # package that is imported: the extra of setup.py that brings it
    "accelerate": "pretrain", "datasets": "pretrain", "sentence_transformers": "pretrain",
    "bm25s": "search", "Stemmer": "search", "faiss": "search", "ir_measures": "search",
    "ray": "tune", "optuna": "tune", "openai": "api", "tiktoken": "api", "peft": "lora",
    "fastapi": "serve", "uvicorn": "serve",
}  # fmt: skip
LONGEST_LINE = 1000  # characters of a message that are shown: it may name what a broken file holds


class InputError(ValueError):
    """Wrong use or wrong input. The message says what was found, what was expected, where, and the fix."""


def require(user: str, *packages: str, instead: str = "") -> None:
    """Refuse to start without packages of an extra.

    Args:
        user: what needs them.
        packages: keys of `EXTRAS`.
        instead: what can be done without them, `, or …`.

    Raises:
        InputError: names those that are missing, and the extra.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        names = " and ".join(missing)
        raise InputError(
            f"{user} needs {names}, not installed for {sys.executable}: {how_to_install(missing[0])}{instead}"
        )


def how_to_install(package: str) -> str:
    """Return the command that installs a package of an extra."""
    return f"pip install 'recbole-blair[{EXTRAS[package]}]'"


def nearest(name: object, known: Iterable[object]) -> str:
    """Return ` Did you mean X?` for the closest of `known`, or an empty string."""
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def run_guarded(
    run: Callable[[], int | None], is_speaker: Callable[[], bool] = lambda: True, command: str = "the same command"
) -> int:
    """Call `run()`; print what a user can mend, and Ctrl-C, as one line.

    Args:
        run: the work; returns the exit status, None for 0.
        is_speaker: False in a process beside which another one meets the same error and prints it.
        command: that goes on after Ctrl-C, where the interrupted work does not name another.

    Returns:
        Exit status: that of `run`; 2 for what the user can mend; 130 for Ctrl-C.
    """
    try:
        return run() or 0
    except InputError as error:
        if is_speaker():
            line = " ".join(str(error).split())
            cut = line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}… ({len(line):,} characters)"
            print(f"error: {cut}", file=sys.stderr)
        else:  # the speaker meets the same and must not be ended before it says so; `launch` speaks for one alone
            time.sleep(3)
        return 2
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if not package or importlib.util.find_spec(package):  # a module of a package that is there: a fault, not a lack
            raise
        how = "use the environment that `make install` makes (. .venv/bin/activate), or install into this one"
        how = how_to_install(package) if package in EXTRAS else f"{how} (docs/install.md)"
        print(f"error: {package} is not installed for {sys.executable}; {how}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP):
            path = str(error.filename)[:300]
            print(f"error: {path}: {os.strerror(error.errno)}; give another path", file=sys.stderr)
            return 2
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        where = f" ({error.filename})" if error.filename else ""
        print(
            f"error: cannot write{where}: {os.strerror(error.errno)}; free some space or choose another "
            "folder, then run the same command again: it goes on where it was",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt as stopped:
        print(f"interrupted; {stopped if stopped.args else f'go on with: {command}'}", file=sys.stderr)
        return 130

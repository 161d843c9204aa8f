"""Writing files: a reader sees the whole new file, the old one, or none; what killed commands left is removed.

A file or folder is made under a temporary name beside its place, `.<name>.blair-<process>-<8 hex digits>.tmp`, flushed
to the disk and renamed. The writer holds a lock on it (flock), which the system releases when the process ends, however
it ends: whoever writes into the same folder next removes the temporary entries that nobody holds. A library that puts
another file under that name (safetensors) takes the lock away with it; the process's number in the name then tells.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from recbole_blair.errors import InputError

try:
    import fcntl
except ImportError:  # Windows: no such locks; age tells instead
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LEFTOVER = re.compile(r"\..*\.blair-(?:(?P<process>[0-9]+)-)?[0-9a-f]{8}\.tmp")
LEFTOVER_AGE_S = 24 * 3600  # where a file system has no locks, what nobody touched for a day was left by a dead process
CLOCK_S = 1.0  # by which the start of a process and the time of a file may differ: they come from two clocks
NAME_BYTES = 200  # of the target that stay in the temporary name: file systems take 255 for all of it
FULL_BELOW_BYTES = 1 << 16  # free space at which an error that a library does not explain counts as a full disk

_TRY_AGAIN = "then run the same command again: it goes on where it was"
_SPACE = f"free some space or choose another folder, {_TRY_AGAIN}"
_FIXES = {  # errno of a failed write: what the user can do
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: f"raise the limit on file sizes (ulimit -f) or choose another file system, {_TRY_AGAIN}",
    errno.EROFS: f"choose a folder that can be written, {_TRY_AGAIN}",
    errno.EACCES: f"choose a folder that you may write, or change its permissions, {_TRY_AGAIN}",
    errno.EPERM: f"choose a folder that you may write, or change its permissions, {_TRY_AGAIN}",
    errno.ENOTDIR: "a part of this path is a file; choose another path",
    errno.EEXIST: "a file is where a folder should be; choose another path, or move the file away",
    errno.EISDIR: "give a file, not a folder",
    errno.ENOENT: "the folder does not exist and cannot be made; choose another path",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "its symbolic links lead in a circle; choose another path",
    errno.EIO: "the disk reports a fault; choose another folder",
}
_LIBRARIES = ("safetensors", "safetensors_rust", "pyarrow", "duckdb", "_duckdb")  # have error classes of their own
_SIGNS = {  # what such errors and those of PyTorch, NumPy and faiss say, in lower case: the errno that they hide
    "no space left": errno.ENOSPC,
    "os error 28": errno.ENOSPC,
    "disk quota": errno.EDQUOT,
    "file too large": errno.EFBIG,
    "read-only file system": errno.EROFS,
    "permission denied": errno.EACCES,
}
_SHORT_WRITES = re.compile(r"\d+ requested and \d+ written|inline_container|write error")  # by a full disk or a limit


class WriteError(InputError, OSError):
    """A file that cannot be written; `errno` says why."""

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.errno = number

    def __reduce__(self) -> tuple[type, tuple[str, int | None]]:
        """Keep errno when the error travels between processes."""
        return type(self), (self.args[0], self.errno)


@contextlib.contextmanager
def whole_file(path: Path | str, sync: bool = True) -> Iterator[Path]:
    """Yield the temporary path of a new, empty file; when the block ends well it takes the place of `path`.

    Args:
        path: of the file; its folder is made when missing.
        sync: whether the bytes must be on the disk before the name is; False for copies that can be made again.

    Raises:
        WriteError: it cannot be written: one line with the reason and the fix. Nothing is left of the new file.
    """
    path = Path(path)
    with explained(path):
        check_is_file(path)
        with _temporary(path, lambda place: place.touch(exist_ok=False)) as place, explained(path):
            yield place
            put_in_place(place, path, sync)


@contextlib.contextmanager
def whole_folder(path: Path | str, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary folder; when the block ends well it takes the place of `path`, whose old content goes.

    Args:
        path: of the folder.
        sync: as in `whole_file`, for every file in it.

    Raises:
        WriteError: it cannot be written; nothing is left of the new folder, and an old one stays.
    """
    path = Path(path)
    with explained(path):
        if path.exists() and not path.is_dir():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        with _temporary(path, os.mkdir) as place, explained(path):  # while the disk is still full, before the clean-up
            yield place
            if sync:
                for file in [*place.rglob("*"), place]:
                    sync_to_disk(file)
            _exchange(place, path)
            if sync:
                sync_to_disk(path.parent)


@contextlib.contextmanager
def work_folder(path: Path | str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, for the parts of it that are moved to their places one by one.

    Raises:
        WriteError: something in it cannot be written. The folder is removed, however the block ends.
    """
    path = Path(path)
    with explained(path), _temporary(path, os.mkdir) as place, explained(path):
        yield place


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write a file of bytes, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path | str, text: str, errors: str = "strict") -> None:
    r"""Write UTF-8 text with `\n` between lines, whole or not at all; `errors` is str.encode's."""
    write_bytes(path, text.encode("utf-8", errors))


def write_json(
    path: Path | str,
    value: object,
    indent: int | None = 1,
    ensure_ascii: bool = False,
    default: Callable[[object], object] | None = None,
) -> None:
    """Write JSON and a newline, whole or not at all; the arguments are json.dumps's."""
    text = json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, default=default)
    write_text(path, f"{text}\n", errors="backslashreplace")  # of a lone surrogate: JSON's own way to write it


def put_in_place(temporary: Path, path: Path | str, sync: bool = True) -> None:
    """Give a finished file its name: for writers that append to a partial file of their own over several runs."""
    if sync:
        sync_to_disk(temporary)
    os.replace(temporary, path)
    if sync:
        sync_to_disk(Path(path).parent)


def sync_to_disk(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names where the system can do that, are on the disk."""
    if path.is_dir():
        with contextlib.suppress(OSError):  # some file systems and Windows cannot
            _sync(path)
    elif not path.is_symlink():
        _sync(path)


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders that dead processes left in `folder`; those in use stay."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in [entry for entry in entries if LEFTOVER.fullmatch(entry.name)]:
            with contextlib.suppress(OSError), _lock(Path(entry.path)) as locked:
                old = time.time() - entry.stat().st_mtime > LEFTOVER_AGE_S
                if (locked and not _writer_lives(entry)) or (locked is None and old):
                    remove(Path(entry.path))


def _writer_lives(entry: os.DirEntry[str]) -> bool:
    """Tell whether the process that an entry's name gives runs on this machine, and ran before the entry was made."""
    import psutil  # used here alone, and seldom

    number = LEFTOVER.fullmatch(entry.name)
    if number is None or number["process"] is None:
        return False
    try:
        process = psutil.Process(int(number["process"]))
        began = process.create_time()  # a number that was given anew belongs to a younger process
        return process.status() != psutil.STATUS_ZOMBIE and began <= entry.stat().st_mtime + CLOCK_S
    except psutil.AccessDenied:
        return True
    except (psutil.Error, OverflowError):
        return False


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _temporary(path: Path, make: Callable[[Path], object]) -> Iterator[Path]:
    """Make a locked temporary entry beside `path`; remove it at the end if it is still there, and new empty folders."""
    name = path.name.encode(errors="surrogateescape")[:NAME_BYTES].decode(errors="ignore")
    with needed_folder(path.parent):
        remove_leftovers(path.parent)
        while True:
            place = path.with_name(f".{name}.blair-{os.getpid()}-{secrets.token_hex(4)}.tmp")
            make(place)
            try:
                with _lock(place) as locked:
                    if locked is False or not place.exists():  # another process took it for a leftover before the lock
                        continue
                    yield place
                    return
            finally:
                remove(place)


@contextlib.contextmanager
def needed_folder(folder: Path) -> Iterator[None]:
    """Make a folder and those above it; remove at the end those that were not there and are empty."""
    missing = [] if folder.is_dir() else [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for place in missing:
            with contextlib.suppress(OSError):
                place.rmdir()


@contextlib.contextmanager
def locked_folder(folder: Path, lock: str, timeout_s: float = -1, marks: tuple[str, ...] = ()) -> Iterator[None]:
    """Hold the lock file `lock` in a folder, made when missing; one that is new and holds nothing else goes at the end.

    Args:
        folder: of the lock file.
        lock: its name.
        timeout_s: how long to wait for another process; -1: until it is through.
        marks: names of files that do not count as something.

    Raises:
        filelock.Timeout: another process holds it.
    """
    new = not folder.is_dir()
    with needed_folder(folder), FileLock(folder / lock, timeout=timeout_s):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows keeps a file that is open
                if new and {entry.name for entry in folder.iterdir()} <= {lock, *marks}:
                    for name in (*marks, lock):
                        (folder / name).unlink(missing_ok=True)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[bool | None]:
    """Yield True while holding an entry's lock, False if a living process holds it, None where there are no locks."""
    if fcntl is None:
        yield None
        return
    number = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # NFS locks only what is open for writing
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except BlockingIOError:
            locked = False
        except OSError:  # this file system has no locks, or none on folders
            locked = None
        yield locked
    finally:
        os.close(number)


def _exchange(temporary: Path, path: Path) -> None:
    """Rename a whole folder to its place; the old one is moved away first and then removed."""
    while True:
        old = path.with_name(f".{path.name[: NAME_BYTES // 4]}.blair-{secrets.token_hex(4)}.tmp")
        try:
            with contextlib.suppress(FileNotFoundError):
                path.rename(old)
            temporary.rename(path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another process put its folder there meanwhile
                with contextlib.suppress(OSError):
                    old.rename(path)
                raise
        finally:
            remove(old)


def check_is_file(path: Path) -> None:
    """Refuse what a file cannot replace.

    Raises:
        OSError: a folder, a device, a pipe.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise WriteError(f"cannot write {path}: it is a device or a pipe, not a file; choose another path")


@contextlib.contextmanager
def explained(path: Path | str) -> Iterator[None]:
    """Turn the errors of writing `path` into WriteError, also those of libraries that hide the reason."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        number = write_errno(error, Path(path))
        if number is None:
            raise
        raise WriteError(describe(number, path), number) from error


def describe(number: int, path: Path | str) -> str:
    """Return the line about a write that failed with this errno."""
    shown = str(path) if len(str(path)) <= 300 else f"{str(path)[:300]}…"
    return f"cannot write {shown}: {os.strerror(number)}; {_FIXES[number]}"


def write_errno(error: Exception, path: Path) -> int | None:
    """Return why writing `path` failed as an errno of `_FIXES`; None when the error is about something else."""
    if isinstance(error, ValueError) and "null byte" in str(error):
        raise WriteError(f"cannot write {str(path)!r}: a path cannot hold a NUL character") from error
    if isinstance(error, OSError) and error.errno is not None:
        space = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return error.errno if error.errno in _FIXES and (space or _is_about(error.filename, path)) else None
    if not isinstance(error, (OSError, RuntimeError)) and type(error).__module__.split(".")[0] not in _LIBRARIES:
        return None
    text = str(error).lower()
    for sign, number in _SIGNS.items():
        if sign in text:
            return number
    try:
        volume = os.statvfs(path.parent)
    except (AttributeError, OSError):
        return None
    if volume.f_bavail * volume.f_frsize < FULL_BELOW_BYTES:
        return errno.ENOSPC
    return errno.EDQUOT if _SHORT_WRITES.search(text) else None


def _is_about(filename: object, path: Path) -> bool:
    """Whether the file an error names is the target, its temporary form, or a folder above it."""
    if filename is None:
        return True
    named = Path(os.fsdecode(filename)) if isinstance(filename, (str, bytes, os.PathLike)) else None
    if named is None:
        return False
    return named in (path, *path.parents) or any(LEFTOVER.fullmatch(part) for part in named.parts)

"""Reading what users give: whatever is wrong with a file becomes one line that names the file, the line and the fix.

Text is UTF-8, with or without a byte order mark; a name that ends in `.gz` means gzip. Memory stays bounded: lines,
whole texts and the depth of JSON have limits that no sensible file meets.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import gzip
import io
import json
import os
import re
import stat
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn

import yaml

from recbole_blair.errors import InputError
from recbole_blair.files.yaml_loader import YamlLoader

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

MAX_LINE_BYTES = 64 << 20
MAX_TEXT_BYTES = 64 << 20  # of a file that is read as a whole
MAX_DEPTH = 64  # of lists and objects in each other: Python's parser recurses, and so may what uses the value
JSON_TOKEN = re.compile(r'"[^"\\]*(?:\\.?[^"\\]*)*(?:"|\Z)|[\[{]|[\]}]', re.DOTALL)  # matches wherever it begins

_REASONS = {
    errno.ENOENT: "no such file",
    errno.EISDIR: "a folder, not a file",
    errno.ENOTDIR: "a part of this path is a file",
    errno.EACCES: "you may not read it",
    errno.EPERM: "you may not read it",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "its symbolic links lead in a circle",
    errno.EIO: "the disk reports a fault",
}
_KINDS = {  # first bytes of files that are taken for text
    b"\x1f\x8b": "it is compressed: give it a name that ends in .gz",
    b"PAR1": "it is Parquet: give it a name that ends in .parquet",
    b"\xff\xfe": "it looks like UTF-16: save it as UTF-8",
    b"\xfe\xff": "it looks like UTF-16: save it as UTF-8",
}


def shown(path: Path | str) -> str:
    """Return a path as messages show it: on one line, cut when very long."""
    text = str(path) if str(path).isprintable() else repr(str(path))
    return text if len(text) <= 300 else f"{text[:300]}…"


def why_no_file(path: Path | str) -> str | None:
    """Return why a path names no file that can be opened, or None when it does."""
    try:
        mode = os.stat(path).st_mode
    except ValueError:
        return "a path cannot hold a NUL character"
    except OSError as error:
        return _REASONS.get(error.errno or 0) or error.strerror or str(error)
    if stat.S_ISREG(mode):
        return None
    return _REASONS[errno.EISDIR] if stat.S_ISDIR(mode) else "a device or a pipe, not a file"


def why_no_folder(path: Path | str) -> str | None:
    """Return why a path names no folder, or None when it does."""
    reason = why_no_file(path)
    if reason is None:
        return "a file, not a folder"
    if reason == _REASONS[errno.ENOTDIR]:
        return reason
    return None if reason == _REASONS[errno.EISDIR] else reason.replace("file", "folder")


def check_folder_flag(flag: str, path: Path | str) -> None:
    """Refuse a file where a folder should be; a folder that is missing passes: it is made, or missed later.

    Raises:
        InputError: names the flag.
    """
    reason = why_no_folder(Path(os.path.expanduser(path)))
    if reason in ("a file, not a folder", _REASONS[errno.ENOTDIR]):
        raise InputError(f"--{flag}={shown(path)}: {reason}; give a folder")


def check_file(path: Path | str, expected: str) -> Path:
    """Return the path with `~` written out; `expected` ends the message: what the file should hold.

    Raises:
        InputError: no file, a folder, a path that cannot be.
    """
    path = Path(os.path.expanduser(path))
    reason = why_no_file(path)
    if reason is not None:
        raise InputError(f"{shown(path)}: {reason}; expected {expected}")
    return path


@contextlib.contextmanager
def reading(path: Path | str, expected: str) -> Iterator[None]:
    """Turn the errors of opening, unpacking and decoding a file into InputError; `expected` as in `check_file`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise_explained(error, shown(path), expected)


def raise_explained(error: Exception, place: str, expected: str) -> NoReturn:
    """Raise the InputError about a file that could not be read, or the error itself when it is about something else."""
    reason = read_fault(error)
    if reason is None:
        raise error
    raise InputError(f"{place}: {reason}; expected {expected}") from error


def read_fault(error: Exception) -> str | None:
    """Return what is wrong with a file that could not be read, or None when the error is about something else."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    if isinstance(error, EOFError):
        return "it ends too early: copy or fetch it again"
    if isinstance(error, (gzip.BadGzipFile, zlib.error)):
        return f"not a whole gzip file ({first}): copy or fetch it again"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 text (byte {error.object[error.start]:#04x})"
    if isinstance(error, OSError) and error.errno is not None:
        return _REASONS.get(error.errno) or error.strerror or first
    if isinstance(error, ValueError) and "null byte" in first:
        return "a path cannot hold a NUL character"
    if isinstance(error, RecursionError):
        return "lists or objects too deep in each other"
    if isinstance(error, (OSError, csv.Error)) or type(error).__module__.split(".")[0] in ("pyarrow", "pandas"):
        return f"damaged ({first})"
    return None


def open_bytes(path: Path | str) -> BinaryIO:
    """Open a file for reading bytes, unpacked when its name ends in `.gz`."""
    if str(path).endswith(".gz"):
        return io.BufferedReader(gzip.open(path, "rb"), 1 << 16)  # type: ignore[arg-type]
    return open(path, "rb")


def iter_lines(path: Path | str, expected: str = "UTF-8 text") -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line without white space at its ends) of the lines that are not blank.

    Raises:
        InputError: see `reading`; a line that is not UTF-8 or longer than MAX_LINE_BYTES.
    """
    path, number = check_file(path, expected), 0
    try:
        with open_bytes(path) as file:
            while raw := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(raw) > MAX_LINE_BYTES:
                    limit = f"longer than {MAX_LINE_BYTES >> 20} MiB"
                    raise InputError(f"{path} line {number}: {limit}; expected {expected}")
                line = decode(raw, path, number, expected).strip()
                if line:
                    yield number, line
    except InputError:
        raise
    except Exception as error:
        raise_explained(error, f"{path} after line {number}" if number else str(path), expected)


def decode(raw: bytes, path: Path, line: int, expected: str) -> str:
    """Decode UTF-8 that begins at a line (from 1) of a file; a byte order mark there is left out."""
    try:
        return raw.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        kind = next((hint for start, hint in _KINDS.items() if line == 1 and raw.startswith(start)), None)
        if kind:
            raise InputError(f"{shown(path)}: {kind}; expected {expected}") from error
        line += raw[: error.start].count(b"\n")
        raise InputError(f"{shown(path)} line {line}: {read_fault(error)}; expected {expected}") from error


def read_text(path: Path | str, expected: str = "UTF-8 text") -> str:
    """Return the text of a file.

    Raises:
        InputError: see `reading`; not UTF-8, more than MAX_TEXT_BYTES.
    """
    path = check_file(path, expected)
    with reading(path, expected), open_bytes(path) as file:
        raw = file.read(MAX_TEXT_BYTES + 1)
    if len(raw) > MAX_TEXT_BYTES:
        raise InputError(f"{shown(path)}: larger than {MAX_TEXT_BYTES >> 20} MiB; expected {expected}")
    return decode(raw, path, 1, expected)


def parse_json(text: str, place: str, keep_surrogates: bool = False) -> object:
    r"""Parse JSON; `place` names file and line in messages.

    Args:
        keep_surrogates: whether a lone `\ud83d` (half of a character) may stay; no file, model or screen takes it.

    Raises:
        InputError: not JSON, deeper than MAX_DEPTH, a lone surrogate.
    """
    if text.count("[") + text.count("{") > MAX_DEPTH and json_depth(text) > MAX_DEPTH:
        raise InputError(f"{place}: lists or objects more than {MAX_DEPTH} deep in each other")
    try:
        value = json.loads(text)
        if not keep_surrogates and "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise InputError(f"{place}: {half} is half of a character (a lone surrogate); remove it") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} is not JSON ({error})") from error
    return value


def json_depth(text: str) -> int:
    """Return how deep lists and objects lie in each other, without parsing."""
    depth = deepest = 0
    for match in JSON_TOKEN.finditer(text):
        token = match[0]
        if token in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif token in "]}":
            depth -= 1
    return deepest


def iter_jsonl(path: Path | str, expected: str, keep_surrogates: bool = False) -> Iterator[tuple[int, dict]]:
    """Yield (line number, object) of a file of JSON lines, blank lines passed over.

    Raises:
        InputError: see `iter_lines` and `parse_json`; a line that is no object.
    """
    for number, line in iter_lines(path, expected):
        value = parse_json(line, f"{path} line {number}", keep_surrogates)
        if not isinstance(value, dict):
            raise InputError(
                f"{path} line {number} is a JSON {type(value).__name__}, not an object; expected {expected}"
            )
        yield number, value


def read_json(path: Path | str, expected: str = "JSON") -> object:
    """Return the value of a JSON file.

    Raises:
        InputError: see `read_text` and `parse_json`; nothing in it.
    """
    text = read_text(path, expected)
    if not text.strip():
        raise InputError(f"{shown(path)}: it is empty; expected {expected}")
    return parse_json(text, shown(path))


def read_yaml(path: Path | str, expected: str = "YAML") -> object:
    """Return the value of a YAML file; None when it is empty.

    Raises:
        InputError: see `read_text`; not YAML, too deep, too large with its aliases.
    """
    text, place = read_text(path, expected), shown(path)
    try:
        return yaml.load(text, Loader=YamlLoader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        reason = " ".join((getattr(error, "problem", None) or str(error)).split())[:200]
        raise InputError(f"{place}{line} is not valid YAML ({reason}); expected {expected}") from error


def iter_csv(path: Path | str, expected: str) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV with a header as dictionaries; short rows lack keys' values (None).

    Raises:
        InputError: see `reading`.
    """
    path = check_file(path, expected)
    with reading(path, expected), open_bytes(path) as raw:
        yield from csv.DictReader(io.TextIOWrapper(raw, encoding="utf-8-sig", newline=""))


def read_parquet(path: Path | str, columns: list[str] | None = None, expected: str = "Parquet") -> pa.Table:
    """Return a Parquet file as an Arrow table.

    Raises:
        InputError: see `reading`; damaged, a column that is not there.
    """
    import pyarrow.parquet as pq  # heavy

    path = check_file(path, expected)
    with reading(path, expected), pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        missing = [name for name in columns or () if name not in names]
        if missing:
            raise InputError(f"{path} has no column {missing[0]!r} (it has {', '.join(names)}); expected {expected}")
        return file.read(columns)

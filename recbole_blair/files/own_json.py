"""JSON that this tool writes and reads again: with a checksum of its content, so that one other digit is noticed.

The checksum is the CRC-32 of the value without it, as JSON with sorted keys: white space and the order of keys do not
matter. Files of earlier versions have none and are taken as they are.
"""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any

from recbole_blair.errors import InputError
from recbole_blair.files.read import read_json, shown
from recbole_blair.files.write import write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

JSON_CRC32 = "json_crc32"  # the last key


def json_crc32(value: Mapping[str, Any]) -> str:
    """Return the checksum of a JSON object that was read, 8 hex digits."""
    return f"{zlib.crc32(json.dumps(value, sort_keys=True).encode()):08x}"


def with_checksum(value: Mapping[str, Any], default: Callable[[object], object] | None = None) -> dict[str, Any]:
    """Return an object as it is read again, and its checksum in it; `default` is json.dumps's."""
    plain = json.loads(json.dumps(value, default=default))
    plain.pop(JSON_CRC32, None)
    return {**plain, JSON_CRC32: json_crc32(plain)}


def without_checksum(value: dict[str, Any]) -> dict[str, Any] | None:
    """Return an object that was read without its checksum; None where the content is not that of the checksum."""
    content = {key: item for key, item in value.items() if key != JSON_CRC32}
    return content if value.get(JSON_CRC32) in (None, json_crc32(content)) else None


def write_own_json(
    path: Path | str,
    value: Mapping[str, Any],
    indent: int | None = 1,
    ensure_ascii: bool = False,
    default: Callable[[object], object] | None = None,
) -> None:
    """Write a JSON object with its checksum, whole or not at all; the arguments are json.dumps's."""
    write_json(path, with_checksum(value, default), indent, ensure_ascii)


def read_own_json(path: Path | str, what: str, fix: str, keys: Iterable[str] = ()) -> dict[str, Any]:
    """Return the object of a JSON file that this tool wrote, without its checksum.

    Args:
        what: the file is, as in "the statistics of a build".
        fix: what to do where it is damaged, the end of the message.
        keys: that it must have.

    Raises:
        InputError: see `read_json`; no object, one without a key, or of another checksum than it records.
    """
    try:
        value = read_json(path, what)
    except InputError as error:
        raise InputError(f"{error}; {fix}") from error
    lacking = [key for key in keys if key not in value] if isinstance(value, dict) else []
    if not isinstance(value, dict) or lacking:
        found = f"it has no {lacking[0]!r}" if lacking else f"it holds a {type(value).__name__}"
        raise InputError(f"{shown(path)} is damaged: {found}; expected {what}; {fix}")
    content = without_checksum(value)
    if content is None:
        raise InputError(
            f"{shown(path)} is damaged or was changed: its {JSON_CRC32} is that of another content; {fix}, or, if you "
            f"changed it on purpose, remove the key {JSON_CRC32}"
        )
    return content


def write_line(value: Mapping[str, Any]) -> str:
    """Return an object as one JSON line, with its checksum."""
    return json.dumps(with_checksum(value), ensure_ascii=False) + "\n"


def read_line(line: str | bytes) -> dict[str, Any] | None:
    """Return the object of a line that `write_line` made, or an earlier version; None where it is damaged."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return without_checksum(value) if isinstance(value, dict) else None

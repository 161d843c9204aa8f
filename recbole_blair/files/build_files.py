"""The atomic files of a build are those that its stats.json was written with: one changed byte is noticed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recbole_blair.errors import InputError
from recbole_blair.files.checksum import known_crc32
from recbole_blair.files.own_json import read_own_json
from recbole_blair.schema import STATS_SUFFIX

if TYPE_CHECKING:
    from pathlib import Path

FILES_CRC32 = "files_crc32"  # of stats.json: {file name: its CRC-32, see `file_crc32`}


def check_build_file(path: Path) -> None:
    """Refuse an atomic file that is not the one that the stats.json beside it was written with.

    Nothing is compared where stats.json records no checksum: other tools' builds, and those of earlier versions.

    Raises:
        InputError: the file, or stats.json, is damaged.
    """
    folder = path.parent
    stats = folder / f"{folder.name}{STATS_SUFFIX}"
    if not stats.is_file():
        return
    recorded = read_own_json(stats, "the statistics of a build", "delete it and run prepare again").get(FILES_CRC32)
    if isinstance(recorded, dict) and recorded.get(path.name, "") != known_crc32(path):
        raise InputError(
            f"{path} is damaged or was changed: its checksum is not the one that {stats.name} records; delete {folder} "
            f"to build it again, or, if you changed it on purpose, delete the key {FILES_CRC32} of {stats.name}"
        )

"""The names of the data files of a build."""

from __future__ import annotations

from recbole_blair.schema import ITEM_SUFFIX, SPLITS


def build_file_names(build: str) -> list[str]:
    """Return the data files of a build: one `.inter` per split, and the `.item`."""
    return [f"{build}.{split}.inter" for split in SPLITS] + [f"{build}{ITEM_SUFFIX}"]

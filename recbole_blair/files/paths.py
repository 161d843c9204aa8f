"""Where the package finds its own files (props/ beside the sources, or inside the wheel); what tells files apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recbole_blair.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

PACKAGE_DIR = Path(__file__).resolve().parents[1]


def props_dir(package_dir: Path = PACKAGE_DIR) -> Path:
    """Return the folder of the YAML defaults.

    A wheel carries it as `recbole_blair/props`; a checkout (also installed editable) has `props/` beside the
    package.

    Args:
        package_dir: the folder of the package, changed by tests only.

    Raises:
        InputError: neither folder exists, so the installation is broken.
    """
    for folder in (package_dir / "props", package_dir.parent / "props"):
        if (folder / "overall.yaml").is_file():
            return folder
    raise InputError(
        f"no props/overall.yaml in {package_dir} or in {package_dir.parent}: the installation of "
        "recbole_blair is incomplete; install the wheel again, or run from a whole checkout"
    )


def file_stamps(files: Iterable[Path | str]) -> list[list[str | int]]:
    """Return [name, bytes, modification time in ns] of each file: what was made of other ones is out of date."""
    stats = [(Path(file).name, Path(file).stat()) for file in files]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]

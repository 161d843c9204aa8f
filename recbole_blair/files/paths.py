"""Where the package finds its own files (props/, examples/: beside the sources, or inside the wheel); file stamps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recbole_blair.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

PACKAGE_DIR = Path(__file__).resolve().parents[1]


def props_dir(package_dir: Path = PACKAGE_DIR) -> Path:
    """Return the folder of the YAML defaults; see `own_folder`."""
    return own_folder(package_dir, "props/overall.yaml")


def examples_dir(package_dir: Path = PACKAGE_DIR) -> Path:
    """Return the folder of the quick start's files; see `own_folder`."""
    return own_folder(package_dir, "examples/log.csv")


def own_folder(package_dir: Path, file: str) -> Path:
    """Return the folder of one of the package's own files that are not code.

    A wheel carries them inside `recbole_blair`; a checkout (also installed editable) has them beside the package.

    Args:
        package_dir: the folder of the package, changed by tests only.
        file: one that is always there.

    Raises:
        InputError: it is in neither place, so the installation is broken.
    """
    for folder in (package_dir, package_dir.parent):
        if (folder / file).is_file():
            return (folder / file).parent
    raise InputError(
        f"no {file} in {package_dir} or in {package_dir.parent}: the installation of "
        "recbole_blair is incomplete; install the wheel again, or run from a whole checkout"
    )


def file_stamps(files: Iterable[Path | str]) -> list[list[str | int]]:
    """Return [name, bytes, modification time in ns] of each file: what was made of other ones is out of date."""
    stats = [(Path(file).name, Path(file).stat()) for file in files]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]

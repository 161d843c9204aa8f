"""Where the package finds its own files (props/ beside the sources, or inside the wheel); what tells files apart."""

from pathlib import Path

from recbole_blair.errors import InputError

PACKAGE_DIR = Path(__file__).resolve().parents[1]


def props_dir(package_dir=PACKAGE_DIR):
    """Return the folder of the YAML defaults.

    A wheel carries it as `recbole_blair/props`; a checkout (also installed editable) has `props/` beside the
    package.

    Args:
        package_dir (Path): the folder of the package, changed by tests only.

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


def file_stamps(files):
    """Return [name, bytes, modification time in ns] of each file: what was made of other ones is out of date."""
    stats = [(Path(file).name, Path(file).stat()) for file in files]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]

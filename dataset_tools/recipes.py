"""Recipes: the options of `prepare` for a public data set, in a YAML file; its publisher's files lie in one folder."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_tools.builds.settings import OwnSettings
from dataset_tools.own_data import prepare_own
from recbole_blair.errors import InputError, nearest
from recbole_blair.files.paths import props_dir
from recbole_blair.files.read import check_file, read_yaml, shown, why_no_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

FILES = ("interactions", "items")
TYPES = {"str": str, "int": int, "bool": bool}
EXPECTED = "a recipe: options of prepare, one `key: value` per line"


def recipe_names() -> list[str]:
    """Return the recipes that come with the package."""
    return sorted(path.stem for path in (props_dir() / "recipes").glob("*.yaml"))


def find_recipe(recipe: Path | str) -> Path:
    """Return the file of a recipe: of the package, by its name, or any YAML file.

    Raises:
        InputError: no such name and no such file.
    """
    if Path(recipe).suffix in (".yaml", ".yml"):
        return check_file(recipe, EXPECTED)
    names = recipe_names()
    if recipe not in names:
        hint = nearest(str(recipe), names)
        raise InputError(f"unknown recipe {shown(recipe)!r}; known: {', '.join(names)}.{hint} Or name a .yaml file")
    return props_dir() / "recipes" / f"{recipe}.yaml"


def load_recipe(recipe: Path | str, source_dir: Path | str | None) -> dict[str, Any]:
    """Return the options of a recipe: arguments of `prepare_own`, the files' paths among them.

    Args:
        recipe: name, or path of a YAML file.
        source_dir: the folder of the publisher's files; each may be packed with gzip, its name then ends in `.gz`.

    Raises:
        InputError: no such recipe, an option or value that prepare does not take, no such folder or file.
    """
    path = find_recipe(recipe)
    options = read_yaml(path, EXPECTED)
    if not isinstance(options, dict):
        raise InputError(f"{shown(path)} holds a {type(options).__name__}; expected {EXPECTED}")
    check_options(options, path)
    if source_dir is None:
        raise InputError(f"--recipe={shown(recipe)} needs --source_dir=<folder of its files>: {file_names(options)}")
    reason = why_no_folder(source_dir)
    if reason:
        raise InputError(f"--source_dir={shown(source_dir)}: {reason}; expected the folder of {file_names(options)}")
    found = {key: find_source(Path(source_dir), options[key]) for key in FILES if key in options}
    return {"dataset": path.stem, **options, **found}


def file_names(options: Mapping[str, Any]) -> str:
    """Return the names of a recipe's files, for messages."""
    return " and ".join(dict.fromkeys(options[key] for key in FILES if key in options))


def check_options(options: Mapping[Any, Any], path: Path) -> None:
    """Refuse a key that is no option of `prepare_own`, and a value of another type.

    Raises:
        InputError: names the file, the key, what is expected.
    """
    types = {field.name: str(field.type) for field in fields(OwnSettings)} | dict.fromkeys(FILES, "str")
    for key, value in options.items():
        if key not in types:
            raise InputError(f"{shown(path)}: unknown option {key!r}.{nearest(str(key), types)}")
        expected = types[key].removesuffix(" | None")
        if expected in TYPES and type(value) is not TYPES[expected]:
            raise InputError(f"{shown(path)}: {key} is {value!r}; expected a value of type {expected}")
    if "interactions" not in options:
        raise InputError(f"{shown(path)} names no file of interactions; add `interactions: <file name>`")


def find_source(folder: Path, name: str) -> Path:
    """Return the path of a publisher's file in a folder, plain before packed.

    Raises:
        InputError: the name leads out of the folder; no such file.
    """
    if Path(name).name != name:
        raise InputError(f"a recipe's file is a name in --source_dir, not {name!r}")
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise InputError(f"{shown(folder)} holds no {name} (or {name}.gz); put the publisher's file there")


def prepare_recipe(recipe: Path | str, source_dir: Path | str, **options: Any) -> Path:
    """Make the build of a recipe, unless it is there; `options` are those of `prepare_own` and outrank the recipe's."""
    return prepare_own(**{**load_recipe(recipe, source_dir), **options})

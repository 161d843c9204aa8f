"""Finds a recommender by name: ours, plugins, files of one's own, installed packages, RecBole's. No list to edit."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_blair import compat
from recbole_blair.config import yaml_place
from recbole_blair.config.keys import Keys, load_yaml, read_keys_once
from recbole_blair.errors import InputError, nearest
from recbole_blair.files.paths import props_dir
from recbole_blair.registry.plugin_files import class_names, describe_error, load_file, read_plugin_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pkgutil import ModuleInfo

ENTRY_POINT_GROUP = "recbole_blair.models"
ROOMS = {"recbole_blair": "recbole_blair.model", "plugin": "recbole_blair.plugins"}
RECBOLE_ROOM = "recbole.model.sequential_recommender"
GENERAL_ROOM = "recbole.model.general_recommender"

# RecBole's models that need inputs our rows do not carry or a trainer of their own, with what they need.
RECBOLE_UNSUPPORTED = {
    "DIEN": "click labels", "DIN": "click labels", "FDSA": "item feature fields", "GRU4RecF": "item feature fields",
    "GRU4RecKG": "entity embeddings", "KSR": "entity embeddings", "S3Rec": "its own pretraining trainer",
    "SASRecF": "item feature fields", "BERT4Rec": "its masking transform", "FEARec": "same-target augmentation",
    "SHAN": "its inverse_itemseq transform", "NCL": "its own trainer", "RecVAE": "its own trainer",
    "RaCT": "its own pretraining trainer", "SimpleX": "several negatives per pair",
    "LDiffRec": "a file of item clusters",
    "DiffRec": "its history of losses, which no checkpoint holds",
    "DGCF": "as many users as items per step",
}  # fmt: skip

# RecBole's rooms of models none of which runs here, with what they need.
UNSUPPORTED_ROOMS = {
    "context_aware_recommender": "labels and feature fields of users and items (a context-aware model)",
    "knowledge_aware_recommender": "a knowledge graph, .kg and .link files (a knowledge-aware model)",
    "exlib_recommender": "labels, feature fields and another library's trainer",
}

PLUGIN_FILES: dict[str, ModelInfo] = {}  # of this process, by model name: ModelInfo of the files that were named
ASKED_FOR: set[str] = set()  # the names among them that --plugin gave; they outrank what a run remembers
LOST_FILES: dict[str, str] = {}  # by lower-case name: why a file that a run remembers cannot be used


@dataclass(frozen=True)
class ModelInfo:
    """Where a model comes from.

    `source` is recbole_blair, plugin (recbole_blair/plugins), plugin file (`--plugin`), package <name> <version>, or
    RecBole. `problem` says why a model that is listed cannot be used at all.
    """

    name: str
    module: str
    source: str
    yaml_path: Path | None
    path: Path | None = None
    problem: str | None = None

    @property
    def from_recbole(self) -> bool:
        """True for a model of RecBole's own."""
        return self.source == "RecBole"

    @property
    def ranks_users(self) -> bool:
        """True for a general recommender: it knows users by their ids and pairs, and reads no history."""
        if self.from_recbole:
            return self.module.startswith(GENERAL_ROOM)
        return getattr(getattr(self.load_class(), "type", None), "name", "") in ("GENERAL", "TRADITIONAL")

    def load_class(self) -> type:
        """Import and return the class.

        Raises:
            InputError: the file cannot be imported or lacks the class; the true error and its line are in the message.
        """
        if self.problem:
            raise InputError(self.problem)
        compat.apply()
        where = self.path or self.module
        try:
            module = load_file(self.path) if self.path else importlib.import_module(self.module)
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            raise InputError(
                f"model {self.name} ({self.source}, {where}) cannot be loaded: {describe_error(error)}"
            ) from error
        if not isinstance(getattr(module, self.name, None), type):
            raise InputError(
                f"model {self.name} ({self.source}, {where}) cannot be loaded: the file has no class {self.name}; "
                "class, file (in lower case) and YAML share one name"
            )
        return getattr(module, self.name)

    def load_keys(self) -> Keys:
        """Return the model's own keys with their defaults; those of RecBole's files have no kinds.

        Raises:
            InputError: they are missing, or the model cannot be used.
        """
        if self.yaml_path is None or self.problem:
            self.load_class()  # where a package cannot be imported, its own error says more
        if self.yaml_path is None or not self.yaml_path.is_file():
            expected = self.yaml_path or f"props/model/{self.name}.yaml"
            raise InputError(f"model {self.name} has no defaults: {expected} is missing")
        if self.from_recbole and self.yaml_path.parent != props_dir() / "model":
            return Keys(str(self.yaml_path), load_yaml(self.yaml_path))
        return read_keys_once(self.yaml_path, yaml_place(self))

    def load_defaults(self) -> dict[str, Any]:
        """Return the model's default keys; see `load_keys`."""
        return self.load_keys().defaults


def use_plugins(
    paths: str | Path | Sequence[Path | str] | None = None, config_files: Sequence[Path | str] = ()
) -> list[ModelInfo]:
    """Make the models of files of one's own known to this process, as `--plugin` does.

    Args:
        paths: Python files; None: those that the key `plugin` of `config_files` names.
        config_files: YAML files of a run.

    Raises:
        InputError: a file is missing, has no YAML, or its model has the name of another one.
    """
    if paths is None and config_files:
        paths = [load_yaml(file).get("plugin") for file in config_files][-1]
    if isinstance(paths, str | Path):
        paths = [part.strip() for part in str(paths).split(",")]
    paths = [] if paths is None else paths
    if not isinstance(paths, list | tuple) or not all(isinstance(path, str | Path) for path in paths):
        raise InputError(f"plugin={paths!r} is no list of files; expected Python files, as in --plugin=my/myrec.py")
    found = [plugin_model(path) for path in paths]
    for info in found:
        PLUGIN_FILES[info.name] = info
        ASKED_FOR.add(info.name)
    return found


def remember_plugins(paths: Sequence[Path | str] | None) -> None:
    """Make known the files that a run's configuration names; one that is lost is told when its model is asked for."""
    for path in paths or ():
        try:
            info = plugin_model(path)
        except InputError as error:
            LOST_FILES[Path(path).stem.lower()] = str(error)
            continue
        if info.name not in ASKED_FOR:
            PLUGIN_FILES[info.name] = info


def plugin_model(path: Path | str) -> ModelInfo:
    """The ModelInfo of one file of one's own.

    Raises:
        InputError: see `use_plugins`.
    """
    name, path, yaml_path = read_plugin_file(path)
    other = installed_models().get(name)
    if other is not None and file_of(other) != path:
        raise InputError(
            f"{path} is named like the model {other.name} of {other.source}; give its class, file and YAML another name"
        )
    return ModelInfo(name, path.stem, "plugin file", yaml_path, path)


def file_of(info: ModelInfo) -> Path | None:
    """The Python file of a model, or None where only importing its package would tell."""
    try:
        spec = importlib.util.find_spec(info.module)
    except (Exception, SystemExit):
        return None
    return Path(spec.origin).resolve() if spec and spec.origin else None


def list_models() -> dict[str, ModelInfo]:
    """Return every model that can be named, as `{name: ModelInfo}`; imports none of them.

    Entries that cannot be used (a plugin without YAML, a package that takes another model's name) are among them, with
    their `problem`.
    """
    return dict(sorted({**installed_models(), **PLUGIN_FILES}.items()))


def installed_models() -> dict[str, ModelInfo]:
    """Every model but the files of `--plugin`."""
    found = {info.name: info for info in recbole_models()}
    for source, room in ROOMS.items():
        found.update({info.name: info for info in room_models(source, room)})
    for info in package_models():
        taken = found.get(info.name)
        if taken is None:
            found[info.name] = info
        elif taken.module != info.module:  # the same package twice on the path is no clash
            problem = (
                f"{info.source} names a model {info.name}, which {taken.source} has; one of them needs another name"
            )
            found[f"{info.name} ({info.source})"] = ModelInfo(
                info.name, info.module, info.source, info.yaml_path, problem=problem
            )
    return found


def package_models() -> Iterator[ModelInfo]:
    """The models that installed packages register by the entry point `recbole_blair.models`."""
    for point in entry_points(group=ENTRY_POINT_GROUP):
        source = f"package {point.dist.name} {point.dist.version}" if point.dist else "package"
        yield ModelInfo(point.name, point.module, source, entry_point_yaml(point.module, point.name))


def find_model(name: str) -> ModelInfo:
    """Return the ModelInfo of `name`.

    Raises:
        InputError: no such model; names the nearest. Or one of RecBole's that needs other inputs.
    """
    models = list_models()
    if name in models and not models[name].problem:
        return models[name]
    lower = str(name).lower()
    if lower in LOST_FILES:
        raise InputError(f"the model {name} is lost: {LOST_FILES[lower]}")
    needs = unsupported_models()
    unsupported = {m.lower(): m for m in needs}.get(lower)
    if unsupported:
        raise InputError(
            f"RecBole's {unsupported} needs {needs[unsupported]}, which this package does not provide; "
            "choose another from `recbole-blair models`"
        )
    folded = {m.lower(): m for m, info in models.items() if not info.problem}
    hint = f" Did you mean {folded[lower]!r}?" if lower in folded else nearest(name, folded.values())
    for room in ROOMS.values():
        if lower not in folded and any(m.name == lower and holds_recommender(m) for m in room_files(room)):
            hint = f" {room}.{lower} is there, but not its keys: props/model/{name}.yaml is missing."
    if importlib.util.find_spec("recbole") is None:
        hint = f" RecBole is not installed for {sys.executable}, so its models are missing (docs/install.md)."
    hint = hint or " A file of your own is named by --plugin=<file>.py."
    raise InputError(f"unknown model {name!r}.{hint} `recbole-blair models` lists them all")


def room_files(room: str) -> list[ModuleInfo]:
    """The modules of a room, none of which is imported."""
    return list(pkgutil.iter_modules(importlib.import_module(room).__path__))


def holds_recommender(module: ModuleInfo) -> bool:
    """True where a module defines a class of its own name, in any case; helpers do not. Nothing is imported."""
    file = Path(getattr(module.module_finder, "path", ".")) / f"{module.name}.py"
    return file.is_file() and module.name in class_names(file, lower=True)


def room_models(source: str, room: str) -> Iterator[ModelInfo]:
    """Our models of one room: a file whose lower-case name matches a YAML in props/model."""
    yaml_names = {path.stem.lower(): path for path in (props_dir() / "model").glob("*.yaml")}
    for module in room_files(room):
        path = yaml_names.get(module.name)
        if path is not None:
            yield ModelInfo(path.stem, f"{room}.{module.name}", source, path)
        elif source == "plugin" and holds_recommender(module):
            problem = f"{room}.{module.name} is there, but not its keys: props/model/<Name>.yaml is missing"
            yield ModelInfo(module.name, f"{room}.{module.name}", source, None, problem=problem)


def recbole_models() -> Iterator[ModelInfo]:
    """RecBole's sequential models that train from histories and ids alone, and its general ones, from pairs."""
    ours = {path.stem: path for path in (props_dir() / "model").glob("*.yaml")}
    for room in (GENERAL_ROOM, RECBOLE_ROOM):
        for defaults in recbole_yamls(room):
            name = defaults.stem
            if name not in RECBOLE_UNSUPPORTED:
                yield ModelInfo(name, f"{room}.{name.lower()}", "RecBole", ours.get(name, defaults))


def recbole_yamls(room: str) -> list[Path]:
    """The YAML files of the models of one of RecBole's rooms; none where RecBole is not installed."""
    spec = importlib.util.find_spec("recbole")
    if spec is None or not spec.submodule_search_locations:
        return []
    root = Path(next(iter(spec.submodule_search_locations)))
    yaml_names = {path.stem.lower(): path for path in (root / "properties/model").glob("*.yaml")}
    modules = sorted(path.stem for path in (root / "/".join(room.split(".")[1:])).glob("*.py"))
    return [yaml_names[module] for module in modules if module in yaml_names]


def unsupported_models() -> dict[str, str]:
    """RecBole's models that do not run here, by name, with what they need."""
    rooms = {
        path.stem: needs for room, needs in UNSUPPORTED_ROOMS.items() for path in recbole_yamls(f"recbole.model.{room}")
    }
    return dict(sorted({**RECBOLE_UNSUPPORTED, **rooms}.items()))


def entry_point_yaml(module: str, name: str) -> Path | None:
    """The YAML beside an installed plugin's module."""
    try:
        spec = importlib.util.find_spec(module)
    except (Exception, SystemExit):  # its parent package is broken or gone; load_class shows how
        return None
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).with_name(f"{name}.yaml")

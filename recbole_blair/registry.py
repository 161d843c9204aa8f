"""Finds a recommender by name: ours, plugins, installed packages' entry points, RecBole's own. No list to edit."""

import importlib
import importlib.util
import pkgutil
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from recbole_blair.errors import InputError, nearest
from recbole_blair.paths import props_dir

ENTRY_POINT_GROUP = "recbole_blair.models"
ROOMS = {"recbole_blair": "recbole_blair.model", "plugin": "recbole_blair.plugins"}
HELPERS = {"layers", "dot_product"}  # files of recbole_blair/model that hold no recommender
RECBOLE_ROOM = "recbole.model.sequential_recommender"

# RecBole's sequential models that need inputs our rows do not carry, with what they need.
RECBOLE_UNSUPPORTED = {
    "DIEN": "click labels", "DIN": "click labels", "FDSA": "item feature fields", "GRU4RecF": "item feature fields",
    "GRU4RecKG": "entity embeddings", "KSR": "entity embeddings", "S3Rec": "its own pretraining trainer",
    "SASRecF": "item feature fields", "BERT4Rec": "its masking transform", "FEARec": "same-target augmentation",
    "SHAN": "its inverse_itemseq transform",
}  # fmt: skip


@dataclass(frozen=True)
class ModelInfo:
    """Where a model comes from: `source` is recbole_blair, plugin, entry point or RecBole."""

    name: str
    module: str
    source: str
    yaml_path: Path | None

    @property
    def from_recbole(self):
        """True for a model of RecBole's own."""
        return self.source == "RecBole"

    def load_class(self):
        """Import and return the class.

        Raises:
            InputError: the file cannot be imported or lacks the class; the true error is in the message.
        """
        from recbole_blair import compat

        compat.apply()
        try:
            return getattr(importlib.import_module(self.module), self.name)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"model {self.name} ({self.source}, {self.module}) cannot be loaded: {type(error).__name__}: {error}"
            ) from error

    def load_defaults(self):
        """Return the model's default keys."""
        from recbole_blair.config import load_yaml

        if self.yaml_path is None:
            self.load_class()  # where a package cannot be imported, its own error says more
        if self.yaml_path is None or not self.yaml_path.is_file():
            expected = self.yaml_path or f"props/model/{self.name}.yaml"
            raise InputError(f"model {self.name} has no defaults: {expected} is missing")
        return load_yaml(self.yaml_path)


def list_models():
    """Return every model that can be named, as `{name: ModelInfo}`; imports none of them."""
    found = {info.name: info for info in recbole_models()}
    for source, room in ROOMS.items():
        found.update({info.name: info for info in room_models(source, room)})
    for point in entry_points(group=ENTRY_POINT_GROUP):
        module = point.value.split(":")[0]
        found[point.name] = ModelInfo(point.name, module, "entry point", entry_point_yaml(module, point.name))
    return dict(sorted(found.items()))


def find_model(name):
    """Return the ModelInfo of `name`.

    Raises:
        InputError: no such model; names the nearest. Or one of RecBole's that needs other inputs.
    """
    models = list_models()
    if name in models:
        return models[name]
    lower = str(name).lower()
    unsupported = {m.lower(): m for m in RECBOLE_UNSUPPORTED}.get(lower)
    if unsupported:
        raise InputError(
            f"RecBole's {unsupported} needs {RECBOLE_UNSUPPORTED[unsupported]}, which this package does not provide; "
            "choose another from `recbole-blair models`"
        )
    folded = {m.lower(): m for m in models}
    hint = f" Did you mean {folded[lower]!r}?" if lower in folded else nearest(name, models)
    for room in ROOMS.values():
        if lower not in folded and lower in {m.name for m in room_files(room)}:
            hint = f" {room}.{lower} is there, but not its keys: props/model/{name}.yaml is missing."
    raise InputError(f"unknown model {name!r}.{hint} `recbole-blair models` lists them all")


def room_files(room):
    """The modules of a room that may hold a recommender; none is imported."""
    return [m for m in pkgutil.iter_modules(importlib.import_module(room).__path__) if m.name not in HELPERS]


def room_models(source, room):
    """Our models of one room: a file whose lower-case name matches a YAML in props/model."""
    yaml_names = {path.stem.lower(): path for path in (props_dir() / "model").glob("*.yaml")}
    for module in room_files(room):
        path = yaml_names.get(module.name)
        if path is not None:
            yield ModelInfo(path.stem, f"{room}.{module.name}", source, path)


def recbole_models():
    """RecBole's sequential models that train from histories and ids alone."""
    spec = importlib.util.find_spec("recbole")
    if spec is None or not spec.submodule_search_locations:
        return
    root = Path(next(iter(spec.submodule_search_locations)))
    yaml_names = {path.stem.lower(): path for path in (root / "properties/model").glob("*.yaml")}
    ours = {path.stem: path for path in (props_dir() / "model").glob("*.yaml")}
    for path in sorted((root / "model/sequential_recommender").glob("*.py")):
        defaults = yaml_names.get(path.stem)
        if defaults is None or defaults.stem in RECBOLE_UNSUPPORTED:
            continue
        name = defaults.stem
        yield ModelInfo(name, f"{RECBOLE_ROOM}.{path.stem}", "RecBole", ours.get(name, defaults))


def entry_point_yaml(module, name):
    """The YAML beside an installed plugin's module."""
    try:
        spec = importlib.util.find_spec(module)
    except Exception:  # its parent package is broken or gone; load_class shows how when the model is asked for
        return None
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).with_name(f"{name}.yaml")

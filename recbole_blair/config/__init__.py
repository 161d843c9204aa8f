"""The resolved configuration: YAML layers and overrides, unknown keys refused, nothing read from the process.

RecBole's own Config reads `sys.argv`, evaluates strings, sets CUDA_VISIBLE_DEVICES and changes the global YAML
loader; this one takes what it is given. RecBole's models read it as they read theirs: `config["hidden_size"]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_blair.config.keys import Keys, load_yaml, props_keys
from recbole_blair.config.kinds import Kind, KindError, parse_value, shorten
from recbole_blair.config.recbole_keys import INTERVALS, take_intervals, translate_layer
from recbole_blair.errors import InputError
from recbole_blair.files.paths import props_dir
from recbole_blair.schema import SAMPLE, SAMPLE_PATTERN

if TYPE_CHECKING:
    from recbole_blair.registry import ModelInfo

__all__ = [
    "INTERVALS", "VOLATILE_KEYS", "Config", "Keys", "MissingKey", "load_yaml", "model_keys", "parse_value",
    "read_layers", "resolve_config",
]  # fmt: skip
DATASET = Kind("name")

# Keys that say where or how visibly a run happens, not what it computes: two runs that differ only in these agree.
VOLATILE_KEYS = frozenset(
    {
        "output_dir",
        "checkpoint_dir",
        "resume",
        "fresh",
        "show_progress",
        "log",
        "threads",
        "memory_limit",
        "seeds",
        "baselines",
        "data_path",
        "raw_dir",
        "plm_concurrency",
        "plugin",
    }
)


class MissingKey(InputError, KeyError):
    """A model asks for a key that no YAML of its own defines."""

    __str__ = ValueError.__str__  # KeyError's puts the message into quotes


class Config(Mapping[str, Any]):
    """Resolved keys of one run.

    Args:
        values: every key the run knows.
        lenient: True for RecBole's own models, which expect None for a key that nobody set.
    """

    def __init__(self, values: Mapping[str, Any], lenient: bool = False) -> None:
        self._values = dict(values)
        self.lenient = lenient

    def __getitem__(self, key: str) -> Any:
        if key in self._values or self.lenient:
            return self._values.get(key)
        model = self._values.get("model")
        raise MissingKey(f"{model} reads {key!r}, which {model}.yaml does not define; add it there with its default")

    @property
    def device(self) -> Any:
        """The device, as RecBole's EASE asks for it."""
        return self["device"]

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def replace(self, **changes: Any) -> Config:
        """Return a copy with some values changed."""
        return Config({**self._values, **changes}, self.lenient)

    def plain(self) -> dict[str, Any]:
        """Return the keys as YAML can write them."""
        kinds = str | int | float | bool | list | dict | None
        values = {k: str(v) if k == "device" else v for k, v in self._values.items()}
        return {k: v for k, v in values.items() if isinstance(v, kinds)}

    def fingerprint(self) -> dict[str, Any]:
        """Return the keys that decide the result, for comparing two runs."""
        return {k: v for k, v in self.plain().items() if k not in VOLATILE_KEYS}


def model_keys(info: ModelInfo) -> Keys:
    """Return the keys of a model: those of props/overall.yaml and of its own YAML, the defaults of which win.

    A key that both define has the kind of props/overall.yaml. RecBole's own keys have none: its files write 0 for a
    probability and 1 for True.
    """
    overall, own = props_keys("overall.yaml"), info.load_keys()
    place = f"props/overall.yaml and {yaml_place(info)}"
    keys = Keys(place, {**overall.defaults, **own.defaults}, {**own.kinds, **overall.kinds}, info.name)
    for key in overall.defaults.keys() & own.defaults.keys():
        keys.check(key, own.defaults[key], yaml_place(info))
    return keys


def resolve_config(
    info: ModelInfo,
    dataset: str,
    config_files: Sequence[Path | str] = (),
    overrides: Mapping[str, Any] | None = None,
    strict: bool = True,
) -> Config:
    """Merge the layers: overall, model, protocol, dataset, files, overrides; the last wins.

    Args:
        info: the model's name and its YAML file.
        dataset: name as typed; `props/dataset/<dataset>.yaml` is read when it exists, then
            `props/dataset/<dataset>.<protocol>.yaml` and `props/dataset/<dataset>.<model>.yaml`.
        config_files: YAML files of the user.
        overrides: command line or API values.
        strict: False drops keys this model does not know (a baseline given another model's keys).

    Raises:
        InputError: an unknown key, naming the nearest known one, or a value that is not of its kind.
    """
    check_dataset_name(dataset)
    keys = model_keys(info)
    base = SAMPLE if re.fullmatch(SAMPLE_PATTERN, Path(dataset).name) else Path(dataset).name
    of_dataset, of_model = props_layer("dataset", base), props_layer("dataset", f"{base}.{info.name}")
    given, _ = read_layers(info, config_files, overrides)
    protocol, core = (choose_value(keys, key, [*of_dataset, *of_model, *given]) for key in ("protocol", "core"))
    given = take_intervals(given, five_core=(protocol, core) == ("last_out", "5-core"))
    of_protocol = props_layer("dataset", f"{base}.{protocol}")
    layers = [*props_layer("protocol", protocol), *of_dataset, *of_protocol, *of_model, *given]
    values = keys.merge(
        [
            (
                source,
                {k: v for k, v in layer.items() if k not in ("model", "dataset") and (strict or k in keys.defaults)},
            )
            for source, layer in layers
        ]
    )
    if values["plugin"]:  # so that the run finds the files again from any folder
        values["plugin"] = [str(Path(file).expanduser().resolve()) for file in values["plugin"]]
    values.update(model=info.name, dataset=dataset)
    if values["MAX_ITEM_LIST_LENGTH"] > values["max_history"]:
        raise InputError(
            f"MAX_ITEM_LIST_LENGTH={values['MAX_ITEM_LIST_LENGTH']} exceeds max_history={values['max_history']}: the "
            "rows keep no more items than that; raise max_history (a new build) or lower MAX_ITEM_LIST_LENGTH"
        )
    return Config(values, lenient=info.from_recbole)


def check_dataset_name(dataset: str) -> None:
    """Refuse what can be no dataset's name: too long, or with characters that no file can have."""
    try:
        DATASET.check(dataset)
    except KindError as error:
        raise InputError(f"dataset={shorten(error.value)} {error}") from None


def yaml_place(info: ModelInfo) -> str:
    """Where a model's keys are, as messages name it."""
    inside = info.yaml_path is None or info.yaml_path.parent == props_dir() / "model"
    return f"props/model/{info.name}.yaml" if inside else str(info.yaml_path)


def read_layers(
    info: ModelInfo, config_files: Sequence[Path | str] = (), overrides: Mapping[str, Any] | None = None
) -> tuple[list[tuple[str, dict[str, Any]]], list[str]]:
    """Return what the user gives as (source, keys), RecBole's keys translated, and notes on those that nothing reads.

    `INTERVALS` among the keys are left for `take_intervals`, which has to know the protocol.
    """
    own = info.load_defaults()
    given = [(str(file), load_yaml(file)) for file in config_files] + [("the command line", dict(overrides or {}))]
    found = [(source, *translate_layer(layer, source, own)) for source, layer in given]
    return [(source, layer) for source, layer, _ in found], [note for *_, notes in found for note in notes]


def choose_value(keys: Keys, key: str, layers: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Return the value of a key that `layers` end up with."""
    given = [(layer[key], source) for source, layer in layers if key in layer]
    return keys.check(key, *given[-1]) if given else keys.defaults[key]


def props_layer(room: str, name: str) -> list[tuple[str, dict[str, Any]]]:
    """Return what `props/<room>/<name>.yaml` sets, as a list of (source, keys): one or none."""
    file = props_dir() / room / f"{name}.yaml"
    return [(file.name, load_yaml(file))] if file.is_file() else []

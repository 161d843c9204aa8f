"""The resolved configuration: YAML layers and overrides, unknown keys refused, nothing read from the process.

RecBole's own Config reads `sys.argv`, evaluates strings, sets CUDA_VISIBLE_DEVICES and changes the global YAML
loader; this one takes what it is given. RecBole's models read it as they read theirs: `config["hidden_size"]`.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from recbole_blair.errors import InputError, nearest
from recbole_blair.files.paths import props_dir

# Keys that say where or how visibly a run happens, not what it computes: two runs that differ only in these agree.
VOLATILE_KEYS = frozenset(
    {
        "output_dir",
        "resume",
        "show_progress",
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


class YamlLoader(yaml.SafeLoader):
    """YAML 1.1 without pickles, but `1e-3` is a number."""


YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse_value(text):
    """Parse one `--key=value` value as YAML: numbers, booleans, lists, `~`; anything else stays text."""
    try:
        value = yaml.load(text, Loader=YamlLoader)
    except yaml.YAMLError:
        return text
    return None if text == "" else value


def load_yaml(path):
    """Read one YAML file of keys.

    Raises:
        InputError: missing, not YAML, or not a mapping.
    """
    path = Path(path)
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=YamlLoader)
    except OSError as error:
        raise InputError(f"cannot read the configuration file {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path} holds a {type(values).__name__}; expected keys and values")
    return values


class MissingKey(InputError, KeyError):
    """A model asks for a key that no YAML of its own defines."""

    __str__ = ValueError.__str__  # KeyError's puts the message into quotes


class Config(Mapping):
    """Resolved keys of one run.

    Args:
        values (dict): every key the run knows.
        lenient (bool): True for RecBole's own models, which expect None for a key that nobody set.
    """

    def __init__(self, values, lenient=False):
        self._values = dict(values)
        self.lenient = lenient

    def __getitem__(self, key):
        if key in self._values or self.lenient:
            return self._values.get(key)
        model = self._values.get("model")
        raise MissingKey(f"{model} reads {key!r}, which {model}.yaml does not define; add it there with its default")

    def __contains__(self, key):
        return key in self._values

    def __iter__(self):
        return iter(self._values)

    def __len__(self):
        return len(self._values)

    def replace(self, **changes):
        """Return a copy with some values changed."""
        return Config({**self._values, **changes}, self.lenient)

    def plain(self):
        """Return the keys as YAML can write them."""
        kinds = str | int | float | bool | list | dict | None
        values = {k: str(v) if k == "device" else v for k, v in self._values.items()}
        return {k: v for k, v in values.items() if isinstance(v, kinds)}

    def fingerprint(self):
        """Return the keys that decide the result, for comparing two runs."""
        return {k: v for k, v in self.plain().items() if k not in VOLATILE_KEYS}


def resolve_config(model_info, dataset, config_files=(), overrides=None, strict=True):
    """Merge the layers: overall, model, protocol, dataset, files, overrides; the last wins.

    Args:
        model_info (registry.ModelInfo): the model's name and its YAML file.
        dataset (str): name as typed; `props/dataset/<dataset>.yaml` is read when it exists, and then
            `props/dataset/<dataset>.<model>.yaml`.
        config_files (sequence of str): YAML files of the user.
        overrides (dict): command line or API values.
        strict (bool): False drops keys this model does not know (a baseline given another model's keys).

    Returns:
        Config

    Raises:
        InputError: an unknown key, naming the nearest known one, or a value of the wrong kind.
    """
    overall = load_yaml(props_dir() / "overall.yaml")
    values = {**overall, **model_info.load_defaults()}
    defaults = dict(values)
    layers = []
    for name in (Path(dataset).name, f"{Path(dataset).name}.{model_info.name}"):
        dataset_file = props_dir() / "dataset" / f"{name}.yaml"
        if dataset_file.is_file():
            layers.append((str(dataset_file.name), load_yaml(dataset_file)))
    layers += [(str(f), load_yaml(f)) for f in config_files]
    layers.append(("the command line", dict(overrides or {})))
    layers[:0] = protocol_layer([values, *(layer for _, layer in layers)])
    for source, layer in layers:
        for key, value in layer.items():
            if key in ("model", "dataset"):
                continue
            if key not in defaults:
                if not strict:
                    continue
                raise InputError(
                    f"unknown key {key!r} in {source}: {model_info.name} does not read it.{nearest(key, defaults)} "
                    f"The keys are in props/overall.yaml and {yaml_place(model_info)}"
                )
            loose = model_info.from_recbole and key not in overall  # RecBole writes 0 for a probability, 1 for True
            values[key] = value if loose else coerce(key, value, defaults[key], source)
    if values["plugin"]:  # so that the run finds the files again from any folder
        values["plugin"] = [str(Path(file).expanduser().resolve()) for file in values["plugin"]]
    values.update(model=model_info.name, dataset=dataset, valid_metric=values["valid_metric"].lower())
    config = Config(values, lenient=model_info.from_recbole)
    check_values(config)
    return config


def yaml_place(model_info):
    """Where a model's keys are, as messages name it."""
    inside = model_info.yaml_path is None or model_info.yaml_path.parent == props_dir() / "model"
    return f"props/model/{model_info.name}.yaml" if inside else str(model_info.yaml_path)


def protocol_layer(layers):
    """Return what the protocol that `layers` end up with sets, as a list of (source, keys): one or none."""
    protocol = [layer["protocol"] for layer in layers if "protocol" in layer][-1]
    file = props_dir() / "protocol" / f"{protocol}.yaml"
    return [(file.name, load_yaml(file))] if file.is_file() else []


# Kinds of the keys whose default is empty, which says nothing of them; a list holds items of one kind.
EMPTY_BY_DEFAULT = {
    "seeds": [0], "baselines": [""], "threads": 0, "output_dir": "", "resume": "", "init_from": "",
    "valid_start_ms": 0, "test_start_ms": 0, "sample_users": 0, "sample_items": 0, "plm_revision": "",
    "plm_pooling": "", "plugin": [""], "plm_size": 0, "plm_dimensions": 0, "plm_base_url": "", "clip_grad_norm": 0.0,
}  # fmt: skip


def coerce(key, value, default, source):
    """Check a value against its default's kind; int passes for float, one value or `a,b` for a list.

    An empty value is accepted only where the default is empty too.
    """
    example = EMPTY_BY_DEFAULT.get(key) if default is None else default
    if value is None and default is not None:
        raise InputError(f"{key} is empty in {source}; expected {type(default).__name__}, like the default {default!r}")
    if value is None or example is None or isinstance(example, dict):
        return value
    if isinstance(example, list):
        if isinstance(value, str):
            value = [parse_value(part.strip()) for part in value.split(",")]
        value = list(value) if isinstance(value, list | tuple) else [value]
        kinds = {type(item) for item in example}
        return [check_kind(key, item, example[0], source) for item in value] if len(kinds) == 1 else value
    return check_kind(key, value, example, source)


def check_kind(key, value, example, source):
    """Return a value as its example's kind, or refuse it."""
    if isinstance(example, bool):
        ok = isinstance(value, bool)
    elif isinstance(value, bool):
        ok = False
    elif isinstance(example, int):
        ok = isinstance(value, int)
    elif isinstance(example, float):
        ok = isinstance(value, int | float)
        value = float(value) if ok else value
    else:
        ok = value is not None and not isinstance(value, list | dict)
        value = str(value) if ok else value
    if not ok:
        raise InputError(
            f"{key}={value!r} in {source} is a {type(value).__name__}; expected {type(example).__name__}, "
            f"like {example!r}"
        )
    return value


CHOICES = {
    "precision": ("auto", "fp32", "bf16"),
    "protocol": ("timestamp", "last_out"),
    "learner": ("adam", "adamw", "sgd"),
    "feature_scale": ("raw", "rms"),
    "catalogue": ("interactions", "all"),
    "softmax": ("full", "sampled"),
    "negatives": ("uniform", "popularity"),
    "train_style": ("sequence", "prefix"),
    "train_stage": ("inductive_ft", "transductive_ft", "pretrain"),
}
POSITIVE = (
    "train_batch_size", "eval_batch_size", "MAX_ITEM_LIST_LENGTH", "max_history", "eval_step", "stopping_step",
    "learning_rate", "temperature", "n_negatives", "hidden_size", "n_layers", "n_heads", "max_score_elements",
    "threads", "plm_size", "plm_max_length", "plm_dimensions", "plm_concurrency",
)  # fmt: skip
NOT_NEGATIVE = ("seed", "epochs", "weight_decay", "clip_grad_norm")


def check_values(config):
    """Refuse values no run can use, each with the legal ones."""
    from recbole_blair.train.metrics import METRICS, parse_metric

    for key, legal in CHOICES.items():
        if key in config and config[key] not in legal:
            raise InputError(f"{key}={config[key]!r} is not one of {', '.join(legal)}")
    for key in POSITIVE:
        if key in config and config[key] is not None and not config[key] > 0:
            raise InputError(f"{key}={config[key]!r} must be above 0")
    for key in NOT_NEGATIVE:
        if config[key] is not None and not config[key] >= 0:
            raise InputError(f"{key}={config[key]!r} must be 0 or above")
    for key in ("seeds", "baselines", "plugin"):
        if config[key] == []:
            raise InputError(f"{key} is an empty list; leave it out, or empty: {key}=")
    if min(config["seeds"] or [0]) < 0:
        raise InputError(f"seeds={config['seeds']!r} must be 0 or above")
    if config["MAX_ITEM_LIST_LENGTH"] > config["max_history"]:
        raise InputError(
            f"MAX_ITEM_LIST_LENGTH={config['MAX_ITEM_LIST_LENGTH']} exceeds max_history={config['max_history']}: the "
            "rows keep no more items than that; raise max_history (a new build) or lower MAX_ITEM_LIST_LENGTH"
        )
    for name in config["metrics"]:
        if name not in METRICS:
            raise InputError(f"metrics holds {name!r}; known: {', '.join(METRICS)}.{nearest(name, METRICS)}")
    for k in config["topk"]:
        if not isinstance(k, int) or k < 1:
            raise InputError(f"topk holds {k!r}; expected integers above 0")
    parse_metric(config["valid_metric"])

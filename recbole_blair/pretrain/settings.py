"""The keys of `recbole-blair pretrain`: YAML defaults, files, command line; unknown keys are refused."""

from recbole_blair.config import coerce, load_yaml
from recbole_blair.errors import InputError, nearest
from recbole_blair.files.paths import props_dir
from recbole_blair.pretrain.data import parse_holdout
from recbole_blair.text.pooling import POOLINGS

DEFAULTS = "pretrain/pretrain.yaml"
OBJECTIVES = ("contrastive+mlm", "contrastive", "mlm")
SCHEDULES = ("linear", "cosine", "constant_with_warmup")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
DEVICES = ("auto", "cpu", "cuda")
CHOICES = {
    "objective": OBJECTIVES,
    "schedule": SCHEDULES,
    "precision": PRECISIONS,
    "device": DEVICES,
    "pooling": (None, *POOLINGS),
}
POSITIVE = (
    "temperature", "max_length", "per_device_batch", "epochs", "learning_rate", "logging_steps", "eval_items",
    "eval_pairs", "vocab_size", "sample_share",
)  # fmt: skip
NOT_NEGATIVE = (
    "mlm_weight", "cache_chunk", "weight_decay", "warmup", "clip_grad_norm", "eval_steps",
    "save_steps", "dataloader_workers", "min_chars", "seed",
)  # fmt: skip
# They say where or how visibly, not what: two runs that differ only in these agree.
VOLATILE = frozenset(
    {
        "output_dir",
        "show_progress",
        "eval_before",
        "dataloader_workers",
        "raw_dir",
        "memory_limit",
        "pairs",
        "pairs_path",
    }
)


class Settings(dict):
    """Resolved keys; read as attributes too."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def fingerprint(self):
        """Return the keys that decide the result."""
        return {key: value for key, value in self.items() if key not in VOLATILE}


def default_settings():
    """Return the defaults of props/pretrain/pretrain.yaml."""
    return load_yaml(props_dir() / DEFAULTS)


def resolve_settings(overrides=None, config_files=()):
    """Merge the layers and check every value.

    Args:
        overrides (dict): command line or API values.
        config_files (sequence of path): YAML files, the last wins.

    Returns:
        Settings

    Raises:
        InputError: an unknown key, naming the nearest known one, or a value no run can use.
    """
    values = default_settings()
    layers = [(str(path), load_yaml(path)) for path in config_files] + [("the command line", dict(overrides or {}))]
    for source, layer in layers:
        for key, value in layer.items():
            if key not in values:
                raise InputError(
                    f"unknown key {key!r} in {source}.{nearest(key, values)} The keys are in props/{DEFAULTS}"
                )
            values[key] = coerce(key, value, values[key], source)
    settings = Settings(values)
    _check(settings)
    return settings


def _check(settings):
    """Refuse values no run can use, each with the legal ones."""
    for key, legal in CHOICES.items():
        if settings[key] not in legal:
            shown = ", ".join("empty" if value is None else value for value in legal)
            raise InputError(f"--{key}={settings[key]} is not one of {shown}.{nearest(settings[key], legal)}")
    for key in POSITIVE:
        if not settings[key] > 0:
            raise InputError(f"--{key}={settings[key]} must be above 0")
    for key in NOT_NEGATIVE:
        if not settings[key] >= 0:
            raise InputError(f"--{key}={settings[key]} must not be below 0")
    if settings.forward_texts is not None and not (
        isinstance(settings.forward_texts, int) and settings.forward_texts >= 0
    ):
        raise InputError(f"--forward_texts={settings.forward_texts} must be an integer not below 0, or empty")
    for key in ("mlm_probability", "sample_share"):
        if not 0 < settings[key] <= 1:
            raise InputError(f"--{key}={settings[key]} is no share; expected above 0, at most 1")
    if settings.warmup >= 1:
        raise InputError(f"--warmup={settings.warmup} is no part of the steps; expected 0 to below 1")
    if settings.per_device_batch < 2 and "contrastive" in settings.objective:
        raise InputError(
            f"--per_device_batch={settings.per_device_batch}: a batch of one pair has no negatives; take at least 2"
        )
    parse_holdout(settings.holdout)
    for k in settings.topk:
        if not isinstance(k, int) or k < 1:
            raise InputError(f"--topk holds {k!r}; expected integers above 0")
    names = [f"{name}@{k}" for name in ("ndcg", "recall") for k in settings.topk] + ["mrr"]
    if settings.valid_metric not in names:
        raise InputError(f"--valid_metric={settings.valid_metric} is not one of {', '.join(names)}")

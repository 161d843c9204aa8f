"""The options of a sweep: defaults from props/tune/tune.yaml, each checked before anything starts."""

from recbole_blair.config import check_kind, load_yaml
from recbole_blair.errors import InputError, nearest
from recbole_blair.files.paths import props_dir

DEFAULTS = "tune/tune.yaml"
EMPTY = {  # kinds of the options whose default is empty
    "space": "", "metric": "", "time_budget_s": 0.0, "gpus_per_trial": 0.0, "max_concurrent": 0, "ray_address": "",
    "ray_cpus": 0,
}  # fmt: skip
CHOICES = {"search": ("random", "optuna", "grid"), "scheduler": ("asha", "pbt", "none")}
AT_LEAST = {
    "num_samples": 1, "search_seed": 0, "grace_period": 1, "reduction_factor": 2, "perturbation_interval": 1,
    "max_failures": 0, "cpus_per_trial": 1, "gpus_per_trial": 0, "max_concurrent": 1, "ray_cpus": 1,
}  # fmt: skip
# Options that say where and how long, not what: a resumed sweep may change them.
VOLATILE = frozenset(
    {
        "space",  # its content is kept
        "num_samples",
        "max_failures",
        "time_budget_s",
        "cpus_per_trial",
        "gpus_per_trial",
        "max_concurrent",
        "ray_address",
        "ray_cpus",
        "report_usage",
    }
)


def default_settings():
    """Return the options with their defaults."""
    return load_yaml(props_dir() / DEFAULTS)


def resolve_settings(given):
    """Merge options over the defaults.

    Args:
        given (dict): options of the command line or the API.

    Returns:
        dict: every option.

    Raises:
        InputError: an unknown option, a wrong kind, or a value out of range.
    """
    defaults = default_settings()
    settings = dict(defaults)
    for key, value in given.items():
        if key not in defaults:
            raise InputError(f"unknown option {key!r}.{nearest(key, defaults)} They are in props/{DEFAULTS}")
        example = EMPTY.get(key) if defaults[key] is None else defaults[key]
        if key == "scheduler" and value is None:
            value = "none"  # YAML reads none as text, but `--scheduler=` or ~ as empty
        if value is None and defaults[key] is not None:
            raise InputError(f"{key} is empty; expected {type(example).__name__}, like {example!r}")
        settings[key] = value if value is None else check_kind(key, value, example, "the sweep's options")
    check_settings(settings, given)
    return settings


def check_settings(settings, given):
    """Refuse values no sweep can use, and options that contradict each other."""
    for key, legal in CHOICES.items():
        if settings[key] not in legal:
            raise InputError(f"{key}={settings[key]!r} is not one of {', '.join(legal)}")
    for key, least in AT_LEAST.items():
        if settings[key] is not None and not settings[key] >= least:
            raise InputError(f"{key}={settings[key]!r} must be at least {least}")
    budget, gpus = settings["time_budget_s"], settings["gpus_per_trial"]
    if budget is not None and not budget > 0:
        raise InputError(f"time_budget_s={budget!r} must be above 0")
    if gpus is not None and gpus > 1 and gpus != int(gpus):
        raise InputError(f"gpus_per_trial={gpus:g}: a trial takes a part of one GPU (up to 1) or whole ones")
    if settings["search"] == "grid" and given.get("num_samples") is not None:
        raise InputError("search=grid tries every combination of the space; leave num_samples out")
    if settings["search"] == "optuna" and settings["scheduler"] == "pbt":
        raise InputError("scheduler=pbt changes the keys of running trials itself; use it with search=random or grid")

"""The options of a sweep: defaults from props/tune/tune.yaml, each checked before anything starts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from recbole_blair.config.keys import Keys, props_keys
from recbole_blair.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULTS = "tune/tune.yaml"
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


def tune_keys() -> Keys:
    """Return the options of props/tune/tune.yaml."""
    return replace(props_keys(DEFAULTS), reader="tune")


def resolve_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Put options of the command line or the API over the defaults; return every option.

    Raises:
        InputError: an unknown option, a value that is not of its kind, or options that contradict each other.
    """
    # YAML reads none as text, but `--scheduler=` or ~ as empty
    given = {key: "none" if key == "scheduler" and value is None else value for key, value in given.items()}
    settings = tune_keys().merge([("the sweep's options", given)])
    gpus = settings["gpus_per_trial"]
    if gpus is not None and gpus > 1 and gpus != int(gpus):
        raise InputError(f"gpus_per_trial={gpus:g}: a trial takes a part of one GPU (up to 1) or whole ones")
    if settings["search"] == "grid" and given.get("num_samples") is not None:
        raise InputError("search=grid tries every combination of the space; leave num_samples out")
    if settings["search"] == "optuna" and settings["scheduler"] == "pbt":
        raise InputError("scheduler=pbt changes the keys of running trials itself; use it with search=random or grid")
    return settings

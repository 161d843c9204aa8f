"""The keys of `recbole-blair pretrain`: YAML defaults, files, command line; unknown keys are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from recbole_blair.config.keys import Keys, load_yaml, props_keys
from recbole_blair.errors import InputError
from recbole_blair.pretrain.data import parse_holdout

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

DEFAULTS = "pretrain/pretrain.yaml"
# They say where or how visibly, not what: two runs that differ only in these agree.
VOLATILE = frozenset(
    {
        "output_dir",
        "show_progress",
        "log",
        "eval_before",
        "dataloader_workers",
        "raw_dir",
        "memory_limit",
        "pairs",
        "pairs_from",
        "pairs_path",
        "save_ranks",
    }
)


class Settings(dict[str, Any]):
    """Resolved keys; read as attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def fingerprint(self) -> dict[str, Any]:
        """Return the keys that decide the result."""
        return {key: value for key, value in self.items() if key not in VOLATILE}


def pretrain_keys() -> Keys:
    """Return the keys of props/pretrain/pretrain.yaml."""
    return replace(props_keys(DEFAULTS), reader="pretrain")


def resolve_settings(overrides: Mapping[str, Any] | None = None, config_files: Sequence[Path | str] = ()) -> Settings:
    """Merge the layers and check every value.

    Args:
        overrides: command line or API values.
        config_files: YAML files, the last wins.

    Raises:
        InputError: an unknown key, naming the nearest known one, or a value no run can use.
    """
    layers = [(str(path), load_yaml(path)) for path in config_files] + [("the command line", dict(overrides or {}))]
    settings = Settings(pretrain_keys().merge(layers))
    if settings.per_device_batch < 2 and "contrastive" in settings.objective:
        raise InputError(
            f"--per_device_batch={settings.per_device_batch}: a batch of one pair has no negatives; take at least 2"
        )
    parse_holdout(settings.holdout)
    names = [f"{name}@{k}" for name in ("ndcg", "recall") for k in settings.topk] + ["mrr"]
    if settings.valid_metric not in names:
        raise InputError(f"--valid_metric={settings.valid_metric} is not one of {', '.join(names)}")
    return settings

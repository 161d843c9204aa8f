"""The one room that works around library versions. Call `apply()` before importing anything of RecBole.

Each work-around names its cause, says whether it is needed with what is installed, and has a test. What RecBole
1.2.1 does badly but this project never calls has none: `recbole.quick_start` (imports ray at its top and reports by
keyword), `get_flops` (imports thop, which imports distutils, gone in Python 3.12), `Config` with its `sys.argv`.

Importing this file loads PyYAML only; `apply()` loads RecBole and so torch, never ray or transformers. The imports
inside functions are of the libraries that are worked around.
"""

from __future__ import annotations

import importlib.util
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import yaml

from recbole_blair.errors import InputError

RECBOLE_VERSION = "1.2.1"
RECBOLE_INSTALL = f"pip install --no-deps recbole=={RECBOLE_VERSION}"
TORCH_MINIMUM = (2, 6)  # below it torch.load unpickles by default
PANDAS_BELOW = (3,)

# NumPy names that RecBole still uses -> what they meant. 1.24 dropped the bare ones, 2.0 those with an underscore.
NUMPY_ALIASES = {
    **{
        "bool": "bool_",
        "int": "int_",
        "float": "float64",
        "complex": "complex128",
        "object": "object_",
        "str": "str_",
    },
    **{"float_": "float64", "complex_": "complex128", "unicode_": "str_", "long": "int_", "unicode": "str_"},
}


class RecBoleLoader(yaml.FullLoader):
    """The loader of RecBole's Config, where `1e-3` and `1.5e3` are floats, as people and YAML 1.2 have it."""


RecBoleLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9_]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


@dataclass(frozen=True)
class Workaround:
    """One departure from what a library does.

    Args:
        name: short, as `doctor` prints it.
        cause: what breaks without it, and why.
        needed: True where the installed versions need it and it is not on yet.
        apply: turns it on for this process.
    """

    name: str
    cause: str
    needed: Callable[[], bool]
    apply: Callable[[], None]


def installed_version(distribution: str) -> str | None:
    """Return the version of a distribution as text, or None where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def version_tuple(version: str) -> tuple[int, ...]:
    """Return the leading whole numbers of a version: `2.13.0+cpu` gives (2, 13, 0)."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def require_recbole() -> None:
    """Check that RecBole and what it stands on are there, in versions that can work, without importing them.

    Raises:
        InputError: RecBole, torch or pandas is missing or of a version that cannot work; names the fix.
    """
    for problem in find_problems():
        raise InputError(problem)


def find_problems() -> list[str]:
    """Return one line, with its fix, for everything about RecBole, torch and pandas that cannot work."""
    problems = []
    if importlib.util.find_spec("recbole") is None:
        problems.append(
            f"RecBole is not installed; run: {RECBOLE_INSTALL} (without its dependencies: its metadata asks for "
            "ray<=2.6.3, and recbole_blair brings what it needs)"
        )
    else:
        version = installed_version("recbole")
        if version and version != RECBOLE_VERSION:
            problems.append(f"RecBole {version} is installed; expected {RECBOLE_VERSION}; run: {RECBOLE_INSTALL}")
    torch = installed_version("torch")
    if torch is None:
        problems.append("torch is not installed; run: pip install 'torch>=2.6'")
    elif version_tuple(torch) < TORCH_MINIMUM:
        problems.append(f"torch {torch} is installed; expected 2.6 or later; run: pip install --upgrade 'torch>=2.6'")
    pandas = installed_version("pandas")
    if pandas is None:
        problems.append("pandas is not installed; run: pip install 'pandas>=2.2,<3'")
    elif version_tuple(pandas) >= PANDAS_BELOW:
        problems.append(
            f"pandas {pandas} is installed; expected a version below 3, because RecBole fills missing values "
            "by chained in-place calls, which pandas 3 ignores without a word; run: pip install 'pandas<3'"
        )
    return problems


def _missing_numpy_aliases() -> list[str]:
    import numpy as np

    return [name for name in NUMPY_ALIASES if name not in vars(np)]


def _apply_numpy_aliases() -> None:
    import numpy as np

    for name in _missing_numpy_aliases():
        setattr(np, name, getattr(np, NUMPY_ALIASES[name]))


def _dok_update_missing() -> bool:
    from scipy.sparse import dok_matrix

    return not hasattr(dok_matrix, "_update")


def _apply_dok_update() -> None:
    from scipy.sparse import dok_matrix

    def _update(self: Any, data: dict[tuple[int, int], float]) -> None:
        """Store many entries {(row, column): value} at once, unchecked, as SciPy did."""
        self._dict.update(data)

    dok_matrix._update = _update


# Noise that RecBole's own lines make and its users cannot act on: regular expressions of message and module.
NOISE = (
    (r"invalid escape sequence '\\p'", SyntaxWarning, r".*recbole.*dien"),
    (r"A value is trying to be set on a copy of a DataFrame", FutureWarning, r"recbole\.data\."),
    (r"`torch\.cuda\.amp\.GradScaler", FutureWarning, r"recbole\.trainer\."),
)


def _noise_filters() -> list[tuple[Any, ...]]:
    return [
        ("ignore", re.compile(message, re.IGNORECASE), category, re.compile(module), 0)
        for message, category, module in NOISE
    ]


def _noise_heard() -> bool:
    return any(wanted not in warnings.filters for wanted in _noise_filters())


def _apply_noise_filters() -> None:
    for message, category, module in NOISE:
        warnings.filterwarnings("ignore", message=message, category=category, module=module)


def _yaml_loader_shared() -> bool:
    from recbole.config import Config

    return not getattr(Config._build_yaml_loader, "private_loader", False)


def _apply_private_yaml_loader() -> None:
    from recbole.config import Config

    def _build_yaml_loader(self: Any) -> type[RecBoleLoader]:
        """Return a loader of RecBole's own; the global one stays as it is."""
        return RecBoleLoader

    _build_yaml_loader.private_loader = True  # type: ignore[attr-defined]
    Config._build_yaml_loader = _build_yaml_loader


def _checkpoints_pickled() -> bool:
    from recbole.trainer import Trainer

    return not getattr(Trainer._save_checkpoint, "plain", False)


def _apply_plain_checkpoints() -> None:
    import torch
    from recbole.trainer import Trainer

    def _save_checkpoint(self: Any, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        """Store what RecBole's Trainer stores, the config reduced to plain values: weights_only loads it."""
        if not self.config["single_spec"] and self.config["local_rank"] != 0:
            return
        path = kwargs.pop("saved_model_file", self.saved_model_file)
        state = {
            "config": _plain_config(self.config),
            "epoch": int(epoch),
            "cur_step": int(self.cur_step),
            "best_valid_score": float(self.best_valid_score),
            "state_dict": self.model.state_dict(),
            "other_parameter": _without_modules(self.model),
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(state, path)
        if verbose:
            self.logger.info(f"Saving current: {path}")

    _save_checkpoint.plain = True  # type: ignore[attr-defined]
    Trainer._save_checkpoint = _save_checkpoint


def _without_modules(model: Any) -> Any:
    """Return the model's other parameters without its layers (DIN, DIEN), whose weights are in state_dict."""
    other = model.other_parameter()
    layers = dict(model.named_modules())
    return other and {key: value for key, value in other.items() if value is not layers.get(key, model)}


def _plain_config(config: Any) -> dict[str, Any]:
    """Return the keys of a RecBole Config whose values are numbers, text or None."""
    values = getattr(config, "final_config_dict", None)
    values = dict(config) if values is None else values
    return {key: value for key, value in values.items() if type(value) in (bool, int, float, str, type(None))}


WORKAROUNDS = (
    Workaround(
        "numpy-aliases",
        "RecBole 1.2.1 uses np.float, np.float_, np.unicode_ and others, which NumPy 1.24 and 2.0 removed",
        lambda: bool(_missing_numpy_aliases()),
        _apply_numpy_aliases,
    ),
    Workaround(
        "scipy-dok-update",
        "RecBole's graph models call dok_matrix._update, which SciPy has removed",
        _dok_update_missing,
        _apply_dok_update,
    ),
    Workaround(
        "quiet-recbole",
        "RecBole's own lines warn about themselves (an invalid escape in dien.py, chained fillna, "
        "torch.cuda.amp.GradScaler); only these are silenced, only from its modules",
        _noise_heard,
        _apply_noise_filters,
    ),
    Workaround(
        "private-yaml-loader",
        "RecBole's Config adds a rule to the global yaml.FullLoader each time one is made, which changes how "
        "other libraries in the process read YAML",
        _yaml_loader_shared,
        _apply_private_yaml_loader,
    ),
    Workaround(
        "plain-checkpoints",
        "RecBole's Trainer pickles its whole Config into a checkpoint, which torch.load refuses since 2.6 "
        "(weights_only); plain values are stored instead, so nothing is ever unpickled",
        _checkpoints_pickled,
        _apply_plain_checkpoints,
    ),
)

_on: list[str] = []


def apply() -> list[str]:
    """Turn on every work-around that is needed here. Calling it again changes nothing.

    Returns:
        names of the work-arounds that are on, in the order of `WORKAROUNDS`.

    Raises:
        InputError: RecBole, torch or pandas is missing or of a version that cannot work; names the fix.
    """
    require_recbole()
    for workaround in WORKAROUNDS:
        if workaround.needed():
            workaround.apply()
            if workaround.name not in _on:
                _on.append(workaround.name)
    return list(_on)

"""Finds finished runs and sorts them: comparable runs into panels, seeds of one configuration into groups."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_blair.config import VOLATILE_KEYS
from recbole_blair.errors import InputError
from recbole_blair.train.run_folder import CHECKPOINT, CONFIG, METRICS, load_config, load_metrics

# What may differ between seeds of one configuration. `plm` and `dataset` are as typed, a path or a short name;
# metrics.json says which encoder and build they were.
NOT_CONFIGURATION = VOLATILE_KEYS | {
    "seed", "plm", "plm_revision", "dataset", "save_ranks", "eval_batch_size", "max_score_elements"
}  # fmt: skip
NEEDED = ("model", "dataset", "protocol", "seed", "test", "rows", "n_items", "history_masked")
SHOWN_DIFFERENCES = 3


@dataclass
class Run:
    """One finished run: its folder, config.yaml and metrics.json."""

    folder: Path
    config: dict[str, Any]
    metrics: dict[str, Any]

    @property
    def name(self) -> str:
        """The folder as given, for messages."""
        return str(self.folder)

    @property
    def per_user(self) -> bool:
        """True where the metrics are means over users (protocol=random)."""
        return "users" in self.metrics

    def configuration(self) -> dict[str, Any]:
        """Return what makes two runs differ in more than their seed."""
        keys = {k: v for k, v in self.config.items() if k not in NOT_CONFIGURATION}
        return {**keys, "encoder": self.metrics.get("encoder")}

    def setting(self) -> tuple[str, str, int, int, bool]:
        """Return what two runs must share to be compared: same rows ranked among the same items."""
        m = self.metrics
        return m["dataset"], m["protocol"], m["n_items"], m["rows"]["test"], m["history_masked"]


@dataclass
class Group:
    """The seeds of one configuration."""

    model: str
    runs: list[Run]
    label: str = ""
    differs: dict[str, Any] = field(default_factory=dict)

    def values(self, metric: str) -> list[float]:
        """Return a test metric of every seed; [] when a run lacks it."""
        values = [run.metrics["test"].get(metric) for run in self.runs]
        return [] if None in values else values


@dataclass
class Panel:
    """Groups over one data set that were evaluated in one way."""

    setting: tuple[str, str, int, int, bool]
    groups: list[Group]

    @property
    def runs(self) -> list[Run]:
        """The runs of all groups."""
        return [run for group in self.groups for run in group.runs]


def find_runs(paths: Sequence[Path | str]) -> tuple[list[Run], list[str]]:
    """Find the finished runs of folders: run folders, or folders that hold some at any depth.

    Returns:
        The runs in a stable order; what was left out and why.

    Raises:
        InputError: no such folder, a folder without a finished run, or a damaged file.
    """
    runs: list[Run] = []
    left_out: list[str] = []
    seen: set[Path] = set()
    for path in map(Path, paths):
        if not path.is_dir():
            raise InputError(f"{path} is no folder; give run folders, or a folder of runs, as in runs/games")
        n_runs = 0
        for config in sorted(path.rglob(CONFIG)):
            folder = config.parent
            run = load_run_files(folder)
            if run is None:
                if (folder / CHECKPOINT).is_dir():
                    left_out.append(f"{folder} is unfinished: it has no {METRICS}")
                continue
            n_runs += 1
            if folder.resolve() not in seen:
                seen.add(folder.resolve())
                runs.append(run)
        if not n_runs:
            unfinished = f"; {left_out[-1]}" if left_out else ""
            files = f"{CONFIG} and {METRICS}"
            raise InputError(f"{path} holds no finished run: a run folder has {files}{unfinished}")
    return runs, left_out


def load_run_files(folder: Path) -> Run | None:
    """Read a run's two small files; None when it is unfinished.

    Raises:
        InputError: metrics.json lacks what every run has.
    """
    metrics = load_metrics(folder)
    if metrics is None:
        return None
    lacking = [key for key in NEEDED if key not in metrics] if isinstance(metrics, dict) else NEEDED
    if lacking:
        raise InputError(
            f"{folder / METRICS} lacks {', '.join(lacking)}: it is not from a recommender's run; leave that folder out"
        )
    return Run(folder, load_config(folder), metrics)


def build_panels(runs: Sequence[Run]) -> tuple[list[Panel], list[str]]:
    """Sort runs into panels and groups.

    Returns:
        The panels; the runs left out because a newer one has the same configuration and seed.
    """
    panels: dict[tuple, dict[tuple, list[Run]]] = {}
    left_out: list[str] = []
    for run in runs:
        groups = panels.setdefault(run.setting(), {})
        key = (run.metrics["model"], json.dumps(run.configuration(), sort_keys=True, default=str))
        groups.setdefault(key, []).append(run)
    result = []
    for setting, groups in panels.items():
        built = []
        for (model, _), members in groups.items():
            kept, dropped = newest_per_seed(members)
            left_out += [f"{old.name} has the configuration and seed of the newer {new.name}" for old, new in dropped]
            built.append(Group(model, kept))
        label_groups(built)
        result.append(Panel(setting, built))
    return result, left_out


def newest_per_seed(runs: Sequence[Run]) -> tuple[list[Run], list[tuple[Run, Run]]]:
    """Keep one run per seed, sorted by seed: the same run twice would shrink the deviation."""
    kept: dict[int, Run] = {}
    dropped: list[tuple[Run, Run]] = []
    for run in sorted(runs, key=lambda run: (run.folder / METRICS).stat().st_mtime):
        seed = run.metrics["seed"]
        if seed in kept:
            dropped.append((kept[seed], run))
        kept[seed] = run
    return [kept[seed] for seed in sorted(kept)], dropped


def label_groups(groups: Sequence[Group]) -> None:
    """Name each group after its model; groups of one model by the keys they differ in."""
    for group in groups:
        same = [other.runs[0].configuration() for other in groups if other.model == group.model]
        own = group.runs[0].configuration()
        keys = sorted({k for other in same for k in other.keys() | own.keys() if other.get(k) != own.get(k)})
        group.differs = {k: own.get(k) for k in keys}
        shown = [f"{k}={own.get(k)}" for k in keys[:SHOWN_DIFFERENCES]]
        more = [f"{len(keys) - SHOWN_DIFFERENCES} more"] if len(keys) > SHOWN_DIFFERENCES else []
        group.label = " · ".join([group.model, *shown, *more])
    taken: dict[str, int] = {}
    for group in groups:  # labels are names: two that differ only beyond what is shown get a number
        taken[group.label] = taken.get(group.label, 0) + 1
        if taken[group.label] > 1:
            group.label += f" #{taken[group.label]}"


def differing_keys(groups: Sequence[Group]) -> dict[str, dict[str, Any]]:
    """Return `{key: {label: value}}` for the keys in which the groups' configurations differ, `model` left out."""
    configurations = {group.label: group.runs[0].configuration() for group in groups}
    keys = sorted({k for c in configurations.values() for k in c} - {"model"})
    table = {k: {label: c.get(k) for label, c in configurations.items()} for k in keys}
    return {k: row for k, row in table.items() if len({json.dumps(v, default=str) for v in row.values()}) > 1}


def mean_and_deviation(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the mean and the sample deviation; (None, None) of nothing, deviation None of one value."""
    if not values:
        return None, None
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None

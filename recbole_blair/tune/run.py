"""One sweep: check everything, prepare the data, run the trials, evaluate the best one.

Everything that a sweep resumes from is in its folder (see sweep_dir.py); Ray's own snapshots are deleted.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout

from recbole_blair import compat
from recbole_blair.config import INTERVALS, Config, read_layers, resolve_config
from recbole_blair.errors import InputError
from recbole_blair.files.write import locked_folder
from recbole_blair.parallel.ray_cluster import local_cpus, local_gpus, ray_cluster
from recbole_blair.quick_start import open_dataset
from recbole_blair.registry import ModelInfo, find_model, use_plugins
from recbole_blair.schema import SPLITS
from recbole_blair.tracking.trackers import RunPlace, check_trackers
from recbole_blair.tracking.tracking import Tracking
from recbole_blair.train.display import say
from recbole_blair.train.interrupted import newest_source_ns
from recbole_blair.train.runtime import runtime_config
from recbole_blair.tune import sweep_dir as files
from recbole_blair.tune.heartbeat import heartbeat
from recbole_blair.tune.results import conclude, count_by_status
from recbole_blair.tune.schedulers import ranges_to_perturb
from recbole_blair.tune.searcher import list_trials
from recbole_blair.tune.settings import VOLATILE, resolve_settings
from recbole_blair.tune.space import Space, load_space, space_path
from recbole_blair.tune.sweep_dir import Trial

FOLDERS = ("output_dir", "checkpoint_dir")  # where the sweep's folder is, no keys of its trials
# Keys that the sweep itself decides for its trials.
OWN_KEYS = ("resume", "threads", "seeds", "baselines", "init_from")


@dataclass
class Sweep:
    """A checked sweep: everything is known, nothing has started."""

    folder: Path
    info: ModelInfo
    dataset: str
    keys: dict[str, Any]
    base: Config
    space: Space
    settings: dict[str, Any]
    trials: list[Trial]
    notes: Sequence[str] = ()  # on keys of RecBole's that nothing reads

    @property
    def metric(self) -> str:
        """Return the metric that compares trials."""
        return self.base["valid_metric"]

    @property
    def open_trials(self) -> list[Trial]:
        """Return the trials that begin or are resumed."""
        return [trial for trial in self.trials if not trial.over]

    @property
    def has_more(self) -> bool:
        """Return whether a trial is left to run."""
        to_ask = self.settings["search"] == "optuna" and len(self.trials) < self.settings["num_samples"]
        return to_ask or bool(self.open_trials)

    def spec(self) -> dict[str, Any]:
        """Return sweep.yaml's content."""
        return {
            "model": self.info.name, "dataset": self.dataset, "keys": self.keys, "space": self.space.plain(),
            "options": {**self.settings, "metric": self.metric},
        }  # fmt: skip


def build_sweep(
    model: str | None, dataset: str | None, config_files: Sequence[str] = (), resume: str | None = None,
    options: dict[str, Any] | None = None, fresh: bool = False, **keys: Any,
) -> Sweep:  # fmt: skip
    """Check everything that can be known before a trial starts.

    Args:
        model, dataset: as for `train`.
        config_files: YAML files of keys; the space outranks them, keys given outrank the space.
        resume: an interrupted sweep's folder.
        options: of props/tune/tune.yaml.
        fresh: start a new sweep, even where an interrupted one of the same configuration could go on.
        **keys: of the model and of overall.yaml, the same for every trial.

    Raises:
        InputError: anything the caller can fix.
    """
    options = dict(options or {})
    if resume is not None:
        if fresh:
            raise InputError(
                f"--fresh starts a new sweep, but --resume={resume} goes on with one; leave out one of them"
            )
        return resume_sweep(model, dataset, config_files, resume, options, keys)
    use_plugins(keys.get("plugin"), config_files)
    if not model or not dataset:
        raise InputError("--model=... and --dataset=... are needed; or --resume=<folder> of an interrupted sweep")
    info, settings = find_model(model), resolve_settings(options)
    layers, notes = read_layers(info, config_files, keys)
    keys = layers[-1][1]
    merged = {k: v for _, layer in layers for k, v in layer.items() if k not in ("model", "dataset")}
    folder = merged.pop("output_dir", None)
    base = base_config(info, dataset, merged, settings)
    merged = {key: base[key] for key in merged if key not in FOLDERS + INTERVALS}  # a list that was typed as 1,2 is one
    space = load_space(settings["space"] or space_path(info), info, base, fixed=keys)
    new = Path(base["checkpoint_dir"], f"{time.strftime('%Y%m%d-%H%M%S')}-tune-{info.name}-{Path(dataset).name}")
    sweep = Sweep(Path(folder or new), info, dataset, merged, base, space, settings, [], notes)
    if folder is None and not fresh and (interrupted := find_interrupted(sweep)):
        say(f"going on with the interrupted sweep {interrupted} of this configuration; --fresh starts a new one")
        sweep.folder = interrupted
    folder = sweep.folder
    if fresh and (folder / files.SWEEP).is_file():
        raise InputError(f"--fresh starts a new sweep, but {folder} holds one; give another --output_dir, or none")
    if (folder / files.SWEEP).is_file():
        files.check_same_sweep(folder, files.load_sweep(folder), sweep.spec())
    elif folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty and holds no sweep; choose another output_dir")
    return add_trials(sweep)


def find_interrupted(sweep: Sweep) -> Path | None:
    """Return the folder of an interrupted sweep of the same configuration on builds older than it, or None."""
    configs = [sweep.base.replace(**choice) for choice in sweep.space.data_choices()]
    return files.find_interrupted(sweep.folder, sweep.spec(), max(map(newest_source_ns, configs), default=0))


def resume_sweep(
    model: str | None, dataset: str | None, config_files: Sequence[str], folder: Path | str, options: dict[str,
    Any], keys: dict[str, Any],
) -> Sweep:  # fmt: skip
    """Read a sweep's folder; what is given beside it may only say where and how long it goes on."""
    if not isinstance(folder, str | Path):
        raise InputError("--resume needs the folder of a sweep, as in --resume=runs/games-sweep")
    saved = files.load_sweep(folder)
    use_plugins(saved["keys"].get("plugin"))
    info = find_model(saved["model"])
    merged = {**saved["options"], **{k: v for k, v in options.items() if k in VOLATILE and k != "space"}}
    settings = resolve_settings({k: v for k, v in merged.items() if (k, merged["search"]) != ("num_samples", "grid")})
    base = base_config(info, saved["dataset"], saved["keys"], settings)

    layers, _ = read_layers(info, config_files, keys)
    unread = (*FOLDERS, *INTERVALS, "model", "dataset")
    given = {k: v for _, layer in layers for k, v in layer.items() if k not in unread}
    asked = {**base, **base_config(info, saved["dataset"], {**saved["keys"], **given}, settings), **options}
    asked.update({k: v for k, v in (("model", model), ("dataset", dataset)) if v})
    known = {**base, **saved["options"], "model": saved["model"], "dataset": saved["dataset"]}
    clash = [k for k in ("model", "dataset", *given, *options) if k not in VOLATILE and asked[k] != known[k]]
    if clash:
        raise InputError(
            f"--resume={folder} goes on with its own configuration; {clash[0]}={asked[clash[0]]!r} differs from its "
            f"{known[clash[0]]!r}. Leave it out, or start a new sweep"
        )
    space = load_space(saved["space"], info, base)
    if options.get("space") is not None:
        asked_space = load_space(options["space"], info, base, fixed=saved["keys"]).plain()
        if asked_space != space.plain():
            raise InputError(f"--resume={folder} goes on with its own space; {options['space']} differs from it")
    return add_trials(Sweep(Path(folder), info, saved["dataset"], saved["keys"], base, space, settings, []))


def base_config(info: ModelInfo, dataset: str, keys: dict[str, Any], settings: dict[str, Any]) -> Config:
    """Resolve the keys that all trials share.

    Raises:
        InputError: a key the sweep decides, a metric that is not computed, a model that has nothing to train.
    """
    for key in OWN_KEYS:
        if keys.get(key) is not None:
            raise InputError(
                f"{key} is not for a sweep: its trials are single runs of one seed on cpus_per_trial threads"
            )
    metric = settings["metric"]
    if metric is not None:
        if str(keys.get("valid_metric", metric)).lower() != metric:
            raise InputError(f"metric={metric} and valid_metric={keys['valid_metric']} differ; give one of them")
        keys = {**keys, "valid_metric": metric}
    base = resolve_config(info, dataset, (), {**keys, "seeds": None, "baselines": None})
    check_trackers(base["log"])
    if not getattr(info.load_class(), "trains", True) or base["epochs"] < 1:
        raise InputError(f"{info.name} with epochs={base['epochs']} trains nothing, so there is nothing to tune")
    if base["device"] not in ("auto", "cpu", "cuda"):
        raise InputError(
            f"device={base['device']}: Ray hands out the GPUs of a sweep; give device=cuda or leave it out"
        )
    return base


def add_trials(sweep: Sweep) -> Sweep:
    """Add the trials: those of the folder, then, unless Optuna chooses them, the new ones; check each."""
    if (sweep.folder / files.SWEEP).is_file():
        sweep.trials = files.load_trials(sweep.folder)
    if sweep.settings["scheduler"] == "pbt":
        ranges_to_perturb(sweep.space)
    if sweep.settings["search"] != "optuna":
        sweep.trials += list_trials(sweep.space, sweep.settings, sweep.trials)
    for trial in sweep.trials:
        shared = {**sweep.keys, "seeds": None, "baselines": None}
        resolve_config(sweep.info, sweep.dataset, (), {**shared, **trial.point})
    return sweep


def resources_per_trial(sweep: Sweep, cpus: float, gpus: float) -> tuple[int, float]:
    """Return (cpus, gpus) of a trial.

    Raises:
        InputError: more than there are, or a device that the trial would not get.
    """
    settings, device = sweep.settings, sweep.base["device"]
    wanted = settings["gpus_per_trial"]
    if wanted is None:
        wanted = 1.0 if gpus and device != "cpu" else 0.0
    if wanted > gpus:
        raise InputError(
            f"gpus_per_trial={wanted:g}, but there are {gpus:g} GPUs; lower it (a fraction shares a GPU), or 0 for "
            "the CPU"
        )
    if device == "cuda" and not wanted:
        raise InputError("device=cuda needs gpus_per_trial above 0, and GPUs")
    if device == "cpu" and wanted:
        raise InputError(f"device=cpu uses no GPU, but gpus_per_trial is {wanted:g}; set it to 0 or leave device out")
    if settings["cpus_per_trial"] > cpus:
        raise InputError(
            f"cpus_per_trial={settings['cpus_per_trial']}, but there are {cpus:g} CPUs; lower it or raise ray_cpus"
        )
    return settings["cpus_per_trial"], wanted


def run_sweep(sweep: Sweep) -> dict[str, Any]:
    """Try every trial of a checked sweep and evaluate the best one's weights on the test rows.

    Args:
        sweep: of `build_sweep`.

    Returns:
        dict: `best` (best.json's content, or None when no trial gave a result), `trials`, `seconds`.

    Raises:
        InputError: data that is missing, no cluster at ray_address, more resources than there are.
    """
    settings, started = sweep.settings, time.perf_counter()
    usage = {"report_usage": settings["report_usage"]}
    with contextlib.ExitStack() as stack:
        if settings["ray_address"]:
            cluster = stack.enter_context(ray_cluster(settings["ray_address"], **usage))
            cpus, gpus = resources_per_trial(sweep, cluster.cpus, cluster.gpus)
        else:
            here = settings["ray_cpus"] or local_cpus(), local_gpus()
            cpus, gpus = resources_per_trial(sweep, *here)
        try:
            stack.enter_context(locked_folder(sweep.folder, files.LOCK, timeout_s=0))
        except Timeout as error:
            raise InputError(f"another process is at work on {sweep.folder}; wait for it or stop it") from error
        stack.enter_context(heartbeat(sweep))
        say(f"sweep of {sweep.info.name} on {sweep.dataset}; it goes on with --resume={sweep.folder}")
        prepare_data(sweep)
        if sweep.has_more and not settings["ray_address"]:
            stack.enter_context(ray_cluster(None, *here, **usage))
        return try_trials(sweep, cpus, gpus, started)


def prepare_data(sweep: Sweep) -> None:
    """Make the atomic files and features that trials will read; each trial then maps them and makes nothing."""
    compat.apply()
    for choice in sweep.space.data_choices():
        open_dataset(sweep.info, runtime_config(sweep.base.replace(**choice)), {})


def worker_spec(sweep: Sweep, cpus: int, gpus: float) -> dict[str, Any]:
    """Return what a trial's process reads of the sweep; folders are absolute, since it may run elsewhere."""
    keys = dict(sweep.keys)
    for key in ("data_path", "raw_dir"):
        keys[key] = str(Path(sweep.base[key]).resolve())
    if Path(str(sweep.base["plm"])).is_dir():
        keys["plm"] = str(Path(sweep.base["plm"]).resolve())
    return {
        "dir": str(sweep.folder.resolve()), "model": sweep.info.name, "dataset": sweep.dataset, "keys": keys,
        "metric": sweep.metric, "scheduler": sweep.settings["scheduler"], "cpus": cpus, "gpus": gpus,
    }  # fmt: skip


def try_trials(sweep: Sweep, cpus: int, gpus: float, started: float) -> dict[str, Any]:
    """Write the trials, run Ray Tune over the open ones, and conclude."""
    files.save_sweep(sweep.folder, sweep.spec())
    for trial in sweep.trials:
        files.mend_trial(sweep.folder, trial)
    files.delete_ray_files(sweep.folder)
    with track(sweep) as tracking:
        tracking.start(sum(trial.over for trial in sweep.trials) - 1)
        if sweep.has_more:
            from recbole_blair.tune.driver import run_trials  # heavy: loads Ray Tune

            run_trials(sweep, {**worker_spec(sweep, cpus, gpus), "parent": tracking.handles()})
            files.delete_ray_files(sweep.folder)
        sweep.trials = files.load_trials(sweep.folder)
        result = conclude(sweep, {"CPU": cpus, "GPU": gpus}, started)
        tracking.log(sweep_summary(result), sum(trial.over for trial in sweep.trials))
    return result


def track(sweep: Sweep) -> Tracking:
    """Return the sweep's runs at the trackers of the key `log`; those of its trials lie below them."""
    spec = sweep.spec()
    keys = {**sweep.base.fingerprint(), **spec["options"], "space": None}  # what is in that file follows
    keys.update({f"space.{key}": values for key, values in spec["space"].items()})
    place = RunPlace(sweep.folder, sweep.folder.name, None, [f"best/{split}/{sweep.metric}" for split in SPLITS[1:]])
    return Tracking(sweep.base["log"], place, keys, say)


def sweep_summary(result: dict[str, Any]) -> dict[str, float]:
    """Return what a sweep's trackers are told at its end: the best trial's metrics, how many trials ended how."""
    best, counts = result["best"] or {}, count_by_status(result["trials"])
    found = {f"best/{split}/{name}": value for split in SPLITS[1:] for name, value in best.get(split, {}).items()}
    found.update({f"best/{name}": best[name] for name in ("trial", "epoch") if name in best})
    return {**found, **{f"trials/{status}": n for status, n in counts.items()}, "seconds": result["seconds"]}

"""From a model's and a dataset's name to trained weights and metrics: the one path of train, sweeps and the API.

`train_one` is the path: resolve device and precision, open the data, build model and loaders, train, evaluate the test
rows, write metrics.json. `run` resolves one configuration for it, `run_many` one per model and seed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from recbole_blair import compat
from recbole_blair.config import INTERVALS, VOLATILE_KEYS, Config, model_keys, read_layers, resolve_config
from recbole_blair.data.build import check_encoder_keys, ensure_build, ensure_features, text_source
from recbole_blair.data.dataset import BlairDataset
from recbole_blair.data.feature_transforms import chosen_transform
from recbole_blair.errors import InputError, require
from recbole_blair.files.output import check_output_folder
from recbole_blair.ops import start_peak_memory, use_ops
from recbole_blair.parallel.distributed import barrier, broadcast, join_group, main_process_first, rank, world_size
from recbole_blair.registry import ModelInfo, find_model, remember_plugins, use_plugins
from recbole_blair.registry.build_model import (
    build_loaders,
    build_model,
    check_protocol,
    check_rows,
    describe_batches,
    trains_encoder,
    uses_text,
)
from recbole_blair.text.encoders import encoder_name
from recbole_blair.text.trained.choice import chosen_training
from recbole_blair.text.trained.export import export_encoder, write_features
from recbole_blair.tracking.callback import Callback, check_callbacks
from recbole_blair.tracking.trackers import RunPlace, check_trackers
from recbole_blair.tracking.tracking import Tracking
from recbole_blair.train import checkpoint, run_folder
from recbole_blair.train.display import run_logger, say
from recbole_blair.train.interrupted import choose_root
from recbole_blair.train.ranks_file import save_ranks
from recbole_blair.train.results import summarise_run
from recbole_blair.train.runtime import count_processes, runtime_config, seed_everything
from recbole_blair.train.trainer import BlairTrainer

if TYPE_CHECKING:
    from recbole_blair.text.trained.source import TextSource

Datasets = dict[tuple, BlairDataset]  # that are open, by build folder, encoder and scale of the features


def run(
    model: str | None,
    dataset: str | None,
    config_files: Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
    **overrides: Any,
) -> dict[str, Any]:
    """Train and evaluate one model with one seed; makes atomic files and features first when they are missing.

    Nothing of the process leaks in: neither `sys.argv` nor CUDA_VISIBLE_DEVICES is read or set.

    Args:
        model: a name of `recbole-blair models`.
        dataset: an official or short name, `sample`, or a folder name under `data_path`.
        config_files: YAML files.
        callbacks: hear of the training (docs/tracking.md).
        **overrides: keys of props/overall.yaml and props/model/<Model>.yaml.

    Returns:
        metrics.json's content, with `output_dir`.

    Raises:
        InputError: anything the caller can fix.

    Example:
        >>> run("UniSRecBlair", "sample", plm="tfidf-svd", epochs=5)["test"]["ndcg@10"]  # doctest: +SKIP
    """
    model, dataset, config_files, overrides = given_or_resumed(model, dataset, config_files, overrides)
    check_callbacks(callbacks)
    several = [key for key in ("seeds", "baselines") if overrides.get(key)]
    if several:
        raise InputError(f"run() makes one run; {several[0]} is for run_many()")
    use_plugins(overrides.get("plugin"), config_files)
    info = find_model(model)
    config = resolve_config(info, dataset, config_files, overrides).replace(seeds=None, baselines=None)
    check_trackers(config["log"])
    return train_one(info, config, callbacks=callbacks)


def run_many(
    model: str | None,
    dataset: str | None,
    config_files: Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
    **overrides: Any,
) -> list[dict[str, Any]]:
    """Run a model and its baselines with every seed; each run in a folder of its own, finished ones left alone.

    Keys of props/overall.yaml hold for all; keys of the model's own YAML for it alone.

    Returns:
        metrics.json's content of each run, with `output_dir`; one when neither seeds nor baselines are set.
    """
    model, dataset, config_files, overrides = given_or_resumed(model, dataset, config_files, overrides)
    check_callbacks(callbacks)
    use_plugins(overrides.get("plugin"), config_files)
    info = find_model(model)
    config = resolve_config(info, dataset, config_files, overrides)
    check_trackers(config["log"])
    seeds = config["seeds"] or [config["seed"]]
    names = [model, *(config["baselines"] or [])]
    if len(seeds) * len(names) == 1:
        return [train_one(info, config.replace(seed=seeds[0], seeds=None, baselines=None), callbacks=callbacks)]
    infos = [find_model(name) for name in names]
    join_group(config["device"])
    root = Path(broadcast(str(choose_root(config, default_root(config)))))
    config = config.replace(fresh=False)
    if (root / run_folder.CONFIG).is_file():
        run_folder.check_same_run(root, config)
    own_keys = set(infos[0].load_defaults())
    shared = {k: v for k, v in overrides.items() if k not in own_keys}
    configs = [config] + [resolve_config(i, dataset, config_files, shared, strict=False) for i in infos[1:]]
    results: list[dict[str, Any]] = []
    datasets: Datasets = {}
    if broadcast(not (root / run_folder.CONFIG).is_file()):  # what is refused here leaves no folder behind
        compat.apply()
        for one, base in zip(infos, configs):
            open_fresh(one, runtime_config(base), datasets)
    if rank() == 0:
        run_folder.save_config(root, config)
    for one, base in zip(infos, configs):
        for seed in seeds:
            folder = str(root / f"{one.name}-{seed}")
            single = base.replace(seed=seed, seeds=None, baselines=None, output_dir=folder)
            results.append(train_one(one, single, datasets, callbacks))
    return results


def train_one(
    info: ModelInfo, config: Config, datasets: Datasets | None = None, callbacks: Sequence[Callback] = ()
) -> dict[str, Any]:
    """Train one resolved configuration in its run folder, evaluate the test rows, write metrics.json.

    Args:
        config: of one seed.
        datasets: datasets that are open; the run's own is added.
        callbacks: hear of the training.

    Returns:
        metrics.json's content, with `output_dir`.
    """
    config, run_dir = start_run(config)
    finished = run_folder.load_metrics(run_dir) if (run_dir / run_folder.CONFIG).is_file() else None
    if finished:
        say(f"{run_dir} is a finished run of this configuration; its results:")
        return {**finished, "output_dir": str(run_dir)}
    with training(info, config, run_dir, datasets, callbacks) as (trainer, dataset, seconds):
        metrics = evaluate_test(trainer, dataset, seconds)
        trainer.notify("on_train_end", metrics)
    return {**metrics, "output_dir": str(run_dir)}


def train_weights(
    info: ModelInfo,
    config: Config,
    datasets: Datasets,
    callbacks: Sequence[Callback] = (),
    parent: Mapping[str, str] | None = None,
) -> None:
    """Train as `train_one` and leave the test rows alone: no metrics.json, the run counts as unfinished.

    Args:
        parent: of a sweep's trial: what its trackers know of the sweep (`Tracking.handles`).
    """
    config, run_dir = start_run(config)
    with training(info, config, run_dir, datasets, callbacks, parent):
        pass


def start_run(config: Config) -> tuple[Config, Path]:
    """Resolve what depends on the machine, and the run's folder, the same one in all processes.

    Raises:
        InputError: the folder holds a run of another configuration.
    """
    compat.apply()
    config = runtime_config(config)
    config = config.replace(nproc=count_processes(config))
    run_dir = check_output_folder(broadcast(str(choose_root(config, default_output_dir(config)))))
    config = config.replace(fresh=False)
    if (run_dir / run_folder.CONFIG).is_file():
        run_folder.check_same_run(run_dir, config)
    return config, run_dir


@contextmanager
def training(
    info: ModelInfo,
    config: Config,
    run_dir: Path,
    datasets: Datasets | None = None,
    callbacks: Sequence[Callback] = (),
    parent: Mapping[str, str] | None = None,
) -> Iterator[tuple[BlairTrainer, BlairDataset, dict[str, float]]]:
    """Train in a run folder, going on where it was stopped; no other process works there until the block ends.

    Yields:
        The trainer with the best weights in its model, the dataset, and the seconds that each step took.
    """
    start_peak_memory()
    started = time.perf_counter()
    fresh = not (run_dir / run_folder.CONFIG).is_file()
    dataset = open_fresh(info, config, {} if datasets is None else datasets, fresh)
    seconds = {"load": time.perf_counter() - started}
    with use_ops(config["ops"]), run_folder.only_trainer(run_dir):
        if rank() == 0:
            run_folder.save_config(run_dir, config)
        barrier()
        with run_logger(run_dir) as log, track(config, run_dir, log, parent) as tracking:
            about = f"{info.name} on {dataset.name}, seed {config['seed']}, {config['device']}, {config['precision']}"
            log.info("%s", about)
            seed_everything(config["seed"])
            model = build_model(info, config, dataset)
            loaders = build_loaders(info, config, dataset)
            rows, size, given = len(loaders["train"].rows), loaders["train"].batch_size, config["train_batch_size"]
            chosen = size != config["full_batch_size"] if given is None else True
            if chosen and (line := describe_batches(rows, size * world_size(), given is not None)):
                log.info("%s", line)
            trainer = BlairTrainer(config, model, loaders, run_dir, log, [tracking, *callbacks])
            if not trainer.resume() and config["init_from"]:
                load_initial_weights(trainer, dataset)
            if rank() == 0:
                checkpoint.save_item_ids(run_dir, model, dataset.item_tokens.to_pylist())
            trainer.fit()
            yield trainer, dataset, {**seconds, **trainer.seconds}


def track(config: Config, run_dir: Path, log: logging.Logger, parent: Mapping[str, str] | None) -> Tracking:
    """Return the run's runs at the trackers of the key `log`; the first process alone logs."""
    name = f"{parent['name']}/{run_dir.name}" if parent else run_dir.name
    metrics = [f"{split}/{config['valid_metric'].lower()}" for split in ("valid", "test")]
    place = RunPlace(run_dir, name, parent, metrics)
    return Tracking(config["log"] if rank() == 0 else None, place, config.fingerprint(), log.info)


def load_initial_weights(trainer: BlairTrainer, dataset: BlairDataset) -> None:
    """Start from the weights of the run that `init_from` names; rows of items are found by their ids."""
    config, ids = trainer.config, dataset.item_tokens.to_pylist()
    fresh, known = checkpoint.load_initial_weights(trainer.model, config["init_from"], config["init_strict"], ids)
    about = "" if known is None else f"; {known:,} of {len(ids):,} items known by their id, the others start afresh"
    about += f"; fresh: {', '.join(fresh)}" if fresh else ""
    trainer.log.info("started from %s%s", config["init_from"], about)


def evaluate_test(trainer: BlairTrainer, dataset: BlairDataset, seconds: dict[str, float]) -> dict[str, Any]:
    """Evaluate the test rows with the best weights and write the results; returns metrics.json's content."""
    started = time.perf_counter()
    test, ranks = trainer.evaluator("test").evaluate(trainer.model, "test")
    trainer.notify("on_log", {f"test/{name}": value for name, value in test.items()})
    metrics = summarise_run(trainer, dataset, test, {**seconds, "test": time.perf_counter() - started})
    if rank() == 0:
        if dataset.text_source is not None:
            source = dataset.text_source
            metrics["base_encoder"] = encoder_name(source.plm, **source.options)
            metrics["encoder"] = keep_encoder(trainer, source)
        if trainer.config["save_ranks"]:
            save_ranks(trainer.run_dir, dataset, ranks)
        run_folder.save_metrics(trainer.run_dir, metrics)
    return metrics


def keep_encoder(trainer: BlairTrainer, source: TextSource) -> str:
    """Write the trained encoder into the run's folder, whole, and its features beside the build; returns its name."""
    folder = trainer.run_dir / run_folder.ENCODER
    export_encoder(trainer.model.item_texts, source, folder)
    return write_features(trainer.model.item_texts, source, folder)


def default_root(config: Config) -> Path:
    """Return the folder of what a configuration asks for: of its one run, or the one that holds its several runs."""
    seeds, n_models = config["seeds"] or [config["seed"]], 1 + len(config["baselines"] or [])
    folder = default_output_dir(config.replace(seed=seeds[0]))
    return folder if len(seeds) * n_models == 1 else folder.with_name(folder.name.rsplit("-", 1)[0])


def default_output_dir(config: Config) -> Path:
    """Return <checkpoint_dir>/<time>-<model>-<dataset>-<seed>."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return Path(config["checkpoint_dir"]) / f"{stamp}-{config['model']}-{Path(config['dataset']).name}-{config['seed']}"


def open_fresh(info: ModelInfo, config: Config, datasets: Datasets, fresh: bool = True) -> BlairDataset:
    """Open a run's dataset, the main process first; a fresh run's `init_from` is checked before that."""
    if config["threads"]:
        torch.set_num_threads(config["threads"])
    if fresh and config["init_from"]:
        checkpoint.check_best(config["init_from"])  # damaged or missing: known before hours of conversion
    with use_ops(config["ops"]), main_process_first():
        return open_dataset(info, config, datasets)


def open_dataset(info: ModelInfo, config: Config, datasets: Datasets) -> BlairDataset:
    """Make what is missing, then map the build and, for a text model, its features."""
    reads_text = uses_text(info)  # imports the model: its errors come before a conversion of hours
    check_protocol(info, config["protocol"])
    if reads_text and config["plm"].startswith("openai:"):
        require(f"plm={config['plm']}", "openai")
    transform = chosen_transform(config)  # a wrong name is refused before hours of work
    if reads_text:
        check_encoder_keys(config)  # likewise
    training = chosen_training(config, trains_encoder(info), transform)
    build_dir = ensure_build(config)
    frozen = reads_text and (training is None or transform != "none")  # its scale comes from the frozen features
    encoder = ensure_features(config, build_dir) if frozen else None
    passes = [config[key] for key in ("encoder_texts_per_step", "encoder_batch_tokens", "encoder_caching", "learner")]
    key = (build_dir, encoder, transform, training, config["negatives_from"], *(passes if training else ()))
    if key not in datasets:
        dataset = BlairDataset(build_dir)
        dataset.draws_from_train = config["negatives_from"] == "train"
        if encoder:
            dataset.load_text_features(encoder, config["plm_size"], transform)
        if training:
            scale = float(dataset.transform.factor[0]) if dataset.transform.factor is not None else 1.0
            dataset.text_source = text_source(config, build_dir, training, scale)
            dataset.text_source.prepare()
        datasets[key] = dataset
    check_rows(info, datasets[key])
    return datasets[key]


def given_or_resumed(
    model: str | None, dataset: str | None, config_files: Sequence[str], overrides: dict[str, Any]
) -> tuple[str, str, Sequence[str], dict[str, Any]]:
    """Return what `run` and `run_many` take as it is given, or as the folder that `resume` names has it."""
    if overrides.get("resume") is not None:
        return resumed_keys(model, dataset, config_files, overrides)
    if model is None or dataset is None:
        raise InputError("model and dataset are needed, or resume=<folder of a run>")
    return model, dataset, config_files, overrides


def resumed_keys(
    model: str | None, dataset: str | None, config_files: Sequence[str], overrides: dict[str, Any]
) -> tuple[str, str, Sequence[str], dict[str, Any]]:
    """Return what `run` and `run_many` take, read from the folder that `resume` names, one run or several.

    Raises:
        InputError: no run folder, or something given that its configuration contradicts.
    """
    root = overrides["resume"]
    if not isinstance(root, str | Path):
        raise InputError("--resume needs the folder of a run, as in --resume=runs/games")
    saved = run_folder.load_config(root)
    remember_plugins(saved.get("plugin"))
    info = find_model(saved["model"])
    keys, (layers, _) = model_keys(info), read_layers(info, config_files, overrides)
    given = {
        k: keys.check(k, v, source) if k in keys.defaults else v
        for source, layer in layers for k, v in layer.items() if k not in ("resume", *INTERVALS)
    }  # fmt: skip
    given.update({k: v for k, v in (("model", model), ("dataset", dataset)) if v is not None})
    given.pop("output_dir", None)
    if given.pop("fresh", False):
        raise InputError(f"--fresh starts a new run, but --resume={root} goes on with one; leave out one of the two")
    clash = sorted(k for k, v in given.items() if k not in VOLATILE_KEYS and saved.get(k) != v)
    if clash:
        raise InputError(
            f"--resume={root} goes on with its own configuration; {clash[0]}={given[clash[0]]!r} differs from its "
            f"{saved.get(clash[0])!r}. Leave it out, or start a new run"
        )
    merged = {**saved, **given, "output_dir": str(root), "resume": None, "fresh": False}
    return merged.pop("model"), merged.pop("dataset"), (), merged

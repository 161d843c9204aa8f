"""From a model's and a dataset's name to trained weights and metrics: the one path of train, sweeps and the API."""

import json
import random
import resource
import time
from pathlib import Path

import numpy as np
import torch

from recbole_blair import compat
from recbole_blair.config import VOLATILE_KEYS, load_yaml, resolve_config
from recbole_blair.data.build import ensure_build, ensure_features
from recbole_blair.data.dataset import BlairDataset
from recbole_blair.data.loader import RowLoader, SequenceLoader
from recbole_blair.errors import InputError
from recbole_blair.ops import resolve_device, resolve_precision
from recbole_blair.parallel.distributed import (
    barrier,
    broadcast,
    join_group,
    main_process_first,
    rank,
    world_size,
)
from recbole_blair.registry import find_model, use_plugins
from recbole_blair.registry.plugin_files import file_sha256
from recbole_blair.schema import ITEM_SEQ, VERSION
from recbole_blair.train import checkpoint
from recbole_blair.train.display import run_logger, say
from recbole_blair.train.trainer import BlairTrainer

# RecBole's models that are right when a batch is trimmed to its longest history; others get full width.
TRIMMABLE = {"SASRec", "GRU4Rec"}
TIES = "equal scores: the target holds the middle rank of its ties"


def run(model, dataset, config_files=(), on_epoch=None, **overrides):
    """Train and evaluate one model with one seed; makes atomic files and features first when they are missing.

    Nothing of the process leaks in: neither `sys.argv` nor CUDA_VISIBLE_DEVICES is read or set.

    Args:
        model (str): a name of `recbole-blair models`.
        dataset (str): an official or short name, `sample`, or a folder name under `data_path`.
        config_files (sequence of str): YAML files.
        on_epoch (callable): see BlairTrainer.
        **overrides: keys of props/overall.yaml and props/model/<Model>.yaml.

    Returns:
        dict: metrics.json's content.

    Raises:
        InputError: anything the caller can fix.

    Example:
        >>> run("UniSRecBlair", "sample", plm="tfidf-svd", epochs=5)["test"]["ndcg@10"]  # doctest: +SKIP
    """
    if overrides.get("resume") is not None:
        model, dataset, config_files, overrides = resumed_keys(model, dataset, config_files, overrides)
    several = [key for key in ("seeds", "baselines") if overrides.get(key)]
    if several:
        raise InputError(f"run() makes one run; {several[0]} is for run_many()")
    use_plugins(overrides.get("plugin"), config_files)
    info = find_model(model)
    config = resolve_config(info, dataset, config_files, overrides).replace(seeds=None, baselines=None)
    return train_one(info, config, on_epoch=on_epoch)


def train_one(info, config, datasets=None, on_epoch=None, on_saved=None, test=True):
    """Train and evaluate one resolved configuration in its run folder.

    Args:
        info (ModelInfo)
        config (Config): of one seed.
        datasets (dict): datasets already open, by build folder and encoder; filled here.
        on_epoch (callable), on_saved (callable): see BlairTrainer.
        test (bool): False trains and leaves the test rows alone: no metrics.json, and the run counts as unfinished.

    Returns:
        dict: metrics.json's content, with `output_dir`; None without the test.
    """
    compat.apply()
    config = runtime_config(config)
    config = config.replace(nproc=processes(config))
    run_dir = Path(broadcast(str(config["output_dir"] or default_output_dir(config))))
    if (run_dir / checkpoint.CONFIG).is_file():
        checkpoint.check_same_run(run_dir, config)
        finished = checkpoint.load_metrics(run_dir)
        if finished:
            say(f"{run_dir} is a finished run of this configuration; its results:")
            return {**finished, "output_dir": str(run_dir)}
    if config["threads"]:
        torch.set_num_threads(config["threads"])
    started = time.perf_counter()
    with main_process_first():
        dataset = open_dataset(info, config, {} if datasets is None else datasets)
    seconds = {"load": time.perf_counter() - started}
    with checkpoint.only_trainer(run_dir):
        return train_in(run_dir, info, config, dataset, seconds, on_epoch, on_saved, test)


def train_in(run_dir, info, config, dataset, seconds, on_epoch, on_saved, test):
    """Train, evaluate and write metrics.json in a folder that no other process works in; see `train_one`."""
    if rank() == 0:
        checkpoint.save_config(run_dir, config)
    barrier()
    with run_logger(run_dir) as log:
        log.info(
            "%s on %s, seed %d, %s, %s",
            info.name,
            dataset.name,
            config["seed"],
            config["device"],
            config["precision"],
        )
        seed_everything(config["seed"])
        model = build_model(info, config, dataset)
        trainer = BlairTrainer(config, model, build_loaders(info, config, dataset), run_dir, log, on_epoch, on_saved)
        if not trainer.resume() and config["init_from"]:
            fresh = checkpoint.load_initial_weights(model, config["init_from"], config["init_strict"])
            log.info("started from %s%s", config["init_from"], f"; fresh: {', '.join(fresh)}" if fresh else "")
        trainer.fit()
        if not test:
            return None
        started = time.perf_counter()
        test, ranks = trainer.evaluator("test").evaluate(model, "test")
        seconds.update(trainer.seconds, test=time.perf_counter() - started)
        metrics = summarise(config, dataset, trainer, test, seconds)
        if rank() == 0:
            if config["save_ranks"]:
                save_ranks(run_dir, dataset, ranks)
            checkpoint.write_text(run_dir / checkpoint.METRICS, json.dumps(metrics, indent=1) + "\n")
    return {**metrics, "output_dir": str(run_dir)}


def processes(config):
    """Return how many processes train this run together.

    Raises:
        InputError: more are asked for than were started, or the objective needs the whole batch in one process.
    """
    world = world_size()
    if world == 1 and config["nproc"] != 1:
        raise InputError(
            f"nproc={config['nproc']}, but this is one process; start several by `run_recbole.py --nproc=…` or torchrun"
        )
    if world > 1 and "train_stage" in config and config["train_stage"] == "pretrain":
        raise InputError(
            "train_stage=pretrain contrasts the rows of a whole batch, so it trains in one process: nproc: 1"
        )
    return world


def runtime_config(config):
    """Resolve device, precision and the dtype of the large products."""
    if config["device"] != "auto" and not isinstance(config["device"], str):
        return config
    device = resolve_device(join_group(config["device"]))
    # RecBole's own models were not made for bfloat16: as baselines they run as RecBole runs them, unless asked.
    auto = "fp32" if config.lenient else "auto"
    precision = resolve_precision(auto if config["precision"] == "auto" else config["precision"], device)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return config.replace(device=device, precision=precision, compute_dtype=dtype)


def default_output_dir(config):
    """runs/<time>-<model>-<dataset>-<seed>."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{stamp}-{config['model']}-{Path(config['dataset']).name}-{config['seed']}"


def open_dataset(info, config, datasets, trained_with=None):
    """Make what is missing, then map the build and, for a text model, its features.

    `trained_with` is the encoder's name of a finished run, whose features do without the encoder itself.
    """
    uses_text = getattr(info.load_class(), "uses_text", False)
    build_dir = ensure_build(config)
    encoder = ensure_features(config, build_dir, trained_with) if uses_text else None
    key = (build_dir, encoder, config["feature_scale"])
    if key not in datasets:
        dataset = BlairDataset(build_dir)
        if encoder:
            dataset.load_text_features(encoder, config["plm_size"], config["feature_scale"])
        datasets[key] = dataset
    return datasets[key]


def seed_everything(seed):
    """Seed every generator a model may draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  RecBole's models draw from the legacy generator
    torch.manual_seed(seed)


def build_model(info, config, dataset):
    """Build a model on its device.

    Raises:
        InputError: one of RecBole's models asks the dataset for something these rows do not carry.
    """
    dataset.field2seqlen = {ITEM_SEQ: config["MAX_ITEM_LIST_LENGTH"]}  # RecBole's CORE reads it
    try:
        model = info.load_class()(config, dataset)
    except (AttributeError, NotImplementedError) as error:
        if not info.from_recbole:
            raise
        raise InputError(f"RecBole's {info.name} does not run on these rows: {error}") from error
    except ValueError as error:
        raise error if isinstance(error, InputError) else InputError(f"{info.name}: {error}") from error
    return model.to(config["device"])


def is_pairwise(model_class):
    """True for a model that always learns from pairs of a target and a negative."""
    from recbole.utils import InputType

    return getattr(model_class, "input_type", None) == InputType.PAIRWISE


def build_loaders(info, config, dataset):
    """Loaders of the three splits."""
    trim = config["trim_histories"] and (not info.from_recbole or info.name in TRIMMABLE)
    pairwise = ("loss_type" in config and config["loss_type"] == "BPR") or is_pairwise(info.load_class())
    shared = {
        "max_length": config["MAX_ITEM_LIST_LENGTH"],
        "trim": trim,
        "bucket": trim and config["length_bucketing"],
    }
    size, seed = config["train_batch_size"], config["seed"]
    if "train_style" in config and config["train_style"] == "sequence":
        width, overlap = config["MAX_ITEM_LIST_LENGTH"], config["window_overlap"]
        train = SequenceLoader(dataset, size, max_length=width, overlap=overlap, seed=seed)
    else:
        train = RowLoader(dataset, "train", size, shuffle=True, seed=seed, n_neg=int(pairwise), **shared)
    return {
        "train": train,
        "valid": RowLoader(dataset, "valid", config["eval_batch_size"], **shared),
        "test": RowLoader(dataset, "test", config["eval_batch_size"], **shared),
    }


def save_ranks(run_dir, dataset, rank):
    """Write every test row's target rank, with its user and item, as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = dataset.rows["test"]
    table = pa.table(
        {
            "user_id": dataset.user_tokens.take(pa.array(np.asarray(rows.user) - 1)),
            "item_id": dataset.item_tokens.take(pa.array(dataset.seq_items[rows.target] - 1)),
            "history_length": np.asarray(rows.length),
            "rank": rank,
        }
    )
    temporary = run_dir / ".ranks.parquet.tmp"
    pq.write_table(table, temporary)
    temporary.rename(run_dir / "ranks.parquet")


def peak_memory_mb(device):
    """The process's largest resident size; on CUDA the allocator's peak."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def summarise(config, dataset, trainer, test, seconds):
    """Build metrics.json."""
    import recbole

    header = dataset.text_header or {}
    return {
        "model": config["model"],
        "dataset": dataset.name,
        "protocol": config["protocol"],
        "seed": config["seed"],
        "best_valid": trainer.best_metrics,
        "best_epoch": trainer.best_epoch,
        "test": test,
        "epochs": trainer.epoch,
        "stopped_early": trainer.stopped,
        "n_items": dataset.n_items - 1,
        "rows": {split: len(rows) for split, rows in dataset.rows.items()},
        "seconds": {k: round(v, 3) for k, v in seconds.items()},
        "peak_memory_mb": round(peak_memory_mb(config["device"]), 1),
        "history_masked": config["mask_history"],
        "ties": TIES,
        "encoder": header.get("encoder"),
        "precision": config["precision"],
        "device": str(config["device"]),
        "processes": world_size(),
        "parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        **({"plugin_sha256": [file_sha256(file) for file in config["plugin"]]} if config["plugin"] else {}),
        "versions": {
            "recbole_blair": VERSION, "torch": torch.__version__, "recbole": getattr(recbole, "__version__", "?"),
            "numpy": np.__version__,
        },
    }  # fmt: skip


def run_many(model, dataset, config_files=(), **overrides):
    """Run a model and its baselines with every seed; each run in a folder of its own, finished ones left alone.

    Keys of props/overall.yaml hold for all; keys of the model's own YAML for it alone.

    Returns:
        list of dict: metrics.json's content of each run, with `output_dir`; one when neither seeds nor baselines
        are set.
    """
    if overrides.get("resume") is not None:
        model, dataset, config_files, overrides = resumed_keys(model, dataset, config_files, overrides)
    use_plugins(overrides.get("plugin"), config_files)
    info = find_model(model)
    config = resolve_config(info, dataset, config_files, overrides)
    seeds = config["seeds"] or [config["seed"]]
    names = [model, *(config["baselines"] or [])]
    if len(seeds) * len(names) == 1:
        return [train_one(info, config.replace(seed=seeds[0], seeds=None, baselines=None))]
    infos = [find_model(name) for name in names]
    join_group(config["device"])
    root = Path(broadcast(str(config["output_dir"] or str(default_output_dir(config)).rsplit("-", 1)[0])))
    if (root / checkpoint.CONFIG).is_file():
        checkpoint.check_same_run(root, config)
    own_keys = set(infos[0].load_defaults())
    shared = {k: v for k, v in overrides.items() if k not in own_keys}
    configs = [config] + [resolve_config(i, dataset, config_files, shared, strict=False) for i in infos[1:]]
    if rank() == 0:
        checkpoint.save_config(root, config)
    results, datasets = [], {}
    for one, base in zip(infos, configs):
        for seed in seeds:
            folder = str(root / f"{one.name}-{seed}")
            single = base.replace(seed=seed, seeds=None, baselines=None, output_dir=folder)
            results.append(train_one(one, single, datasets))
    return results


def resumed_keys(model, dataset, config_files, overrides):
    """Return what `run` and `run_many` take, read from the folder that `resume` names, one run or several.

    Raises:
        InputError: no run folder, or something given that its configuration contradicts.
    """
    root = overrides["resume"]
    if not isinstance(root, str | Path):
        raise InputError("--resume needs the folder of a run, as in --resume=runs/games")
    saved = checkpoint.load_config(root)
    layers = [load_yaml(file) for file in config_files] + [overrides]
    given = {k: v for layer in layers for k, v in layer.items() if k != "resume"}
    given.update({k: v for k, v in (("model", model), ("dataset", dataset)) if v is not None})
    given.pop("output_dir", None)
    clash = sorted(k for k, v in given.items() if k not in VOLATILE_KEYS and saved.get(k) != v)
    if clash:
        raise InputError(
            f"--resume={root} goes on with its own configuration; {clash[0]}={given[clash[0]]!r} differs from its "
            f"{saved.get(clash[0])!r}. Leave it out, or start a new run"
        )
    keys = {**saved, **given, "output_dir": str(root), "resume": None}
    return keys.pop("model"), keys.pop("dataset"), (), keys

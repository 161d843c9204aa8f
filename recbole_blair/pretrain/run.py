"""One pretraining run: pairs, encoder, training, evaluation, export; goes on where it was stopped."""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from recbole_blair.errors import InputError
from recbole_blair.files.checksum import recorded_file
from recbole_blair.files.own_json import read_own_json, write_own_json
from recbole_blair.files.write import needed_folder, remove
from recbole_blair.ops import has_fast_bf16, keep_freed_memory, start_peak_memory
from recbole_blair.parallel.distributed import rank, world_size
from recbole_blair.pretrain import export
from recbole_blair.pretrain.data import (
    PairCollator,
    RowDataset,
    choose_pairs,
    load_pair_tables,
    parse_holdout,
)
from recbole_blair.pretrain.load import (
    build_scratch_encoder,
    declared_pooling,
    encoder_folder,
    load_pair_encoder,
    read_scratch_config,
    read_vocabulary,
)
from recbole_blair.pretrain.pair_files import pair_files, pairs_hash
from recbole_blair.pretrain.results import METRICS, STATE_DIR, drop_resume_state, finish, summary
from recbole_blair.pretrain.retrieval import EncodeOptions, RetrievalTask, build_retrieval_task
from recbole_blair.pretrain.step import Objective, Step
from recbole_blair.pretrain.trainer import (
    AUTOCAST,
    BEST,
    BEST_METRICS,
    EVENTS,
    LAST_METRICS,
    Events,
    LogFile,
    PairTrainer,
    last_whole_checkpoint,
    load_weights,
    training_arguments,
)
from recbole_blair.schema import AFTER_RANKS, BEFORE_RANKS
from recbole_blair.text.weights import weights_hash
from recbole_blair.tracking.callback import Callback, check_callbacks
from recbole_blair.tracking.trackers import RunPlace, check_trackers
from recbole_blair.tracking.tracking import Tracking

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, TrainingArguments

    from recbole_blair.pretrain.data import PairTables
    from recbole_blair.pretrain.model import PairEncoder
    from recbole_blair.pretrain.settings import Settings

CONFIG, BEFORE, START = "config.json", "before.json", "start.safetensors"
FIX_STATE = "delete it, and the same command makes it again"
FORWARD_TEXTS = {"cpu": 64, "cuda": 1024}  # a CPU's caches hold few texts, a GPU is idle with few
TOKENIZER_PAIRS = 200_000  # pairs that a tokenizer from scratch is trained on at most


def pretrain(settings: Settings, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Train an encoder on pairs and export it.

    Args:
        settings: resolved, with `pairs` and `output_dir` set.
        callbacks: hear of the training (docs/tracking.md).

    Returns:
        dict: metrics.json: settings, data, `before`, `after`, seconds, pairs per second, peak memory, versions.

    Raises:
        InputError: bad input, or another run in `output_dir`.
    """
    from transformers import set_seed

    check_trackers(settings.log)
    check_callbacks(callbacks)
    folder = Path(settings.output_dir)
    state = folder / STATE_DIR
    done = check_folder(folder, settings)
    if done is not None:
        return done
    start_peak_memory()
    device, precision = choose_device(settings)
    tables_options = {
        "holdout": parse_holdout(settings.holdout),
        "seed": settings.seed,
        "min_chars": settings.min_chars,
    }
    evaluates = tables_options["holdout"] != 0
    args = training_arguments(settings, state / "checkpoint", device, precision, evaluates)
    with nothing_left_if_refused(state):
        check_start(settings)
        with args.main_process_first():
            tables = load_pair_tables(
                settings.pairs, state / "tables", progress=settings.show_progress, **tables_options
            )
        task = build_retrieval_task(
            tables.held_out, tables.train, settings.eval_items, settings.seed, settings.eval_pairs
        )
        if evaluates and task is None:
            raise InputError(
                f"--holdout={settings.holdout} holds out none of the {len(tables.train)} pairs of {settings.pairs}; "
                "raise it, or --holdout=0 to train without evaluation"
            )
        tables.train = choose_pairs(tables.train, settings.exclude_items, settings.max_pairs, settings.seed)
        set_seed(settings.seed)
        model, tokenizer, base = load_start(settings, tables, state)
        tracking = track(settings, folder)
        events = Events([tracking, *callbacks], folder, settings, model)
        trainer = build_trainer(settings, args, model, tokenizer, tables, task, precision, state, events)
    if rank() == 0:
        write_own_json(state / CONFIG, settings.fingerprint() | {"pairs_hash": pairs_hash(settings.pairs)}, indent=2)
    with tracking:
        results, timing = train_and_evaluate(trainer, settings, state, events)
        metrics = summary(settings, tables, task, base, results, timing, precision, model)
        if rank() == 0:
            finish(folder, model, tokenizer, settings, metrics, base)
        events.notify("on_train_end", timing["epochs"], timing["steps"], metrics)
    trainer.accelerator.wait_for_everyone()
    return metrics


def track(settings: Settings, folder: Path) -> Tracking:
    """Return the run's runs at the trackers of the key `log`; the first process alone logs."""
    metrics = [f"{when}_{settings.valid_metric}" for when in ("before", "eval", "after")]
    place = RunPlace(folder / STATE_DIR, folder.name, None, metrics, EVENTS)
    say = functools.partial(tqdm.write, file=sys.stderr)
    return Tracking(settings.log if rank() == 0 else None, place, settings.fingerprint(), say, "global_step")


def choose_device(settings: Settings) -> tuple[str, str]:
    """Return (`cpu` or `cuda`, precision).

    Raises:
        InputError: a device that is not here, or fp16 without CUDA.
    """
    found = torch.cuda.is_available()
    if settings.device == "cuda" and not found:
        raise InputError("--device=cuda, but no CUDA device is visible; use --device=cpu or auto")
    device = "cuda" if found and settings.device != "cpu" else "cpu"
    precision = settings.precision
    if precision == "fp16" and device == "cpu":
        raise InputError("--precision=fp16 needs a CUDA device; use bf16 or fp32 on a CPU")
    if precision == "auto":
        precision = "bf16" if has_fast_bf16(torch.device(device)) else "fp32"
    return device, precision


def check_folder(folder: Path, settings: Settings) -> dict[str, Any] | None:
    """Return the metrics of a finished run of the same settings, or None; refuse another run's folder.

    Raises:
        InputError: names the keys that differ.
    """
    export.check_encoder_folder(folder)
    config = folder / STATE_DIR / CONFIG
    if not config.is_file():
        return None
    saved = read_own_json(config, "the settings of a pretraining", f"choose another --output_dir or delete {folder}")
    asked = settings.fingerprint() | {"pairs_hash": pairs_hash(settings.pairs)}
    differ = sorted(key for key in saved.keys() | asked.keys() if saved.get(key) != asked.get(key))
    if differ:
        shown = ", ".join(f"{key} {saved.get(key)!r} -> {asked.get(key)!r}" for key in differ[:5])
        raise InputError(f"{folder} holds a run with other settings ({shown}); choose another --output_dir")
    metrics = folder / STATE_DIR / METRICS
    if not metrics.is_file():
        return None
    if rank() == 0:
        drop_resume_state(folder / STATE_DIR)  # a kill may have left some of it
    return read_own_json(metrics, "a pretraining's results", FIX_STATE, ("before", "after"))


@contextlib.contextmanager
def nothing_left_if_refused(folder: Path) -> Iterator[None]:
    """Remove a folder that was not there before when what is made in it turns out to be refused."""
    new = not folder.exists()
    with needed_folder(folder):
        try:
            yield
        except InputError:
            if new and rank() == 0:
                remove(folder)
            raise


def check_start(settings: Settings) -> None:
    """Refuse pairs, an encoder or a config that are not there before the pairs are read, which may take long."""
    pair_files(settings.pairs)
    if settings.scratch is None:
        declared_pooling(encoder_folder(settings.plm, settings.plm_revision))
    else:
        read_scratch_config(settings.scratch)


def load_start(
    settings: Settings, tables: PairTables, state: Path
) -> tuple[PairEncoder, PreTrainedTokenizerBase, dict[str, Any]]:
    """Return (PairEncoder, tokenizer, base): `base` says where the weights come from, for the card."""
    mlm = "mlm" in settings.objective
    options = {"mlm": mlm, "pooling": settings.pooling, "dense": settings.dense_head}
    if settings.scratch is None:
        folder = encoder_folder(settings.plm, settings.plm_revision)
        model, tokenizer, fresh = load_pair_encoder(folder, keep_layers=settings.keep_layers, **options)
        name = folder.name if Path(str(settings.plm)).expanduser().is_dir() else settings.plm
        base = {"name": name, "weights_sha256": weights_hash(folder), "licence": export.base_licence(folder)}
    else:
        texts = tables.train.select(range(min(len(tables.train), TOKENIZER_PAIRS)))
        texts = [text for row in texts for text in (row["context"], row["metadata"])]
        model, tokenizer, fresh = build_scratch_encoder(
            settings.scratch, texts, vocab_size=settings.vocab_size, tokenizer_folder=state / "tokenizer", **options
        )
        base = {"name": f"random weights of {Path(settings.scratch).name}", "weights_sha256": None, "licence": None}
    base["fresh"] = fresh
    if settings.gradient_checkpointing:
        model.checkpoint_activations()
    return model, tokenizer, base


def build_trainer(
    settings: Settings,
    args: TrainingArguments,
    model: PairEncoder,
    tokenizer: PreTrainedTokenizerBase,
    tables: PairTables,
    task: RetrievalTask | None,
    precision: str,
    state: Path,
    events: Events,
) -> PairTrainer:
    """Put model, data and settings into a PairTrainer."""

    objective = Objective(
        contrastive="contrastive" in settings.objective,
        mlm="mlm" in settings.objective,
        temperature=settings.temperature,
        mlm_weight=settings.mlm_weight,
        mlm_share=settings.mlm_probability,
        symmetric=settings.symmetric,
        mask_same_item=settings.mask_same_item,
        mlm_on=settings.mlm_on,
        contrastive_scale=settings.contrastive_scale,
        mask_same_history=settings.mask_same_history and tables.counts.get("with_history", 0) > 0,
    )
    vocabulary = read_vocabulary(tokenizer, model, objective.mlm)
    dtype = AUTOCAST[precision]
    autocast: Callable[[], AbstractContextManager] = contextlib.nullcontext
    if dtype is not None:
        autocast = functools.partial(torch.autocast, args.device.type, dtype=dtype)
    step = Step(model, objective, vocabulary, settings.cache_chunk, autocast, seed=settings.seed)
    texts = FORWARD_TEXTS[args.device.type] if settings.forward_texts is None else settings.forward_texts
    chunk = settings.cache_chunk or texts
    characters = np.asarray(tables.train["characters"]) if settings.group_by_length else None
    return PairTrainer(
        step=step,
        task=task,
        encode_options=EncodeOptions(tokenizer, settings.max_length, vocabulary.pad_id, args.device, autocast),
        topk=settings.topk,
        group_by_length=characters,
        model=model,
        args=args,
        data_collator=PairCollator(tokenizer, settings.max_length, chunk, vocabulary.pad_id),
        train_dataset=RowDataset(tables.train),
        eval_dataset=None if task is None else task.contexts,
        callbacks=[LogFile(state, "tensorboard" not in (settings.log or ())), events],
    )


@contextlib.contextmanager
def closed_bars(trainer: PairTrainer) -> Iterator[None]:
    """Close the progress bars of a training that fails, so that its error stands on a line of its own."""
    try:
        yield
    except BaseException:
        for callback in trainer.callback_handler.callbacks:
            if getattr(callback, "training_bar", None) is not None:
                callback.training_bar.close()
        raise


def train_and_evaluate(
    trainer: PairTrainer, settings: Settings, state: Path, events: Events
) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Evaluate, train (going on from the last whole checkpoint), and load the weights to export.

    Returns:
        Metrics `before` and `after`; seconds and pairs per second of this call.
    """
    checkpoint = last_whole_checkpoint(state / "checkpoint", world_size())
    resumed_at = 0 if checkpoint is None else int(checkpoint.name[11:])
    events.notify("on_train_begin", None, resumed_at)
    results = {"before": before_training(trainer, settings, state) if settings.eval_before else {}, "after": {}}
    started = time.monotonic()
    with keep_freed_memory(), closed_bars(trainer):
        outcome = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    seconds = time.monotonic() - started
    if trainer.task is not None:
        trainer.accelerator.wait_for_everyone()
        results["after"] = final_metrics(trainer, settings.keep_best, state / "checkpoint")
        if settings.save_ranks:
            if trainer.task.metrics != results["after"]:  # evaluated last: other weights, or in another process
                trainer.evaluate(metric_key_prefix="after")
            save_ranks(trainer.task, state / AFTER_RANKS)
    steps, epochs = outcome.global_step, trainer.state.epoch
    events.notify("on_log", epochs, steps, {f"after_{name}": value for name, value in results["after"].items()})
    timing = {"train": seconds, "steps": steps, "epochs": epochs, "resumed_at": resumed_at}
    return results, timing


def final_metrics(trainer: PairTrainer, keep_best: bool, folder: Path) -> dict[str, float]:
    """Load the best weights where asked for, and return the metrics of the weights that are exported."""
    record = folder / (BEST_METRICS if keep_best else LAST_METRICS)
    if record.is_file():
        found = read_own_json(record, "a checkpoint's metrics", FIX_STATE, ("metrics",))
        if keep_best:
            load_weights(folder / BEST, trainer.step.model)
            return found["metrics"]
        if found.get("step") == trainer.state.global_step:
            return found["metrics"]
    return strip_prefix(trainer.evaluate(metric_key_prefix="after"), "after_")


def before_training(trainer: PairTrainer, settings: Settings, state: Path) -> dict[str, float]:
    """Return the untrained encoder's metrics; read back when the run goes on."""
    path = state / BEFORE
    if trainer.task is None:
        return {}
    if path.is_file():
        return read_own_json(path, "the untrained encoder's metrics", FIX_STATE)
    found = strip_prefix(trainer.evaluate(metric_key_prefix="before"), "before_")
    if settings.save_ranks:
        save_ranks(trainer.task, state / BEFORE_RANKS)
    if rank() == 0:
        write_own_json(path, found, indent=2)
    return found


def save_ranks(task: RetrievalTask, path: Path) -> None:
    """Write the last evaluation's rank of each held-out pair's item, with the item's number."""
    import pyarrow as pa  # heavy
    import pyarrow.parquet as pq

    if rank() == 0 and task.ranks is not None:
        table = pa.table({"item": task.target.numpy(), "rank": task.ranks})
        with recorded_file(path) as temporary:
            pq.write_table(table, temporary, write_page_checksum=True)


def strip_prefix(metrics: dict[str, Any], prefix: str) -> dict[str, float]:
    """Return the retrieval metrics without the Trainer's prefix."""
    return {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}

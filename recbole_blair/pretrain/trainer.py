"""transformers' Trainer with our step, our order, retrieval as evaluation, and checkpoints that are whole or absent."""

from __future__ import annotations

import functools
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback, TrainingArguments

from recbole_blair.errors import InputError
from recbole_blair.files.checksum import check_folder, check_recorded, recorded_file, write_checksums
from recbole_blair.files.own_json import read_own_json, write_own_json
from recbole_blair.files.write import explained
from recbole_blair.learning_rate import rate_factor
from recbole_blair.parallel.distributed import all_reduce_gradients, broadcast, rank, world_size
from recbole_blair.pretrain.data import EpochOrder
from recbole_blair.pretrain.retrieval import evaluate_retrieval
from recbole_blair.tracking.callback import Callback, TrainingState, notify

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState

    from recbole_blair.pretrain.model import PairEncoder
    from recbole_blair.pretrain.retrieval import EncodeOptions, RetrievalTask
    from recbole_blair.pretrain.settings import Settings
    from recbole_blair.pretrain.step import Step

WHOLE = "whole.json"  # written last into a checkpoint: one without it was interrupted and is not used
WEIGHTS = "model.safetensors"
EVENTS = "tensorboard"  # the folder of the curves
BEST, BEST_METRICS, LAST_METRICS = "best.safetensors", "best.json", "last.json"
AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def training_arguments(
    settings: Settings, folder: Path, device: str, precision: str, evaluates: bool
) -> TrainingArguments:
    """Translate our keys into transformers' TrainingArguments.

    Args:
        folder: where checkpoints go.
        device: `cpu` or `cuda`.
        precision: `fp32`, `bf16` or `fp16`. Autocast is entered by the step itself; only fp16 is told, for its
            gradient scaler.
        evaluates: pairs are held out.
    """
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=settings.per_device_batch,
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup,
        lr_scheduler_type=settings.schedule,
        max_grad_norm=settings.clip_grad_norm,
        fp16=precision == "fp16",
        use_cpu=device == "cpu",
        eval_strategy=_every(settings.eval_steps) if evaluates else "no",
        eval_steps=settings.eval_steps or None,
        save_strategy=_every(settings.save_steps),
        save_steps=settings.save_steps or 500,
        metric_for_best_model=settings.valid_metric,
        greater_is_better=True,
        logging_steps=settings.logging_steps,
        logging_nan_inf_filter=False,
        disable_tqdm=not settings.show_progress,
        report_to=[],
        seed=settings.seed,
        dataloader_num_workers=settings.dataloader_workers,
        dataloader_pin_memory=device == "cuda",
        remove_unused_columns=False,
        label_names=[],
    )
    if args.n_gpu > 1:
        args._n_gpu = 1  # several GPUs are for torchrun; DataParallel would split the negatives
    return args


def _every(steps: int) -> str:
    """Return transformers' name of a strategy: every so many steps, or each epoch for 0."""
    return "steps" if steps else "epoch"


class PairTrainer(Trainer):
    """Trains a PairEncoder on pairs.

    Args:
        step: losses and gradients of a batch.
        task: what is evaluated.
        encode_options: of `encode_texts`.
        group_by_length: characters of each pair, or None for random batches.
        kwargs: of `transformers.Trainer`.
    """

    def __init__(
        self,
        *,
        step: Step,
        task: RetrievalTask | None,
        encode_options: EncodeOptions,
        topk: Sequence[int],
        group_by_length: np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        self.step = step
        self.task = task
        self.encode_options = encode_options
        self.topk = topk
        self.group_by_length = group_by_length
        self.parts: dict[str, Any] = {}  # sums of the losses since the last log line
        self.clock: float | None = None
        super().__init__(**kwargs)
        step.backward = self.accelerator.backward

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochOrder:
        n_rows = len(self.train_dataset)  # type: ignore[arg-type]
        batch = self.args.per_device_train_batch_size * world_size()
        steps = -(-n_rows // batch)
        return EpochOrder(n_rows, self.args.seed, lambda: self.state.global_step // steps, self.group_by_length, batch)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """Make the schedule of the learning rate."""
        if self.lr_scheduler is None:
            warmup = self.args.get_warmup_steps(num_training_steps)
            schedule = str(getattr(self.args.lr_scheduler_type, "value", self.args.lr_scheduler_type))
            factor = functools.partial(
                rate_factor, schedule=schedule, warmup_steps=warmup, total_steps=num_training_steps
            )
            given: Any = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = LambdaLR(given, factor)
        return self.lr_scheduler

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Run our step on the bare model and average the gradients over the devices."""
        model.train()
        losses = self.step.run(self._prepare_inputs(inputs), self.state.global_step)
        all_reduce_gradients(self.step.model.parameters())
        if not torch.isfinite(losses["loss"]):
            raise InputError(
                f"the loss is {losses['loss'].item()} at step {self.state.global_step + 1}; lower --learning_rate, "
                "raise --warmup, or take --precision=fp32"
            )
        for name, value in losses.items():
            total, count = self.parts.get(name, (0.0, 0))
            self.parts[name] = (total + value.float(), count + 1)
        self.parts["pairs"] = self.parts.get("pairs", 0) + len(inputs["row"]) * world_size()
        return losses["loss"].float()

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        """Add the loss's parts and pairs per second since the last line."""
        if "loss" in logs:
            pairs, now = self.parts.pop("pairs", 0), time.monotonic()
            if self.clock is not None:
                logs["pairs_per_second"] = pairs / (now - self.clock)
            self.clock = now
            for name, (total, count) in self.parts.items():
                if name != "loss":
                    logs[name] = float(total) / count
            self.parts = {}
        super().log(logs, start_time)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Retrieve the held-out pairs' items; time spent here does not count as training."""
        assert self.task is not None  # the Trainer evaluates only with a task
        started = time.monotonic()
        shown = not self.args.disable_tqdm and self.is_world_process_zero()
        retrieved = evaluate_retrieval(self.step.model, self.task, self.encode_options, self.topk, shown)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in retrieved.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        if self.clock is not None:
            self.clock += time.monotonic() - started
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        best = super()._determine_best_metric(metrics, trial)
        found = {name.removeprefix("eval_"): value for name, value in metrics.items()}
        record = {"step": self.state.global_step, "metrics": found}
        if self.is_world_process_zero():
            folder = Path(str(self.args.output_dir))
            if best:
                write_weights(folder / BEST, self.step.model)
                write_own_json(folder / BEST_METRICS, record, indent=2)
            write_own_json(folder / LAST_METRICS, record, indent=2)
        return best

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Write weights only, no pickled arguments; every process is asked, the first writes."""
        if self.is_world_process_zero():
            write_weights(Path(str(output_dir)) / WEIGHTS, self.step.model)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(Path(resume_from_checkpoint) / WEIGHTS, self.step.model)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write the checkpoint, mark it whole, then drop the older ones."""
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        if self.is_world_process_zero():
            shutil.rmtree(folder, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        with explained(folder):
            super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            write_checksums(folder, [path.name for path in folder.iterdir()])
            write_own_json(folder / WHOLE, {"step": self.state.global_step, "world_size": world_size()}, indent=2)
            for other in folder.parent.glob("checkpoint-*"):
                if other != folder:
                    shutil.rmtree(other, ignore_errors=True)


class LogFile(TrainerCallback):
    """Appends each log line to log.txt as JSON and, unless a tracker does that, to TensorBoard."""

    def __init__(self, folder: Path, curves: bool) -> None:
        from torch.utils.tensorboard import SummaryWriter  # heavy

        self.path = Path(folder) / "log.txt"
        self.writer = SummaryWriter(str(Path(folder) / EVENTS)) if curves and rank() == 0 else None

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the numbers of one line."""
        if rank() > 0:
            return
        values = numbers(logs)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": state.global_step, **values}) + "\n")
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, state.global_step)
            self.writer.flush()


def numbers(logs: dict[str, Any] | None) -> dict[str, float]:
    """Return the numbers of a log line of the Trainer."""
    return {name: value for name, value in (logs or {}).items() if isinstance(value, int | float)}


class Events(TrainerCallback):
    """Passes the Trainer's events on to our callbacks, in the first process.

    Args:
        callbacks: ours.
        folder: the encoder's.
        settings: resolved.
        model: being trained.
    """

    def __init__(self, callbacks: Sequence[Callback], folder: Path, settings: Settings, model: PairEncoder) -> None:
        self.callbacks, self.folder, self.settings, self.model = callbacks, folder, settings, model
        self.loss: dict[str, float] = {}
        self.last_metrics: dict[str, float] = {}

    def notify(self, event: str, epoch: float | None, step: int, *values: Any) -> bool:
        """Tell the callbacks of an event in the first process; returns whether one of them asks to stop."""
        state = TrainingState(self.folder, self.settings, self.model, epoch or 0, step, self.last_metrics)
        return rank() == 0 and notify(self.callbacks, event, state, *values)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Pass on the numbers of one line."""
        values = numbers(logs)
        self.loss = {"loss": values["loss"]} if "loss" in values else self.loss
        self.notify("on_log", state.epoch, state.global_step, values)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Pass on the metrics of the held-out pairs; those before and after the training are only logged."""
        found = {k.removeprefix("eval_"): v for k, v in (metrics or {}).items() if k.startswith("eval_")}
        if found:
            self.last_metrics = found
            self.notify("on_evaluate", state.epoch, state.global_step, found)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Report an epoch, and end the training where a callback asks for it."""
        metrics = {**self.loss, **self.last_metrics}
        if broadcast(self.notify("on_epoch_end", state.epoch, state.global_step, metrics)):
            control.should_training_stop = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Pass on that a checkpoint is whole."""
        self.notify("on_save", state.epoch, state.global_step)


def last_whole_checkpoint(folder: Path, processes: int) -> Path | None:
    """Return the newest whole checkpoint of `folder`, or None; interrupted ones are left aside.

    Raises:
        InputError: it is damaged, or belongs to another number of processes, whose random states would not fit.
    """
    found = []
    for path in Path(folder).glob("checkpoint-*"):
        if (path / WHOLE).is_file():
            found.append((int(path.name.rsplit("-", 1)[1]), path))
    if not found:
        return None
    path = max(found)[1]
    fix = f"delete {path} to train from the beginning, or take another --output_dir"
    check_folder(path, fix)
    processes_then = read_own_json(path / WHOLE, "the number of a checkpoint's processes", fix, ("world_size",))[
        "world_size"
    ]
    if processes_then != processes:
        raise InputError(
            f"{path} was written by {processes_then} processes, but {processes} run now; the result would not be the "
            "same. Start as many, or take another --output_dir"
        )
    return path


def write_weights(path: Path, model: PairEncoder) -> None:
    """Write a model's tensors, each once, and the file's checksum."""
    with recorded_file(path) as temporary:
        save_file({name: value.cpu().contiguous() for name, value in model.unique_state().items()}, temporary)


def load_weights(path: Path, model: PairEncoder) -> None:
    """Load what `write_weights` wrote.

    Raises:
        InputError: the file is damaged.
    """
    fix = f"delete {path.parent} to train from the beginning, or take another --output_dir"
    check_recorded(path, fix)
    try:
        model.load_unique_state(load_file(path))
    except (SafetensorError, OSError) as error:  # no checksum was recorded
        raise InputError(f"{path} is damaged ({error}); {fix}") from error

"""Training: a list of named steps per epoch, early stopping on the unrounded metric, exact resume.

fit            epochs until `epochs` or the patience `stopping_step` run out, then the best weights
  run_epoch      train_epoch, validate, save
    train_epoch    one train_step per batch
      set_rate, train_step     the step's learning rate; loss, gradients, sum over processes, clipping, update
"""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from recbole_blair.config import Config
from recbole_blair.errors import InputError
from recbole_blair.figures import fraction
from recbole_blair.learning_rate import rate_factor
from recbole_blair.ops import keep_freed_memory
from recbole_blair.parallel.distributed import (
    all_reduce_gradients,
    all_reduce_sum,
    barrier,
    broadcast,
    rank,
    world_size,
)
from recbole_blair.text.trained.item_texts import TrainedTexts
from recbole_blair.tracking.callback import Callback, TrainingState, notify
from recbole_blair.train import checkpoint
from recbole_blair.train.batch_share import iterate_shares
from recbole_blair.train.evaluation import Evaluator
from recbole_blair.train.prefetch import prefetch
from recbole_blair.train.progress import progress_bar
from recbole_blair.train.runtime import precision_context

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction
    from recbole.model.abstract_recommender import SequentialRecommender

    from recbole_blair.data.pair_loader import Loader

OPTIMISERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
WARMUPS = ("warmup_steps", "encoder_warmup_steps")  # of the optimiser's groups: the recommender, a text encoder
COUNTERS = ("update",)  # of RecBole's autoencoders: the steps taken, which set the weight of a term of the loss
SAVED = ("epoch", "best_epoch", "best_value", "misses", "best_metrics", "seconds", "stopped")  # in every checkpoint


def adam_betas(config: Config) -> tuple[float, float]:
    """Return the decay rates of Adam's two moving averages.

    Raises:
        InputError: not two numbers from 0 to below 1.
    """
    betas = tuple(config["adam_betas"])
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise InputError(f"adam_betas={list(betas)} must be two numbers, at least 0 and below 1, like 0.9,0.999")
    return betas


class BlairTrainer:
    """Trains one recommender in one run folder.

    Several processes that train together (recbole_blair/parallel/distributed.py) hold equal weights. Each takes a share
    of every batch and of the evaluated rows; gradients, losses and ranks are summed. The first process alone writes
    files.

    Args:
        config: its device is resolved (`runtime_config`).
        model: a SequentialRecommender on its device.
        loaders: of the splits train, valid and test.
        run_dir: checkpoints and TensorBoard events go here.
        log: of the run.
        callbacks: hear of the training in the first process; a sweep's trial and the trackers are such.
    """

    def __init__(
        self,
        config: Config,
        model: SequentialRecommender,
        loaders: dict[str, Loader],
        run_dir: Path | str,
        log: logging.Logger,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.config, self.model, self.loaders = config, model, loaders
        self.run_dir, self.log, self.callbacks = Path(run_dir), log, callbacks
        self.device = config["device"]
        self.rates = {"lr": config["learning_rate"], "weight_decay": config["weight_decay"]}
        if config["learner"] != "sgd":
            self.rates["betas"] = adam_betas(config)
        self.encoder_rates = {**self.rates, "lr": config["encoder_learning_rate"]}
        texts = getattr(model, "item_texts", None)
        self.texts = texts if isinstance(texts, TrainedTexts) else None
        self.frozen_epochs = config["encoder_frozen_epochs"] if self.texts else 0
        self.optimiser = OPTIMISERS[config["learner"]](self.parameter_groups(), fused=True, **self.rates)
        self.epoch, self.stopped, self.misses = 0, False, 0
        self.best_epoch: int | None = None
        self.best_value: float | None = None
        self.best_metrics: dict[str, float] = {}
        self.last_metrics: dict[str, float] = {}
        self.seconds = {"train": 0.0, "valid": 0.0}
        self.step_loss = torch.compile(model.calculate_loss) if config["compile"] else model.calculate_loss
        self.writer: Any = None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the weights that are trained: the recommender's, then those of a text encoder that trains with it."""
        encoder = self.texts.trained_parameters() if self.texts else []
        own = {id(p) for p in encoder}
        trained = [p for p in self.model.parameters() if p.requires_grad and id(p) not in own]
        # an optimiser refuses an empty list: a model without parameters (SeqPop) gets a scalar that nothing reads
        groups = [{"params": trained or [nn.Parameter(torch.zeros(()))], **self.rates}]
        return [*groups, {"params": encoder, **self.encoder_rates}] if encoder else groups

    def autocast(self) -> AbstractContextManager:
        """Return the precision context of one forward pass."""
        return precision_context(self.config)

    def evaluator(self, split: str) -> Evaluator:
        """Return the evaluator of one split."""
        return Evaluator(self.loaders[split], self.config, self.device, self.autocast)

    def resume(self) -> bool:
        """Go on after the last whole epoch in the run folder; returns False when there is none."""
        saved = checkpoint.load_last_epoch(self.run_dir)
        if saved is None:
            return False
        weights, state = saved
        self.model.load_state_dict(weights)
        self.optimiser.load_state_dict(state["optimiser"])
        for group, rates in zip(self.optimiser.param_groups, (self.rates, self.encoder_rates)):
            group.update(rates)  # PBT goes on from another trial's checkpoint with other rates
        for name in SAVED:
            setattr(self, name, state[name])
        for name, value in state.get("counters", {}).items():
            setattr(self.model, name, value)
        if self.best_epoch is not None:
            checkpoint.check_best(self.run_dir)  # now, not at the end of the training
        checkpoint.restore_random_states(state["random"], self.device)
        if rank() == 0:
            checkpoint.keep_epoch(self.run_dir, self.epoch)
        self.log.info("resumed after epoch %d of %d", self.epoch, self.config["epochs"])
        return True

    def fit(self) -> dict[str, float]:
        """Train until the epochs or the patience run out; leaves the best weights in the model.

        Returns:
            The metrics of the best validation.
        """
        from torch.utils.tensorboard import SummaryWriter  # heavy: loads tensorboard

        if rank() == 0 and "tensorboard" not in (self.config["log"] or ()):  # that tracker writes the same
            self.writer = SummaryWriter(str(self.run_dir), purge_step=self.epoch + 1)
        try:
            self.notify("on_train_begin")
            with keep_freed_memory():
                self.run_epochs()
        finally:
            if self.writer:
                self.writer.close()
        barrier()  # the best weights are on the disk before the other processes read them
        self.model.load_state_dict(checkpoint.load_best(self.run_dir))
        return self.best_metrics

    def run_epochs(self) -> None:
        """Run the epochs that are left; a single validation where nothing is to be trained."""
        if not getattr(self.model, "trains", True) or self.config["epochs"] == 0:
            self.validate(None)
            return
        self.check_epochs()
        while self.epoch < self.config["epochs"] and not self.stopped:
            self.run_epoch()
        if self.epoch:
            self.log.info("%s", self.describe_end())

    def check_epochs(self) -> None:
        """Refuse a frozen beginning or a warm-up that leaves no epoch or step after it.

        Raises:
            InputError: names the key.
        """
        if self.frozen_epochs >= self.config["epochs"]:
            raise InputError(
                f"encoder_frozen_epochs={self.frozen_epochs} leaves none of the {self.config['epochs']} epochs to "
                "train the encoder in; lower it"
            )
        for _, key, frozen in zip(self.optimiser.param_groups, WARMUPS, (0, self.frozen_epochs)):
            epochs = self.config["epochs"] - frozen
            if self.config[key] >= epochs * self.steps_per_epoch:
                raise InputError(
                    f"{key}={self.config[key]} is no less than the {epochs * self.steps_per_epoch} steps of {epochs} "
                    "epochs; lower it"
                )

    def describe_end(self) -> str:
        """Return why training ended, and which epoch's weights are kept."""
        why = "all epochs are done"
        if self.stopped:
            metric, patience = self.config["valid_metric"], self.config["stopping_step"]
            why = f"{self.misses} validations without a better {metric} (stopping_step: {patience})"
            why = "stopped early: " + (why if self.misses >= patience else "asked to by the caller")
        return (
            f"training ended after epoch {self.epoch} of {self.config['epochs']}, {why}; best: epoch {self.best_epoch}"
        )

    @property
    def steps_per_epoch(self) -> int:
        """Return the steps that all processes take together in an epoch."""
        loader = self.loaders["train"]
        return -(-len(loader.rows) // (loader.batch_size * world_size()))

    @property
    def total_steps(self) -> int:
        """Return the steps of a training that is not stopped early; a schedule of the learning rate ends there."""
        return self.steps_per_epoch * self.config["epochs"]

    def set_rate(self, step: int) -> None:
        """Give the optimiser the learning rate of a step, counted from the run's first.

        The encoder's warm-up and schedule begin where its training does.
        """
        schedule, frozen = self.config["lr_schedule"], self.frozen_epochs * self.steps_per_epoch
        groups = zip(self.optimiser.param_groups, (self.rates, self.encoder_rates), WARMUPS, (0, frozen))
        for group, rates, warmup, begin in groups:
            factor = rate_factor(max(0, step - begin), schedule, self.config[warmup], self.total_steps - begin)
            group["lr"] = rates["lr"] * factor

    def run_epoch(self) -> None:
        """One epoch: train, validate, report, save."""
        before = self.seconds["train"]
        loss = self.train_epoch()
        self.epoch += 1
        seconds, rate = self.seconds["train"] - before, self.optimiser.param_groups[0]["lr"]
        self.record({"train/loss": loss, "train/learning_rate": rate, "train/seconds": seconds})
        if self.epoch % self.config["eval_step"] == 0 or self.epoch == self.config["epochs"]:
            self.validate(loss)
        if self.asked_to_stop(loss):
            if self.best_epoch is None:  # before the first validation: without one there are no best weights
                self.validate(loss)
            self.stopped = True
        self.save()
        self.notify("on_save")

    def asked_to_stop(self, loss: float) -> bool:
        """Report the epoch to the callbacks in the first process; every process gets their answer."""
        return broadcast(self.notify("on_epoch_end", {"loss": loss, **self.last_metrics}))

    def train_epoch(self) -> float:
        """Take one step per batch; returns the mean loss over the epoch's rows.

        Raises:
            FloatingPointError: the loss is not finite; nothing after it would mean anything.
        """
        if self.texts:
            self.texts.frozen = self.epoch < self.frozen_epochs
        self.model.train()
        loader, started, total, rows = self.loaders["train"], time.perf_counter(), 0.0, 0
        loader.epoch = self.epoch  # decides the order of the rows
        if world_size() > 1:  # each process draws its own dropout, the same again after a kill
            torch.manual_seed(hash((self.config["seed"], self.epoch, rank())) % 2**63)
        bar = progress_bar(len(loader.rows), f"epoch {self.epoch + 1}", "rows", self.config["show_progress"])
        left_s = self.seconds_left()
        # A loss is read one step late: reading waits for the GPU, which has the next step to compute meanwhile.
        unread: tuple[Tensor, int] | None = None
        first = self.epoch * self.steps_per_epoch
        for number, (interaction, n_rows, share) in enumerate(prefetch(iterate_shares(loader), self.device), first):
            self.set_rate(number)
            loss = self.train_step(interaction, share)
            total += self.read_loss(unread, bar, left_s and left_s - (time.perf_counter() - started))
            unread, rows = (loss, n_rows), rows + n_rows
        total += self.read_loss(unread, bar)
        bar.close()
        self.seconds["train"] += time.perf_counter() - started
        return total / rows

    def train_step(self, interaction: Interaction, share: float = 1.0) -> Tensor:
        """Forward, backward, clip, update.

        Args:
            interaction: this process's rows of the batch.
            share: the fraction of the batch's targets that they hold.

        Returns:
            This process's part of the batch's loss, detached; the parts of all processes add up to it.
        """
        self.optimiser.zero_grad(set_to_none=True)
        with self.autocast():
            loss = self.step_loss(interaction)  # scalar: the mean over this process's targets
        if isinstance(loss, tuple):  # RecBole models may return parts
            loss = functools.reduce(torch.add, loss)
        # With W processes of n_p targets the batch's loss is L = sum_p (n_p / n) L_p. The gradients are averaged over
        # the processes, that is divided by W, so each process's own loss is (n_p / n) * W * L_p.
        (loss * (share * world_size())).backward()
        all_reduce_gradients(self.model.parameters())
        if self.texts and self.texts.frozen:  # no gradient at all: one of 0 would let weight decay change the encoder
            for parameter in self.texts.trained_parameters():
                parameter.grad = None
        if self.config["clip_grad_norm"]:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config["clip_grad_norm"])
        self.optimiser.step()
        return loss.detach() * share

    def seconds_left(self) -> float | None:
        """Return the seconds that all epochs to come take if none stops early; None before the first has ended."""
        if not self.epoch:
            return None
        return sum(self.seconds.values()) / self.epoch * (self.config["epochs"] - self.epoch)

    def read_loss(self, step: tuple[Tensor, int] | None, bar: tqdm, left_s: float | None = None) -> float:
        """Return a step's loss over all processes, summed over the batch's rows, and show it; 0 of no step.

        Args:
            step: what `train_step` returned, and the rows of the whole batch.
            left_s: seconds until the last epoch's end, shown beside the loss.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        if step is None:
            return 0.0
        loss, n_rows = step
        value = all_reduce_sum(loss.item())
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss became {value} in epoch {self.epoch + 1}; lower learning_rate, set clip_grad_norm, or use "
                "precision=fp32"
            )
        at_most = "" if left_s is None else f", all epochs in at most {tqdm.format_interval(max(0, left_s))}"
        bar.set_postfix_str(f"loss {value:.4f}{at_most}", refresh=False)
        bar.update(n_rows)
        return value * n_rows

    def validate(self, loss: float | None) -> None:
        """Evaluate the validation rows, keep the best weights, count the validations without a better metric."""
        started = time.perf_counter()
        self.last_metrics, _ = self.evaluator("valid").evaluate(self.model, "validate")
        seconds = time.perf_counter() - started
        self.seconds["valid"] += seconds
        value = self.last_metrics[self.config["valid_metric"].lower()]
        better = self.best_value is None or value > self.best_value
        if better:
            self.best_epoch, self.best_value, self.best_metrics, self.misses = self.epoch, value, self.last_metrics, 0
            if rank() == 0:
                checkpoint.save_weights(checkpoint.best_path(self.run_dir), self.model)
        elif self.epoch > self.frozen_epochs:  # patience counts where all that is to be trained is trained
            self.misses += 1
            self.stopped = self.misses >= self.config["stopping_step"]
        self.record({f"valid/{name}": number for name, number in (self.last_metrics | {"seconds": seconds}).items()})
        self.notify("on_evaluate", self.last_metrics)
        shown = "" if loss is None else f"loss {loss:.4f}  "
        shown += f"{self.config['valid_metric']} {fraction(value)}{'  best' if better else ''}"
        left_s = self.seconds_left()
        if left_s and not self.stopped:
            shown += f"  (at most {tqdm.format_interval(left_s)} left)"
        self.log.info("epoch %d  %s", self.epoch, shown)

    def record(self, values: dict[str, float]) -> None:
        """Add a point to each of several curves: TensorBoard's in the run folder, and those of the callbacks."""
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(name, value, self.epoch)
        self.notify("on_log", values)

    def notify(self, event: str, *values: Any) -> bool:
        """Tell the callbacks of an event in the first process; returns whether one of them asks to stop."""
        return rank() == 0 and notify(self.callbacks, event, self.state(), *values)

    def state(self) -> TrainingState:
        """Return what callbacks see of the training."""
        return TrainingState(
            self.run_dir, self.config, self.model, self.epoch, self.epoch * self.steps_per_epoch, self.last_metrics,
            self.best_metrics, self.best_epoch, self.stopped,
        )  # fmt: skip

    def save(self) -> None:
        """Write the epoch's weights, optimiser and random states; the first process does."""
        if rank() > 0:
            return
        state = {name: getattr(self, name) for name in SAVED}
        state.update(optimiser=self.optimiser.state_dict(), random=checkpoint.random_states(self.device))
        counters = {name: vars(self.model)[name] for name in COUNTERS if type(vars(self.model).get(name)) is int}
        state.update({"counters": counters} if counters else {})
        checkpoint.save_epoch(self.run_dir, self.epoch, self.model, state)

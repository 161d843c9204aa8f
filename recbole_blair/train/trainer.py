"""Training: a list of named steps an epoch, early stopping on the unrounded metric, exact resume."""

import contextlib
import time
from pathlib import Path

import torch

from recbole_blair.errors import InputError
from recbole_blair.ops import keep_freed_memory
from recbole_blair.parallel.distributed import (
    all_reduce_gradients,
    all_reduce_sum,
    barrier,
    broadcast,
    rank,
    world_size,
)
from recbole_blair.train import checkpoint
from recbole_blair.train.batch_share import iterate_shares
from recbole_blair.train.evaluation import Evaluator
from recbole_blair.train.prefetch import prefetch
from recbole_blair.train.progress import progress_bar

OPTIMISERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


def adam_betas(config):
    """Return the two decay rates.

    Raises:
        InputError: not two numbers from 0 to below 1.
    """
    betas = tuple(config["adam_betas"])
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise InputError(f"adam_betas={list(betas)} must be two numbers, at least 0 and below 1, like 0.9,0.999")
    return betas


def precision_context(config):
    """The precision context of one forward pass under a configuration whose device is resolved."""
    if config["compute_dtype"] == torch.bfloat16:
        return torch.autocast(config["device"].type, torch.bfloat16)
    return contextlib.nullcontext()


class BlairTrainer:
    """Trains one recommender in one run folder.

    Several processes that train together (recbole_blair/parallel/distributed.py) hold equal weights, take each a share
    of every batch and of the evaluated rows, and add up gradients, losses and ranks; the first alone writes files.

    Args:
        config (Config)
        model (SequentialRecommender): on its device.
        loaders (dict): train, valid and test RowLoaders.
        run_dir (Path): checkpoints and TensorBoard events go here.
        log (logging.Logger)
        on_epoch (callable): called after every epoch with (epoch, metrics dict); a sweep reports from it. It may
            return True to stop the training.
        on_saved (callable): called with the trainer after every epoch, when its checkpoint is whole.
    """

    def __init__(self, config, model, loaders, run_dir, log, on_epoch=None, on_saved=None):
        self.config, self.model, self.loaders = config, model, loaders
        self.run_dir, self.log, self.on_epoch, self.on_saved = Path(run_dir), log, on_epoch, on_saved
        self.device = config["device"]
        self.rates = {"lr": config["learning_rate"], "weight_decay": config["weight_decay"]}
        if config["learner"] != "sgd":
            self.rates["betas"] = adam_betas(config)
        trained = [p for p in model.parameters() if p.requires_grad] or [torch.nn.Parameter(torch.zeros(()))]
        self.optimiser = OPTIMISERS[config["learner"]](trained, fused=True, **self.rates)
        self.epoch, self.best_epoch, self.best_value, self.misses = 0, None, None, 0
        self.best_metrics, self.seconds = {}, {"train": 0.0, "valid": 0.0}
        self.stopped = False
        self.step_loss = torch.compile(model.calculate_loss) if config["compile"] else model.calculate_loss
        self.writer = None

    def autocast(self):
        """The precision context of one forward pass."""
        return precision_context(self.config)

    def evaluator(self, split):
        """Return the evaluator of one split."""
        return Evaluator(self.loaders[split], self.config, self.device, self.autocast)

    def resume(self):
        """Go on from the last whole epoch in the run folder; returns False when there is none."""
        found = checkpoint.load_last_epoch(self.run_dir)
        if found is None:
            return False
        weights, state = found
        self.model.load_state_dict(weights)
        self.optimiser.load_state_dict(state["optimiser"])
        for group in self.optimiser.param_groups:  # a sweep's scheduler goes on from another trial with other rates
            group.update(self.rates)
        for name in ("epoch", "best_epoch", "best_value", "misses", "best_metrics", "seconds", "stopped"):
            setattr(self, name, state[name])
        checkpoint.restore_random_states(state["random"], self.device)
        self.log.info("resumed after epoch %d of %d", self.epoch, self.config["epochs"])
        return True

    def fit(self):
        """Train until the epochs or the patience run out; leaves the best weights in the model.

        Returns:
            dict: the metrics of the best validation.
        """
        from torch.utils.tensorboard import SummaryWriter

        if rank() == 0:
            self.writer = SummaryWriter(str(self.run_dir), purge_step=self.epoch + 1)
        try:
            with keep_freed_memory():
                self.run_epochs()
        finally:
            if self.writer:
                self.writer.close()
        barrier()
        self.model.load_state_dict(checkpoint.load_best(self.run_dir))
        return self.best_metrics

    def run_epochs(self):
        """The epochs that are left; one validation where nothing is to be trained."""
        trains = getattr(self.model, "trains", True)
        if not trains or self.config["epochs"] == 0:
            self.validate(None)
        while trains and self.epoch < self.config["epochs"] and not self.stopped:
            self.run_epoch()

    def run_epoch(self):
        """One epoch: train, validate, record, save."""
        loss = self.train_epoch()
        self.epoch += 1
        self.record("train/loss", loss)
        if self.epoch % self.config["eval_step"] == 0 or self.epoch == self.config["epochs"]:
            self.validate(loss)
        if broadcast(bool(self.on_epoch and self.on_epoch(self.epoch, {"loss": loss, **self.last_metrics}))):
            self.stopped = True
            if self.best_epoch is None:  # stopped before its first validation
                self.validate(loss)
                self.stopped = True
        self.save()
        if self.on_saved:
            self.on_saved(self)

    def train_epoch(self):
        """Take one step a batch; returns the mean loss.

        Raises:
            FloatingPointError: the loss is not finite; nothing after it would mean anything.
        """
        self.model.train()
        loader, started, total, rows = self.loaders["train"], time.perf_counter(), 0.0, 0
        loader.epoch = self.epoch
        if world_size() > 1:  # each process draws its own dropout, after a kill too
            torch.manual_seed(hash((self.config["seed"], self.epoch, rank())) % 2**63)
        bar = progress_bar(len(loader.rows), f"epoch {self.epoch + 1}", "rows", self.config["show_progress"])
        waiting = None  # a loss is read one step late, so that a GPU has the next step to do meanwhile
        for interaction, n_rows, share in prefetch(iterate_shares(loader), self.device):
            loss = self.train_step(interaction, share)
            if waiting is not None:
                total += self.read_loss(waiting, bar) * waiting[1]
            waiting, rows = (loss, n_rows), rows + n_rows
        total += self.read_loss(waiting, bar) * waiting[1]
        bar.close()
        self.seconds["train"] += time.perf_counter() - started
        return total / rows

    def train_step(self, interaction, share=1.0):
        """Forward, backward, clip, update; returns this share's part of the batch's loss, detached.

        `share` is this process's part of the batch's targets, so that weighted losses and gradients add up to those of
        one process with the whole batch.
        """
        self.optimiser.zero_grad(set_to_none=True)
        with self.autocast():
            loss = self.step_loss(interaction)
        loss = sum(loss) if isinstance(loss, tuple) else loss  # RecBole models may return parts
        (loss * (share * world_size())).backward()
        all_reduce_gradients(self.model.parameters())
        if self.config["clip_grad_norm"]:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config["clip_grad_norm"])
        self.optimiser.step()
        return loss.detach() * share

    def read_loss(self, step, bar):
        """Return a step's loss over all processes as a float and show it.

        Args:
            step (tuple): what `train_step` returned, and the rows of the batch.
            bar: the progress bar.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        value = all_reduce_sum(step[0].item())
        if value != value or value in (float("inf"), float("-inf")):
            raise FloatingPointError(
                f"the loss became {value} in epoch {self.epoch + 1}; lower learning_rate, set clip_grad_norm, or use "
                "precision=fp32"
            )
        bar.set_postfix_str(f"loss {value:.4f}", refresh=False)
        bar.update(step[1])
        return value

    def validate(self, loss):
        """Evaluate the validation rows, keep the best weights, count the misses."""
        started = time.perf_counter()
        metrics, _ = self.evaluator("valid").evaluate(self.model, "validate")
        self.seconds["valid"] += time.perf_counter() - started
        self.last_metrics = metrics
        value = metrics[self.config["valid_metric"].lower()]
        better = self.best_value is None or value > self.best_value
        if better:
            self.best_epoch, self.best_value, self.best_metrics, self.misses = self.epoch, value, metrics, 0
            if rank() == 0:
                checkpoint.save_weights(self.run_dir / checkpoint.CHECKPOINT / checkpoint.BEST, self.model)
        else:
            self.misses += 1
            self.stopped = self.misses >= self.config["stopping_step"]
        for name, number in metrics.items():
            self.record(f"valid/{name}", number)
        train = "" if loss is None else f"loss {loss:.4f}  "
        self.log.info(
            "epoch %d  %s%s %.6f%s",
            self.epoch,
            train,
            self.config["valid_metric"],
            value,
            "  best" if better else "",
        )

    last_metrics: dict = {}

    def record(self, name, value):
        """Add a point to the TensorBoard curves."""
        if self.writer:
            self.writer.add_scalar(name, value, self.epoch)

    def save(self):
        """Write the epoch's weights, optimiser and random states; the first process does."""
        if rank() > 0:
            return
        state = {name: getattr(self, name) for name in ("epoch", "best_epoch", "best_value", "misses", "best_metrics")}
        state.update(
            seconds=self.seconds, stopped=self.stopped, optimiser=self.optimiser.state_dict(),
            random=checkpoint.random_states(self.device),
        )  # fmt: skip
        checkpoint.save_epoch(self.run_dir, self.epoch, self.model, state)

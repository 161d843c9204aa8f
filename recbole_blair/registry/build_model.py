"""Builds a model on a dataset, and the loaders that give it its batches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from recbole.utils import InputType, ModelType

from recbole_blair.config import Config
from recbole_blair.data.loader import RowLoader, SequenceLoader
from recbole_blair.data.pair_loader import Form, Loader, PairLoader, UserLoader
from recbole_blair.errors import InputError
from recbole_blair.schema import ITEM_SEQ

if TYPE_CHECKING:
    from recbole.model.abstract_recommender import GeneralRecommender, SequentialRecommender

    from recbole_blair.data.dataset import BlairDataset
    from recbole_blair.registry import ModelInfo

FEW_STEPS = 8  # per epoch: with fewer the batch is made smaller
LEAST_BATCH = 16  # rows; a smaller step is mostly noise
# RecBole's models that are right when a batch is trimmed to its longest history; others get full width.
TRIMMABLE = {"SASRec", "GRU4Rec"}
# RecBole's general models that train on users, each with all of the user's items.
TRAINED_ON_USERS = {"MultiDAE", "MultiVAE", "MacridVAE", "CDAE", "ENMF"}


def check_protocol(info: ModelInfo, protocol: str) -> None:
    """Refuse a general recommender on rows with histories, and a sequential one on pairs without.

    Raises:
        InputError: names the protocol to use.
    """
    if info.ranks_users and protocol != "random":
        raise InputError(
            f"{info.name} learns from (user, item) pairs and ranks per user, protocol={protocol} splits by time; use "
            "--protocol=random"
        )
    if not info.ranks_users and protocol == "random":
        raise InputError(
            f"{info.name} reads histories, which the pairs of protocol=random do not have; use --protocol=timestamp or "
            "--protocol=last_out, or a model of pairs such as AlphaRec, LightGCN, EASE, Pop"
        )


def check_rows(info: ModelInfo, dataset: BlairDataset) -> None:
    """Refuse a build of another tool whose rows are not of the kind that the protocol says.

    Raises:
        InputError: names the columns and the protocol to use.
    """
    if info.ranks_users == dataset.has_histories:
        found, protocol = ("has the column", "timestamp") if dataset.has_histories else ("lacks the column", "random")
        raise InputError(
            f"{dataset.name}.train.inter {found} {ITEM_SEQ}: these rows are for --protocol={protocol}, which "
            f"{info.name} cannot use"
        )


def build_model(info: ModelInfo, config: Config, dataset: BlairDataset) -> SequentialRecommender | GeneralRecommender:
    """Build a model on its device.

    RecBole's models without gradients (ItemKNN, EASE, Pop …) are fitted here: nothing of them is in a checkpoint.

    Raises:
        InputError: one of RecBole's models asks the dataset for something these rows do not carry.
    """
    check_rows(info, dataset)
    dataset.field2seqlen = {ITEM_SEQ: config["MAX_ITEM_LIST_LENGTH"]}
    if config.lenient and config["train_batch_size"] is None:  # some of RecBole's models read it
        n_rows = len(dataset.rows["train"])
        config = config.replace(train_batch_size=choose_batch_size(n_rows, config["full_batch_size"]))
    try:
        model = info.load_class()(config, dataset)
    except (AttributeError, NotImplementedError) as error:
        if not info.from_recbole:
            raise
        raise InputError(f"RecBole's {info.name} does not run on these rows: {error}") from error
    except ValueError as error:
        raise error if isinstance(error, InputError) else InputError(f"{info.name}: {error}") from error
    if getattr(type(model), "type", None) == ModelType.TRADITIONAL:
        model.trains = False
        if info.from_recbole and info.name == "Pop":
            count_items(model, dataset)
    return model.to(config["device"])


def count_items(model: GeneralRecommender, dataset: BlairDataset) -> None:
    """Give RecBole's Pop the counts of the train pairs.

    It counts in `calculate_loss`, where an item that occurs twice in a batch counts once.
    """
    counts = torch.from_numpy(dataset.item_counts("train")).to(model.device)
    model.item_cnt, model.max_cnt = counts[:, None], counts.max()[None]


def uses_text(info: ModelInfo) -> bool:
    """Tell whether a model reads item text features."""
    return getattr(info.load_class(), "uses_text", False)


def trains_encoder(info: ModelInfo) -> bool:
    """Tell whether a model can train the text encoder."""
    return getattr(info.load_class(), "trains_encoder", False)


def trims_histories(info: ModelInfo, config: Config) -> bool:
    """Tell whether a model's batches are trimmed to their longest history."""
    return config["trim_histories"] and (not info.from_recbole or info.name in TRIMMABLE)


def learns_from_pairs(info: ModelInfo, config: Config) -> bool:
    """Tell whether a model's loss compares a target with one sampled negative."""
    by_loss = "loss_type" in config and config["loss_type"] == "BPR"
    return by_loss or getattr(info.load_class(), "input_type", None) == InputType.PAIRWISE


def choose_batch_size(rows: int, full: int, processes: int = 1) -> int:
    """Return the rows that a process takes per step: `full`, fewer where an epoch would have less than `FEW_STEPS`.

    A model that takes one step per epoch has not moved when the patience runs out. Of few rows the batch of all
    processes is the power of two that makes 16 to 31 steps, though not below `LEAST_BATCH`.
    """
    if rows >= FEW_STEPS * full * processes:
        return full
    size = max(LEAST_BATCH, 2 ** int(math.log2(max(1, rows // 16))))
    return max(1, min(full, size // processes))


def describe_batches(rows: int, size: int, given: bool) -> str | None:
    """Return a line on the number of steps per epoch, where the rows are few; None where they are not.

    Args:
        rows: of an epoch.
        size: rows of a step of all processes.
        given: the size was asked for, not chosen.
    """
    steps = -(-rows // size)
    if not given:
        return f"train_batch_size: {size} for {rows:,} rows, {steps} steps per epoch; set the key for another size"
    if steps >= FEW_STEPS:
        return None
    return (
        f"warning: train_batch_size={size} makes {steps} step{'s' * (steps > 1)} per epoch of {rows:,} rows: a model "
        "hardly moves; train_batch_size: null chooses the size by the rows"
    )


def build_loaders(info: ModelInfo, config: Config, dataset: BlairDataset) -> dict[str, Loader]:
    """Return the loaders of the splits train, valid and test."""
    if info.ranks_users:
        return build_pair_loaders(info, config, dataset)
    trim, width = trims_histories(info, config), config["MAX_ITEM_LIST_LENGTH"]
    shared: dict[str, Any] = {"max_length": width, "trim": trim, "bucket": trim and config["length_bucketing"]}
    size, seed = config["train_batch_size"] or config["full_batch_size"], config["seed"]
    train: RowLoader | SequenceLoader
    if "train_style" in config and config["train_style"] == "sequence":
        train = SequenceLoader(dataset, size, max_length=width, overlap=config["window_overlap"], seed=seed)
    else:
        n_neg = int(learns_from_pairs(info, config))
        train = RowLoader(dataset, "train", size, shuffle=True, seed=seed, n_neg=n_neg, **shared)
    if config["train_batch_size"] is None:
        train.batch_size = choose_batch_size(len(train.rows), size, config["nproc"])
    return {
        "train": train,
        "valid": RowLoader(dataset, "valid", config["eval_batch_size"], **shared),
        "test": RowLoader(dataset, "test", config["eval_batch_size"], **shared),
    }


def build_pair_loaders(info: ModelInfo, config: Config, dataset: BlairDataset) -> dict[str, Loader]:
    """Return the loaders of a general recommender: train as its loss wants it, valid and test as pairs."""
    size, seed = config["train_batch_size"] or config["full_batch_size"], config["seed"]
    train: PairLoader | UserLoader
    if info.from_recbole and info.name in TRAINED_ON_USERS:
        train = UserLoader(dataset, size, seed)
    else:
        forms: dict[InputType, Form] = {InputType.PAIRWISE: "pairwise", InputType.POINTWISE: "pointwise"}
        form = forms.get(getattr(info.load_class(), "input_type", None), "pair")
        train = PairLoader(dataset, "train", size, form=form, shuffle=True, seed=seed)
    if config["train_batch_size"] is None:
        train.batch_size = choose_batch_size(len(train.rows), size, config["nproc"])
    return {"train": train, **{s: PairLoader(dataset, s, config["eval_batch_size"]) for s in ("valid", "test")}}

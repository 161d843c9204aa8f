"""Builds a model on a dataset, and the loaders that give it its batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recbole.utils import InputType

from recbole_blair.config import Config
from recbole_blair.data.loader import RowLoader, SequenceLoader
from recbole_blair.errors import InputError
from recbole_blair.schema import ITEM_SEQ

if TYPE_CHECKING:
    from recbole.model.abstract_recommender import SequentialRecommender

    from recbole_blair.data.dataset import BlairDataset
    from recbole_blair.registry import ModelInfo

# RecBole's models that are right when a batch is trimmed to its longest history; others get full width.
TRIMMABLE = {"SASRec", "GRU4Rec"}


def build_model(info: ModelInfo, config: Config, dataset: BlairDataset) -> SequentialRecommender:
    """Build a model on its device.

    Raises:
        InputError: one of RecBole's models asks the dataset for something these rows do not carry.
    """
    dataset.field2seqlen = {ITEM_SEQ: config["MAX_ITEM_LIST_LENGTH"]}
    try:
        model = info.load_class()(config, dataset)
    except (AttributeError, NotImplementedError) as error:
        if not info.from_recbole:
            raise
        raise InputError(f"RecBole's {info.name} does not run on these rows: {error}") from error
    except ValueError as error:
        raise error if isinstance(error, InputError) else InputError(f"{info.name}: {error}") from error
    return model.to(config["device"])


def uses_text(info: ModelInfo) -> bool:
    """Tell whether a model reads item text features."""
    return getattr(info.load_class(), "uses_text", False)


def trims_histories(info: ModelInfo, config: Config) -> bool:
    """Tell whether a model's batches are trimmed to their longest history."""
    return config["trim_histories"] and (not info.from_recbole or info.name in TRIMMABLE)


def learns_from_pairs(info: ModelInfo, config: Config) -> bool:
    """Tell whether a model's loss compares a target with one sampled negative."""
    by_loss = "loss_type" in config and config["loss_type"] == "BPR"
    return by_loss or getattr(info.load_class(), "input_type", None) == InputType.PAIRWISE


def build_loaders(info: ModelInfo, config: Config, dataset: BlairDataset) -> dict[str, RowLoader | SequenceLoader]:
    """Return the loaders of the splits train, valid and test."""
    trim, width = trims_histories(info, config), config["MAX_ITEM_LIST_LENGTH"]
    shared: dict[str, Any] = {"max_length": width, "trim": trim, "bucket": trim and config["length_bucketing"]}
    size, seed = config["train_batch_size"], config["seed"]
    train: RowLoader | SequenceLoader
    if "train_style" in config and config["train_style"] == "sequence":
        train = SequenceLoader(dataset, size, max_length=width, overlap=config["window_overlap"], seed=seed)
    else:
        n_neg = int(learns_from_pairs(info, config))
        train = RowLoader(dataset, "train", size, shuffle=True, seed=seed, n_neg=n_neg, **shared)
    return {
        "train": train,
        "valid": RowLoader(dataset, "valid", config["eval_batch_size"], **shared),
        "test": RowLoader(dataset, "test", config["eval_batch_size"], **shared),
    }

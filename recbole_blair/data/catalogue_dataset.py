"""The dataset of a run that came from the hub: the items of a build and sums over its rows, no row and no user.

A folder of it holds `<build>.item`, the features of one encoder, `about.json` (names, counts) and `counts.safetensors`:
`train_targets` (N,) int64, how often an item is a target of training; `train_items` (N,) bool, whether a row of
training holds it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from recbole_blair.data.atomic import read_item_tokens
from recbole_blair.data.dataset import BlairDataset
from recbole_blair.errors import InputError
from recbole_blair.files.own_json import read_own_json
from recbole_blair.schema import ITEM_SUFFIX, SPLITS

if TYPE_CHECKING:
    from collections.abc import Mapping

ABOUT, COUNTS = "about.json", "counts.safetensors"
ABOUT_KEYS = ("dataset", "encoder", "items", "rows", "keep_repeats", "latest_ms")
FIX = "delete the folder and load the run again"


class AbsentRows:
    """The rows of a split of which the number alone is known."""

    def __init__(self, n_rows: int, name: str) -> None:
        self.n_rows, self.name = n_rows, name

    def __len__(self) -> int:
        return self.n_rows

    def refuse(self) -> np.ndarray:
        """Refuse to give them.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"a run from the hub holds no interactions of {self.name}; give the folder that holds the build by "
            "--data_path=FOLDER"
        )

    table = target = length = user = property(refuse)


class CatalogueDataset(BlairDataset):
    """Items, their counts and features; whoever asks for rows is refused.

    Args:
        build_dir: the folder of `<build>.item` and the features.
        item_tokens: the item ids in order.
        about: see `describe`.
        counts: see `count`.
    """

    def __init__(
        self, build_dir: Path, item_tokens: pa.StringArray, about: Mapping[str, Any], counts: Mapping[str, np.ndarray]
    ) -> None:
        no_users = {"user_start": np.array([-1]), "user_tokens": pa.array([], pa.string())}
        no_rows = {f"{split}_rows": np.zeros((0, 3), np.int32) for split in SPLITS}
        no_events = {"events": np.zeros((0, 2), np.int64)}
        self.set_tables(build_dir, {**no_users, **no_rows, **no_events, "item_tokens": item_tokens}, histories=True)
        self.about, self.counts = about, counts
        self.rows = {split: AbsentRows(about["rows"][split], self.name) for split in SPLITS}  # type: ignore[misc]

    @classmethod
    def open(cls, build_dir: Path) -> CatalogueDataset:
        """Open a folder.

        Raises:
            InputError: a file is missing or damaged, or does not belong to the others.
        """
        from safetensors import SafetensorError  # heavy
        from safetensors.numpy import load_file

        about = read_own_json(build_dir / ABOUT, "what is known of a pushed run's data", FIX, ABOUT_KEYS)
        item_tokens = read_item_tokens(build_dir / f"{build_dir.name}{ITEM_SUFFIX}")
        try:
            counts = load_file(build_dir / COUNTS)
            shapes = {counts[name].shape for name in ("train_targets", "train_items")}
        except (SafetensorError, OSError, KeyError) as error:
            raise InputError(f"{build_dir / COUNTS} is damaged ({type(error).__name__}); {FIX}") from error
        if item_tokens is None or not about["items"] == len(item_tokens) or shapes != {(len(item_tokens) + 1,)}:
            raise InputError(f"the files of {build_dir} do not belong together; {FIX}")
        return cls(build_dir, item_tokens, about, counts)

    @property
    def has_times(self) -> bool:
        """True when the build's rows carried times."""
        return self.about["latest_ms"] > 0

    @property
    def latest_ms(self) -> int:
        """The time of the build's latest event, Unix ms; 0 without times."""
        return self.about["latest_ms"]

    def keeps_repeats(self) -> bool:
        """Tell whether the build was made with `--keep_repeats`."""
        return self.about["keep_repeats"]

    def item_counts(self, split: str = "train") -> np.ndarray:
        """Return how often each item is a target of training, (N,) int64, padding 0."""
        return self.of_training(split, "train_targets")

    def seen_items(self, split: str = "train") -> np.ndarray:
        """Return which items occur in training's rows, as target or in a history, (N,) bool."""
        return self.of_training(split, "train_items")

    def items_of_rows(self, split: str) -> np.ndarray:
        """Return the items of training's rows, targets and histories, sorted, (m,) int64."""
        return np.flatnonzero(self.seen_items(split))

    def of_training(self, split: str, name: str) -> np.ndarray:
        """Return counts of the training split; those of others are not known."""
        return self.counts[name] if split == "train" else self.rows[split].table


def describe(dataset: BlairDataset, encoder: str | None) -> dict[str, Any]:
    """Return what a `CatalogueDataset` must know of a build beside its counts: numbers and names, of no user."""
    return {
        "dataset": dataset.name,
        "encoder": encoder,
        "items": dataset.n_items - 1,
        "rows": {split: len(rows) for split, rows in dataset.rows.items()},
        "keep_repeats": dataset.keeps_repeats(),
        "latest_ms": dataset.latest_ms if dataset.has_times else 0,
    }


def count(dataset: BlairDataset) -> dict[str, np.ndarray]:
    """Return the counts of a build's items, (N,) each, padding first."""
    return {"train_targets": dataset.item_counts("train"), "train_items": dataset.seen_items("train")}

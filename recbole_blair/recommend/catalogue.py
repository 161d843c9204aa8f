"""The items of a run: those of its build in the order of every item axis, then items added by their text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from recbole_blair.data.atomic import read_header
from recbole_blair.errors import InputError
from recbole_blair.schema import ITEM_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from recbole_blair.data.dataset import BlairDataset


class Catalogue:
    """Items with their internal ids.

    Args:
        dataset: of the build.

    Attributes:
        ids, titles: of the items, internal id 1 first; a title is empty where the build holds none.
        codes: internal ids by item id.
        n_known: items of the build; those after them were added.
    """

    def __init__(self, dataset: BlairDataset) -> None:
        self.dataset = dataset
        self.ids, self.titles = dataset.item_tokens.to_pylist(), load_titles(dataset)
        self.codes = {item_id: number for number, item_id in enumerate(self.ids, 1)}
        self.n_known = len(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, ids: Sequence[str], titles: Sequence[str]) -> None:
        """Add items behind those there are."""
        self.codes.update((item_id, number) for number, item_id in enumerate(ids, len(self.ids) + 1))
        self.ids, self.titles = [*self.ids, *ids], [*self.titles, *titles]

    def internal(self, items: str | Sequence[str] | None) -> np.ndarray:
        """Return internal ids (M,) int64 of item ids, or of the whole catalogue.

        Raises:
            InputError: an unknown item.
        """
        if items is None:
            return np.arange(1, len(self.ids) + 1)
        items = [items] if isinstance(items, str) else list(items)
        unknown = [item for item in items if item not in self.codes]
        if unknown:
            raise InputError(
                f"unknown item {unknown[0]!r} ({len(unknown)} of {len(items)}); {self.dataset.name} has "
                f"{len(self.ids)} items: add others by their text with new_items"
            )
        return np.array([self.codes[item] for item in items], np.int64)


def load_titles(dataset: BlairDataset) -> list[str]:
    """Return the titles of a build's items; empty ones where it has no `.item` file or no title column."""
    path = dataset.build_dir / f"{dataset.name}{ITEM_SUFFIX}"
    if not path.is_file() or "title" not in read_header(path):
        return [""] * (dataset.n_items - 1)
    return dataset.titles().to_pylist()

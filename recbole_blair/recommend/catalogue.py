"""The items of a run: those of its build in the order of every item axis, then items added by their text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from recbole_blair.data.atomic import open_atomic, read_header
from recbole_blair.errors import InputError
from recbole_blair.recommend.users import encoded_id
from recbole_blair.recommend.where import Column
from recbole_blair.schema import ITEM_ID, ITEM_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from recbole_blair.data.dataset import BlairDataset


class Catalogue:
    """Items with their internal ids.

    Args:
        dataset: of the build.

    Attributes:
        ids, titles: of the items, internal id 1 first; a title is empty where the build holds none.
        codes: internal ids by item id.
        n_known: items of the build; those after them were added.
        kinds: of the `.item` file's columns, by name.
    """

    def __init__(self, dataset: BlairDataset) -> None:
        self.dataset, self.path = dataset, dataset.build_dir / f"{dataset.name}{ITEM_SUFFIX}"
        header = read_header(self.path) if self.path.is_file() else {ITEM_ID: ""}
        self.kinds = {name: written.partition(":")[2] for name, written in header.items()}
        self.ids = dataset.item_tokens.to_pylist()
        self.titles = dataset.titles().to_pylist() if "title" in self.kinds else [""] * len(self.ids)
        self.codes = {item_id: number for number, item_id in enumerate(self.ids, 1)}
        self.n_known = len(self.ids)
        self._columns: dict[str, pa.StringArray] = {}
        self._added: list[Mapping[str, str]] = []

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, ids: Sequence[str], columns: Sequence[Mapping[str, str]]) -> None:
        """Add items behind those there are, with what they have of the columns."""
        self.codes.update((item_id, number) for number, item_id in enumerate(ids, len(self.ids) + 1))
        self.ids, self.titles = [*self.ids, *ids], [*self.titles, *(row["title"] for row in columns)]
        self._added.extend({ITEM_ID: item_id, **row} for item_id, row in zip(ids, columns))

    def column(self, name: str) -> Column:
        """Return a column of the `.item` file, items that were added included."""
        if name not in self._columns:
            own = [batch.column(0) for batch in open_atomic(self.path, [name])] if self.path.is_file() else []
            self._columns[name] = pa.concat_arrays(own) if own else self.dataset.item_tokens
        added = pa.array([row.get(name, "") for row in self._added], pa.string())
        return Column(self.kinds[name], pa.concat_arrays([self._columns[name].cast(pa.string()), added]))

    def find(self, item_id: str) -> int:
        """Return the internal id of an item id, as the build or as the user's own files write it; 0: unknown."""
        return self.codes.get(item_id) or self.codes.get(encoded_id(item_id), 0)

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

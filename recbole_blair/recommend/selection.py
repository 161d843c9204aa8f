"""Which items may be recommended: lists of ids that are allowed or blocked, conditions on columns, the history."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from recbole_blair.errors import InputError
from recbole_blair.files.read import iter_lines
from recbole_blair.recommend.topk import best_items
from recbole_blair.recommend.where import select_items

if TYPE_CHECKING:
    from torch import Tensor

    from recbole_blair.recommend.catalogue import Catalogue
    from recbole_blair.recommend.users import Histories

Items = str | Path | Sequence[str]
MODEL, POPULARITY = "model", "popularity"  # where a user's recommendations come from


@dataclass
class Filters:
    """What limits the items.

    Attributes:
        allow, block: item ids, or a file with one id per line; None: no limit. Blocked outranks allowed.
        where: a condition on item columns, see `where`; None: none.
        skip_unknown: leave out ids of `allow` and `block` that the catalogue lacks; False refuses them.
    """

    allow: Items | None = None
    block: Items | None = None
    where: str | None = None
    skip_unknown: bool = False

    def mask(self, catalogue: Catalogue) -> np.ndarray | None:
        """Return which items may be recommended, (N,) bool, padding False; None: all.

        Raises:
            InputError: an unknown id, a wrong condition, or no item left.
        """
        if self.allow is None and self.block is None and self.where is None:
            return None
        mask = np.ones(len(catalogue) + 1, bool)
        if self.allow is not None:
            mask[:] = False
            mask[self.codes("allow", self.allow, catalogue)] = True
        if self.block is not None:
            mask[self.codes("block", self.block, catalogue)] = False
        if self.where is not None:
            mask[1:] &= select_items(self.where, list(catalogue.kinds), catalogue.column)
        mask[0] = False
        if not mask.any():
            given = [f"{name}=…" for name in ("allow", "block") if getattr(self, name) is not None]
            given += [f"where={self.where!r}"] if self.where is not None else []
            verb = "leave" if len(given) > 1 else "leaves"
            raise InputError(f"{' and '.join(given)} {verb} none of {len(catalogue):,} items")
        return mask

    def codes(self, name: str, items: Items, catalogue: Catalogue) -> list[int]:
        """Return internal ids of a list or a file."""
        ids = list(read_ids(name, items))
        codes = [catalogue.find(item_id) for item_id in ids]
        missing = codes.count(0)
        if missing and not self.skip_unknown:
            raise InputError(
                f"{name}: unknown item {ids[codes.index(0)]!r} ({missing} of {len(ids)} ids); take it out, or leave "
                "unknown ids out by skip_unknown"
            )
        return [code for code in codes if code]


def read_ids(name: str, items: Items) -> Sequence[str]:
    """Return the ids of a sequence, or of a file with one id per line."""
    if isinstance(items, str | Path):
        path = Path(os.path.expanduser(items))
        return [line for _, line in iter_lines(path, f"one item id per line ({name})")]
    return [str(item) for item in items]


def pick_items(
    scores: Tensor, histories: Histories, rows: np.ndarray, top: int, leave_out_history: bool, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the best items (B, k) of users `rows` (B,) and their scores, as `best_items` does.

    Args:
        scores (B, N): written to.
        leave_out_history: leave out every item of a user's history.
        mask (N,) bool: items that may be recommended; None: all.
    """
    if mask is not None:
        scores.masked_fill_(~mask, -torch.inf)
    if leave_out_history:
        row, item = histories.whole(rows)
        scores[torch.from_numpy(row).to(scores.device), torch.from_numpy(item).long().to(scores.device)] = -torch.inf
    return best_items(scores, top)

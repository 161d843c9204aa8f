"""Items near given ones, by the model's item vectors or by the encoder's text features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from recbole_blair.errors import InputError
from recbole_blair.recommend.new_items import reads_texts
from recbole_blair.recommend.topk import best_items
from recbole_blair.recommend.users import iterate_entries
from recbole_blair.schema import ITEM_ID

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from torch import Tensor

    from recbole_blair.recommend.scorer import Scorer
    from recbole_blair.recommend.selection import Filters

BY = ("model", "text")
SMALLEST = 1e-30  # length of a vector: an item without text may have one of zeros, near to nothing


def find_similar(scorer: Scorer, items: str | Sequence[str], top: int, by: str, filters: Filters) -> pd.DataFrame:
    """Find neighbours; see `Recommender.similar`."""
    import pandas as pd  # heavy

    catalogue = scorer.catalogue
    ids = [str(entry) for _, entry in iterate_entries(items, "item")]
    codes = np.array([catalogue.find(item_id) for item_id in ids], np.int64)
    if not ids or (not filters.skip_unknown and not codes.all()):
        catalogue.internal(ids)  # says which
        raise InputError(f"no item in {items!r}; give ids of items")
    codes = codes[codes > 0]
    mask, vectors = scorer.mask(filters), item_vectors(scorer, by)
    fit = max(1, scorer.config["max_score_elements"] // (len(catalogue) + 1))
    parts = [nearest_items(vectors, part, top, mask) for part in np.split(codes, range(fit, len(codes), fit))]
    near, values = (np.concatenate(column) for column in zip(*parts))  # (M, k)
    row, place = np.nonzero(near)
    item = near[row, place] - 1
    names, titles = np.array(catalogue.ids, object), np.array(catalogue.titles, object)
    return pd.DataFrame(
        {
            ITEM_ID: names[codes[row] - 1],
            "rank": place + 1,
            "similar_id": names[item],
            "title": titles[item],
            "score": values[row, place],
        }
    )


def nearest_items(
    vectors: tuple[Tensor, Tensor], codes: np.ndarray, top: int, mask: Tensor | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest items (M, k) of items `codes` (M,), 0 where there are fewer, and their cosines.

    Args:
        vectors: the table (N - 1, H) float32 and the lengths of its rows (N - 1,).
        mask (N,) bool: items that may be neighbours; None: all.
    """
    table, lengths = vectors
    own = torch.from_numpy(codes).to(table.device)
    scores = table[own - 1] @ table.T / (lengths[own - 1, None] * lengths)  # cosines (M, N - 1)
    scores = F.pad(scores, (1, 0))  # (M, N)
    scores.scatter_(1, own[:, None], -torch.inf)
    if mask is not None:
        scores.masked_fill_(~mask, -torch.inf)
    near, values = best_items(scores, top)
    return near.cpu().numpy(), values.cpu().numpy()


def item_vectors(scorer: Scorer, by: str) -> tuple[Tensor, Tensor]:
    """Return the items' vectors (N - 1, H) float32 and their lengths (N - 1,); kept until the catalogue grows.

    Raises:
        InputError: an unknown kind of vectors, or one the model does not have.
    """
    if by not in BY:
        raise InputError(f"by={by!r} is not one of {', '.join(BY)}")
    if by not in scorer.neighbours:
        if by == "model":
            scorer.check_has_vectors()
            table = scorer.tables()[1][1:]
        elif reads_texts(scorer.model):
            own = getattr(scorer.model, "item_texts", None)
            with torch.no_grad():
                table = (scorer.model.text_features if own is None else own(None)).float()
        else:
            raise InputError(f"{scorer.run.info.name} reads no text features; use by=model, or a run of a text model")
        scorer.neighbours[by] = table, table.norm(dim=1).clamp_min(SMALLEST)
    return scorer.neighbours[by]

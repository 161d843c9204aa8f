"""Full-ranking evaluation: the item table once, scores in chunks, only each target's rank is kept."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np
import torch

from recbole_blair.ops import DotScores, has_fast_bf16, keep_freed_memory, rank_in_chunks
from recbole_blair.parallel.distributed import all_reduce_sum, world_size
from recbole_blair.parallel.distributed import rank as process_rank
from recbole_blair.schema import ITEM_ID, USER_ID
from recbole_blair.train.metrics import compute_metrics, part_ties
from recbole_blair.train.prefetch import prefetch
from recbole_blair.train.progress import progress_bar

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction
    from recbole.model.abstract_recommender import SequentialRecommender
    from torch import Tensor

    from recbole_blair.config import Config
    from recbole_blair.data.pair_loader import Loader

FIX_NAN = "lower the learning rate or use precision=fp32"
STORED_TABLES = {"restore_user_e", "restore_item_e", "i_embedding"}  # of RecBole's graph models, and of its DMF
PAIRS_AT_ONCE = 1 << 16  # that a model without a full sort scores: it holds several vectors of each
MORE_ON_A_GPU = 8  # times max_score_elements, which is chosen for a CPU's cache and memory


def refuse_not_finite(vectors: Tensor, what: str) -> Tensor:
    """Return vectors (n, H) if all of their values are finite; their sum tells, in one pass without a copy.

    Raises:
        FloatingPointError: a value is NaN, or infinite: its product with 0 is NaN.
    """
    if not torch.isfinite(vectors.sum(dtype=torch.float32)):
        raise FloatingPointError(f"{what} is not finite, so scores would be NaN; {FIX_NAN}")
    return vectors


class Evaluator:
    """Ranks the targets of one split.

    Rows of pairs (protocol=random) are ranked one by one, too: a user's relevant items stay candidates for each other,
    and `mask_history` takes out the items that the user has in the earlier splits. Their metrics are means over users.

    A DotProductRecommender has its item table computed once; any other model, and one whose `scores_by_dot_product`
    is False, is asked for `full_sort_predict`. In a bf16 run, on a chip made for it, the products of users and items
    are coarse (see `DotScores`).

    Args:
        loader: not shuffled.
        config
        device
        autocast: gives the precision context.
    """

    def __init__(
        self,
        loader: Loader,
        config: Config,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager],
    ) -> None:
        self.loader, self.config, self.device, self.autocast = loader, config, device, autocast
        self.dataset = loader.dataset
        pairs = not self.dataset.has_histories
        self.user = np.asarray(self.dataset.rows[loader.split].user) if pairs else None  # (R,) whom metrics are of

    @torch.inference_mode()
    @keep_freed_memory()
    def ranks(self, model: SequentialRecommender, label: str = "evaluate") -> np.ndarray:
        """Return the rank of every row's target, (R,) float64 in row order."""
        model.eval()
        forget_stored_tables(model)
        rank = np.zeros(len(self.loader.rows))
        by_dot = hasattr(model, "project_items") and getattr(model, "scores_by_dot_product", True)
        if by_dot:
            with self.autocast():
                projected = model.project_items()  # (N - 1, H)
                scorer = self.scorer(model, projected)
        bar = progress_bar(len(rank), label, "rows", self.config["show_progress"])
        for batch, rows in prefetch(((batch, batch["row"].cpu().numpy()) for batch in self.own_batches()), self.device):
            dropped = self.history_before(rows, batch[ITEM_ID]) if self.config["mask_history"] else None
            if by_dot:
                with self.autocast():
                    users = refuse_not_finite(model.user_vectors(batch, projected), "a user's vector")  # (B, H)
                rank[rows] = scorer.ranks(users, batch[ITEM_ID], dropped)
            else:
                rank[rows] = self.full_ranks(model, batch, dropped)
            bar.update(len(rows))
        bar.close()
        rank = all_reduce_sum(rank)
        return rank if self.user is None else part_ties(rank, self.user)

    def own_batches(self) -> Iterator[Interaction]:
        """The batches that fall to this process, every world-size-th; all of them when it is alone."""
        if world_size() == 1:
            return iter(self.loader)
        return map(self.loader.build, itertools.islice(self.loader.batches(), process_rank(), None, world_size()))

    def scorer(self, model: SequentialRecommender, projected: Tensor) -> DotScores:
        """Lay out the item table of a model that scores by products; inside the precision context.

        Raises:
            FloatingPointError: an item's vector is not finite. Ranks are counts of larger scores, so an item whose
                scores are NaN would lose to every target in silence.
        """
        coarse = torch.is_autocast_enabled(self.device.type) and has_fast_bf16(self.device)
        table = model.item_vectors(projected)  # (N, H)
        refuse_not_finite(table[1:], "an item's vector")
        return DotScores(table, coarse, self.max_elements())

    def max_elements(self) -> int:
        """Scores held at a time."""
        return self.config["max_score_elements"] * (1 if self.device.type == "cpu" else MORE_ON_A_GPU)

    def full_ranks(
        self, model: SequentialRecommender, batch: Interaction, dropped: tuple[Tensor, Tensor] | None
    ) -> np.ndarray:
        """Ranks of a batch's targets among the scores of the model's own full sort."""
        rows = max(1, self.max_elements() // self.dataset.n_items)
        return rank_in_chunks(lambda part: self.full_scores(model, batch, part), batch[ITEM_ID], dropped, rows)

    def full_scores(self, model: SequentialRecommender, batch: Interaction, part: slice) -> Tensor:
        """Scores (b, N) of a slice of the batch from the model's own full sort, in float32: bfloat16 would tie them.

        Raises:
            FloatingPointError: an item's score is NaN.
        """
        piece = type(batch)({k: batch[k][part] for k in batch})
        row = None
        if self.user is not None:  # a user's pairs stand together and get the same scores: computed once
            users, row = torch.unique(piece[USER_ID], return_inverse=True)
            piece = type(batch)({USER_ID: users})
        scores = score_all(model, piece, self.dataset.n_items).to(self.device)
        scores = scores if row is None else scores[row]
        if torch.isnan(scores[:, 1:].amax(1)).any():  # a maximum is NaN where one of its values is
            raise FloatingPointError(f"the model scores an item as NaN; {FIX_NAN}")
        return scores

    def history_before(self, rows: np.ndarray, target: Tensor) -> tuple[Tensor, Tensor]:
        """Every item before each row's target but the target itself: (row, column), two int64 tensors."""
        items, length = self.dataset.history_of(self.loader.split, rows, full=self.dataset.chained)
        row = torch.from_numpy(np.repeat(np.arange(len(rows)), length)).to(target.device)
        column = torch.from_numpy(items.astype(np.int64)).to(target.device)
        other = column != target[row]
        return row[other], column[other]

    def evaluate(self, model: SequentialRecommender, label: str = "evaluate") -> tuple[dict[str, float], np.ndarray]:
        """Return the configured metrics and the ranks they come from."""
        rank = self.ranks(model, label)
        config = self.config
        return compute_metrics(rank, config["metrics"], config["topk"], [config["valid_metric"]], self.user), rank


def score_all(model: SequentialRecommender, users: Interaction, n_items: int) -> Tensor:
    """Return the scores of a model's own full sort for rows (B,), (B, N) float32.

    A model without one (RecBole's NeuMF, ConvNCF and NNCF) scores every pair of a user and an item.
    """
    try:
        return model.full_sort_predict(users).view(len(users), -1).float()
    except NotImplementedError:
        pass
    user, items = users[USER_ID], torch.arange(n_items, device=users[USER_ID].device)
    pairs = torch.cartesian_prod(user, items)  # (B N, 2)
    parts = (type(users)({USER_ID: part[:, 0], ITEM_ID: part[:, 1]}) for part in pairs.split(PAIRS_AT_ONCE))
    return torch.cat([model.predict(part).float() for part in parts]).view(len(user), n_items)


def forget_stored_tables(model: SequentialRecommender) -> None:
    """Drop the tables that RecBole's models store between evaluations: they are of the weights of that time."""
    for name in STORED_TABLES.intersection(getattr(model, "other_parameter_name", ())):
        setattr(model, name, None)

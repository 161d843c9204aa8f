"""The Python API of a trained run: `recommend`, `score`, `encode`, and items added by their text."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from recbole_blair.errors import InputError
from recbole_blair.recommend.new_items import NewItems
from recbole_blair.recommend.scorer import Scorer
from recbole_blair.recommend.selection import MODEL, POPULARITY, Filters, Items, pick_items
from recbole_blair.recommend.similar import find_similar
from recbole_blair.recommend.users import Histories, Users
from recbole_blair.runs.open_run import OpenRun, Places, open_run
from recbole_blair.schema import ITEM_ID, USER_ID

if TYPE_CHECKING:
    import pandas as pd

LOG = logging.getLogger(__name__)


class Recommender:
    """A trained run with its catalogue; `recbole_blair.load` makes it.

    Everywhere below, `users` is a JSONL file of `{user_id, item_id_list[, timestamp_list, timestamp]}`, a file of ids,
    ids joined by commas, or a sequence of ids and such mappings. Of a user known by id the whole sequence is taken,
    all splits; the model sees the latest MAX_ITEM_LIST_LENGTH events of anybody.

    Args:
        run: an open run; its model is built here.
        show_progress: progress bars.

    Attributes:
        config: the run's.
        scorer: the model's batches, vectors and scores, of which the methods are made.
    """

    def __init__(self, run: OpenRun, show_progress: bool = True) -> None:
        self.scorer, self.config = Scorer(run, show_progress), run.config

    def __repr__(self) -> str:
        run, catalogue = self.scorer.run, self.scorer.catalogue
        added = len(catalogue) - catalogue.n_known
        parts = [
            f"{run.info.name} on {run.dataset.name}",
            f"{len(catalogue):,} items{f' ({added} added)' if added else ''}",
        ]
        parts += [f"encoder {run.encoder}"] if run.encoder else []
        return f"Recommender({', '.join(parts)}, {self.config['device']}, {str(run.folder)!r})"

    @property
    def item_ids(self) -> list[str]:
        """The catalogue in the order of every item axis: `.item`'s, then items added."""
        return self.scorer.catalogue.ids

    @property
    def titles(self) -> list[str]:
        """Theirs; empty where the build holds none."""
        return self.scorer.catalogue.titles

    def add_items(self, new_items: NewItems, plm: Path | str | None = None) -> list[str]:
        """Add items to the catalogue by their text, for every later call; nothing is trained.

        They are encoded with the run's own encoder, pooling, length and precision. In a model that also has item ids
        a new item's id contributes nothing.

        Args:
            new_items: a JSONL file or a sequence of mappings: `item_id` (or `parent_asin`) and raw metadata `title`,
                `features`, `categories`, `description`, at least one of them.
            plm: where the encoder is now; None: where the run had it.

        Returns:
            Their ids, in order.

        Raises:
            InputError: a model of ids alone; an item without text, one twice, or one of the catalogue; an encoder that
                has gone or is another.
        """
        features, ids, columns = self.scorer.encode_items(new_items, plm)
        self.scorer.add_items(features, ids, columns)
        return ids

    def recommend(
        self,
        users: Users,
        top: int = 10,
        exclude_history: bool | None = None,
        request_time: str | int | None = None,
        *,
        allow: Items | None = None,
        block: Items | None = None,
        where: str | None = None,
        skip_unknown: bool = False,
    ) -> pd.DataFrame:
        """Recommend the best items of the catalogue.

        Args:
            users: see the class.
            top: items per user.
            exclude_history: leave out every item of the user's history, also those the model no longer sees. None: do
                so unless the build keeps repeats (`prepare --keep_repeats`).
            request_time: `now`, Unix ms or a date; see `load_users`. Only HSTU's time_bias=request depends on it.
            allow, block: item ids, or a file with one id per line: items that alone, or never, are recommended.
            where: a condition on item columns, as in `categories=Cables and price<20`; see `recommend/where.py`.
            skip_unknown: leave unknown items out of histories and lists, and take an unknown user's history as empty.

        Returns:
            `user_id, rank, item_id, title, score, source`, at most `top` rows per user, best first, users in the
            order given. Equal scores: in catalogue order. `source` is `model`; for a user without history it is
            `popularity`, and the score is how often the item is a target of training.

        Raises:
            InputError: an unknown user or item, times that the model needs and are not given, no item left.
        """
        import pandas as pd  # heavy

        filters = Filters(allow, block, where, skip_unknown)
        parts = list(self.iter_recommendations(users, top, exclude_history, request_time, filters))
        return pd.concat(parts, ignore_index=True)

    def iter_recommendations(
        self,
        users: Users,
        top: int = 10,
        exclude_history: bool | None = None,
        request_time: str | int | None = None,
        filters: Filters | None = None,
    ) -> Iterator[pd.DataFrame]:
        """Yield what `recommend` returns in chunks of users, so that any number of them fits into memory."""
        import pandas as pd  # heavy

        check_top(top)
        scorer, filters = self.scorer, filters or Filters()
        mask = scorer.mask(filters)
        exclude_history = scorer.leaves_out_history(exclude_history)
        histories = scorer.load_users(users, request_time, allow_empty=True, skip_unknown=filters.skip_unknown)
        report_left_out(histories)
        ids, titles = np.array(self.item_ids, object), np.array(self.titles, object)
        source = np.where(histories.filled, MODEL, POPULARITY)
        for rows, scores in scorer.score_chunks(histories):
            best = pick_items(scores, histories, rows, top, exclude_history, mask)
            items, values = (x.cpu().numpy() for x in best)
            user, place = np.nonzero(items)
            item = items[user, place] - 1
            yield pd.DataFrame(
                {
                    USER_ID: np.array(histories.user_ids, object)[rows[user]],
                    "rank": place + 1,
                    ITEM_ID: ids[item],
                    "title": titles[item],
                    "score": values[user, place],
                    "source": source[rows[user]],
                }
            )

    def similar(
        self,
        items: str | Sequence[str],
        top: int = 10,
        by: str = "model",
        *,
        allow: Items | None = None,
        block: Items | None = None,
        where: str | None = None,
        skip_unknown: bool = False,
    ) -> pd.DataFrame:
        """Find the items nearest to given ones; an item is never its own neighbour.

        Args:
            items: item ids, a file of them, or ids joined by commas.
            top: neighbours per item.
            by: `model`: cosine of the model's item vectors; `text`: of the encoder's text features.
            allow, block, where: see `recommend`.
            skip_unknown: leave unknown items out.

        Returns:
            `item_id, rank, similar_id, title, score`, items in the order given.

        Raises:
            InputError: an unknown item; a model without item vectors, or without text features.
        """
        check_top(top)
        filters = Filters(allow, block, where, skip_unknown)
        return find_similar(self.scorer, items, top, by, filters)

    def score(
        self, users: Users, items: str | Sequence[str] | None = None, request_time: str | int | None = None
    ) -> np.ndarray:
        """Score items for users, higher is better.

        Args:
            users: see the class.
            items: item ids; None: the whole catalogue.
            request_time: see `recommend`.

        Returns:
            (U, M) float32, users and items in the order given.

        Raises:
            InputError: see `recommend`.
        """
        histories = self.scorer.load_users(users, request_time)
        wanted = self.scorer.catalogue.internal(items)
        out = np.empty((len(histories), len(wanted)), np.float32)
        column = torch.from_numpy(wanted).to(self.config["device"])
        for rows, scores in self.scorer.score_chunks(histories):
            out[rows] = scores[:, column].cpu().numpy()
        return out

    def encode(
        self,
        users: Users | None = None,
        items: str | Sequence[str] | None = None,
        request_time: str | int | None = None,
    ) -> np.ndarray:
        """Return vectors whose inner products are the scores.

        Args:
            users: see the class. items: item ids, or `all` for the catalogue. One of the two.
            request_time: see `recommend`.

        Returns:
            (U, H) or (M, H) float32, in the order given.

        Raises:
            InputError: a model whose score is no inner product; see also `recommend`.
        """
        if (users is None) == (items is None):
            raise InputError("encode() takes users=… or items=…, one of them")
        self.scorer.check_has_vectors()
        if users is None:
            wanted = self.scorer.catalogue.internal(None if isinstance(items, str) and items == "all" else items)
            return self.scorer.tables()[1][torch.from_numpy(wanted).to(self.config["device"])].cpu().numpy()
        parts = [vectors for _, vectors in self.scorer.vector_chunks(self.scorer.load_users(users, request_time))]
        return np.concatenate(parts)


def check_top(top: int) -> None:
    """Refuse a number of items that is none."""
    if not isinstance(top, int) or isinstance(top, bool) or top < 1:
        raise InputError(f"top={top!r}: expected a number of items, 1 or more")


def report_left_out(histories: Histories) -> None:
    """Log what `skip_unknown` left out."""
    items, users = histories.left_out.clip(0), int((histories.left_out < 0).sum())
    if items.any():
        LOG.warning("left out: %s unknown items of %s histories", f"{items.sum():,}", f"{(items > 0).sum():,}")
    if users:
        LOG.warning("unknown users, who get the most popular items: %s", f"{users:,}")


def load(
    run: Path | str,
    new_items: NewItems | None = None,
    plm: Path | str | None = None,
    show_progress: bool = True,
    places: Places | None = None,
) -> Recommender:
    """Open a run; see `recbole_blair.load`."""
    recommender = Recommender(open_run(run, places), show_progress)
    if new_items is not None:
        recommender.add_items(new_items, plm)
    return recommender

"""The Python API of a trained run: `recommend`, `score`, `encode`, and items added by their text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from recbole_blair.errors import InputError
from recbole_blair.recommend.new_items import append_items, check_takes_items, encode_new_items, load_new_items
from recbole_blair.recommend.scorer import Scorer
from recbole_blair.recommend.topk import best_items
from recbole_blair.recommend.users import Users
from recbole_blair.runs.open_run import OpenRun, Places, open_run
from recbole_blair.schema import ITEM_ID, USER_ID

if TYPE_CHECKING:
    import pandas as pd

NewItems = str | Path | Sequence[Mapping[str, Any]]


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
        scorer, keys = self.scorer, ("ascii_text", "text_fields", "text_recipe")
        check_takes_items(scorer.run)
        ids, titles, texts = load_new_items(new_items, scorer.catalogue.codes, *(self.config[key] for key in keys))
        append_items(scorer.model, encode_new_items(scorer.run, ids, texts, plm, scorer.show_progress))
        scorer.catalogue.add(ids, titles)
        scorer.forget_tables()
        return ids

    def recommend(
        self, users: Users, top: int = 10, exclude_history: bool = False, request_time: str | int | None = None
    ) -> pd.DataFrame:
        """Recommend the best items of the whole catalogue.

        Args:
            users: see the class.
            top: items per user.
            exclude_history: leave out every item of the user's history, also those the model no longer sees.
            request_time: `now`, Unix ms or a date; see `load_users`. Only HSTU's time_bias=request depends on it.

        Returns:
            `user_id, rank, item_id, title, score`, at most `top` rows per user, best first, users in the
            order given. Equal scores: in catalogue order.

        Raises:
            InputError: an unknown user or item, an empty history, times that the model needs and are not given.
        """
        import pandas as pd  # heavy

        parts = list(self.iter_recommendations(users, top, exclude_history, request_time))
        return pd.concat(parts, ignore_index=True)

    def iter_recommendations(
        self, users: Users, top: int = 10, exclude_history: bool = False, request_time: str | int | None = None
    ) -> Iterator[pd.DataFrame]:
        """Yield what `recommend` returns in chunks of users, so that any number of them fits into memory."""
        import pandas as pd  # heavy

        if not isinstance(top, int) or isinstance(top, bool) or top < 1:
            raise InputError(f"top={top!r}: expected a number of items, 1 or more")
        histories = self.scorer.load_users(users, request_time)
        ids, titles = np.array(self.item_ids, object), np.array(self.titles, object)
        for rows, scores in self.scorer.score_chunks(histories):
            if exclude_history:
                row, item = histories.whole(rows)
                scores[
                    torch.from_numpy(row).to(scores.device), torch.from_numpy(item).long().to(scores.device)
                ] = -np.inf
            items, values = (x.cpu().numpy() for x in best_items(scores, top))
            user, place = np.nonzero(items)
            item = items[user, place] - 1
            yield pd.DataFrame(
                {
                    USER_ID: np.array(histories.user_ids, object)[rows[user]],
                    "rank": place + 1,
                    ITEM_ID: ids[item],
                    "title": titles[item],
                    "score": values[user, place],
                }
            )

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

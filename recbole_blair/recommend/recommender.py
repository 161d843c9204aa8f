"""The Python API of a trained run: `recommend`, `score`, `encode`, and items added by their text."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_blair.data.atomic import read_header
from recbole_blair.data.dataset import BlairDataset
from recbole_blair.errors import InputError
from recbole_blair.recommend.new_items import append_items, check_takes_items, encode_new_items, load_new_items
from recbole_blair.recommend.topk import best_items
from recbole_blair.recommend.users import Histories, load_users, parse_request_time
from recbole_blair.registry.build_model import trims_histories
from recbole_blair.runs.open_run import OpenRun, Places, open_run
from recbole_blair.schema import ITEM_ID, ITEM_SEQ, ITEM_SEQ_LEN, ITEM_SUFFIX, TIMESTAMP, TIMESTAMP_SEQ, USER_ID
from recbole_blair.train.progress import progress_bar
from recbole_blair.train.runtime import precision_context

if TYPE_CHECKING:
    import pandas as pd

Users = str | Path | Mapping[str, Any] | Sequence["str | Mapping[str, Any]"]
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
        item_ids: the catalogue in the order of every item axis: `.item`'s, then items added.
        titles: theirs; empty where the build holds none.
        config: the run's.
    """

    def __init__(self, run: OpenRun, show_progress: bool = True) -> None:
        self.run, self.model, self.dataset, self.config = run, run.model, run.dataset, run.config
        self.show_progress = show_progress
        self.trim = trims_histories(run.info, run.config)
        self.item_ids, self.titles = self.dataset.item_tokens.to_pylist(), catalogue_titles(self.dataset)
        self._codes: dict[str, int] | None = None
        self._tables: tuple[Tensor, Tensor] | None = None

    @property
    def scores_by_dot_product(self) -> bool:
        """True where a score is the inner product of a user's and an item's vector."""
        return hasattr(self.model, "project_items") and getattr(self.model, "scores_by_dot_product", True)

    @property
    def codes(self) -> dict[str, int]:
        """Internal ids, from 1, by item id."""
        if self._codes is None:
            self._codes = {item_id: number for number, item_id in enumerate(self.item_ids, 1)}
        return self._codes

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
        check_takes_items(self.run)
        ids, titles, texts = load_new_items(
            new_items, self.codes, *(self.config[key] for key in ("ascii_text", "text_fields", "text_recipe"))
        )
        append_items(self.model, encode_new_items(self.run, ids, texts, plm, self.show_progress))
        self.item_ids, self.titles = self.item_ids + ids, self.titles + titles
        self._codes = self._tables = None
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
        histories = self.load_users(users, request_time)
        ids, titles = np.array(self.item_ids, object), np.array(self.titles, object)
        for rows, scores in self.score_chunks(histories):
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
        histories = self.load_users(users, request_time)
        wanted = self.internal(items)
        out = np.empty((len(histories), len(wanted)), np.float32)
        column = torch.from_numpy(wanted).to(self.config["device"])
        for rows, scores in self.score_chunks(histories):
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
        self.check_has_vectors()
        if users is None:
            wanted = self.internal(None if isinstance(items, str) and items == "all" else items)
            return self.tables()[1][torch.from_numpy(wanted).to(self.config["device"])].cpu().numpy()
        parts = [vectors for _, vectors in self.vector_chunks(self.load_users(users, request_time))]
        return np.concatenate(parts)

    # What the calls above are made of.

    def check_has_vectors(self) -> None:
        """Refuse a model without vectors."""
        if not self.scores_by_dot_product:
            raise InputError(
                f"{self.run.info.name} does not score by an inner product of two vectors here, so it has none to give; "
                "use recommend or score"
            )

    def load_users(self, users: Users, request_time: str | int | None = None) -> Histories:
        """Load histories and refuse those without the times the model reads."""
        histories = load_users(users, self.dataset, self.codes, parse_request_time(request_time))
        mode = self.config.get("time_bias") or "none"
        if mode != "none" and not histories.timed.all():
            user_id = histories.user_ids[int(np.flatnonzero(~histories.timed)[0])]
            raise InputError(
                f"{self.run.info.name} (time_bias: {mode}) reads the times of events, but user {user_id!r} has none; "
                f"give {TIMESTAMP_SEQ} (Unix ms) beside {ITEM_SEQ}"
            )
        return histories

    def internal(self, items: str | Sequence[str] | None) -> np.ndarray:
        """Return internal ids (M,) of item ids, or of the whole catalogue."""
        if items is None:
            return np.arange(1, len(self.item_ids) + 1)
        items = [items] if isinstance(items, str) else list(items)
        unknown = [item for item in items if item not in self.codes]
        if unknown:
            raise InputError(
                f"unknown item {unknown[0]!r} ({len(unknown)} of {len(items)}); {self.dataset.name} has "
                f"{len(self.item_ids)} items: add others by their text with new_items"
            )
        return np.array([self.codes[item] for item in items], np.int64)

    def autocast(self) -> AbstractContextManager:
        """The precision context of one forward pass."""
        return precision_context(self.config)

    @torch.no_grad()
    def tables(self) -> tuple[Tensor, Tensor]:
        """Return what histories are made of (N - 1, H), and the item vectors (N, H) float32; computed once."""
        if self._tables is None:
            with self.autocast():
                projected = self.model.project_items()
                self._tables = projected, self.model.item_vectors(projected).float()
        return self._tables

    def batch(self, histories: Histories, rows: np.ndarray) -> Interaction:
        """Build the interaction of users `rows` (B,). Times and user ids are in it only where all users have them."""
        items, times, length = histories.latest(rows, self.config["MAX_ITEM_LIST_LENGTH"])
        if not self.trim:
            items, times = (
                np.pad(x, ((0, 0), (0, self.config["MAX_ITEM_LIST_LENGTH"] - x.shape[1]))) for x in (items, times)
            )
        fields = {ITEM_SEQ: items.astype(np.int64), ITEM_SEQ_LEN: length}
        if histories.timed.all():
            fields.update({TIMESTAMP_SEQ: times, TIMESTAMP: histories.request[rows]})
        if histories.code.all():
            fields[USER_ID] = histories.code[rows]
        tensors = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in fields.items()}
        return Interaction(tensors).to(self.config["device"])

    def chunks(self, histories: Histories, label: str) -> Iterator[np.ndarray]:
        """Yield consecutive user numbers (B,), with a progress bar; a chunk's scores fit `max_score_elements`."""
        fit = self.config["max_score_elements"] // (len(self.item_ids) + 1)
        size = max(1, min(self.config["eval_batch_size"], fit))
        bar = progress_bar(len(histories), label, "users", self.show_progress)
        with contextlib.closing(bar):
            for start in range(0, len(histories), size):
                rows = np.arange(start, min(start + size, len(histories)))
                yield rows
                bar.update(len(rows))

    @torch.no_grad()
    def encode_users(self, histories: Histories, rows: np.ndarray) -> Tensor:
        """Return the vectors (B, H) float32 of users `rows`."""
        with self.autocast():
            return self.model.user_vectors(self.batch(histories, rows), self.tables()[0]).float()

    def vector_chunks(self, histories: Histories) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (rows (B,), vectors (B, H) float32 array)."""
        for rows in self.chunks(histories, "encode users"):
            yield rows, self.encode_users(histories, rows).cpu().numpy()

    def score_chunks(self, histories: Histories) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yield (rows (B,), scores (B, N) float32 tensor that may be written to); column 0 is the padding item."""
        for rows in self.chunks(histories, "score users"):
            if self.scores_by_dot_product:
                yield rows, self.encode_users(histories, rows) @ self.tables()[1].T
            else:
                yield rows, self.full_scores(self.batch(histories, rows))

    @torch.no_grad()
    def full_scores(self, batch: Interaction) -> Tensor:
        """Return scores (B, N) float32 of a model's own full sort.

        Raises:
            InputError: it reads what these users do not have.
        """
        try:
            return self.model.full_sort_predict(batch).view(len(batch), -1).float().clone()
        except KeyError as error:
            field = str(error).strip("'\"")
            words = {
                USER_ID: "reads user ids: it knows only the users it was trained on, given by id",
                TIMESTAMP_SEQ: f"reads the times of events; give {TIMESTAMP_SEQ} (Unix ms) with every history",
            }
            told = words.get(field, f"reads {field}, which a history alone does not have")
            raise InputError(f"{self.run.info.name} {told}") from error


def catalogue_titles(dataset: BlairDataset) -> list[str]:
    """Return the titles of a build's items; empty ones where it has no `.item` file or no title column."""
    path = dataset.build_dir / f"{dataset.name}{ITEM_SUFFIX}"
    if not path.is_file() or "title" not in read_header(path):
        return [""] * (dataset.n_items - 1)
    return dataset.titles().to_pylist()


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

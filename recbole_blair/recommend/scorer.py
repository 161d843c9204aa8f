"""What recommending is made of: batches of histories, the vectors and scores of a run's model, chunk by chunk."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_blair.errors import InputError
from recbole_blair.recommend.catalogue import Catalogue
from recbole_blair.recommend.new_items import NewItemEncoder, append_items, check_takes_items, load_new_items
from recbole_blair.recommend.users import KnownUsers, load_users, parse_request_time
from recbole_blair.registry.build_model import trims_histories
from recbole_blair.schema import ITEM_SEQ, ITEM_SEQ_LEN, TIMESTAMP, TIMESTAMP_SEQ, USER_ID
from recbole_blair.train.evaluation import score_all
from recbole_blair.train.progress import progress_bar
from recbole_blair.train.runtime import precision_context

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence, Sized
    from contextlib import AbstractContextManager
    from pathlib import Path

    from torch import Tensor

    from recbole_blair.recommend.new_items import NewItems
    from recbole_blair.recommend.selection import Filters
    from recbole_blair.recommend.users import Histories, Users
    from recbole_blair.runs.open_run import OpenRun

BLOCK_ITEMS = 4096  # scored at a time on a CPU: of 300 numbers each they lie in its cache while users pass by
FEW_USERS = 8  # up to so many are computed in one thread, see `threads_for`


class Scorer:
    """The model of a run over a catalogue: the build's items and those that were added.

    Args:
        run: an open run; its model is built here.
        show_progress: progress bars.
    """

    def __init__(self, run: OpenRun, show_progress: bool = True) -> None:
        self.run, self.model, self.dataset, self.config = run, run.model, run.dataset, run.config
        self.catalogue, self.show_progress = Catalogue(run.dataset), show_progress
        self.trim = trims_histories(run.info, run.config)
        self._tables: tuple[Tensor, Tensor] | None = None
        self._popularity: Tensor | None = None
        self._known: KnownUsers | None = None
        self._leaves_out: bool | None = None
        self._encoder: NewItemEncoder | None = None  # loaded for the first new item
        self.neighbours: dict[str, tuple[Tensor, Tensor]] = {}  # see `similar.item_vectors`

    def leaves_out_history(self, asked: bool | None) -> bool:
        """Return whether a user's own items are left out: as asked, by default unless the build keeps repeats."""
        if self._leaves_out is None:
            self._leaves_out = not self.dataset.keeps_repeats()
        return self._leaves_out if asked is None else asked

    @property
    def scores_by_dot_product(self) -> bool:
        """True where a score is the inner product of a user's and an item's vector."""
        return hasattr(self.model, "project_items") and getattr(self.model, "scores_by_dot_product", True)

    def mask(self, filters: Filters) -> Tensor | None:
        """Return which items filters let through, (N,) bool on the model's device; None: all."""
        mask = filters.mask(self.catalogue)
        return None if mask is None else torch.from_numpy(mask).to(self.config["device"])

    def encode_items(
        self, new_items: NewItems, plm: Path | str | None = None
    ) -> tuple[np.ndarray, list[str], list[dict[str, str]]]:
        """Return text vectors, ids and columns of new items, as `add_items` takes them; see `Recommender.add_items`."""
        check_takes_items(self.run)
        keys = ("ascii_text", "text_fields", "text_recipe")
        ids, columns, texts = load_new_items(new_items, self.catalogue.codes, *(self.config[key] for key in keys))
        if self._encoder is None or plm is not None:
            self._encoder = NewItemEncoder(self.run, plm, self.show_progress)
        return self._encoder.encode(ids, texts), ids, columns

    @torch.no_grad()
    def add_items(self, features: np.ndarray, ids: Sequence[str], columns: Sequence[Mapping[str, str]]) -> None:
        """Add items to model and catalogue; see `append_items`. The vectors of the others are not computed again."""
        known = self.tables() if self.scores_by_dot_product else None
        first = len(self.catalogue) + 1
        append_items(self.model, features)
        self.catalogue.add(ids, columns)
        self.neighbours.clear()
        if known is not None:
            items = torch.arange(first, first + len(ids), device=known[1].device)
            with self.autocast():
                projected = self.model.project_items(items)
                vectors = self.model.item_vectors(projected).float()[1:]
            self._tables = torch.cat([known[0], projected]), by_column(torch.cat([known[1], vectors]))

    def check_has_vectors(self) -> None:
        """Refuse a model without vectors."""
        if not self.scores_by_dot_product:
            raise InputError(
                f"{self.run.info.name} does not score by an inner product of two vectors here, so it has none to give; "
                "use recommend or score"
            )

    def load_users(
        self, users: Users, request_time: str | int | None = None, allow_empty: bool = False, skip_unknown: bool = False
    ) -> Histories:
        """Load histories and refuse those without the times the model reads; see `users.load_users`."""
        request_ms = parse_request_time(request_time)
        self._known = self._known or KnownUsers(self.dataset)
        codes = self.catalogue.codes
        histories = load_users(users, self.dataset, codes, request_ms, allow_empty, skip_unknown, self._known)
        mode, untimed = self.config.get("time_bias") or "none", ~histories.timed & histories.filled
        if mode != "none" and untimed.any():
            user_id = histories.user_ids[int(np.flatnonzero(untimed)[0])]
            raise InputError(
                f"{self.run.info.name} (time_bias: {mode}) reads the times of events, but user {user_id!r} has none; "
                f"give {TIMESTAMP_SEQ} (Unix ms) beside {ITEM_SEQ}"
            )
        return histories

    def autocast(self) -> AbstractContextManager:
        """The precision context of one forward pass."""
        return precision_context(self.config)

    @torch.no_grad()
    def tables(self) -> tuple[Tensor, Tensor]:
        """Return what histories are made of (N - 1, H), and the item vectors (N, H) float32, laid out by column."""
        if self._tables is None:
            with self.autocast():
                projected = self.model.project_items()
                self._tables = projected, by_column(self.model.item_vectors(projected).float())
        return self._tables

    def batch(self, histories: Histories, rows: np.ndarray) -> Interaction:
        """Build the interaction of users `rows` (B,). Times and user ids are in it only where all users have them."""
        items, times, length = histories.latest(rows, self.config["MAX_ITEM_LIST_LENGTH"])
        if not self.trim:
            items, times = (
                np.pad(x, ((0, 0), (0, self.config["MAX_ITEM_LIST_LENGTH"] - x.shape[1]))) for x in (items, times)
            )
        fields = {ITEM_SEQ: items.astype(np.int64), ITEM_SEQ_LEN: length}
        if (histories.timed | ~histories.filled).all():
            fields.update({TIMESTAMP_SEQ: times, TIMESTAMP: histories.request[rows]})
        if ((histories.code > 0) | ~histories.filled).all():
            fields[USER_ID] = histories.code[rows]
        tensors = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in fields.items()}
        return Interaction(tensors).to(self.config["device"])

    def split_rows(self, histories: Histories) -> list[np.ndarray]:
        """Return consecutive user numbers (B,) in chunks whose scores fit `max_score_elements`."""
        fit = self.config["max_score_elements"] // (len(self.catalogue) + 1)
        size = max(1, min(self.config["eval_batch_size"], fit))
        return np.split(np.arange(len(histories)), range(size, len(histories), size))

    def chunks(self, histories: Histories, label: str) -> Iterator[np.ndarray]:
        """Yield the chunks of `split_rows` with a progress bar."""
        bar = progress_bar(len(histories), label, "users", self.show_progress)
        with contextlib.closing(bar):
            for rows in self.split_rows(histories):
                yield rows
                bar.update(len(rows))

    @torch.no_grad()
    def encode_users(self, histories: Histories, rows: np.ndarray) -> Tensor:
        """Return the vectors (B, H) float32 of users `rows`."""
        projected = self.tables()[0]  # with all threads
        with self.autocast(), threads_for(rows):
            return self.model.user_vectors(self.batch(histories, rows), projected).float()

    def vector_chunks(self, histories: Histories) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (rows (B,), vectors (B, H) float32 array)."""
        for rows in self.chunks(histories, "encode users"):
            yield rows, self.encode_users(histories, rows).cpu().numpy()

    def score_chunks(self, histories: Histories) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yield (rows (B,), scores (B, N) float32 tensor that may be written to); column 0 is the padding item."""
        for rows in self.chunks(histories, "score users"):
            yield rows, self.score_rows(histories, rows)

    def score_rows(self, histories: Histories, rows: np.ndarray) -> Tensor:
        """Return scores (B, N) float32 of users `rows` (B,); those of an empty history are the items' popularity."""
        return self.score_many([(histories, rows)])[0]

    def score_many(self, parts: Sequence[tuple[Histories, np.ndarray]]) -> list[Tensor]:
        """Return what `score_rows` returns for each of several (histories, rows), bit for bit.

        Together they are faster: a block of the item table is read once for all of them. Each keeps matrix products of
        its own, since a product's last bits depend on its shape.
        """
        filled = [rows[histories.filled[rows]] for histories, rows in parts]
        scores = self.model_scores([(part[0], rows) for part, rows in zip(parts, filled) if len(rows)])
        return [
            next(scores)
            if len(own) == len(rows)
            else self.with_popularity(histories.filled[rows], next(scores) if len(own) else None)
            for (histories, rows), own in zip(parts, filled)
        ]

    def model_scores(self, parts: Sequence[tuple[Histories, np.ndarray]]) -> Iterator[Tensor]:
        """Return the model's scores (B, N) float32 of each of several (histories, rows), no history of them empty."""
        if self.scores_by_dot_product:
            return iter(self.score_vectors([self.encode_users(histories, rows) for histories, rows in parts]))
        return (self.full_scores(self.batch(histories, rows)) for histories, rows in parts)

    @torch.no_grad()
    def score_vectors(self, vectors: Sequence[Tensor]) -> list[Tensor]:
        """Return the inner products (B, N) float32 of user vectors (B, H) with all items, for each of several."""
        table = self.tables()[1]  # (N, H)
        scores = [own.new_empty(len(own), len(table)) for own in vectors]
        step = BLOCK_ITEMS if table.device.type == "cpu" else len(table)
        for start in range(0, len(table), step):
            block = table[start : start + step].T  # (H, step)
            for own, out in zip(vectors, scores):
                with threads_for(own):
                    torch.mm(own, block, out=out[:, start : start + step])
        return scores

    def with_popularity(self, filled: np.ndarray, own: Tensor | None) -> Tensor:
        """Return scores (B, N): `own`, the model's, where `filled` (B,), the items' popularity elsewhere."""
        scores = self.popularity().repeat(len(filled), 1)
        if own is not None:
            scores[torch.from_numpy(filled).to(scores.device)] = own
        return scores

    def popularity(self) -> Tensor:
        """Return how often each item is a target of training, (N,) float32; 0 for items that were added."""
        if self._popularity is None or len(self._popularity) != len(self.catalogue) + 1:
            counts = np.zeros(len(self.catalogue) + 1, np.float32)
            counts[: self.dataset.n_items] = self.dataset.item_counts("train")
            self._popularity = torch.from_numpy(counts).to(self.config["device"])
        return self._popularity

    @torch.no_grad()
    def full_scores(self, batch: Interaction) -> Tensor:
        """Return scores (B, N) float32 of a model's own full sort.

        Raises:
            InputError: it reads what these users do not have.
        """
        try:
            with threads_for(batch):
                return score_all(self.model, batch, self.dataset.n_items).clone()
        except KeyError as error:
            field = str(error).strip("'\"")
            words = {
                USER_ID: "reads user ids: it knows only the users it was trained on, given by id",
                TIMESTAMP_SEQ: f"reads the times of events; give {TIMESTAMP_SEQ} (Unix ms) with every history",
            }
            told = words.get(field, f"reads {field}, which a history alone does not have")
            raise InputError(f"{self.run.info.name} {told}") from error


@contextlib.contextmanager
def threads_for(users: Sized) -> Iterator[None]:
    """Compute a few users in one thread, more in as many as PyTorch has.

    A thread has some ten microseconds of work in each product of a few users, and where a server and whoever asks it
    want the same cores, the other threads wait for the last one to get a core, product after product.
    """
    threads = torch.get_num_threads()
    if len(users) > FEW_USERS or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def by_column(table: Tensor) -> Tensor:
    """Return item vectors (N, H) with each column's numbers side by side.

    For the scores of one user that is up to three times as fast: they are a sum of H columns, each read once from front
    to back, in place of N short inner products.
    """
    return table.T.contiguous().T

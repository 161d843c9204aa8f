"""The dataset RecBole models are built from, over the flat arrays of one build.

Shapes: R rows of a split, S events of all users, N items and U users with padding 0, D width of text features.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from recbole_blair.data.atomic import has_histories, open_atomic
from recbole_blair.data.feature_transforms import Transform, load_transform
from recbole_blair.data.interactions import load_interactions
from recbole_blair.data.sequences import ragged_range
from recbole_blair.data.user_items import UserItems
from recbole_blair.errors import InputError
from recbole_blair.files.own_json import read_own_json
from recbole_blair.schema import ITEM_ID, ITEM_SUFFIX, SPLITS, STATS_SUFFIX, USER_ID
from recbole_blair.text.features import feature_path, load_features
from recbole_blair.text.trained.item_texts import FrozenTexts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from recbole_blair.text.trained.item_texts import TrainedTexts
    from recbole_blair.text.trained.source import TextSource


class Rows:
    """The rows of one split: a table (R, 3) int32 of `target`, `length` and `user`.

    Row r predicts the item of `events[target[r]]`; its history is `events[target[r] - length[r] : target[r]]`, a slice
    of the sequence of user `user[r]`.
    """

    def __init__(self, table: np.ndarray) -> None:
        self.table = np.asarray(table)
        self.target, self.length, self.user = self.table.T

    def __len__(self) -> int:
        return len(self.table)


class BlairDataset(UserItems):
    """One build in memory maps: rows, sequences, item ids and, when loaded, item text features.

    Item ids run from 1 in the order of `.item`, 0 is padding; so row i - 1 of the features is item i. User ids run
    from 1 in order of first occurrence. Rows of pairs (protocol=random) have no history: a user's sequence then is
    train's items, valid's and test's.

    Args:
        build_dir: folder of the atomic files.
        use_cache: keep and use a binary copy in `.cache/`.

    Raises:
        InputError: see `load_interactions`.
    """

    def __init__(self, build_dir: Path | str, use_cache: bool = True) -> None:
        build_dir = Path(build_dir)
        tables = load_interactions(build_dir, use_cache)
        self.set_tables(build_dir, tables, has_histories(build_dir / f"{build_dir.name}.train.inter"))

    def set_tables(self, build_dir: Path, tables: Mapping[str, Any], histories: bool) -> None:
        """Take the tables of `load_interactions`; `histories`: whether rows have one."""
        self.build_dir, self.name = build_dir, build_dir.name
        self.item_tokens, self.user_tokens = tables["item_tokens"], tables["user_tokens"]
        self.events = np.asarray(tables["events"])  # (S, 2) int64: item id, time in ms
        self.seq_items, self.seq_times = self.events.T  # (S,) each
        self.user_start = tables["user_start"]  # (U,) int64: first event of a user, -1 where rows do not chain
        self.rows = {split: Rows(tables[f"{split}_rows"]) for split in SPLITS}
        self.n_items = len(self.item_tokens) + 1
        self.n_users = len(self.user_tokens) + 1
        self.chained = bool((self.user_start[1:] >= 0).all())
        self.has_histories = histories
        self.text_header: dict[str, Any] | None = None
        self._text_features: np.ndarray | Tensor | None = None  # (N - 1, D)
        self.transform = Transform("none")  # of the features
        self.text_source: TextSource | None = None  # of an encoder that trains with the recommender
        self.draws_from_train = False  # negatives_from=train
        self.field2seqlen: dict[str, int] = {}  # set with the model; RecBole's CORE reads it

    # What RecBole's models ask a dataset for.

    @property
    def item_num(self) -> int:
        """Items with the padding item."""
        return self.n_items

    @property
    def user_num(self) -> int:
        """Users with the padding user."""
        return self.n_users

    def num(self, field: str) -> int:
        """Count the ids of a field, padding included.

        Raises:
            InputError: a field other than the user's and the item's.
        """
        counts = {USER_ID: self.n_users, ITEM_ID: self.n_items}
        if field not in counts:
            raise InputError(f"the rows carry no ids of {field!r}; known: {', '.join(counts)}")
        return counts[field]

    def id2token(self, field: str, ids: int | Sequence[int] | np.ndarray) -> list[str]:
        """Return the raw ids of internal ones; padding reads `[PAD]`."""
        tokens = self.item_tokens if field == ITEM_ID else self.user_tokens
        return [tokens[int(i) - 1].as_py() if i else "[PAD]" for i in np.atleast_1d(ids)]

    def token2id(self, field: str, tokens: str | Sequence[str]) -> np.ndarray:
        """Return the internal ids of raw ones.

        Raises:
            InputError: a raw id that the build does not hold.
        """
        known = self.item_tokens if field == ITEM_ID else self.user_tokens
        wanted = np.atleast_1d(tokens).tolist()
        codes = [pc.index(known, t).as_py() for t in wanted]
        if -1 in codes:
            raise InputError(f"{self.name} has no {field} {wanted[codes.index(-1)]!r}")
        return np.asarray(codes) + 1

    # Item text.

    def load_text_features(self, encoder_name: str, plm_size: int | None = None, transform: str = "none") -> None:
        """Map the features of one encoder, rows in `.item` order, checked against this build's ids and texts.

        Args:
            encoder_name: as in the feature file's name.
            plm_size: width the features must have; None: any.
            transform: of `feature_transforms`, fitted on the items of training rows; all but `none` take memory.

        Raises:
            InputError: no such file, or one of other items, texts or width.
        """
        features, header = load_features(self.build_dir, encoder_name)
        if plm_size is not None and header["width"] != plm_size:
            raise InputError(
                f"{self.name}.{encoder_name}.feature has width {header['width']} but plm_size is {plm_size}; "
                f"set plm_size: {header['width']} (or leave it empty) or encode again"
            )
        path = feature_path(self.build_dir, encoder_name)
        self.transform = load_transform(path, transform, features, header, self.items_of_rows("train") - 1)
        self.set_text_features(self.transform.apply(features), header)

    def set_text_features(self, features: np.ndarray | Tensor, header: dict[str, Any] | None = None) -> None:
        """Attach features (N - 1, D) float32; row i - 1 is item i."""
        if len(features) != self.n_items - 1:
            raise InputError(f"{len(features)} feature rows for {self.n_items - 1} items of {self.name}")
        self._text_features = features
        self.text_header = header

    @property
    def text_features(self) -> Tensor:
        """Item text features, (N - 1, D) float32 tensor; row i - 1 is item i.

        Raises:
            InputError: none were loaded.
        """
        if self._text_features is None:
            raise InputError(f"no text features are loaded for {self.name}; `recbole-blair encode` makes them")
        if isinstance(self._text_features, torch.Tensor):
            return self._text_features
        return readonly_tensor(self._text_features)

    def item_texts(self, dtype: torch.dtype) -> FrozenTexts | TrainedTexts:
        """Return what gives a model the text vectors of its items: rows of the features, or an encoder that trains.

        Args:
            dtype: of the vectors.

        Raises:
            InputError: no features were loaded, or the encoder cannot be trained on this machine.
        """
        if self.text_source is not None:
            return self.text_source.build()
        return FrozenTexts(self.text_features.to(dtype))

    @property
    def drawn_items(self) -> np.ndarray | None:
        """Return the ids that negatives are drawn from, (m,) int64; None: all.

        An encoder that trains draws from the items of training rows, so that no text of a later item enters a step; so
        does any model with `negatives_from=train`.
        """
        return self.items_of_rows("train") if self.draws_from_train or self.text_source is not None else None

    def titles(self) -> pa.StringArray:
        """Return the item titles as a pyarrow array in id order."""
        path = self.build_dir / f"{self.name}{ITEM_SUFFIX}"
        return pa.concat_arrays([batch.column(0) for batch in open_atomic(path, ["title"])])

    def stats(self) -> dict[str, Any]:
        """Return the build's stats.json; empty for a build of other tools."""
        path = self.build_dir / f"{self.name}{STATS_SUFFIX}"
        fix = "delete it and run prepare again"
        return read_own_json(path, "the statistics of a build", fix) if path.is_file() else {}

    def keeps_repeats(self) -> bool:
        """Tell whether the build was made with `--keep_repeats`."""
        return bool(self.stats().get("settings", {}).get("keep_repeats", False))

    # Counts.

    def count_repeats(self, split: str) -> int:
        """Return how many rows of a split have their target in their history, of all earlier events where known."""
        rows = np.arange(len(self.rows[split]))
        items, length = self.history_of(split, rows, full=self.chained)
        same = items == np.repeat(self.seq_items[np.asarray(self.rows[split].target)], length)
        return len(np.unique(np.repeat(rows, length)[same]))

    def item_counts(self, split: str = "train") -> np.ndarray:
        """Return how often each item is a target of a split, (N,) int64, padding 0."""
        return np.bincount(self.seq_items[self.rows[split].target], minlength=self.n_items)

    def items_of_rows(self, split: str) -> np.ndarray:
        """Return the items of a split's rows, targets and histories, sorted, (m,) int64."""
        rows, last = self.rows[split], len(self.seq_items)
        # +1 where a row's events begin, -1 behind its target: an event is in a row where the running sum is above 0.
        edges = np.zeros(last + 2, np.int64)
        np.add.at(edges, rows.target - rows.length, 1)
        np.add.at(edges, rows.target + 1, -1)
        return np.unique(self.seq_items[edges.cumsum()[:last] > 0]).astype(np.int64)

    @property
    def has_times(self) -> bool:
        """True when every split's rows carry times; other tools' builds may hold none, which reads as zeros."""
        return all(bool(self.seq_times[rows.target].any()) for rows in self.rows.values())

    @property
    def latest_ms(self) -> int:
        """The time of the latest event, Unix ms; 0 without times."""
        return int(self.seq_times.max(initial=0))

    def seen_items(self, split: str = "train") -> np.ndarray:
        """Return which items occur in a split's rows, as target or in a history, (N,) bool; padding is False."""
        rows = self.rows[split]
        target = np.asarray(rows.target)
        # +1 where a row's slice begins, -1 behind its end: the running sum counts the rows that cover an event.
        edge = np.bincount(target - rows.length, minlength=len(self.seq_items) + 1)  # (S + 1,)
        edge -= np.bincount(target + 1, minlength=len(self.seq_items) + 1)
        seen = np.zeros(self.n_items, bool)  # (N,)
        seen[self.seq_items[np.cumsum(edge[:-1]) > 0]] = True
        return seen

    def history_lengths(self, split: str) -> np.ndarray:
        """Return the length of each row's history, (R,); of rows of pairs the user's items in the earlier splits."""
        rows = self.rows[split]
        if self.has_histories:
            return np.asarray(rows.length)
        return self.n_rows_of_user[: SPLITS.index(split)].sum(0)[rows.user]

    def history_of(self, split: str, rows: np.ndarray, full: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return the history items of chosen rows, flat, and their lengths.

        Args:
            split: train, valid or test.
            rows: (B,) row numbers of the split.
            full: everything before the target, not only the history the row keeps.

        Of rows of pairs it returns the user's items of the earlier splits, whatever `full` says.

        Raises:
            InputError: `full` where the build's rows do not chain.
        """
        part = self.rows[split]
        if not self.has_histories:
            return self.items_before(split, np.asarray(part.user[rows], np.int64))
        target = np.asarray(part.target[rows])
        if full:
            if not self.chained:
                raise InputError(f"{self.name} keeps no whole sequences; they cannot be rebuilt from its rows")
            length = target - np.asarray(self.user_start[part.user[rows]])
        else:
            length = np.asarray(part.length[rows], np.int64)
        at = np.repeat(target - length, length) + ragged_range(length)  # (sum of lengths,) positions of the events
        return self.seq_items[at], length


def readonly_tensor(array: np.ndarray) -> Tensor:
    """View a read-only memory map as a tensor without PyTorch's warning; nobody writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(array))

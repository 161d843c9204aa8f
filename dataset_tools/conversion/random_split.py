"""The split of the random protocol: distinct (user, item) pairs, shuffled with a seed and cut at given shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dataset_tools.conversion.inter_rows import find_accompanied
from dataset_tools.conversion.user_events import NO_ROW
from recbole_blair.schema import SPLITS

if TYPE_CHECKING:
    from dataset_tools.storage.duckdb_session import DuckDBSession
    from dataset_tools.storage.spill_buffer import SpillBuffer


class RandomSplit:
    """Deals the pairs of users with two items or more out to train, valid and test.

    The pairs have a fixed order: users by their first event, a user's by time, equal times by line. One number per pair
    says its split; with n pairs and the shares 4:3:3 there are floor(4n / 10) times train, floor(3n / 10) times valid,
    and the rest is test. The numbers are shuffled and given to the pairs in their order, which takes one byte per pair
    and is as random as shuffling the pairs themselves.

    The released code shuffles a Python set of strings, whose order changes from process to process in spite of the
    seed; so its own split cannot be made again.

    Args:
        n_pairs: how many there are.
        shares: of train, valid and test, whole numbers.
        seed: of the shuffle.

    Source: BLaIR-Bench (the collaborative filtering task).
    """

    def __init__(self, n_pairs: int, shares: Sequence[int], seed: int) -> None:
        self._splits = np.repeat(np.arange(len(SPLITS), dtype=np.int8), count_shares(n_pairs, shares))  # (n_pairs,)
        np.random.default_rng(seed).shuffle(self._splits)
        self._done = 0

    @classmethod
    def of_events(cls, session: DuckDBSession, events: SpillBuffer, shares: Sequence[int], seed: int) -> RandomSplit:
        """Count the pairs of a buffer of events first."""
        with events.as_relation():
            n_pairs = session.value(
                f"""SELECT coalesce(sum(items), 0)::BIGINT FROM
                (SELECT count(DISTINCT item) AS items FROM {events.name} WHERE item <> {NO_ROW} GROUP BY user_id)
                WHERE items > 1"""
            )
        return cls(n_pairs, shares, seed)

    def __call__(self, user: np.ndarray, _: np.ndarray) -> np.ndarray:
        """Return the split (n,) int8 of the next pairs, of whole users; a user's only pair, which is no row, gets 0."""
        rows = find_accompanied(user)
        first, self._done = self._done, self._done + int(np.count_nonzero(rows))
        split = np.zeros(len(user), np.int8)
        split[rows] = self._splits[first : self._done]
        return split


def count_shares(n: int, shares: Sequence[int]) -> list[int]:
    """Return how many of n things each share gets, rounded down; the last one gets the rest."""
    counts = [n * share // sum(shares) for share in shares[:-1]]
    return [*counts, n - sum(counts)]

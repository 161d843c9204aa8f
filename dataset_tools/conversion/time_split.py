"""The split of the timestamp protocol: train before one instant, validation before another, test from there on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from dataset_tools.conversion.user_events import NO_ROW

if TYPE_CHECKING:
    from dataset_tools.storage.duckdb_session import DuckDBSession
    from dataset_tools.storage.spill_buffer import SpillBuffer

VALID_FROM, TEST_FROM = 0.8, 0.9  # 8:1:1, for data that has no instants of its own


def resolve_instants(
    session: DuckDBSession, events: SpillBuffer, valid_start_ms: int | None, test_start_ms: int | None,
    keep_repeats: bool = False,
) -> tuple[int, int]:  # fmt: skip
    """Return the two instants; those that are None come from 8:1:1 over all interactions by time.

    With `keep_repeats` every event is an interaction, else a user's first with an item.
    """
    times = "ts AS t" if keep_repeats else "min(ts) AS t"
    of_pairs = "" if keep_repeats else "GROUP BY user_id, item"
    if valid_start_ms is not None and test_start_ms is not None:
        return valid_start_ms, test_start_ms
    with events.as_relation():
        valid, test = session.run(
            f"""SELECT quantile_disc(t, {VALID_FROM}), quantile_disc(t, {TEST_FROM}) FROM
            (SELECT {times} FROM {events.name} WHERE item <> {NO_ROW} {of_pairs})"""
        )[0]
    return (
        valid if valid_start_ms is None else valid_start_ms,
        test if test_start_ms is None else test_start_ms,
    )


def split_by_time(valid_start_ms: int, test_start_ms: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return a function from (user, time_ms) to the split of each event; an instant belongs to the later split."""

    def split(_: np.ndarray, time_ms: np.ndarray) -> np.ndarray:
        return (time_ms >= valid_start_ms).astype(np.int8) + (time_ms >= test_start_ms).astype(np.int8)

    return split

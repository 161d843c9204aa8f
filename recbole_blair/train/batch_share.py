"""One process's share of each training batch, so that several processes take the step that one process would take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from recbole_blair.parallel.distributed import all_reduce_sum, rank, world_size
from recbole_blair.schema import TARGET_SEQ

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction

    from recbole_blair.data.pair_loader import Loader


def iterate_shares(loader: Loader) -> Iterator[tuple[Interaction, int, float]]:
    """Iterate over a training epoch.

    With W processes a batch has W times `batch_size` rows: all processes draw the same order, and process r takes the
    rows r, r + W, r + 2W, … of each batch. Where the last batch has fewer rows than there are processes, a process
    without a row takes one whose weight is 0.

    Args:
        loader: its `epoch` is set.

    Yields:
        (interaction, n_rows, weight): this process's rows, the number of rows of the whole batch, and the fraction of
        the batch's supervised targets that are this process's; 1.0 for one process.
    """
    world = world_size()
    if world == 1:
        for interaction in loader:
            yield interaction, len(interaction), 1.0
        return
    size, loader.batch_size = loader.batch_size, loader.batch_size * world
    try:
        for rows in loader.batches():
            mine = rows[rank() :: world]
            interaction = loader.build(mine if len(mine) else rows[:1])
            targets = float(count_targets(interaction)) if len(mine) else 0.0
            yield interaction, len(rows), targets / all_reduce_sum(targets)
    finally:
        loader.batch_size = size


def count_targets(interaction: Interaction) -> int:
    """Count what a batch supervises: one target per row, or the marked positions of sequences."""
    if TARGET_SEQ in interaction:
        return int((interaction[TARGET_SEQ] > 0).sum())
    return len(interaction)

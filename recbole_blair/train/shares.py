"""One process's share of each training batch, so that several processes take the step that one would take."""

from recbole_blair.parallel.distributed import all_reduce_sum, rank, world_size
from recbole_blair.schema import TARGET_SEQ


def shares(loader):
    """Iterate over a training epoch.

    With several processes a batch has `batch_size` rows in each: all of them draw the same order, and each takes every
    world-size-th row of a batch of all. Where the last batch has fewer rows than there are processes, those without one
    take a row that counts nothing.

    Args:
        loader (RowLoader | SequenceLoader): its `epoch` is set.

    Yields:
        (interaction, n_rows, weight): the rows of the whole batch, and this share's part of all its supervised targets,
        1.0 alone.
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


def count_targets(interaction):
    """Count what a batch supervises: one target a row, or the marked positions of sequences."""
    if TARGET_SEQ in interaction:
        return int((interaction[TARGET_SEQ] > 0).sum())
    return len(interaction)

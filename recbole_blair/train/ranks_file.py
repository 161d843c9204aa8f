"""`ranks.parquet`: the rank of every test row's target, with its user and item; the run's checksums.json records it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recbole_blair.files.checksum import recorded_file
from recbole_blair.train.run_folder import RANKS

if TYPE_CHECKING:
    from recbole_blair.data.dataset import BlairDataset


def save_ranks(run_dir: Path, dataset: BlairDataset, rank: np.ndarray) -> None:
    """Write the ranks (R,) of the test rows."""
    with recorded_file(run_dir / RANKS) as temporary:
        pq.write_table(ranked_rows_table(dataset, rank), temporary, write_page_checksum=True)


def ranked_rows_table(dataset: BlairDataset, rank: np.ndarray) -> pa.Table:
    """Return a table of one row per test row: `user_id`, `item_id` (the target), `history_length`, `rank`.

    Of rows of pairs `history_length` counts the user's items in train and valid.
    """
    rows = dataset.rows["test"]
    return pa.table(
        {
            "user_id": dataset.user_tokens.take(pa.array(np.asarray(rows.user) - 1)),
            "item_id": dataset.item_tokens.take(pa.array(dataset.seq_items[rows.target] - 1)),
            "history_length": dataset.history_lengths("test"),
            "rank": rank,
        }
    )

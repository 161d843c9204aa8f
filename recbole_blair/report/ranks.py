"""The rank of every test row's target for a report: from ranks.parquet, or by evaluating the run again."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recbole_blair.data.dataset import BlairDataset
from recbole_blair.errors import InputError
from recbole_blair.files.checksum import check_recorded
from recbole_blair.report.runs import Run
from recbole_blair.runs.evaluate_run import evaluate_opened
from recbole_blair.runs.open_run import OpenRun, Places, open_run
from recbole_blair.train.metrics import metric_values
from recbole_blair.train.ranks_file import ranked_rows_table
from recbole_blair.train.run_folder import METRICS, RANKS


@dataclass
class Ranks:
    """What a run ranked: of each test row the target's rank, the user, the target, the items in the history.

    `gap` is the largest difference of the metrics from metrics.json; None when the ranks are those of ranks.parquet.
    `per_user` says that metrics are means over users, who may have several rows each.
    """

    rank: np.ndarray  # (R,) float64, 1 is best
    user: pa.Array  # (R,) strings
    item: pa.Array  # (R,) strings
    length: np.ndarray  # (R,) int64
    gap: float | None = None
    per_user: bool = False

    @classmethod
    def from_table(cls, table: pa.Table, gap: float | None = None, per_user: bool = False) -> Ranks:
        """Take the columns of `ranked_rows_table`."""
        user, item = (table[name].combine_chunks() for name in ("user_id", "item_id"))
        length = table["history_length"].to_numpy().astype(np.int64)
        return cls(table["rank"].to_numpy(), user, item, length, gap, per_user)

    @functools.cached_property
    def user_number(self) -> np.ndarray:
        """Each row's user as a number from 0, (R,) int64."""
        return np.unique(self.user.to_numpy(zero_copy_only=False), return_inverse=True)[1].reshape(-1)

    @property
    def metric_user(self) -> np.ndarray | None:
        """What `compute_metrics` takes as `user`: (R,) int64, or None where each row stands for itself."""
        return self.user_number if self.per_user else None

    def values(self, metric: str) -> np.ndarray:
        """Return a metric's value for each row, (R,), or for each user, (U,), as `metric_values` does."""
        return metric_values(self.rank, metric, self.metric_user)

    def users_of_values(self) -> np.ndarray:
        """Return whose each of `values` is, as numbers from 0."""
        return np.unique(self.user_number) if self.per_user else self.user_number


class Opener:
    """Opens the runs of a report, each when it is first needed; a dataset that several runs share is opened once.

    Args:
        data_path: folder of the builds; None: as each run's config.yaml says.
        device: auto, cpu, cuda …
        progress: show bars while runs are evaluated.
    """

    def __init__(self, data_path: str | None = None, device: str = "auto", progress: bool = True) -> None:
        self.places, self.progress = Places(data_path=data_path, device=device), progress
        self.datasets: dict[Path, BlairDataset] = {}

    def open(self, run: Run) -> OpenRun:
        """Open a run; its model is built only when it is asked for."""
        found = open_run(run.folder, self.places, self.datasets)
        found.config = found.config.replace(show_progress=self.progress)
        return found

    def dataset(self, runs: Sequence[Run]) -> BlairDataset:
        """Return the dataset of runs that ranked the same rows: of the first of them that can be opened.

        Raises:
            InputError: why the first one cannot, when none can.
        """
        errors = []
        for run in runs:
            try:
                return self.open(run).dataset
            except InputError as error:
                errors.append(error)
        raise errors[0]

    def ranks(self, run: Run, evaluate: bool = True) -> Ranks:
        """Return a run's ranks.

        Raises:
            InputError: no file, and evaluation is off or not possible; or a file of other rows than metrics.json.
        """
        path = run.folder / RANKS
        if path.exists():
            return read_ranks(run, path)
        if not evaluate:
            raise InputError(f"{run.name} has no {RANKS} and was not evaluated again (train it with --save_ranks=True)")
        opened = self.open(run)
        metrics, rank = evaluate_opened(opened, "test")
        gap = max(abs(metrics[m] - v) for m, v in run.metrics["test"].items() if m in metrics)
        return Ranks.from_table(ranked_rows_table(opened.dataset, rank), gap, run.per_user)


def read_ranks(run: Run, path: Path) -> Ranks:
    """Read ranks.parquet and check it against metrics.json.

    Raises:
        InputError: it cannot be read, or holds the ranks of another evaluation.
    """
    check_recorded(path, "delete it, and the run is evaluated again")
    try:
        columns = ["user_id", "item_id", "history_length", "rank"]
        table = pq.read_table(path, columns=columns, page_checksum_verification=True)
        ranks = Ranks.from_table(table, per_user=run.per_user)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is damaged ({reason}); delete it, and the run is evaluated again") from error
    for metric, recorded in run.metrics["test"].items():
        value = float(ranks.values(metric).mean()) if len(ranks.rank) else float("nan")
        if not abs(value - recorded) < 1e-9:
            raise InputError(
                f"{path} is not of the evaluation in {METRICS}: its {metric} is {value:.6f}, there it is "
                f"{recorded:.6f}; delete it"
            )
    return ranks


def check_same_rows(first: tuple[Run, Ranks], other: tuple[Run, Ranks]) -> None:
    """Refuse two runs whose ranks are of other rows or in another order.

    Raises:
        InputError: names both.
    """
    if not (other[1].user.equals(first[1].user) and other[1].item.equals(first[1].item)):
        raise InputError(f"{other[0].name} ranked other test rows than {first[0].name}, so they cannot be paired")

"""Claims of a table that one row is above another, and whether paired values of the same users or queries agree.

    orders:
      - published by ndcg@10, recall@10    # each row and the next one down by the published figures; recall@10 if equal
      - unisrec-blair-base > unisrec-roberta-base by ndcg@10 on games, baby
      - hstublair against hstu by ndcg@10    # a question: which is above, if either

A claim `A > B` holds only where the interval of A - B is above 0. The order of the published figures is contradicted
where the interval is below 0; published differences may be too small to be seen. A question whose answer is on
record is contradicted in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from recbole_blair.errors import InputError, nearest
from recbole_blair.files.checksum import check_recorded
from recbole_blair.files.read import read_parquet
from recbole_blair.schema import AFTER_RANKS, BEFORE_RANKS

if TYPE_CHECKING:
    from recbole_blair.reproduce.tables import Row

HOLDS, REVERSED, NOT_SHOWN, UNDECIDED = "holds", "reversed", "not shown", "undecided"
ABOVE, BELOW = "above", "below"  # the answers to a question, with undecided
SPEC = re.compile(r"(?P<chain>.+?) by (?P<metrics>.+?)(?: on (?P<labels>.+))?")
PUBLISHED = "published"
AGAINST = " against "


@dataclass(frozen=True)
class Order:
    """One row above another on one data set.

    `published` maps each metric that is compared to A minus B of the published figures, in the rows' unit; None where a
    figure is not published. `claimed` are the metrics of claims `A > B`, `asked` those of questions `A against B`.
    """

    above: Row
    below: Row
    published: dict[str, float | None]
    claimed: set[str]
    asked: set[str] = field(default_factory=set)

    @property
    def id(self) -> str:
        """Return `<table>/<above>-over-<below>/<data>`."""
        return f"{self.above.table}/{self.above.name}-over-{self.below.name}/{self.above.label}"


class PairedValues(NamedTuple):
    """A metric's value for each test row or query, the mean over the seeds."""

    ids: np.ndarray  # (R,) str: what the row is, equal in both models
    users: np.ndarray  # (R,) str or int: rows of one user, or of one query text, are not independent
    values: np.ndarray  # (R,) float64
    means: tuple[float, ...]  # of each seed


def read_orders(table: str, specs: Sequence[str], rows: Sequence[Row]) -> list[Order]:
    """Return the orders that a table states.

    Args:
        table: its name, for messages.
        specs: see the module.
        rows: all rows of the table.

    Raises:
        InputError: a line that is not of this form, an unknown row, or one that the published figures contradict.
    """
    found: dict[str, Order] = {}
    for spec in specs:
        match = SPEC.fullmatch(str(spec).strip())
        if match is None:
            raise InputError(
                f"{table}.yaml: orders has {spec!r}; expected `A > B by METRIC`, `A against B by METRIC` or "
                "`published by METRIC`"
            )
        metrics, labels = split_commas(match["metrics"]), split_commas(match["labels"] or "")
        for label in labels or dict.fromkeys(row.label for row in rows):
            here = {row.name: row for row in rows if row.label == label}
            for order in orders_of(table, match["chain"].strip(), metrics, here, bool(labels)):
                known = found.setdefault(order.id, order)
                known.published.update(order.published)
                known.claimed.update(order.claimed)
                known.asked.update(order.asked)
    return list(found.values())


def split_commas(text: str) -> list[str]:
    """Return the parts of `a, b`."""
    return [part.strip() for part in text.split(",") if part.strip()]


def orders_of(table: str, chain: str, metrics: Sequence[str], rows: Mapping[str, Row], named: bool) -> Iterator[Order]:
    """Yield the orders of one line on one data set; `named`: the line names it."""
    if chain == PUBLISHED:
        whole = [row for row in rows.values() if all(row.published.get(metric) is not None for metric in metrics)]
        whole.sort(key=lambda row: tuple(-row.published[metric] for metric in metrics))
        for above, below in pairwise(whole):
            metric = next((m for m in metrics if above.published[m] != below.published[m]), None)
            if metric is not None:
                yield Order(above, below, {metric: published_difference(above, below, metric)}, set())
        return
    asks = AGAINST in chain
    names = [name.strip() for name in chain.split(AGAINST if asks else ">")]
    unknown = [name for name in names if name not in rows]
    if len(names) < 2 or (unknown and named):
        reason = f"no row {unknown[0]!r}.{nearest(unknown[0], rows)}" if unknown else "needs two rows, `A > B`"
        raise InputError(f"{table}.yaml: orders has {chain!r}: {reason}")
    if unknown:  # the table has these rows on other data
        return
    for above, below in pairwise(rows[name] for name in names):
        differences = {metric: published_difference(above, below, metric) for metric in metrics}
        if asks:
            yield Order(above, below, differences, set(), set(metrics))
            continue
        wrong = [metric for metric, difference in differences.items() if difference is not None and difference <= 0]
        if wrong:
            raise InputError(
                f"{table}.yaml: orders has {above.name} > {below.name}, but by {wrong[0]} on {above.label} the "
                "published figures say otherwise"
            )
        yield Order(above, below, differences, set(metrics))


def published_difference(above: Row, below: Row, metric: str) -> float | None:
    """Return the difference of the published figures, None where one is missing."""
    figures = above.published.get(metric), below.published.get(metric)
    return None if None in figures else round(figures[0] - figures[1], 10)  # type: ignore[operator]


def judge(order: Order, metric: str, difference: float, low: float, high: float) -> dict[str, Any]:
    """Return the figure of a measured difference A minus B with its 95 % interval, in the rows' unit."""
    yes, no = (HOLDS, REVERSED)
    if metric in order.asked - order.claimed:
        recorded = order.published[metric] or 0.0  # an answer on record can be contradicted
        yes, no = REVERSED if recorded < 0 else ABOVE, REVERSED if recorded > 0 else BELOW
    if low > 0 or high < 0:
        verdict, why = (yes, "is above 0") if low > 0 else (no, "is below 0")
    else:
        verdict, why = NOT_SHOWN if metric in order.claimed else UNDECIDED, "contains 0"
    return {
        "metric": metric, "paper": order.published[metric], "ours": difference, "low": low, "high": high,
        "verdict": verdict, "why": f"the 95 % interval {why}",
    }  # fmt: skip


def compare_values(above: PairedValues, below: PairedValues, scale: float = 1.0) -> dict[str, Any]:
    """Compare paired values; differences, low and high are multiplied by `scale`.

    Raises:
        InputError: the two are of other rows, so they cannot be paired.
    """
    from recbole_blair.search.significance import compare_scores  # heavy: loads SciPy

    if len(above.ids) != len(below.ids) or not np.array_equal(above.ids, below.ids):
        raise InputError("the two models ranked other test rows, so they cannot be paired")
    _, groups = np.unique(above.users, return_inverse=True)
    result = compare_scores(above.values, below.values, groups)
    ahead = sum(a > b for a, b in zip(above.means, below.means))
    return {
        **{key: result[key] * scale for key in ("difference", "low", "high")},
        "p_value": result["p_value"],
        "seeds": f"{ahead} of {min(len(above.means), len(below.means))}",  # in which A is above B
    }


def load_values(command: str, runs: Sequence[str], metric: str) -> PairedValues | None:
    """Return the values that a step's runs left of each user or query; None where they leave none.

    Args:
        command: train, pretrain, search or bench.
        runs: folders, one per seed.
        metric: as in `ndcg@10`; `before ndcg@10` of a pretraining; `ndcg` of a bench; or `ndcg@100 All` and
            `ndcg@100 Video_Games` of a search.
    """
    if command == "pretrain":
        return values_of_pretraining(runs[-1], metric)
    if command == "train":
        return values_of_training(runs, metric)
    if command == "bench":
        return values_of_bench(runs[-1])
    return values_of_search(runs[-1], metric) if command == "search" else None


def values_of_training(runs: Sequence[str], metric: str) -> PairedValues | None:
    """Read each run's ranks.parquet; see `load_values`."""
    import pyarrow.parquet as pq  # heavy

    from recbole_blair.train.metrics import metric_values  # train: loads torch
    from recbole_blair.train.run_folder import RANKS, load_metrics

    paths = [Path(run) / RANKS for run in runs]
    if not all(path.is_file() for path in paths):
        return None
    for path in paths:
        check_recorded(path, "delete the run to train it again")
    tables = [pq.read_table(path, page_checksum_verification=True) for path in paths]
    users = tables[0]["user_id"].to_numpy()
    ids, number = np.array([f"{user} {item}" for user, item in zip(users, tables[0]["item_id"].to_pylist())]), None
    if "users" in (load_metrics(runs[0]) or {}):  # protocol=random: metrics are of users
        users, number = np.unique(users.astype(str), return_inverse=True)
        ids = users
    values = np.stack([metric_values(table["rank"].to_numpy(), metric, number) for table in tables])  # (seeds, R or U)
    return PairedValues(ids, users, values.mean(0), tuple(values.mean(1).tolist()))


def values_of_pretraining(run: str, metric: str) -> PairedValues | None:
    """Read the ranks of the held-out pairs, after the training or (`before ndcg@10`) before it; grouped by item."""
    from recbole_blair.train.metrics import metric_values  # train: loads torch

    when, _, name = metric.rpartition(" ")
    path = Path(run) / "pretraining" / (BEFORE_RANKS if when == "before" else AFTER_RANKS)
    if not path.is_file():
        return None
    check_recorded(path, "delete the run to train it again")
    table = read_parquet(path, ["item", "rank"], "ranks of held-out pairs")
    values = metric_values(table["rank"].to_numpy(), name)
    return PairedValues(np.arange(len(values)).astype(str), table["item"].to_numpy(), values, (float(values.mean()),))


def values_of_bench(folder: str) -> PairedValues:
    """Read the cells of a bench's folder: rows of all data sets, weighted so that each data set counts the same.

    With R_d rows of data set d, R of all and D data sets, a value is multiplied by R / (D R_d): the mean of all rows is
    then the mean of the data sets' means.
    """
    from recbole_blair.bench.run import load_cells  # heavy: loads the rooms of all commands

    cells = load_cells(Path(folder))
    total = sum(len(cell.groups) for cell in cells)
    ids = np.concatenate([[f"{cell.part} {row}" for row in range(len(cell.groups))] for cell in cells])
    users = np.concatenate([[f"{cell.part} {group}" for group in cell.groups] for cell in cells])
    values = np.concatenate([cell.main.mean(0) * total / (len(cells) * len(cell.groups)) for cell in cells])
    return PairedValues(ids, users, values, (float(values.mean()),))


def values_of_search(run: str, metric: str) -> PairedValues | None:
    """Read a search's values of each query, of all domains or of one; see `load_values`."""
    from recbole_blair.search.runs import load_per_query  # heavy: loads pandas

    column, _, domain = metric.partition(" ")
    table = load_per_query(run)
    if domain not in ("", "All"):
        table = table[table["domain"] == domain] if "domain" in table.columns else table[:0]
    if column not in table.columns or not len(table):
        return None  # a mean over domains, say
    table = table.sort_values("id")
    values = table[column].to_numpy(float)
    ids = table["id"].astype(str).to_numpy()
    return PairedValues(ids, table["group"].to_numpy(), values, (float(values.mean()),))

"""A run on disk: TREC run and qrels files that any tool can score, the same as Parquet, and metrics.json."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_blair.errors import InputError
from recbole_blair.files.checksum import check_recorded, recorded_file
from recbole_blair.files.own_json import read_own_json, write_own_json
from recbole_blair.files.write import write_text
from recbole_blair.search.tasks import RELEVANT_GAIN
from recbole_blair.search.topk import NOTHING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import pandas as pd

    from recbole_blair.search.readers import Pool
    from recbole_blair.search.tasks import Task

RUN_FILE, QRELS_FILE = "run.trec", "qrels.trec"
PER_QUERY_FILE, RANKED_FILE, METRICS_FILE = "per_query.parquet", "ranked.parquet", "metrics.json"
MISSING_FILE = "missing.tsv"


def separate_ties(scores: np.ndarray) -> np.ndarray:
    """Return float32 scores that strictly fall along each row, changed only where they did not.

    trec_eval keeps scores in fp32 and ranks equal ones by item id, not as they stand in the file. A tied score is
    lowered by the smallest fp32 step below the one before it, so every tool ranks as we do.

    Args:
        scores (n, k) float32: falling along each row; -inf at the end where nothing was found.
    """
    out = np.array(scores, dtype=np.float32)
    for column in range(1, out.shape[1]):
        below = np.nextafter(out[:, column - 1], np.float32(-np.inf))
        out[:, column] = np.minimum(out[:, column], below)
    return out


def write_run(
    folder: Path | str, task: Task, pool: Pool, positions: np.ndarray, scores: np.ndarray,
    values: Mapping[str, np.ndarray], metrics: dict[str, Any],
) -> None:  # fmt: skip
    """Write a run's files, each under a temporary name first; metrics.json last, so a run that has it is whole.

    Args:
        folder: made if missing.
        task, pool. positions, scores (n, k): from a ranker.
        values: metric -> (n,) per-query values. metrics: content of metrics.json.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / METRICS_FILE).unlink(missing_ok=True)
    tag = "_".join(str(metrics["retriever"]).split()) or "run"
    _write_lines(folder / RUN_FILE, _run_lines(task, pool, positions, separate_ties(scores), tag))
    _write_lines(folder / QRELS_FILE, _qrels_lines(task, pool))
    if task.missing:
        _write_lines(folder / MISSING_FILE, ["id\titem_id\n", *(f"{q}\t{i}\n" for q, i in task.missing)])
    _write_parquet(folder / PER_QUERY_FILE, _per_query(task, pool, positions, values))
    _write_parquet(folder / RANKED_FILE, _ranked(task, pool, positions, scores))
    write_own_json(folder / METRICS_FILE, metrics)


def _write_lines(path: Path | str, lines: Iterable[str]) -> None:
    """Write lines of ids, which may hold lone surrogates when the pool does."""
    write_text(path, "".join(lines), errors="surrogatepass")


def _run_lines(task: Task, pool: Pool, positions: np.ndarray, scores: np.ndarray, tag: str) -> Iterator[str]:
    """Yield the lines of a TREC run: id Q0 item rank score tag."""
    for query, row, values in zip(task.ids, positions, scores):
        for rank, (place, score) in enumerate(zip(row, values), 1):
            if place == NOTHING:
                break
            yield f"{query} Q0 {pool.item_ids[place]} {rank} {score:.9g} {tag}\n"


def _qrels_lines(task: Task, pool: Pool) -> Iterator[str]:
    """Yield the lines of a TREC qrels file: id 0 item gain (Exact = 100)."""
    for query, judged in zip(task.ids, task.gains):
        for place, gain in sorted(judged.items()):
            yield f"{query} 0 {pool.item_ids[place]} {gain}\n"


def _per_query(task: Task, pool: Pool, positions: np.ndarray, values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the per-query columns: id, query, domain, the wanted items, the best rank of one (0 = not found)."""
    wanted = [[p for p, g in judged.items() if g == RELEVANT_GAIN] for judged in task.gains]
    hits = [np.isin(row, want) for row, want in zip(positions, wanted)]
    return {
        "id": task.ids,
        "query": task.texts,
        "domain": task.domains,
        "group": task.groups,
        "wanted": [[pool.item_ids[p] for p in want] for want in wanted],
        "rank": [int(hit.argmax()) + 1 if hit.any() else 0 for hit in hits],
        **values,
    }


def _ranked(task: Task, pool: Pool, positions: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Return the ranked lists as columns: id, rank, item_id, score as computed."""
    found = positions != NOTHING
    row, column = np.nonzero(found)
    ids, names = np.asarray(task.ids, dtype=object), np.asarray(pool.item_ids, dtype=object)
    return {
        "id": ids[row],
        "rank": (column + 1).astype(np.int32),
        "item_id": names[positions[found]],
        "score": np.asarray(scores)[found],
    }


def _write_parquet(path: Path | str, columns: Mapping[str, Any]) -> None:
    """Write columns as Parquet."""
    import pyarrow as pa  # heavy
    import pyarrow.parquet as pq

    table = pa.table({k: pa.array(v) for k, v in columns.items()})
    with recorded_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def load_metrics(folder: Path | str) -> dict[str, Any]:
    """Load a run's metrics.json.

    Raises:
        InputError: no whole run there.
    """
    path = Path(folder) / METRICS_FILE
    try:
        return read_own_json(path, "a search run's results", "")
    except InputError:
        raise InputError(f"{folder} holds no whole search run ({METRICS_FILE} missing or broken)") from None


def load_per_query(folder: Path | str) -> pd.DataFrame:
    """Load a run's per-query table.

    Raises:
        InputError: no whole search run there.
    """
    import pandas as pd  # heavy

    load_metrics(folder)
    path = Path(folder) / PER_QUERY_FILE
    check_recorded(path, "run that search again")
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable ({error}); run that search again") from None

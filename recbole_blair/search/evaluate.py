"""Rank, score, save, compare: what `recbole-blair search` does."""

from __future__ import annotations

import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_blair.errors import InputError
from recbole_blair.files.output import check_output_folder
from recbole_blair.ops import peak_memory_mb, start_peak_memory
from recbole_blair.schema import VERSION
from recbole_blair.search import datasets, metrics, runs, significance
from recbole_blair.search.index_dir import IndexDir
from recbole_blair.search.rankers import Ranker
from recbole_blair.search.topk import NOTHING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np
    import pandas as pd

    from recbole_blair.search.tasks import Task


def evaluate(
    dataset: str, retriever: str, output_dir: Path | str | None = None, data_path: Path | str = "dataset",
    index_dir: Path | str | None = None, protocol: str = "rows", ks: Iterable[int] = (10, 50, 100), n_boot: int = 1000,
    seed: int = 0, revision: str | None = None, baseline: Path | str | None = None, pool_text: str = "all",
    **ranking: Any,
) -> dict[str, Any]:  # fmt: skip
    """Rank the pool for each query of a data set, score it and save the run.

    Args:
        dataset: `amazon-c4`, `esci`, `reddit-movie` or a folder. retriever: `bm25`, `hybrid` or an encoder.
        output_dir: None: `runs/<time>-search-<retriever>-<dataset>`.
        protocol: `rows` or `graded`, see tasks. ks: cut-offs; the largest is the depth.
        pool_text: `all`, or `title`: the items' titles alone.
        n_boot: bootstrap samples. baseline: run folder to compare with.
        ranking: further arguments of Ranker.

    Returns:
        dict: the content of metrics.json, with `output_dir`.

    Raises:
        InputError: anything the user can fix.
    """
    ks = sorted(set(ks))
    if not ks or ks[0] < 1:
        raise InputError(f"topk={list(ks)}: cut-offs are whole numbers from 1")
    start_peak_memory()
    started = time.time()
    files = datasets.find_files(dataset, data_path, revision, pool_text=pool_text)
    output_dir = check_output_folder(output_dir or default_output_dir(retriever, files.name))
    pool, categories = datasets.load_pool(files, pool_text)
    task = datasets.load_task(files, pool, protocol, categories)
    base = runs.load_per_query(baseline) if baseline else None
    index = IndexDir(pool, data_path, index_dir)
    ranker = Ranker(index, retriever, seed=seed, **ranking)
    loaded = time.time()
    positions, scores = ranker.search(task.texts, ks[-1])
    searched = time.time()
    values = metrics.score_rankings(positions, task.gains, ks)
    report = {
        "retriever": retriever,
        "dataset": files.name,
        "protocol": protocol,
        "pool_text": pool_text,
        "queries": len(task),
        "distinct_queries": int(task.groups.max()) + 1,
        "items": len(pool),
        "items_without_text": sum(not t.strip() for t in pool.texts),
        "queries_left_out": len(task.left_out),
        "judged_items_not_in_pool": len(task.missing),
        "pool_hash": index.hash,
        "seed": seed,
        "depends_on": ranker.notes,
        "table": metrics.summarise(values, task.domains, task.groups, n_boot, seed),
        "seconds": {"load": loaded - started, "encode_index_search": searched - loaded},
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "versions": _versions(),
    }
    if base is not None and baseline is not None:
        report["against"] = compare(task, values, base, baseline, seed)
    runs.write_run(output_dir, task, pool, positions, scores, values, report)
    return report | {"output_dir": str(output_dir), "left_out": task.left_out, "missing": task.missing}


def default_output_dir(retriever: str, dataset: str) -> Path:
    """Return `runs/<time>-search-<retriever>-<dataset>`."""
    name = Path(retriever.replace(":", "-")).name or "encoder"
    return Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-search-{name}-{dataset}"


def compare(
    task: Task, values: Mapping[str, np.ndarray], base: pd.DataFrame, baseline: Path | str, seed: int = 0
) -> dict[str, Any]:
    """Compare a run with an earlier one on the same rows: metric -> result of compare_scores."""
    import pandas as pd  # heavy

    ours = pd.DataFrame({"id": task.ids, "query": task.texts, "group": task.groups, **values})
    return {"run": Path(baseline).name} | _compare_tables(ours, base, seed)


def compare_runs(ours_dir: Path | str, base_dir: Path | str, seed: int = 0) -> dict[str, Any]:
    """Compare two saved runs: metric -> result of compare_scores."""
    return _compare_tables(runs.load_per_query(ours_dir), runs.load_per_query(base_dir), seed)


def _compare_tables(ours: pd.DataFrame, base: pd.DataFrame, seed: int) -> dict[str, Any]:
    """Compare two per-query tables on the metrics both have."""
    ours, base = significance.align_runs(ours, base)
    shared = [c for c in ours.columns if "@" in c and c in base.columns]
    if not shared:
        raise InputError("the two runs share no metric; score both with the same --topk")
    groups = ours["group"].to_numpy()
    return {m: significance.compare_scores(ours[m].to_numpy(), base[m].to_numpy(), groups, seed=seed) for m in shared}


def answer(
    query: str, dataset: str, retriever: str, top: int = 10, data_path: Path | str = "dataset",
    index_dir: Path | str | None = None, revision: str | None = None, pool_text: str = "all", **ranking: Any,
) -> list[tuple[int, float, str, str, str]]:  # fmt: skip
    """Search a pool with one query.

    Returns:
        list of (rank, score, item id, category, text), best first.

    Raises:
        InputError: an empty query, `top` below 1, or what evaluate() refuses.
    """
    query = " ".join(str(query).split())
    if not query:
        raise InputError('the query is empty; write what you are looking for: --query="usb c cable 2 m"')
    if top < 1:
        raise InputError(f"top={top}: at least 1 item must be asked for")
    files = datasets.find_files(dataset, data_path, revision, pool_text=pool_text)
    pool, _ = datasets.load_pool(files, pool_text)
    ranker = Ranker(IndexDir(pool, data_path, index_dir), retriever, **ranking)
    positions, scores = ranker.search([query], min(top, len(pool)))
    return [
        (rank, float(score), pool.item_ids[p], pool.categories[p], pool.texts[p])
        for rank, (p, score) in enumerate(zip(positions[0], scores[0]), 1)
        if p != NOTHING
    ]


def _versions() -> dict[str, str]:
    """Return the versions the ranking depends on."""
    found = {"recbole_blair": VERSION}
    for name in ("torch", "transformers", "bm25s", "faiss-cpu", "scikit-learn", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

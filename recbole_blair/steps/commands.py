"""The project's commands called from Python, each with a result of one shape: `metrics` flat, `runs` its folders.

Training and pretraining resume by themselves in their run folders. Search, statistics and pairs write a `step.json`
with their keys and result, and are not run again.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dataset_tools.builds.statistics_file import require_stats
from dataset_tools.counts.raw_counts import count_domains
from dataset_tools.own_data import prepare_own
from dataset_tools.pools.candidate_pools import PoolRequest, build_pool, read_item_ids
from dataset_tools.prepare import prepare
from dataset_tools.pretraining.review_pairs import PairSettings, make_pair_files
from dataset_tools.raw.domains import is_sample, resolve_datasets
from dataset_tools.raw.fetch import ensure_raw_file
from dataset_tools.recipes import prepare_recipe
from dataset_tools.storage.resources import Resources
from recbole_blair.errors import InputError
from recbole_blair.files.own_json import read_own_json, write_own_json
from recbole_blair.pretrain.collaborative_pairs import CollaborativeSettings, make_collaborative_pairs
from recbole_blair.pretrain.run import pretrain
from recbole_blair.pretrain.settings import resolve_settings
from recbole_blair.quick_start import run_many
from recbole_blair.schema import DOMAINS, SPLITS, UNKNOWN_DOMAIN
from recbole_blair.search import datasets, esci, readers
from recbole_blair.search.evaluate import evaluate
from recbole_blair.search.metrics import MEAN_DOMAINS, MEAN_QUERIES
from recbole_blair.steps.step import Places

STEP_FILE = "step.json"
Result = dict[str, Any]  # `metrics`, `runs`, and for several seeds `deviation`
Command = Callable[[dict[str, Any], Places, Path], Result]


def keep_result(function: Command) -> Command:
    """Write a command's result into its folder; a result of the same keys is read instead of computed."""

    @functools.wraps(function)
    def run(keys: dict[str, Any], places: Places, folder: Path) -> Result:
        path, shown = folder / STEP_FILE, json.loads(json.dumps(keys, default=str))
        if path.is_file():
            fix = "delete it, and the step is made again"
            written = read_own_json(path, "the result of a step", fix, ("keys", "result"))
            if written["keys"] == shown:
                return written["result"]
        started = time.perf_counter()
        result = function(keys, places, folder)
        record = {"keys": shown, "seconds": round(time.perf_counter() - started, 3), "result": result}
        write_own_json(path, record, ensure_ascii=True)
        return result

    return run


def data_folders(places: Places) -> dict[str, Any]:
    """Return the keys that name the folders of the data."""
    return {"data_path": str(places.data_path), "raw_dir": str(places.raw_dir)}


def run_prepare(keys: dict[str, Any], places: Places, folder: Path) -> Result:
    """Prepare a data set; Table 3, rows, users and the rows of each part."""
    if "recipe" in keys:
        build = prepare_recipe(data_path=places.data_path, progress=places.progress, **keys)
    elif keys.get("source") not in (None, "split"):
        build = prepare_own(data_path=places.data_path, progress=places.progress, **keys)
    else:
        build = prepare(progress=places.progress, **data_folders(places), **keys)
    stats = require_stats(build)
    splits = {split: stats["splits"][split]["rows"] for split in SPLITS}
    return {
        "metrics": {**stats["table3"], "rows": stats["rows"], "users": stats["users"], **splits},
        "runs": [str(build)],
    }


@keep_result
def run_stats(keys: dict[str, Any], places: Places, folder: Path) -> Result:
    """Count raw files: Table 1."""
    names = resolve_datasets(keys["dataset"], places.raw_dir)
    resources = Resources(progress=places.progress)
    counts = count_domains(places.raw_dir, names, table3=False, data_path=places.data_path, resources=resources)
    total = counts["total"] or counts["domains"][0]
    return {"metrics": table1(total, names), "runs": [str(folder)]}


def table1(counts: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Return Table 1's columns from the counts over all domains."""
    months = {
        key: time.strftime("%Y-%m", time.gmtime(counts[ms] / 1000)) if counts[ms] is not None else None
        for key, ms in (("first_month", "first_ms"), ("last_month", "last_ms"))
    }
    columns = ("reviews", "users", "items", "items_with_metadata")
    named = [name for name in names if name != UNKNOWN_DOMAIN]
    return {**{key: counts[key] for key in columns}, "categories": len(named), **months}


@keep_result
def run_pairs(keys: dict[str, Any], places: Places, folder: Path) -> Result:
    """Make pretraining pairs and count them."""
    settings = PairSettings(**{key: value for key, value in keys.items() if key != "dataset"})
    resources = Resources(progress=places.progress)
    made = make_pair_files(keys["dataset"], places.raw_dir, folder / "pairs", settings, resources)
    reports = [read_own_json(path, "a record of pairs", "delete it") for path in sorted(made.glob("*.json"))]
    return {"metrics": {"pairs": sum(one["pairs"] for one in reports if "domain" in one)}, "runs": [str(made)]}


@keep_result
def run_pools(keys: dict[str, Any], places: Places, folder: Path) -> Result:
    """Draw the candidate pool of a query set that is published without one, into the set's own folder."""
    target = Path(keys["dataset"])
    if keys["dataset"] in datasets.PUBLISHED and not target.is_dir():
        target = Path(places.data_path) / keys["dataset"]
        try:
            datasets.find_files(keys["dataset"], places.data_path)
        except InputError:
            if not (target / readers.QUERY_FILE).is_file():  # the queries could not be downloaded either
                raise
    pool = next((target / name for name in readers.POOL_FILES if (target / name).is_file()), None)
    if pool is None:
        pool = draw_pool(target, keys, places)
    return {"metrics": {}, "runs": [str(pool)]}


def draw_pool(target: Path, keys: dict[str, Any], places: Places) -> Path:
    """Draw candidates for each row of `test.csv`, which is written first if only the examples are there."""
    queries = target / readers.QUERY_FILE
    if not queries.is_file():
        examples = esci.load_examples(target / esci.EXAMPLES_FILE)
        mapping = readers.load_asin2category(target / datasets.CATEGORY_FILE, set(examples["product_id"]))
        esci.write_queries(esci.published_rows(examples, mapping, target / esci.EXAMPLES_FILE), queries)
    wanted = read_item_ids(queries)
    domains = [keys["domain"]] if "domain" in keys else list(DOMAINS)
    if "domain" not in keys:
        fetch_metadata(places, domains)
    categories = readers.load_asin2category(target / datasets.CATEGORY_FILE, set(wanted))
    output = target / readers.POOL_FILES[1]
    options = {"n_candidates": keys["candidates"]} if "candidates" in keys else {}
    request = PoolRequest(wanted, categories, **options)
    build_pool(request, places.raw_dir, output, domains, Resources(progress=places.progress))
    return output


def fetch_metadata(places: Places, domains: list[str]) -> None:
    """Download the metadata of every domain that has none yet; the reviews are not needed."""
    for name in domains:
        ensure_raw_file(places.raw_dir, "meta", name, progress=places.progress)


def run_train(keys: dict[str, Any], places: Places, folder: Path) -> Result:
    """Train and evaluate a model with each seed; the means over the seeds are measured.

    `grid` maps keys to values: every combination is trained with the first seed, and the one with the best
    `valid_metric` on the validation rows is trained with the other seeds.
    """
    keys = dict(keys)
    grid, seeds = keys.pop("grid", None), list(keys.pop("seeds", None) or [2020])
    if not grid:
        return summarise_runs(train_seeds(keys, seeds, places, folder))
    points = [dict(zip(grid, values)) for values in itertools.product(*grid.values())]
    choice = train_best(keys, points, seeds, keys.get("valid_metric", "ndcg@10"), places, folder)
    return {**summarise_runs(choice.runs), "setting": choice.setting, "grid": choice.grid}


def train_seeds(keys: dict[str, Any], seeds: Sequence[int], places: Places, folder: Path) -> list[dict[str, Any]]:
    """Train a model with each seed; returns metrics.json's content of each run, with `output_dir`."""
    keys = {**keys, **(places.train or {})}
    model, dataset = keys.pop("model"), keys.pop("dataset")
    seeded: dict[str, Any] = {"seeds": list(seeds)} if len(seeds) > 1 else {"seed": seeds[0]}
    if is_sample(dataset):  # props/dataset/sample.yaml names seeds and baselines
        seeded = {"seeds": seeds, "baselines": None}
    # the ranks are what two models are paired by
    options = {**data_folders(places), "show_progress": places.progress, "save_ranks": True, **keys, **seeded}
    return run_many(model, dataset, output_dir=str(folder), **options)


def summarise_runs(results: Sequence[dict[str, Any]]) -> Result:
    """Return the means and deviations over the seeds' runs, and their folders."""
    names = results[0]["test"]
    metrics = {name: statistics.fmean(one["test"][name] for one in results) for name in names}
    spread = {name: statistics.stdev([one["test"][name] for one in results]) for name in names} if results[1:] else {}
    return {
        "metrics": {**metrics, "items": results[0]["n_items"]},
        "deviation": spread,
        "runs": [one["output_dir"] for one in results],
    }


class Choice(NamedTuple):
    """A setting chosen by the validation rows."""

    setting: dict[str, Any]
    grid: list[dict[str, Any]]  # each point with its `valid` value
    runs: list[dict[str, Any]]  # of the setting, one per seed: metrics.json's content and `output_dir`


def train_best(
    keys: dict[str, Any], points: Sequence[dict[str, Any]], seeds: Sequence[int], metric: str, places: Places,
    folder: Path,
) -> Choice:  # fmt: skip
    """Train each point with the first seed, then the best on the validation rows with the other seeds too."""
    tried = [train_point(keys, point, seeds[0], places, folder) for point in points]
    valid = [run["best_valid"][metric] for run in tried]
    chosen = valid.index(max(valid))  # of equals the first
    runs = [tried[chosen], *(train_point(keys, points[chosen], seed, places, folder) for seed in seeds[1:])]
    return Choice(points[chosen], [{**point, "valid": value} for point, value in zip(points, valid)], runs)


def train_point(
    keys: dict[str, Any], setting: dict[str, Any], seed: int, places: Places, folder: Path
) -> dict[str, Any]:
    """Train one setting with one seed, in a folder of its own; see `train_seeds`."""
    name = "-".join([*(f"{key}={value}" for key, value in setting.items()), f"seed={seed}"])
    return train_seeds({**keys, **setting}, [seed], places, folder / "runs" / name)[0]


def run_pretrain(keys: dict[str, Any], places: Places, folder: Path) -> Result:
    """Pretrain an encoder; retrieval before and after."""
    given = {**keys, "raw_dir": str(places.raw_dir), "output_dir": str(folder), "show_progress": places.progress}
    given["save_ranks"] = True  # what two encoders are paired by
    if "dataset" in keys or "pairs_from" in keys:
        given["pairs_path"] = str(folder.with_name(f"{folder.name}-pairs"))
    settings = resolve_settings(given)
    if settings.dataset is not None:
        same = {key: settings[key] for key in ("seed", "min_chars", "exclude_items", "exclude_reviews")}
        wanted = PairSettings(share=settings.sample_share, **same)
        resources = Resources(settings.memory_limit, progress=settings.show_progress)
        made = make_pair_files(settings.dataset, settings.raw_dir, settings.pairs_path, wanted, resources)
        settings["pairs"] = str(made)
    if settings.pairs_from is not None:  # the name of a build
        build, kinds = Path(places.data_path) / settings.pairs_from, settings.pairs_kinds
        wanted_pairs = CollaborativeSettings(kinds, settings.history_items, settings.history_chars)
        paths = settings.pairs_path, wanted_pairs, settings.pairs
        settings["pairs"] = str(make_collaborative_pairs(build, *paths, settings.show_progress))
    with contextlib.redirect_stdout(sys.stderr):  # transformers prints its log lines where no bar is drawn
        result = pretrain(settings)
    before = {f"before {name}": value for name, value in result["before"].items()}
    counts = {"queries": result["queries"], "candidates": result["candidates"]}
    return {"metrics": {**result["after"], **before, **counts}, "runs": [str(folder)]}


@keep_result
def run_search(keys: dict[str, Any], places: Places, folder: Path) -> Result:
    """Score a retriever on a query set, over all queries and in each domain."""
    keys = dict(keys)
    bm25 = {"variant": keys.pop("bm25_variant", "lucene")}
    encoding = {"device": (places.train or {}).get("device", "auto"), "precision": keys.pop("precision", "auto")}
    options = {"n_boot": keys.pop("bootstrap", 1000), "bm25": bm25, "encoding": encoding, "progress": places.progress}
    report = evaluate(keys.pop("dataset"), keys.pop("retriever"), folder, data_path=places.data_path, **options, **keys)
    short = {MEAN_QUERIES: "All", MEAN_DOMAINS: "domains"}
    metrics = {
        f"{name} {short.get(line['domain'], line['domain'])}": value
        for line in report["table"]
        for name, value in line.items()
        if name not in ("domain", "queries")
    }
    return {"metrics": {**metrics, "queries": report["queries"], "items": report["items"]}, "runs": [str(folder)]}


RUN: dict[str, Command] = {
    "prepare": run_prepare,
    "stats": run_stats,
    "pairs": run_pairs,
    "pools": run_pools,
    "train": run_train,
    "pretrain": run_pretrain,
    "search": run_search,
}

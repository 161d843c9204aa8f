"""What a smoke row asserts: each check measures one number on the generated data and compares it with its limit.

A check takes the context of a row and its tolerance, and returns a `Check`. The measured numbers come from the files
the commands left, read again in another way than the commands write them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from recbole_blair.files.own_json import read_own_json
from recbole_blair.files.read import read_json
from recbole_blair.report.curves import load_curves
from recbole_blair.reproduce import naive
from recbole_blair.reproduce.steps import Planner
from recbole_blair.steps.world import World
from recbole_blair.train.run_folder import require_metrics


class Check(NamedTuple):
    """One assertion; `says` has the measured and the needed value in words."""

    name: str
    ok: bool
    says: str


class Context:
    """What the checks of a smoke row read.

    Args:
        world, settings: of the smoke run.
        planner: knows the steps.
        names, results: the row's steps and their results, in order.
    """

    def __init__(
        self, world: World, settings: dict[str, Any], planner: Planner, names: Sequence[str],
        results: Sequence[dict[str, Any]],
    ) -> None:  # fmt: skip
        self.world, self.settings, self.results = world, settings, results
        self.steps = [planner.steps[name] for name in names]
        self.step, self.result = self.steps[-1], results[-1]
        self.metrics, self.run = self.result["metrics"], Path(self.result["runs"][-1])

    @property
    def build(self) -> Path:
        """Return the folder of the build that the last step made or trained on."""
        if self.step.command == "prepare":
            return self.run
        return self.world.data_path / require_metrics(self.run)["dataset"]

    def naive_rows(self) -> dict[str, Counter]:
        """Return the rows of that build as a plain reading of the raw files gives them."""
        keys, own = self.step.keys, self.step.keys["dataset"] == "steam"
        metadata = {m["parent_asin"] for m in self.world.records("meta")}
        reviews = self.world.records("review")
        events = naive.steam_events(self.world.steam()[0]) if own else naive.amazon_events(reviews)
        made = next((step.keys for step in self.steps if step.command == "prepare"), keys)
        options = {key: made[key] for key in ("core", "keep_repeats") if key in made}
        instants, max_history = self.settings["instants"], self.settings["max_history"]
        return naive.naive_rows(events, metadata, keys.get("protocol", "timestamp"), instants, max_history, **options)


def check_at_least(name: str, measured: float, needed: float, what: str) -> Check:
    """Return the Check of a number that must not be smaller."""
    return Check(name, bool(measured >= needed), f"{what} {measured:.4g}, needed at least {needed:.4g}")


def check_at_most(name: str, measured: float, allowed: float, what: str) -> Check:
    """Return the Check of a number that must not be larger."""
    return Check(name, bool(measured <= allowed), f"{what} {measured:.4g}, allowed at most {allowed:.4g}")


def split(context: Context, tolerance: dict[str, Any]) -> Check:
    """Every row of every part is the one that a plain reading gives: none lost, doubled, moved or leaked."""
    wrong = 0
    for part, wanted in context.naive_rows().items():
        found = naive.file_rows(context.build, part)
        wrong += sum((wanted - found).values()) + sum((found - wanted).values())
    return check_at_most("split", wrong, tolerance["rows"], "rows that differ from a plain reading")


def statistics(context: Context, tolerance: dict[str, Any]) -> Check:
    """Table 3's columns equal those counted plainly."""
    metadata = {m["parent_asin"]: m for m in context.world.records("meta")}
    wanted = naive.naive_table3(context.naive_rows(), metadata)
    worst = max(abs(context.metrics[key] - value) / max(1, abs(value)) for key, value in wanted.items())
    return check_at_most("statistics", worst, tolerance["relative"], "largest relative difference to a plain count")


def counts(context: Context, tolerance: dict[str, Any]) -> Check:
    """Table 1's columns equal those counted plainly."""
    wanted = naive.naive_counts(context.world.records("review"), context.world.records("meta"))
    wrong = [key for key, value in wanted.items() if context.metrics[key] != value]
    return check_at_most("counts", len(wrong), tolerance["difference"], f"columns that differ {wrong or ''}".strip())


def pair_counts(context: Context, tolerance: dict[str, Any]) -> Check:
    """As many pairs as the rules leave: before the first instant, both sides longer than the limit."""
    metadata = {m["parent_asin"]: m for m in context.world.records("meta")}
    limit, kept = context.step.keys["min_chars"], set()
    for review in context.world.records("review"):
        meta = metadata.get(review["parent_asin"])
        if meta is None or review["timestamp"] >= context.settings["instants"][0]:
            continue
        sides = naive.clean(f"{review['title']} {review['text']}"), naive.naive_text({**meta, "categories": []})
        if min(map(len, sides)) > limit:
            kept.add((review["user_id"], review["parent_asin"], review["timestamp"]))
    difference = abs(context.metrics["pairs"] - len(kept))
    what = f"difference to {len(kept)} pairs counted plainly:"
    return check_at_most("pair_counts", difference, tolerance["difference"], what)


def loss_falls(context: Context, tolerance: dict[str, Any]) -> Check:
    """The training loss of the last epoch is below that of the first."""
    curves = load_curves(context.run, "ndcg@10")
    assert curves is not None  # of a run that has just been trained
    loss = [value for _, value in curves["loss"]]
    share = (loss[0] - loss[-1]) / abs(loss[0])
    return check_at_least("loss_falls", share, tolerance["share"], f"loss {loss[0]:.3f} to {loss[-1]:.3f}: share")


def pretraining_falls(context: Context, tolerance: dict[str, Any]) -> Check:
    """The pretraining loss at the end is below that at the start."""
    lines = (context.run / "pretraining" / "log.txt").read_text(encoding="utf-8").splitlines()
    loss = [value["loss"] for value in map(json.loads, lines) if "loss" in value]
    ends = np.mean(loss[:2]), np.mean(loss[-2:])
    return check_at_least(
        "pretraining_falls", 1 - ends[1] / ends[0], tolerance["share"], f"loss {ends[0]:.3f} to {ends[1]:.3f}: share"
    )


def retrieval_rises(context: Context, tolerance: dict[str, Any]) -> Check:
    """Held-out pairs find their items better after the pretraining than before."""
    ratio = context.metrics["ndcg@10"] / context.metrics["before ndcg@10"]
    return check_at_least("retrieval_rises", ratio, tolerance["factor"], "NDCG@10 after over before")


def untrained_beats_chance(context: Context, tolerance: dict[str, Any]) -> Check:
    """The random encoder already finds items by their words."""
    chance = chance_ndcg(int(context.metrics["candidates"]), 10)
    ratio = context.metrics["before ndcg@10"] / chance
    return check_at_least("untrained_beats_chance", ratio, tolerance["factor"], "NDCG@10 before, over chance")


def chance_ndcg(items: float, k: int) -> float:
    """Return the expected NDCG@k of a random order with one right item."""
    ranks = np.arange(1, min(k, items) + 1)
    return float((1 / np.log2(ranks + 1)).sum() / items)


def search_beats_chance(
    context: Context, tolerance: dict[str, Any], name: str = "search_beats_chance",
    metrics: dict[str, float] | None = None,
) -> Check:  # fmt: skip
    """Queries find their items better than a random order does."""
    metrics = context.metrics if metrics is None else metrics
    ratio = metrics["ndcg@100 All"] / chance_ndcg(metrics["items"], 100)
    return check_at_least(name, ratio, tolerance["factor"], "NDCG@100 over chance")


def textbook_beats_chance(context: Context, tolerance: dict[str, Any]) -> Check:
    """BM25 itself, the step before the released variant, beats chance."""
    return search_beats_chance(context, tolerance, "textbook_beats_chance", context.results[-2]["metrics"])


def released_below(context: Context, tolerance: dict[str, Any]) -> Check:
    """The released scoring is worse than BM25."""
    ratio = context.metrics["ndcg@100 All"] / context.results[-2]["metrics"]["ndcg@100 All"]
    return check_at_most("released_below", ratio, tolerance["factor"], "NDCG@100 of the released scoring over BM25's")


def bench_means(context: Context, tolerance: dict[str, Any]) -> Check:
    """A bench's figure is the mean over data sets of the mean over seeds, read again from the values of rows."""
    means = []
    for path in sorted(context.run.glob("cells/*/*/*/values.parquet")):
        about = read_own_json(path.parent / "cell.json", "a bench's cell", "delete it to make it again", ("metric",))
        means.append(float(pd.read_parquet(path)[about["metric"]].mean()))
    difference = abs(context.metrics["ndcg"] - float(np.mean(means)))
    return check_at_most("bench_means", difference, tolerance["difference"], f"difference to {len(means)} means,")


def search_counts(context: Context, tolerance: dict[str, Any]) -> Check:
    """Queries and items are those of the files: ESCI's by its filters, the pool's distinct lines."""
    folder = Path(context.step.keys["dataset"])
    examples = folder / "shopping_queries_dataset_examples.parquet"
    if examples.is_file():
        t = pd.read_parquet(examples)
        known = read_json(folder / "asin2category.json", "categories of items")
        assert isinstance(known, dict)  # written by the smoke run's generator
        kept = (t.split == "test") & (t.product_locale == "us") & (t.small_version == 1) & (t.esci_label == "E")
        wanted = int((kept & t.product_id.isin(list(known))).sum())
        metadata = {m["parent_asin"] for m in context.world.records("meta")}
        bounds = len(set(t.product_id[kept]) & metadata), len(metadata)
    else:
        wanted = len(pd.read_csv(folder / "test.csv"))
        bounds = (sum(1 for _ in naive.read_lines(folder / "item_pool.jsonl")),) * 2
    wrong = abs(context.metrics["queries"] - wanted) + (not bounds[0] <= context.metrics["items"] <= bounds[1])
    return check_at_most("search_counts", wrong, tolerance["difference"], "difference to a plain count")

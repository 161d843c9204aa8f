"""Gathers everything a report shows as plain numbers and texts; the page is drawn from it alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbole_blair.data.dataset import BlairDataset
from recbole_blair.errors import InputError
from recbole_blair.report import curves, examples, paired
from recbole_blair.report.breakdown import Buckets, breakdown, length_buckets, split_rows, train_events
from recbole_blair.report.ranks import Opener, Ranks, check_same_rows
from recbole_blair.report.runs import Group, Panel, Run, build_panels, differing_keys, find_runs, mean_and_deviation
from recbole_blair.schema import VERSION
from recbole_blair.train import checkpoint
from recbole_blair.train.metrics import parse_metric
from recbole_blair.train.progress import progress_bar
from recbole_blair.train.ranks_file import ranked_rows_table

RUN_FIELDS = (
    "seed", "test", "best_valid", "best_epoch", "epochs", "stopped_early", "seconds", "peak_memory_mb", "device",
    "precision", "parameters", "versions",
)  # fmt: skip

RankedGroups = dict[str, list[tuple[Run, Ranks]]]  # by label: the runs of a group with their ranks
Missing = dict[str, list[str]]  # by part of the page: why it, or something in it, is not there


@dataclass
class Options:
    """What a report shows; see `recbole-blair report --help`."""

    metric: str = "ndcg@10"
    by: tuple[str, ...] = ("new_item", "popularity", "history_length")
    examples: int = 6
    samples: int = 10_000
    seed: int = 0
    evaluate: bool = True
    data_path: str | None = None
    device: str = "auto"
    progress: bool = True


def collect(paths: Sequence[Path | str], options: Options) -> dict[str, Any]:
    """Gather a report.

    Args:
        paths: run folders or folders of runs.

    Returns:
        `created`, `version`, `notes` and `panels`; JSON can hold it. A part that could not be made is None or
        shorter, and `missing` of its panel says why.

    Raises:
        InputError: no runs, or a metric that a run does not have.
    """
    parse_metric(options.metric)
    runs, unfinished = find_runs(paths)
    panels, older = build_panels(runs)
    opener = Opener(options.data_path, options.device, options.progress)
    return {
        "created": time.strftime("%Y-%m-%d %H:%M"),
        "version": VERSION,
        "metric": options.metric,
        "notes": unfinished + older,
        "panels": [collect_panel(panel, opener, options) for panel in panels],
    }


def collect_panel(panel: Panel, opener: Opener, options: Options) -> dict[str, Any]:
    """Gather one data set's runs; each part is a step of its own."""
    dataset, protocol, n_items, _, masked = panel.setting
    first = panel.runs[0].metrics
    for group in panel.groups:
        check_metric(group, options.metric)
    panel.groups.sort(key=lambda group: statistics.mean(group.values(options.metric)), reverse=True)
    missing: Missing = {
        "runs": name_damaged_weights(panel),
        "comparisons": [],
        "curves": [],
        "breakdowns": [],
        "examples": [],
    }
    ranked = collect_ranks(panel, opener, options, missing)
    return {
        "dataset": dataset,
        "protocol": protocol,
        "n_items": n_items,
        "rows": first["rows"],
        "users": first.get("users", {}).get("test"),
        "history_masked": masked,
        "ties": first.get("ties", ""),
        "metrics": list(dict.fromkeys(m for run in panel.runs for m in run.metrics["test"])),
        "groups": [collect_group(group) for group in panel.groups],
        "differing": differing_keys(panel.groups),
        "comparisons": collect_comparisons(panel, ranked, options, missing["comparisons"]),
        "curves": collect_curves(panel, missing["curves"]),
        "breakdowns": collect_breakdowns(panel, ranked, opener, options, missing["breakdowns"]),
        "examples": collect_examples(panel, ranked, opener, options, missing["examples"]),
        "missing": missing,
    }


def name_damaged_weights(panel: Panel) -> list[str]:
    """Say which runs lack their weights, or have damaged ones: they cannot be evaluated again or give examples."""
    reasons = []
    for run in panel.runs:
        try:
            checkpoint.check_best(run.folder)
        except InputError as error:
            reasons.append(str(error))
    return reasons


def check_metric(group: Group, metric: str) -> None:
    """Refuse a run without the report's metric.

    Raises:
        InputError: names the run and what it has.
    """
    for run in group.runs:
        if metric not in run.metrics["test"]:
            raise InputError(
                f"{run.name} has no {metric}; choose --metric from what it has: {', '.join(run.metrics['test'])}"
            )


def collect_group(group: Group) -> dict[str, Any]:
    """Gather the numbers of one configuration: each run's own and their mean and deviation."""
    summary = {m: mean_and_deviation(group.values(m)) for m in group.runs[0].metrics["test"]}
    runs = [{"folder": run.name, **{k: run.metrics.get(k) for k in RUN_FIELDS}} for run in group.runs]
    return {
        "label": group.label,
        "model": group.model,
        "encoder": group.runs[0].metrics.get("encoder"),
        "differs": {k: v if isinstance(v, int | float | bool | None) else str(v) for k, v in group.differs.items()},
        "mean": {m: mean for m, (mean, _) in summary.items()},
        "deviation": {m: deviation for m, (_, deviation) in summary.items()},
        "runs": runs,
    }


def collect_ranks(panel: Panel, opener: Opener, options: Options, missing: Missing) -> RankedGroups:
    """Return the groups all of whose runs have ranks of the same rows."""
    ranked: RankedGroups = {}
    reasons: list[str] = []
    first: tuple[Run, Ranks] | None = None
    bar = progress_bar(len(panel.runs), "ranks", "runs", options.progress)
    for group in panel.groups:
        own = []
        for run in group.runs:
            try:
                ranks = opener.ranks(run, options.evaluate)
                first = first or (run, ranks)
                check_same_rows(first, (run, ranks))
                own.append((run, ranks))
            except (InputError, FloatingPointError) as error:
                reasons.append(f"{group.label}: {error}")
            bar.update(1)
        if len(own) == len(group.runs):
            ranked[group.label] = own
        gaps = [ranks.gap for _, ranks in own if ranks.gap is not None]
        if gaps:
            missing["comparisons"].append(evaluated_again(group.label, gaps))
    bar.close()
    missing["comparisons"] += reasons
    missing["breakdowns"] += reasons
    return ranked


def evaluated_again(label: str, gaps: list[float]) -> str:
    """Say that a model's ranks are not those of its training run."""
    agree = f"differ from metrics.json by at most {max(gaps):.1g}" if max(gaps) else "equal metrics.json"
    return f"{label}: {len(gaps)} run(s) saved no ranks and were evaluated again; the metrics {agree}"


def collect_comparisons(
    panel: Panel, ranked: RankedGroups, options: Options, missing: list[str]
) -> dict[str, Any] | None:
    """Test every pair of models on the rows both ranked; None with fewer than two."""
    if len(panel.groups) < 2:
        missing.append("one configuration alone: there is nothing to compare it with")
    if len(ranked) < 2:
        return None
    values = {label: np.mean([own.values(options.metric) for _, own in runs], axis=0) for label, runs in ranked.items()}
    users = first_ranks(ranked).users_of_values()
    bar = progress_bar(len(values) * (len(values) - 1) // 2, "paired tests", "pairs", options.progress)
    pairs = paired.compare_pairs(values, users, options.samples, options.seed, lambda: bar.update(1))
    bar.close()
    return {"users": int(users.max()) + 1, "rows": len(users), "samples": options.samples, "pairs": pairs}


def first_ranks(ranked: RankedGroups) -> Ranks:
    """Return the ranks of the first run: users, items and lengths are the same for all."""
    return next(iter(ranked.values()))[0][1]


def collect_curves(panel: Panel, missing: list[str]) -> list[dict[str, Any]]:
    """Read the learning curves of every run that has them."""
    result = []
    for group in panel.groups:
        for run in group.runs:
            metric = run.config.get("valid_metric", "ndcg@10")
            points = curves.load_curves(run.folder, metric)
            if points is None:
                missing.append(f"{run.name} holds no TensorBoard events")
                continue
            epochs, found = run.metrics.get("epochs") or 0, len(points["loss"])
            if found < epochs:
                files = ", ".join(sorted(path.name for path in run.folder.glob(curves.EVENTS)))
                missing.append(f"{run.name} trained {epochs} epochs, its events have {found}: {files} is damaged")
            elif not found:
                missing.append(f"{run.name} has no epochs: {group.model} was not trained")
            if found:
                about = {"label": group.label, "seed": run.metrics["seed"], "best": run.metrics.get("best_epoch")}
                result.append({**about, "metric": metric, **points})
    return result


def collect_breakdowns(
    panel: Panel, ranked: RankedGroups, opener: Opener, options: Options, missing: list[str]
) -> list[dict[str, Any]]:
    """Split each model's metric by the wanted breakdowns."""
    result: list[dict[str, Any]] = []
    if not ranked:
        return result
    name, k = parse_metric(options.metric)
    for by in options.by:
        try:
            buckets = split_by(by, panel, ranked, opener)
        except InputError as error:
            missing.append(f"{by}: {error}")
            continue
        groups, head = {}, None
        for label, runs in ranked.items():
            tables = [breakdown(own.rank, buckets, [name], [k or 1], own.metric_user) for _, own in runs]
            cells = [mean_and_deviation([row[options.metric] for row in rows]) for rows in zip(*tables)]
            groups[label] = [{"mean": mean, "deviation": deviation} for mean, deviation in cells]
            head = [{key: row[key] for key in ("bucket", "rows", "share")} for row in tables[0]]
        result.append({"by": by, "note": buckets.note, "buckets": head, "groups": groups})
    return result


def split_by(by: str, panel: Panel, ranked: RankedGroups, opener: Opener) -> Buckets:
    """Partition the test rows; history lengths stand in the ranks, all else is read from the build."""
    first = first_ranks(ranked)
    if by == "history_length":
        names, code, note = length_buckets(first.length)
        return Buckets(by, names, code, note)
    dataset = opener.dataset(panel.runs)
    check_rows_of(dataset, first)
    return split_rows(by, dataset)


def check_rows_of(dataset: BlairDataset, ranks: Ranks) -> None:
    """Refuse a build whose test rows are not those that were ranked."""
    own = Ranks.from_table(ranked_rows_table(dataset, np.zeros(len(dataset.rows["test"]))))
    if not own.item.equals(ranks.item):
        raise InputError(f"the test rows in {dataset.build_dir} are not those that the runs ranked")


def collect_examples(
    panel: Panel, ranked: RankedGroups, opener: Opener, options: Options, missing: list[str]
) -> list[dict[str, Any]]:
    """Show some users with what the first seed of each model gives them."""
    if not options.examples:
        missing.append("switched off by --examples=0")
        return []
    try:
        dataset = opener.dataset(panel.runs)
        if ranked:
            check_rows_of(dataset, first_ranks(ranked))
        shelf = examples.Shelf(dataset, train_events(dataset))
    except InputError as error:
        missing.append(str(error))
        return []
    best = np.min([runs[0][1].rank for runs in ranked.values()], axis=0) if ranked else None
    length = dataset.history_lengths("test")
    chosen = examples.choose_rows(length, best, options.examples, options.seed)
    shown = [shelf.example(row, from_hits) for row, from_hits in chosen]
    bar = progress_bar(len(panel.groups), "examples", "models", options.progress)
    for group in panel.groups:
        run = group.runs[0]
        try:
            items, rank = examples.top_items(opener.open(run), [row for row, _ in chosen])
        except (InputError, FloatingPointError) as error:
            missing.append(f"{group.label}: {error}")
        else:
            for example, own, place in zip(shown, items, rank):
                about = {"label": group.label, "seed": run.metrics["seed"], "rank": place}
                example["lists"].append({**about, "items": shelf.marked(own, example["row"])})
        bar.update(1)
    bar.close()
    return shown if any(example["lists"] for example in shown) else []

"""`recbole-blair pretrain`: a text encoder trained on pairs, ready-made or made from raw reviews."""

from __future__ import annotations

import json
import os
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from recbole_blair.cli.help_layout import fit
from recbole_blair.cli.options import keys_text, parse_flags, ray_options, take_options
from recbole_blair.config.keys import props_keys
from recbole_blair.config.kinds import Kind
from recbole_blair.errors import InputError, nearest, require
from recbole_blair.figures import fraction
from recbole_blair.files.output import check_output_folder
from recbole_blair.tracking.trackers import check_trackers

if TYPE_CHECKING:
    from recbole_blair.parallel.ray_cluster import RayOptions
    from recbole_blair.pretrain.settings import Settings

# Inside the functions: what loads torch, transformers or DuckDB (pretrain, cluster, dataset_tools).

SUMMARY = "train a text encoder on (review, item metadata) pairs; goes on where it was interrupted"
EXAMPLE = "recbole-blair pretrain --pairs=pairs.jsonl.gz --plm=FacebookAI/roberta-base --output_dir=my-blair"
PASS_THROUGH = True  # every key of props/pretrain/pretrain.yaml is a flag
DEFAULTS = "pretrain/pretrain.yaml"
FLAGS = ("help", "prepare_only", "print_config", "contamination", "report_usage")
OPTIONS = ("config_files", "engine", "num_workers", "ray_address", "ray_cpus")
KINDS = {"engine": Kind("str"), "ray_address": Kind("str"), "num_workers": Kind.parse("int, >=1, <=4096")}

HELP = """usage: recbole-blair pretrain (--pairs=FILE | --dataset=A,B | --pairs_from=BUILD) [--key=value ...]

{summary}.

  --pairs=FILE          file or folder of ready pairs
  --dataset=A,B         make pairs from the raw reviews of these domains first (or all)
  --pairs_from=BUILD    make pairs from the training rows of a build: history and next item (docs/finetuning.md)
  --prepare_only        make the pairs of --dataset or --pairs_from and stop
  --contamination       make them, and report what of validation and test occurs in them, and stop
  --config_files=A,B    YAML files of keys; the command line outranks them
  --log=A,B             log the run to trackers: tensorboard, wandb, mlflow (docs/tracking.md)
  --print_config        print every resolved key and stop
  --engine=local|ray    ray: in --num_workers=N processes of a Ray cluster, one a GPU (docs/scaling.md)
  --ray_address=ADDRESS auto or host:port of a cluster; empty: one is started here, with --ray_cpus=N CPUs
  --report_usage        let Ray send its usage statistics
  --help                this

An interrupted run goes on with the same command. Several GPUs:
  torchrun --nproc_per_node=4 -m recbole_blair pretrain --pairs=... --output_dir=...

example: {example}

keys with their defaults:
{keys}"""


def run(argv: list[str]) -> int:
    """Parse, make pairs where asked for, train, print the table."""
    options, overrides = parse(argv)
    if options.get("help"):
        print(help_text())
        return 0
    from recbole_blair.pretrain.settings import resolve_settings

    ray, num_workers = cluster_options(options)
    settings = resolve_settings(overrides, options.get("config_files") or [])
    if options.get("print_config"):
        return print_config(settings)
    given = [key for key in ("pairs", "dataset") if settings[key] is not None]
    if len(given) == 2 or not (given or settings.pairs_from is not None):
        raise InputError(f"give either --pairs=FILE or --dataset=NAME, or --pairs_from=BUILD; example: {EXAMPLE}")
    if not options.get("prepare_only") and not options.get("contamination"):
        require("pretrain", "accelerate", "datasets")
        check_trackers(settings.log)
        if settings.output_dir is not None:
            check_output_folder(settings.output_dir)
    if settings.dataset is not None:
        settings["pairs"] = str(make_pairs(settings))
        if options.get("contamination"):
            return report_contamination(settings)
    if settings.pairs_from is not None:
        settings["pairs"] = str(make_pairs_of_build(settings))
    if options.get("prepare_only"):
        print(settings.pairs)
        return 0
    if settings.output_dir is not None:
        return train(settings, ray, num_workers)
    settings["output_dir"] = default_folder(settings)
    try:
        return train(settings, ray, num_workers)
    except KeyboardInterrupt:
        command = shlex.join(["recbole-blair", "pretrain", *argv, f"--output_dir={settings.output_dir}"])
        raise KeyboardInterrupt(f"go on with: {command}") from None


def train(settings: Settings, ray: RayOptions | None, num_workers: int) -> int:
    """Train in this process or on Ray, and print the table."""
    if ray:
        from recbole_blair.cluster.pretrain import pretrain_over_cluster

        metrics = pretrain_over_cluster(settings, num_workers, ray)
    else:
        from recbole_blair.pretrain.run import pretrain

        metrics = pretrain(settings)
    print_results(settings.output_dir, metrics)
    return 0


def cluster_options(options: dict[str, Any]) -> tuple[RayOptions | None, int]:
    """Return how to reach Ray, or None, and the number of workers.

    Raises:
        InputError: an unknown engine, no number of workers, or one without engine=ray.
    """
    keys = replace(props_keys("tune/tune.yaml"), kinds={**props_keys("tune/tune.yaml").kinds, **KINDS})
    for key in ("num_workers", "ray_cpus", "ray_address"):
        if key in options:
            options[key] = replace(keys, defaults={key: 1}).check(key, options[key], "the command line")
    ray = ray_options(options.get("engine", "local"), options, ("num_workers",))
    if ray and "num_workers" not in options:
        raise InputError("--engine=ray needs --num_workers=N: processes, one a GPU where there are GPUs")
    return ray, options.get("num_workers", 1)


def parse(argv: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a command line into options of this command and keys.

    Raises:
        InputError: an argument that is none of these, an unknown flag, a key given twice.
    """
    known = props_keys(DEFAULTS)
    pairs = parse_flags(argv, replace(known, kinds={**known.kinds, **KINDS}), FLAGS, EXAMPLE)
    for key in pairs:
        if key not in known.defaults and key not in (*OPTIONS, *FLAGS):
            hint = nearest(key, [*known.defaults, *OPTIONS, *FLAGS])
            raise InputError(f"unknown flag --{key}.{hint} `recbole-blair pretrain --help` lists all")
    options = take_options(pairs, OPTIONS, FLAGS)
    for name in ("pairs", "plm", "scratch", "output_dir"):
        if pairs.get(name) is True:
            raise InputError(f"--{name} needs a value, as in {EXAMPLE}")
    return options, pairs


def help_text() -> str:
    """The usage with the defaults, as the YAML file explains them."""
    return fit(HELP.format(summary=SUMMARY, example=EXAMPLE, keys=keys_text(DEFAULTS)))


def print_config(settings: Settings) -> int:
    """Print the resolved keys as YAML that --config_files reads back."""
    print(yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True), end="")
    return 0


def make_pairs(settings: Settings) -> Path:
    """Make the pairs of --dataset and return their folder."""
    from dataset_tools.pretraining.review_pairs import PairSettings, make_pair_files
    from dataset_tools.storage.resources import Resources

    wanted = PairSettings(
        share=settings.sample_share,
        seed=settings.seed,
        min_chars=settings.min_chars,
        exclude_items=settings.exclude_items,
        exclude_reviews=settings.exclude_reviews,
    )
    resources = Resources(settings.memory_limit, progress=settings.show_progress)
    return make_pair_files(settings.dataset, settings.raw_dir, settings.pairs_path, wanted, resources)


def make_pairs_of_build(settings: Settings) -> Path:
    """Make the pairs of --pairs_from, with those of --pairs or --dataset mixed in, and return their folder."""
    from recbole_blair.pretrain.collaborative_pairs import CollaborativeSettings, make_collaborative_pairs

    wanted = CollaborativeSettings(settings.pairs_kinds, settings.history_items, settings.history_chars)
    folder, shown = settings.pairs_path, settings.show_progress
    return make_collaborative_pairs(settings.pairs_from, folder, wanted, settings.pairs, shown)


def report_contamination(settings: Settings) -> int:
    """Print what of validation and test occurs in the pairs."""
    from dataset_tools.pretraining.contamination import report_contamination as report
    from dataset_tools.storage.resources import Resources

    resources = Resources(settings.memory_limit, progress=settings.show_progress)
    found = report(settings.pairs, settings.dataset, settings.raw_dir, resources)
    print(json.dumps(found, indent=2))
    return 0


def default_folder(settings: Settings) -> str:
    """Return runs/<time>-pretrain-<encoder>-<seed>."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise InputError("under torchrun --output_dir=FOLDER must be given, the same for every process")
    name = "scratch" if settings.scratch is not None else Path(str(settings.plm)).name
    return f"runs/{time.strftime('%Y%m%d-%H%M%S')}-pretrain-{name}-{settings.seed}"


def print_results(folder: str, metrics: dict[str, Any]) -> None:
    """Print before, after, and where the encoder is; only the first process does."""
    from recbole_blair.parallel.distributed import rank

    if rank():
        return
    if metrics["after"]:
        print(f"{metrics['queries']} held-out contexts, {metrics['candidates']} candidate items")
        print(f"{'':12} {'before':>8} {'after':>8}")
    for name, value in metrics["after"].items():
        before = metrics["before"].get(name)
        print(f"{name:12} {'' if before is None else fraction(before):>8} {fraction(value):>8}")
    if metrics["fresh_parameters"]:
        print(f"{metrics['fresh_parameters']} tensors started at random: {metrics['base']} does not hold them")
    if metrics["pairs_per_second"]:
        print(f"{metrics['pairs_per_second']:.1f} pairs/s ({metrics['precision']}, {metrics['device']})")
    print(folder)

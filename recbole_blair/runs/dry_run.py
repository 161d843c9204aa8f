"""`--dry_run`: what training would do, with its disk, memory and rough time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_blair import compat
from recbole_blair.config import Config, resolve_config
from recbole_blair.data.build import encoder_options, show_build_plan
from recbole_blair.data.feature_transforms import chosen_transform
from recbole_blair.registry import find_model
from recbole_blair.registry.build_model import check_protocol, trains_encoder, uses_text
from recbole_blair.text.api_models import find_api_model
from recbole_blair.text.api_tokens import cost_text
from recbole_blair.text.encode import find_feature_name
from recbole_blair.text.features import feature_path
from recbole_blair.text.trained.choice import EncoderTraining, chosen_training
from recbole_blair.text.vectors import PREFIX as READY_VECTORS
from recbole_blair.train.runtime import runtime_config

TOKENS_PER_TEXT = 160  # of a typical item text in Amazon Reviews 2023; only for the estimate
ENCODER_FLOPS_PER_TOKEN = 2 * 85e6  # a base-sized encoder's multiplications and additions
FLOPS_PER_S = {"cpu": 3e11, "cuda": 1e14}  # what an ordinary machine reaches


def print_plan(model: str, dataset: str, files: Sequence[str], overrides: dict[str, Any]) -> int:
    """Print one line per step: download and conversion, encoding, training. Nothing is written."""
    compat.apply()
    info = find_model(model)
    config = runtime_config(resolve_config(info, dataset, files, overrides))
    check_protocol(info, config["protocol"])
    build_dir = show_build_plan(config)
    training = chosen_training(config, trains_encoder(info), chosen_transform(config))
    if training is not None:
        print(plan_encoder(config, build_dir, training))
    elif uses_text(info):
        print(plan_features(config, build_dir))
    print(plan_training(config, build_dir))
    return 0


def count_items(build_dir: Path) -> int | None:
    """Return the number of items of a build, or None when it is not there yet."""
    path = build_dir / f"{build_dir.name}.item"
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        return sum(1 for _ in file) - 1


def plan_features(config: Config, build_dir: Path) -> str:
    """Return the line on the features."""
    path = feature_path(build_dir, find_feature_name(build_dir, config["plm"], **encoder_options(config)))
    if path.is_file():
        return f"features   {path}: there, {path.stat().st_size / 2**20:,.0f} MiB"
    items = count_items(build_dir)
    if items is None:
        return f"features   {path}: to be made with {config['plm']}; 3 KiB per item at width 768"
    if config["plm"].startswith(READY_VECTORS):
        return f"features   {path}: to be taken from {config['plm'].removeprefix(READY_VECTORS)}: {items:,} vectors"
    if config["plm"].startswith("openai:"):
        return plan_api_features(config, path, items)
    seconds = items * TOKENS_PER_TEXT * ENCODER_FLOPS_PER_TOKEN / FLOPS_PER_S[config["device"].type]
    return (
        f"features   {path}: to be made with {config['plm']}: {items:,} texts, {items * 3 / 1024:,.0f} MiB at width "
        f"768, roughly {max(seconds / 60, 1):,.0f} minutes for a base-sized encoder on {config['device']}"
    )


def plan_encoder(config: Config, build_dir: Path, training: EncoderTraining) -> str:
    """Return the line on a text encoder that is trained."""
    items = count_items(build_dir)
    line = f"encoder    {config['plm']}: trained with the recommender, train_encoder={training}"
    if training.kind != "last" or items is None:
        return line
    n_bytes = items * min(TOKENS_PER_TEXT, config["plm_max_length"]) * 768 * config["compute_dtype"].itemsize
    return f"{line}; states below its layers: about {n_bytes / 2**30:,.1f} GiB at width 768 in {build_dir}/.cache"


def plan_api_features(config: Config, path: Path, items: int) -> str:
    """Return the line for features from an API, with the price of its texts."""
    tokens = items * min(TOKENS_PER_TEXT, config["plm_max_length"])
    price = cost_text(tokens, find_api_model(config["plm"].removeprefix("openai:")).usd_per_million_tokens)
    return (
        f"features   {path}: to be made with {config['plm']}: {items:,} texts, roughly {tokens:,} tokens, {price} at "
        "api.openai.com; the texts are counted before the first request"
    )


def plan_training(config: Config, build_dir: Path) -> str:
    """Return the line on the training."""
    items = count_items(build_dir)
    seeds, names = config["seeds"] or [config["seed"]], [config["model"], *(config["baselines"] or [])]
    runs = f"{len(seeds) * len(names)} run(s): {', '.join(names)} x seeds {seeds}"
    memory = "" if items is None else f", about {1.5 + items * 768 * 14 / 2**30:.1f} GiB of memory at width 768"
    return (
        f"training   {runs}, at most {config['epochs']} epochs on {config['device']} in {config['precision']}{memory}"
    )

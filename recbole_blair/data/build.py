"""Makes what training needs and does not find: the build (download, convert) and the item features."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_tools.atomic_source import refuse_unsplit
from dataset_tools.builds.folder import build_is_whole
from dataset_tools.builds.released_texts import read_released_texts
from dataset_tools.builds.settings import AMAZON_KEYS, AmazonSettings
from dataset_tools.builds.statistics_file import list_builds, load_stats, require_stats
from dataset_tools.own_data import find_own_build
from dataset_tools.prepare import plan_build, prepare_build
from dataset_tools.storage.resources import Resources
from recbole_blair.errors import InputError
from recbole_blair.files.read import check_folder_flag
from recbole_blair.schema import DOMAINS, SPLITS, STATS_SUFFIX, format_setting
from recbole_blair.text.encode import encode_build, find_feature_name, other_settings
from recbole_blair.text.encoders import check_options, drop_unused, resolve_plm
from recbole_blair.text.features import feature_path, features_are_whole, read_header, read_item_texts
from recbole_blair.text.item_text import text_hash
from recbole_blair.text.options import KEYS as ENCODER_KEYS
from recbole_blair.text.options import EncoderOptions
from recbole_blair.text.reuse import kept_items
from recbole_blair.text.trained.source import TextSource
from recbole_blair.text.vectors import PREFIX as READY_VECTORS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from recbole_blair.text.trained.choice import EncoderTraining

PREPARE_KEYS = ("data_path", "raw_dir", "memory_limit", *AMAZON_KEYS)  # that decide where and how a build is made
SPLIT_KEYS = ("split_seed", "split_shares")  # of protocol=random


def foreign_build(config: Mapping[str, Any]) -> Path | None:
    """Return the folder of a build that is used as it is, when `dataset` names one under data_path.

    That is one other tools made (no stats.json), or one made from files of the user's own.

    Raises:
        InputError: data of one's own that were prepared in another way than is asked for.
    """
    for key in ("data_path", "raw_dir"):
        check_folder_flag(key, config[key])
    name = config["dataset"]
    if Path(name).name != name:
        raise InputError(f"dataset={name!r} is a path; give a name, and its folder by --data_path")
    own = own_build(config)
    if own is not None:
        return own
    folder = Path(config["data_path"]) / name
    has_rows = all((folder / f"{name}.{split}.inter").is_file() for split in SPLITS)
    ours = (folder / f"{name}{STATS_SUFFIX}").is_file()
    if not has_rows or ours:
        return None
    if name in DOMAINS and not (folder / f"{name}.data_maps").is_file():
        return None  # an unfinished build of ours: conversion starts it afresh
    return folder


def own_build(config: Mapping[str, Any]) -> Path | None:
    """Return the folder of a build from files of the user's own (`prepare --source=csv`), or None.

    Raises:
        InputError: it is not whole, or was prepared with other settings than the configuration's.
    """
    folder = find_own_build(config["dataset"], config["data_path"], config["protocol"])
    if folder is None:
        return None
    stats = require_stats(folder)
    made = {**stats["settings"], **stats["instants"]}
    if made["protocol"] != config["protocol"]:
        raise InputError(
            f"{folder} is a build of another protocol; pass --dataset={made['dataset']} --protocol={made['protocol']}"
        )
    for key in ("max_history", "ascii_text", "catalogue", "valid_start_ms", "test_start_ms", *SPLIT_KEYS):
        if config[key] != made.get(key) and config[key] is not None:  # no instant asked for: those of the build
            raise InputError(
                f"{folder} was prepared with {format_setting(key, made.get(key))}, asked is "
                f"{format_setting(key, config[key])}; pass "
                f"--{key}={made.get(key)}, "
                "or prepare it again in another --data_path"
            )
    return folder


def ensure_build(config: Mapping[str, Any]) -> Path:
    """Return the build's folder; downloads and converts what is missing, with progress.

    Raises:
        InputError: unknown dataset, no raw files and no network, a build that disagrees with what is asked for.
    """
    folder = foreign_build(config)
    if folder is not None:
        return folder
    return prepare_build(*build_arguments(config))


def resolve_settings(config: Mapping[str, Any]) -> AmazonSettings:
    """Return the settings of the build that a configuration asks for; see `AmazonSettings.resolve`.

    Raises:
        InputError: also for an unknown dataset that is a data set of RecBole's, not split yet.
    """
    refuse_unsplit(config["dataset"], config["data_path"], config["protocol"])
    options = {key: config[key] for key in AMAZON_KEYS}
    builds = partial(list_builds, config["data_path"])
    return AmazonSettings.resolve(config["dataset"], config["raw_dir"], builds, **options)


def build_arguments(config: Mapping[str, Any]) -> tuple[AmazonSettings, str, str, Resources]:
    """Return the arguments of `prepare_build`, and of `plan_build`, that a configuration asks for."""
    resources = Resources(config["memory_limit"], progress=config["show_progress"])
    return resolve_settings(config), config["data_path"], config["raw_dir"], resources


def ensure_features(config: Mapping[str, Any], build_dir: Path, trained_with: str | None = None) -> str:
    """Return the encoder's name; encodes the build's item texts when their feature file is missing.

    A file that is there is never overwritten: loading it checks that it belongs to this build.

    Args:
        config: a resolved configuration.
        build_dir: folder of the atomic files.
        trained_with: the encoder's name as a finished run recorded it. Where the encoder's folder has
            gone, its feature file alone is enough.

    Raises:
        InputError: an encoder that does not exist or has gone, or a feature file made with other settings.
    """
    if trained_with and encoder_has_gone(config["plm"], trained_with):
        if features_are_whole(build_dir, trained_with):
            return trained_with
        raise InputError(
            f"the encoder folder {config['plm']} of this run has gone, and {build_dir.name} has no features of "
            f"{trained_with}; give the folder's place now by --plm=FOLDER"
        )
    if not config["plm"].startswith(READY_VECTORS):
        check_has_text(build_dir)
    options = encoder_options(config)
    if trained_with:  # by a version that took options which mean nothing
        options = drop_unused(config["plm"], options)
    name = find_feature_name(build_dir, config["plm"], **options)
    path = feature_path(build_dir, name)
    if features_are_whole(build_dir, name):
        check_feature_settings(config, path, options)
        if not kept_items(build_dir):  # else the build was made again, and its features may be of the former one
            return name
    encode_build(
        build_dir, config["plm"], device=str(config["device"]), precision=config["precision"],
        progress=config["show_progress"], read_released=partial(released_texts, config, build_dir), **options,
    )  # fmt: skip
    return name


def encoder_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the keys ask of the encoder, as `EncoderOptions` names it; device and precision are left out."""
    return {option: config[key] for option, key in ENCODER_KEYS.items()}


def check_encoder_keys(config: Mapping[str, Any]) -> None:
    """Refuse keys that mean nothing for the configuration's encoder, and an encoder that cannot be."""
    check_options(config["plm"], EncoderOptions(**encoder_options(config)))


def released_texts(config: Mapping[str, Any], build_dir: Path, ids: Sequence[str]) -> list[str]:
    """Return the texts that the released code makes of items; see `read_released_texts`."""
    return read_released_texts(build_dir, config["raw_dir"], ids, config["text_fields"], config["show_progress"])


def encoder_has_gone(plm: str, trained_with: str) -> bool:
    """Tell whether a run's encoder was a folder that is no longer there; a relative one then reads like a hub id."""
    try:
        kind, value = resolve_plm(plm)
    except InputError:
        return True
    if kind != "hub":
        return False
    return not trained_with.startswith((str(value).replace("/", "--"), str(value).rsplit("/", 1)[-1]))


def text_source(
    config: Mapping[str, Any], build_dir: Path, training: EncoderTraining, scale: float = 1.0
) -> TextSource:
    """Return what a text encoder is made from that trains with the recommender.

    Args:
        config: a resolved configuration.
        build_dir: folder of the atomic files.
        training: what is trained.
        scale: every vector is multiplied by it.

    Raises:
        InputError: no item has text.
    """
    check_has_text(build_dir)
    options = encoder_options(config)
    ids, texts = read_item_texts(build_dir, EncoderOptions(**options).item_columns)
    own_hash = None
    if config["text_recipe"] != "own":
        own_hash, texts = text_hash(texts), released_texts(config, build_dir, ids)
    return TextSource(
        training, build_dir, config["plm"], options, ids, texts, config["device"], config["compute_dtype"],
        own_texts_sha256=own_hash, batch_tokens=config["encoder_batch_tokens"], caching=config["encoder_caching"],
        per_step=config["encoder_texts_per_step"], scale=scale, moments=1 if config["learner"] == "sgd" else 2,
        progress=config["show_progress"],
    )  # fmt: skip


def check_has_text(build_dir: Path) -> None:
    """Refuse a text model on a build made without an items file.

    Raises:
        InputError: no item has text.
    """
    catalogue = (load_stats(build_dir) or {}).get("catalogue", {})
    if catalogue.get("items") and catalogue["items"] == catalogue.get("without_text"):
        raise InputError(
            f"no item of {build_dir} has text, which this model needs; prepare the data again with --items=FILE, or "
            "choose a model of ids such as SASRec"
        )


def check_feature_settings(config: Mapping[str, Any], path: Path, options: Mapping[str, Any]) -> None:
    """Refuse a feature file whose header names another encoder or other settings than the configuration asks for."""
    header_file = path.with_name(f"{path.name}.json")
    if not header_file.is_file():
        return  # upstream's files say nothing of their making
    other = other_settings(read_header(header_file), config["plm"], EncoderOptions(**options))
    if other:
        raise InputError(
            f"{path.name} is not what the configuration asks for: {'; '.join(other)}; set the key to that, or encode "
            "again with `recbole-blair encode --force`"
        )


def show_build_plan(config: Mapping[str, Any]) -> Path:
    """Print what `ensure_build` would do, with its disk, memory and time; returns the build's folder."""
    folder = foreign_build(config)
    if folder is not None:
        print(f"build      {folder}: there; used as it is")
        return folder
    return plan_build(*build_arguments(config))


def find_build(config: Mapping[str, Any]) -> tuple[Path, bool]:
    """Return the folder of a configuration's build, and whether the build is there and whole; nothing is made.

    Raises:
        InputError: the folder holds a build of other settings.
    """
    folder = foreign_build(config)
    if folder is not None:
        return folder, True
    try:
        settings = resolve_settings(config)
        folder = Path(config["data_path"]) / settings.build_name
        return folder, build_is_whole(folder, settings)
    except InputError:
        folder = Path(config["data_path"]) / config["dataset"]
        if folder.is_dir():
            raise
        return folder, False

"""The data of a part: made once for all encoders, and known by their hash from then on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dataset_tools.builds.statistics_file import require_stats
from dataset_tools.recipes import load_recipe, prepare_recipe
from recbole_blair.bench.suite import Part
from recbole_blair.errors import InputError
from recbole_blair.files.checksum import file_sha256
from recbole_blair.schema import ITEM_SUFFIX, SPLITS
from recbole_blair.search import datasets
from recbole_blair.steps.commands import STEP_FILE, Result, keep_result, run_prepare
from recbole_blair.steps.step import Places
from recbole_blair.steps.world import World
from recbole_blair.text.features import build_path

BUILD_KEYS = ("protocol", "max_history", "split_seed")  # of a part, that decide its build
POOL_KEYS = ("pool_text",)  # that decide its pool


def make_data(part: Part, places: Places, folder: Path) -> dict[str, Any]:
    """Make a part's data unless they are there.

    Args:
        part: says what they are.
        places: where raw files and builds are.
        folder: keeps what was made, one folder per set of data.

    Returns:
        `keys`: what the part's command takes for them; `sha256`: of their content; `folder`; `counts`.

    Raises:
        InputError: raw files that are not there, or what the makers refuse.
    """
    (maker, given), *_ = part.source.items()
    keys = {"maker": maker, "given": fill(given, places)}
    deciding = BUILD_KEYS if maker in ("prepare", "recipe") else POOL_KEYS
    keys |= {key: part.keys[key] for key in deciding if key in part.keys}
    own = folder / f"{part.dataset}-{keys.get('protocol', 'data')}"
    made = keep_result(MAKERS[maker])(keys, places, own)
    if not Path(made["folder"]).is_dir():  # the data were removed since
        (own / STEP_FILE).unlink()
        made = keep_result(MAKERS[maker])(keys, places, own)
    return made


def fill(given: Any, places: Places) -> Any:
    """Return a source with its placeholders filled: {raw_dir} and {measuring}."""
    scope = {key: value for key, value in places.scope().items() if value is not None}
    if isinstance(given, str):
        return given.format(**scope)
    return {key: value.format(**scope) if isinstance(value, str) else value for key, value in given.items()}


def build_options(keys: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a build that a part's own keys set."""
    return {key: keys[key] for key in BUILD_KEYS if key in keys}


def prepare_amazon(keys: dict[str, Any], places: Places, folder: Path) -> Result:
    """Make a build of Amazon's reviews, or of generated ones."""
    options = {**keys["given"], **build_options(keys)}
    made = run_prepare(options, places, folder)
    return describe_build(Path(made["runs"][0]), options, made["metrics"])


def make_from_recipe(keys: dict[str, Any], places: Places, folder: Path) -> Result:
    """Make a build of a publisher's files by a recipe."""
    given = dict(keys["given"])
    recipe, source = given.pop("name"), given.pop("source_dir")
    options = {**given, **build_options(keys)}
    build = prepare_recipe(recipe, source, data_path=places.data_path, progress=places.progress, **options)
    made = load_recipe(recipe, source)
    chosen = {key: options.get(key, made.get(key)) for key in ("dataset", *BUILD_KEYS)}
    stats = require_stats(build)
    counts = {**stats["table3"], "rows": stats["rows"], "users": stats["users"]}
    return describe_build(build, {key: value for key, value in chosen.items() if value is not None}, counts)


def describe_build(build: Path, keys: dict[str, Any], counts: dict[str, Any]) -> Result:
    """Return what is kept of a build: the hash of its rows and item texts."""
    files = [build_path(build, f".{split}.inter") for split in SPLITS] + [build_path(build, ITEM_SUFFIX)]
    return {"keys": keys, "folder": str(build), "sha256": hash_files(files), "counts": counts}


def find_queries(keys: dict[str, Any], places: Places, folder: Path) -> Result:
    """Find a query set with its pool."""
    name = keys["given"]
    files = datasets.find_files(name, places.data_path, pool_text=keys.get("pool_text", "all"))
    pool = files.pool or files.products
    there = [path for path in (files.queries, files.examples, pool, files.categories) if path is not None]
    return {"keys": {"dataset": name}, "folder": str(files.folder), "sha256": hash_files(there), "counts": {}}


def generate_queries(keys: dict[str, Any], places: Places, folder: Path) -> Result:
    """Write a generated query set; of the same sizes the same bytes."""
    given = keys["given"]
    sizes = {"world": {key: given[key] for key in ("users", "items")}, "queries": given["queries"]}
    made = World(folder, sizes).queries(given["kind"])
    return find_queries({**keys, "given": str(made)}, places, folder)


def hash_files(paths: Iterable[Path]) -> str:
    """Return the SHA-256 of the digests of files, in order."""
    return hashlib.sha256("".join(file_sha256(path) for path in paths).encode()).hexdigest()


MAKERS = {"prepare": prepare_amazon, "queries": find_queries, "generate": generate_queries, "recipe": make_from_recipe}


def require_same(part: str, known: str, found: str) -> None:
    """Refuse data that are not those of the cells that are there.

    Raises:
        InputError: names the part.
    """
    if known != found:
        raise InputError(
            f"{part}: the data changed since its cells were made (SHA-256 {known[:12]}… then, {found[:12]}… now); put "
            "the former data back, or choose another --output_dir"
        )

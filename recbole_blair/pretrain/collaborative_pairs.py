"""Pairs that a recommender's training rows make: (history, next item) and (item, item bought next), as texts.

Only rows of the split `train` are read, so no text of an item that occurs in validation or test alone comes in. The
pairs are written as Parquet shards that `--pairs` reads, with `history_id`, the user, by which pairs of one history are
no negatives of each other, and with manifest.json, which says what they were made from.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from recbole_blair.data.dataset import BlairDataset
from recbole_blair.errors import InputError
from recbole_blair.files.checksum import file_sha256
from recbole_blair.files.own_json import read_own_json, write_own_json
from recbole_blair.files.read import shown, why_no_folder
from recbole_blair.files.write import whole_folder
from recbole_blair.pretrain.pair_files import check_row, pair_files, pairs_hash, read_pairs
from recbole_blair.text.features import read_item_texts
from recbole_blair.text.item_text import text_hash

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Target = tuple[str, str, int | None, str | None]  # metadata, item_id, timestamp, history_id
Pair = tuple[str, str, str, int | None, str | None]  # the context before them
MANIFEST = "manifest.json"
SHARD_ROWS = 100_000
SEPARATOR = "; "  # between the items of a history


@dataclass(frozen=True)
class CollaborativeSettings:
    """Which pairs are made, and how a history becomes a text.

    Args:
        kinds: `history+next`, `history` or `next`.
        history_items: latest items of a history's text; the latest stands first, so that a cut drops the oldest.
        history_chars: characters kept of the text of each of them.
    """

    kinds: str = "history+next"
    history_items: int = 10
    history_chars: int = 100


def make_collaborative_pairs(
    build: Path | str,
    folder: Path | str,
    settings: CollaborativeSettings,
    reviews: Path | str | None = None,
    progress: bool = True,
) -> Path:
    """Write the pairs of a build's training rows; pairs of the same build, settings and reviews are left as they are.

    Args:
        build: folder of the build.
        folder: gets `<build>-<hash of all that decides the pairs>/`.
        settings: which pairs.
        reviews: file or folder of review pairs that are mixed in; those from the first instant on stay out.
        progress: show a bar.

    Returns:
        The folder of the pairs.

    Raises:
        InputError: no build there, one without texts, or one whose training rows reach beyond its first instant.
    """
    reason = why_no_folder(build)
    if reason is not None:
        raise InputError(f"--pairs_from={shown(build)}: {reason}; expected the folder of a build")
    dataset = BlairDataset(Path(build).expanduser())
    check_times(dataset)
    _, texts = read_item_texts(dataset.build_dir)
    instant = first_instant(dataset)
    about = {
        "build": dataset.name,
        "settings": asdict(settings),
        "training_rows": len(dataset.rows["train"]),
        "training_rows_sha256": rows_hash(dataset),
        "texts_sha256": text_hash(texts),
        "reviews_sha256": None if reviews is None else pairs_hash(reviews),
        "first_instant_ms": instant,
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    place = Path(folder) / f"{dataset.name}-{digest[:8]}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_name(f".{place.name}.lock")):  # under torchrun every process comes here
        if not (place / MANIFEST).is_file():
            counts: dict[str, int] = {}
            pairs = iterate_pairs(dataset, texts, settings, counts)
            with whole_folder(place) as temporary:
                bar = tqdm(pairs, desc="collaborative pairs", unit=" pairs", disable=not progress)
                shards = write_shards(temporary, "collaborative", bar)
                if reviews is not None:
                    earlier = reviews_before(reviews, instant, counts)
                    shards += write_shards(temporary, "reviews", earlier)
                write_own_json(temporary / MANIFEST, {**about, "counts": counts, "shards": shards})
    return place


def first_instant(dataset: BlairDataset) -> int | None:
    """Return the first instant of validation in ms: the build's own, else its earliest validation target; or None."""
    instant = (dataset.stats().get("instants") or {}).get("valid_start_ms")
    if instant is None and dataset.has_times:
        instant = dataset.seq_times[dataset.rows["valid"].target].min()
    return None if instant is None else int(instant)


def check_times(dataset: BlairDataset) -> None:
    """Refuse a build whose training rows hold an event from its own first instant on.

    Raises:
        InputError: names the first such row.
    """
    instant = (dataset.stats().get("instants") or {}).get("valid_start_ms")
    late: np.ndarray | list[int] = (
        [] if instant is None else np.flatnonzero(dataset.seq_times[dataset.rows["train"].target] >= instant)
    )
    if len(late):
        raise InputError(
            f"{dataset.name}.train.inter row {int(late[0]) + 1} is of the first instant {instant} or later, which is "
            "not training; make the build again with `recbole-blair prepare`"
        )


def rows_hash(dataset: BlairDataset) -> str:
    """Return the SHA-256 of the training rows: user, history and target of each, as items and times."""
    rows, digest = dataset.rows["train"], hashlib.sha256()
    digest.update(np.ascontiguousarray(rows.table).tobytes())
    first, last = int((rows.target - rows.length).min()), int(rows.target.max())
    digest.update(np.ascontiguousarray(dataset.events[first : last + 1]).tobytes())
    return digest.hexdigest()


def iterate_pairs(
    dataset: BlairDataset, texts: Sequence[str], settings: CollaborativeSettings, counts: dict[str, int]
) -> Iterator[Pair]:
    """Yield the pairs of every training row; adds to `counts`.

    A row with a history of one item makes no history pair beside its pair of items, which says the same.
    """
    rows = dataset.rows["train"]
    with_next, with_history = "next" in settings.kinds, "history" in settings.kinds
    short = [cut_text(text, settings.history_chars) for text in texts]
    ids, users = dataset.item_tokens, dataset.user_tokens
    counts |= {"history_pairs": 0, "next_pairs": 0}
    for target, length, user in rows.table.tolist():
        item, time = dataset.events[target].tolist()
        end: Target = (texts[item - 1], str(ids[item - 1]), time or None, str(users[user - 1]))
        history = dataset.seq_items[max(target - length, target - settings.history_items) : target]  # oldest first
        if not len(history):
            continue
        if with_next:
            counts["next_pairs"] += 1
            yield texts[history[-1] - 1], *end
        if with_history and (len(history) > 1 or not with_next):
            counts["history_pairs"] += 1
            yield SEPARATOR.join(short[i - 1] for i in history[::-1] if short[i - 1]), *end


def cut_text(text: str, characters: int) -> str:
    """Return the beginning of a text, without a last word that the cut would break and without its full stop."""
    if len(text) > characters:
        text = text[: characters + 1].rsplit(" ", 1)[0][:characters]
    return text.rstrip(" .")


def reviews_before(path: Path | str, end_ms: int | None, counts: dict[str, int]) -> Iterator[Pair]:
    """Yield the review pairs before an instant; those without a time count as earlier. Adds to `counts`."""
    counts |= {"review_pairs": 0, "reviews_from_the_first_instant_on": 0}
    for file in pair_files(path):
        for first, rows in read_pairs(file):
            for number, row in enumerate(rows, first):
                context, metadata, item_id, time, _ = check_row(file, number, row)
                late = end_ms is not None and time is not None and time >= end_ms
                counts["reviews_from_the_first_instant_on" if late else "review_pairs"] += 1
                if not late:
                    yield context, metadata, item_id, time, None


def write_shards(folder: Path, name: str, pairs: Iterator[Pair] | tqdm) -> list[dict[str, Any]]:
    """Write pairs as `<name>-00000.parquet` …; return each shard's file, pairs and SHA-256."""
    import pyarrow as pa  # heavy
    import pyarrow.parquet as pq

    kinds = {name: pa.large_string() for name in ("context", "metadata", "item_id")}
    schema = pa.schema({**kinds, "timestamp": pa.int64(), "history_id": pa.large_string()})
    shards: list[dict[str, Any]] = []
    for rows in _lists_of(pairs, SHARD_ROWS):
        place = folder / f"{name}-{len(shards):05}.parquet"
        columns = [pa.array(column, field.type) for column, field in zip(zip(*rows), schema)]
        pq.write_table(pa.table(columns, schema=schema), place, compression="zstd")
        shards.append({"file": place.name, "pairs": len(rows), "sha256": file_sha256(place)})
    return shards


def _lists_of(pairs: Iterator[Pair] | tqdm, size: int) -> Iterator[list[Pair]]:
    """Cut pairs into lists of `size`; the last may be shorter."""
    source = iter(pairs)
    while rows := list(itertools.islice(source, size)):
        yield rows


def read_manifest(path: Path | str | None) -> dict[str, Any] | None:
    """Return what collaborative pairs were made from, or None for pairs of another kind."""
    manifest = None if path is None else Path(path).expanduser() / MANIFEST
    if manifest is None or not manifest.is_file():
        return None
    about = read_own_json(manifest, "the manifest of pairs", "make the pairs again, or remove it")
    return about if "training_rows_sha256" in about else None

"""Sample five-star reviews of the test window, uniformly and by seed, with their items' metadata.

A review's place in the sample is a hash of the seed, its user, item and time: the same reviews whatever the number of
threads or the order of the files, in one streamed pass over the reviews and one over the metadata of each domain.

Source: arXiv:2403.03952, section 3.3 and appendix (Amazon-C4: five stars, at least 100 characters, test window).
"""

from __future__ import annotations

import json
import tempfile
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

from dataset_tools.raw.domains import resolve_domain
from dataset_tools.raw.fetch import require_raw
from dataset_tools.raw.raw_files import json_lines, reading
from dataset_tools.storage.resources import Resources
from recbole_blair.errors import InputError
from recbole_blair.schema import TEST_START_MS, format_ms
from recbole_blair.text.item_text import clean_text

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence
    from pathlib import Path

MIN_CHARS = 100
RATING = 5.0
ROWS_PER_BATCH = 16_384
DEFAULT = Resources()


class Review(NamedTuple):
    """One sampled review; `key` is its place (32 hex digits), `text` cleaned, `title` and `store` of the item."""

    key: str
    user_id: str
    item_id: str
    rating: float
    text: str
    timestamp: int
    domain: str
    title: str
    store: str


class Draw(NamedTuple):
    """Which reviews are drawn: `n` of those with `min_chars` characters (cleaned) from `start_ms` on (Unix ms)."""

    n: int
    seed: int = 0
    min_chars: int = MIN_CHARS
    start_ms: int = TEST_START_MS


def sample_reviews(
    raw_dir: Path | str, domains: Sequence[str], draw: Draw, resources: Resources = DEFAULT
) -> tuple[list[Review], dict[str, Any]]:
    """Draw reviews, in a random order; fewer than asked for if there are fewer.

    Args:
        raw_dir, domains: where from.
        draw: which.
        resources: what the scans may use.

    Returns:
        The reviews; counts: eligible reviews per domain, sampled ones whose item has no metadata.

    Raises:
        InputError: files are missing or broken, or no review is eligible.
    """
    best: list[tuple] = []
    counts: dict[str, Any] = {"eligible": {}, "item_without_metadata": 0}
    names = list(dict.fromkeys(resolve_domain(d, raw_dir) for d in domains))
    for name in names:
        rows, counts["eligible"][name] = _scan_reviews(require_raw(raw_dir, "review", name), draw, resources)
        best = sorted(best + [(*row, name) for row in rows])[: draw.n]
    if not best:
        raise InputError(
            f"no five-star review of {draw.min_chars} or more characters at or after {format_ms(draw.start_ms)} in "
            f"{', '.join(names)}; name other domains, lower --min_chars, or set --start_ms for data of your own"
        )
    meta: dict[tuple[str, str], tuple[str, str]] = {}
    for name in names:
        wanted = {row[2] for row in best if row[-1] == name}
        if wanted:
            texts = _scan_items(require_raw(raw_dir, "meta", name), wanted, resources)
            meta |= {(name, item): text for item, text in texts.items()}
    reviews = [
        Review(key, user, item, rating, text, timestamp, name, *meta[name, item])
        for key, user, item, rating, text, timestamp, name in best
        if (name, item) in meta
    ]
    counts["item_without_metadata"] = len(best) - len(reviews)
    if not reviews:
        raise InputError(f"none of the {len(best)} sampled reviews has an item with metadata; fetch the metadata again")
    return reviews, counts


def _scan_reviews(path: Path, draw: Draw, resources: Resources) -> tuple[list[tuple], int]:
    """Return the eligible reviews of lowest key, sorted, one per (user, item), and how many are eligible."""
    columns = "{user_id: 'VARCHAR', parent_asin: 'VARCHAR', rating: 'DOUBLE', timestamp: 'BIGINT', text: 'VARCHAR'}"
    sql = (
        f"SELECT md5(concat_ws('|', {int(draw.seed)}, user_id, parent_asin, timestamp)) AS key, user_id, parent_asin, "
        f"rating, text, timestamp FROM {json_lines(path, columns)} "
        f"WHERE rating = {RATING} AND timestamp >= {int(draw.start_ms)} AND user_id <> '' AND "
        f"parent_asin <> '' AND length(trim(text)) >= {int(draw.min_chars)}"
    )
    best: list[tuple] = []
    eligible = 0
    for rows in _stream(path, sql, f"reviews {path.name}", resources):
        limit = best[draw.n - 1][0] if len(best) >= draw.n else "g"  # above every hexadecimal digit
        for key, user, item, rating, text, timestamp in zip(*rows.values()):
            clean = clean_text(text)
            if len(clean) < draw.min_chars:
                continue
            eligible += 1
            if key < limit:
                best.append((key, user, item, rating, clean, timestamp))
        best = _first_of_pairs(sorted(best))[: draw.n]
    return best, eligible


def _first_of_pairs(rows: list[tuple]) -> list[tuple]:
    """Return the first row of each (user, item)."""
    first: dict[tuple, tuple] = {}
    for row in rows:
        first.setdefault(row[1:3], row)
    return list(first.values())


def _scan_items(path: Path, wanted: Container[str], resources: Resources) -> dict[str, tuple[str, str]]:
    """Return item id -> (title, store), cleaned, of the wanted items of a domain; the first line of an item counts."""
    source = json_lines(path, "{parent_asin: 'VARCHAR', title: 'JSON', store: 'JSON'}")
    texts: dict[str, tuple[str, str]] = {}
    sql = f"SELECT parent_asin, title, store FROM {source}"
    for rows in _stream(path, sql, f"metadata {path.name}", resources):
        for item, title, store in zip(*rows.values()):
            if item in wanted and item not in texts:
                texts[item] = _clean_json(title), _clean_json(store)
    return texts


def _clean_json(value: str | None) -> str:
    return clean_text(None if value is None else json.loads(value))


def _stream(path: Path, sql: str, label: str, resources: Resources) -> Iterator[dict[str, list]]:
    """Yield columns (dict of lists) of a query over a raw file, one batch at a time."""
    with (
        tempfile.TemporaryDirectory() as folder,
        resources.open_session(folder, progress=False) as duck,
        tqdm(desc=label, unit="row", disable=not resources.progress) as bar,
        reading(duck, path),
    ):
        for batch in duck.batches(sql, ROWS_PER_BATCH):
            bar.update(batch.num_rows)
            yield batch.to_pydict()

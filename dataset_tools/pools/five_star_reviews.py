"""Sample five-star reviews of the test window, uniformly and by seed, with their items' metadata.

A review's place in the sample is a hash of the seed, its user, item and time: the same reviews whatever the number of
threads or the order of the files, in one streamed pass over the reviews and one over the metadata a domain.

Source: arXiv:2403.03952 section 4.3 and appendix (Amazon-C4: five stars, at least 100 characters, test window).
"""

import json
import tempfile
from pathlib import Path
from typing import NamedTuple

from dataset_tools.raw.domains import find_raw_file, raw_relative, raw_root, resolve_domain
from dataset_tools.raw.raw_files import reading
from dataset_tools.storage.duckdb_session import Duck, quote
from recbole_blair.errors import InputError
from recbole_blair.schema import TEST_START_MS
from recbole_blair.text.item_text import clean_text

MIN_CHARS = 100
RATING = 5.0
ROWS_PER_BATCH = 16_384


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


def sample_reviews(
    raw_dir, domains, n, seed=0, min_chars=MIN_CHARS, start_ms=TEST_START_MS, memory_limit="4GB", progress=True
):
    """Draw `n` reviews, in a random order.

    Args:
        raw_dir (path), domains (list of str): where from. n (int): how many; fewer are returned if there are fewer.
        min_chars (int): characters of the cleaned review text. start_ms (int): first instant of the test window.

    Returns:
        reviews (list of Review), counts (dict): eligible reviews a domain, sampled ones whose item has no metadata.

    Raises:
        InputError: files are missing or broken, or no review is eligible.
    """
    best, counts = [], {"eligible": {}, "item_without_metadata": 0}
    names = list(dict.fromkeys(resolve_domain(d, raw_dir) for d in domains))
    for name in names:
        rows, eligible = _scan_reviews(
            _raw(raw_dir, "review", name), n, seed, min_chars, start_ms, memory_limit, progress
        )
        counts["eligible"][name] = eligible
        best = sorted(best + [(*row, name) for row in rows])[:n]
    if not best:
        raise InputError(
            f"no five-star review of {min_chars} or more characters at or after {start_ms} in {', '.join(names)}; "
            "name other domains, lower --min_chars, or set --start_ms for data of your own"
        )
    meta = {}
    for name in names:
        wanted = {row[2] for row in best if row[-1] == name}
        meta |= {(name, i): m for i, m in _scan_items(raw_dir, name, wanted, memory_limit, progress).items()}
    reviews = [
        Review(key, user, item, rating, text, timestamp, name, *meta[name, item])
        for key, user, item, rating, text, timestamp, name in best
        if (name, item) in meta
    ]
    counts["item_without_metadata"] = len(best) - len(reviews)
    if not reviews:
        raise InputError(f"none of the {len(best)} sampled reviews has an item with metadata; fetch the metadata again")
    return reviews, counts


def _raw(raw_dir, kind, name):
    """Return a raw file's path or say where it belongs."""
    path = find_raw_file(raw_dir, kind, name)
    if path is None:
        raise InputError(
            f"{raw_root(raw_dir) / raw_relative(kind, name)}[.gz] is missing; fetch it with `recbole-blair prepare "
            f"--dataset={name}` or name another --raw_dir"
        )
    return path


def _scan_reviews(path, n, seed, min_chars, start_ms, memory_limit, progress):
    """Return the `n` eligible reviews of lowest key, sorted, one a (user, item), and how many are eligible."""
    columns = "{user_id: 'VARCHAR', parent_asin: 'VARCHAR', rating: 'DOUBLE', timestamp: 'BIGINT', text: 'VARCHAR'}"
    sql = (
        f"SELECT md5(concat_ws('|', {int(seed)}, user_id, parent_asin, timestamp)) AS key, user_id, parent_asin, "
        f"rating, text, timestamp FROM read_json({quote(path)}, format='newline_delimited', ignore_errors=true, "
        f"columns={columns}) WHERE rating = {RATING} AND timestamp >= {int(start_ms)} AND user_id <> '' AND "
        f"parent_asin <> '' AND length(trim(text)) >= {int(min_chars)}"
    )
    best, eligible = [], 0
    for rows in _stream(path, sql, f"reviews {Path(path).name}", memory_limit, progress):
        limit = best[n - 1][0] if len(best) >= n else "g"  # above every hexadecimal digit
        for key, user, item, rating, text, timestamp in zip(*rows.values()):
            clean = clean_text(text)
            if len(clean) < min_chars:
                continue
            eligible += 1
            if key < limit:
                best.append((key, user, item, rating, clean, timestamp))
        best = _one_a_pair(sorted(best))[:n]
    return best, eligible


def _one_a_pair(rows):
    """Return the first row of each (user, item)."""
    first: dict[tuple, tuple] = {}
    for row in rows:
        first.setdefault(row[1:3], row)
    return list(first.values())


def _scan_items(raw_dir, name, wanted, memory_limit, progress):
    """Return item id -> (title, store), cleaned, of the wanted items of a domain; the first line of an item counts."""
    if not wanted:
        return {}
    path = _raw(raw_dir, "meta", name)
    sql = (
        f"SELECT parent_asin, title, store FROM read_json({quote(path)}, format='newline_delimited', "
        "ignore_errors=true, columns={parent_asin: 'VARCHAR', title: 'JSON', store: 'JSON'})"
    )
    found: dict[str, tuple] = {}
    for rows in _stream(path, sql, f"metadata {Path(path).name}", memory_limit, progress):
        for item, title, store in zip(*rows.values()):
            if item in wanted and item not in found:
                found[item] = tuple(clean_text(None if v is None else json.loads(v)) for v in (title, store))
    return found


def _stream(path, sql, label, memory_limit, progress):
    """Yield columns (dict of lists) of a query over a raw file, a batch at a time."""
    from tqdm import tqdm

    with (
        tempfile.TemporaryDirectory() as folder,
        Duck(folder, memory_limit, progress=False) as duck,
        tqdm(desc=label, unit="row", disable=not progress) as bar,
        reading(duck, path),
    ):
        for batch in duck.batches(sql, ROWS_PER_BATCH):
            bar.update(batch.num_rows)
            yield batch.to_pydict()

"""Candidate pools for product search: in-domain candidates for each (query, item), drawn from raw metadata.

Two streamed passes per domain. The first reads the item ids alone (10 bytes each in memory), the second the text of
the items that were drawn. A pair's draw depends on the seed, its item and its occurrence only, so more pairs or more
domains leave the other draws as they were.

Source: arXiv:2403.03952, section 3.3 (50 in-domain candidates per pair). The released script draws unseeded.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dataset_tools.pools import pool_parts
from dataset_tools.raw.fetch import find_metadata
from dataset_tools.storage.resources import Resources
from recbole_blair.errors import InputError
from recbole_blair.files.read import iter_csv
from recbole_blair.files.write import write_json
from recbole_blair.schema import ITEM_ID

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CANDIDATES = 50  # per pair, as published
DEFAULT = Resources()


class PoolRequest(NamedTuple):
    """What a pool is drawn for.

    Args:
        item_ids: the wanted item of each pair; an item may occur in several pairs.
        categories: item id -> domain, for items that several domains hold; None: the first domain that holds it.
        n_candidates: drawn per pair, without replacement, never the wanted item itself.
        seed: same seed, same pool.
    """

    item_ids: Sequence[str]
    categories: Mapping[str, str] | None = None
    n_candidates: int = CANDIDATES
    seed: int = 0


def build_pool(
    request: PoolRequest,
    raw_dir: Path | str,
    output: Path | str,
    domains: Sequence[str] | None = None,
    resources: Resources = DEFAULT,
) -> dict[str, Any]:
    """Draw candidates for each wanted item from its own domain and write the pool.

    Args:
        request: what is drawn.
        raw_dir: raw metadata, as `prepare` reads it.
        output: `.jsonl` or `.jsonl.gz`; lines {item_id, category, metadata} by domain, in file order.
        domains: domains to read; None: all whose metadata is there.
        resources: what the passes may use.

    Returns:
        The report, also written beside the pool as `<output>.json`: counts by domain, the wanted items that no
        metadata holds, pairs whose domain is smaller than asked for.

    Raises:
        InputError: no metadata, no wanted item in it, broken files, a bad number.
    """
    item_ids, n_candidates = list(request.item_ids), request.n_candidates
    if n_candidates < 0 or not item_ids:
        raise InputError(f"{len(item_ids)} pairs and candidates={n_candidates}: both must be positive")
    output = Path(output)
    paths = find_metadata(raw_dir, domains)
    work = Path(f"{output}.parts")
    pool_parts.open_work(work, request_hash(request, paths))
    known = {name: pool_parts.read_ids(work, name, path, resources) for name, path in paths.items()}
    home = find_homes(item_ids, known, request.categories)
    if not home:
        raise InputError(
            f"none of the {len(set(item_ids))} wanted items (first: {item_ids[0]!r}) is in the metadata of "
            f"{', '.join(paths)}; name the domains they come from"
        )
    chosen, small = draw(item_ids, home, known, n_candidates, request.seed)
    counts = {name: pool_parts.write_part(work, name, paths[name], ids, resources) for name, ids in chosen.items()}
    report = {
        "pairs": len(item_ids),
        "candidates_a_pair": n_candidates,
        "seed": request.seed,
        "items": sum(counts.values()),
        "items_by_domain": counts,
        "domains_read": list(paths),
        "wanted_items_without_metadata": sorted({item for item in item_ids if item not in home}),
        "pairs_with_fewer_candidates": small,
    }
    pool_parts.join_parts(work, list(counts), output)
    write_json(Path(f"{output}.json"), report)
    shutil.rmtree(work)
    return report


def request_hash(request: PoolRequest, paths: Mapping[str, Path]) -> str:
    """Return what the parts depend on, as a hash."""
    files = {name: [str(path), path.stat().st_size] for name, path in paths.items()}
    item_ids, categories = list(request.item_ids), request.categories
    named = sorted((item, categories.get(item)) for item in set(item_ids)) if categories else None
    text = json.dumps([item_ids, files, named, request.n_candidates, request.seed])
    return hashlib.sha256(text.encode()).hexdigest()


def find_homes(
    item_ids: Sequence[str], known: Mapping[str, np.ndarray], categories: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return wanted item -> its domain: the one `categories` names if it holds the item, else the first that does.

    Args:
        known: domain -> (N,) bytes array of its distinct ids.
    """
    wanted = np.array(sorted(set(item_ids)), dtype=bytes) if item_ids else np.array([], dtype=bytes)
    holders: dict[str, list[str]] = {}
    for name, ids in known.items():
        for raw in wanted[np.isin(wanted, ids)]:
            holders.setdefault(raw.decode(), []).append(name)
    named = categories or {}
    return {item: named[item] if named.get(item) in names else names[0] for item, names in holders.items()}


def draw(
    item_ids: Sequence[str], home: Mapping[str, str], known: Mapping[str, np.ndarray], n_candidates: int, seed: int
) -> tuple[dict[str, set[bytes]], int]:
    """Draw each pair's candidates.

    Returns:
        Domain -> ids, wanted items included; an id is in one domain only. The number of pairs whose domain holds fewer
        than `n_candidates` other items.
    """
    chosen: dict[str, set[bytes]] = {name: set() for name in known}
    seen: Counter[str] = Counter()
    small = 0
    place = _places(home, known)
    for item in item_ids:
        if item not in home:
            continue
        ids = known[home[item]]
        rng = np.random.default_rng(pair_seed(seed, item, seen[item]))
        seen[item] += 1
        n = min(n_candidates, len(ids) - 1)
        small += n < n_candidates
        drawn = rng.choice(len(ids) - 1, n, replace=False, shuffle=False) if n else np.array([], dtype=np.int64)
        chosen[home[item]].update(ids[drawn + (drawn >= place[item])])  # the wanted item's own place is skipped
    for item, name in home.items():
        for other in chosen.values():
            other.discard(item.encode())
        chosen[name].add(item.encode())
    taken: set[bytes] = set()
    for name in chosen:
        chosen[name] -= taken - {i.encode() for i, h in home.items() if h == name}
        taken |= chosen[name]
    return {name: ids for name, ids in chosen.items() if ids}, small


def _places(home: Mapping[str, str], known: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Return wanted item -> its position among its domain's ids."""
    place: dict[str, int] = {}
    for name, ids in known.items():
        wanted = np.array([item for item, where in home.items() if where == name], dtype=bytes)
        if len(wanted):
            place |= {ids[at].decode(): int(at) for at in np.flatnonzero(np.isin(ids, wanted))}
    return place


def pair_seed(seed: int, item_id: str, occurrence: int) -> int:
    """Return a 64-bit seed for one pair."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{item_id}|{occurrence}".encode()).digest()[:8], "little")


def read_item_ids(path: Path | str) -> list[str]:
    """Return the item_id column of a query file.

    Raises:
        InputError: no such file or column, or no row.
    """
    ids = []
    for row in iter_csv(path, f"a query file with a column {ITEM_ID}"):
        if ITEM_ID not in row:
            raise InputError(f"{path} has the columns {', '.join(map(str, row))}; expected {ITEM_ID} among them")
        ids.append((row[ITEM_ID] or "").strip())
    if not ids or not all(ids):
        raise InputError(f"{path}: {'a row without' if ids else 'no row with'} {ITEM_ID}")
    return ids

"""Candidate pools for product search: in-domain candidates for each (query, item), drawn from raw metadata.

Two streamed passes a domain. The first reads the item ids alone (10 bytes each in memory), the second the text of the
items that were drawn. A pair's draw depends on the seed, its item and its occurrence only, so more pairs or more
domains leave the other draws as they were.

Source: arXiv:2403.03952 section 4.3 (50 in-domain candidates a pair). The released script draws unseeded.
"""

import argparse
import csv
import gzip
import hashlib
import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from dataset_tools.conversion.cleaning_rules import MAX_BROKEN_SHARE
from dataset_tools.raw.domains import PUBLISHED, find_raw_file, raw_root, resolve_domain
from dataset_tools.raw.raw_files import describe_line, json_lines, line_number_of, reading
from dataset_tools.storage.duckdb_session import Duck
from recbole_blair.errors import InputError
from recbole_blair.files.write import whole_file, write_json, write_text
from recbole_blair.schema import ITEM_ID
from recbole_blair.text.item_text import item_text

CANDIDATES = 50  # a pair, as published
ROWS_PER_BATCH = 65_536


def build_pool(
    item_ids,
    raw_dir,
    output,
    domains=None,
    categories=None,
    n_candidates=CANDIDATES,
    seed=0,
    memory_limit="4GB",
    progress=True,
):
    """Draw candidates for each wanted item from its own domain and write the pool.

    Args:
        item_ids (list of str): the wanted item of each pair; an item may occur in several pairs.
        raw_dir (path): raw metadata, as `prepare` reads it.
        output (path): `.jsonl` or `.jsonl.gz`; lines {item_id, category, metadata} by domain, in file order.
        domains (list of str or None): domains to read; None: all whose metadata is there.
        categories (dict or None): item id -> domain, for items that several domains hold.
        n_candidates (int): drawn a pair, without replacement, never the wanted item itself.

    Returns:
        dict: the report, also written beside the pool as `<output>.json`: counts by domain, the wanted items that no
        metadata holds, pairs whose domain is smaller than asked for.

    Raises:
        InputError: no metadata, no wanted item in it, broken files, a bad number.
    """
    if n_candidates < 0 or not item_ids:
        raise InputError(f"{len(item_ids)} pairs and candidates={n_candidates}: both must be positive")
    output = Path(output)
    paths = find_metadata(raw_dir, domains)
    work = Path(f"{output}.parts")
    request = _request(item_ids, paths, categories, n_candidates, seed)
    _open_work(work, request)
    known = {name: _read_ids(work, name, path, memory_limit, progress) for name, path in paths.items()}
    home = find_homes(item_ids, known, categories)
    if not home:
        raise InputError(
            f"none of the {len(set(item_ids))} wanted items (first: {item_ids[0]!r}) is in the metadata of "
            f"{', '.join(paths)}; name the domains they come from"
        )
    chosen, small = draw(item_ids, home, known, n_candidates, seed)
    counts = {}
    for name in chosen:
        counts[name] = _write_part(work, name, paths[name], chosen[name], memory_limit, progress)
    missing = sorted({i for i in item_ids if i not in home})
    report = {
        "pairs": len(item_ids),
        "candidates_a_pair": n_candidates,
        "seed": seed,
        "items": sum(counts.values()),
        "items_by_domain": counts,
        "domains_read": list(paths),
        "wanted_items_without_metadata": missing,
        "pairs_with_fewer_candidates": small,
    }
    _join_parts(work, list(counts), output)
    write_json(Path(f"{output}.json"), report)
    shutil.rmtree(work)
    return report


def find_metadata(raw_dir, domains=None):
    """Return domain -> metadata file, in the published order.

    Raises:
        InputError: a domain named has no metadata file, or there is none at all.
    """
    names = [resolve_domain(d, raw_dir) for d in domains] if domains else _domains_at(raw_dir)
    paths = {name: find_raw_file(raw_dir, "meta", name) for name in dict.fromkeys(names)}
    lost = [name for name, path in paths.items() if path is None]
    if lost or not paths:
        wanted = lost[0] if lost else "<Domain>"
        raise InputError(
            f"no metadata {raw_root(raw_dir)}/meta_categories/meta_{wanted}.jsonl[.gz]; fetch it with "
            f"`recbole-blair prepare --dataset={wanted}` or name another --raw_dir"
        )
    return paths


def _domains_at(raw_dir):
    """Return the domains with metadata below `raw_dir`: published ones in their order, others by name."""
    folder = raw_root(raw_dir) / "meta_categories"
    here = sorted({p.name[len("meta_") :].split(".jsonl")[0] for p in folder.glob("meta_*.jsonl*")})
    return [d for d in PUBLISHED if d in here] + [d for d in here if d not in PUBLISHED]


def find_homes(item_ids, known, categories=None):
    """Return wanted item -> its domain: the one `categories` names if it holds the item, else the first that does.

    Args:
        known (dict): domain -> (N,) bytes array of its distinct ids.
    """
    wanted = np.array(sorted(set(item_ids)), dtype=bytes) if item_ids else np.array([], dtype=bytes)
    holders: dict[str, list] = {}
    for name, ids in known.items():
        for raw in wanted[np.isin(wanted, ids)]:
            holders.setdefault(raw.decode(), []).append(name)
    named = categories or {}
    return {item: named[item] if named.get(item) in names else names[0] for item, names in holders.items()}


def draw(item_ids, home, known, n_candidates, seed):
    """Draw each pair's candidates.

    Returns:
        chosen (dict): domain -> set of ids (bytes), wanted items included; an id is in one domain only. small (int):
        pairs whose domain holds fewer than `n_candidates` other items.
    """
    chosen, seen, small = {name: set() for name in known}, Counter(), 0
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
    taken: set = set()
    for name in chosen:
        chosen[name] -= taken - {i.encode() for i, h in home.items() if h == name}
        taken |= chosen[name]
    return {name: ids for name, ids in chosen.items() if ids}, small


def _places(home, known):
    """Return wanted item -> its position among its domain's ids."""
    place = {}
    for name, ids in known.items():
        wanted = np.array([item for item, where in home.items() if where == name], dtype=bytes)
        found = np.flatnonzero(np.isin(ids, wanted)) if len(wanted) else []
        place |= {ids[position].decode(): int(position) for position in found}
    return place


def pair_seed(seed, item_id, occurrence):
    """Return a 64-bit seed for one pair."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{item_id}|{occurrence}".encode()).digest()[:8], "little")


def _request(item_ids, paths, categories, n_candidates, seed):
    """Return what the parts depend on, as a hash."""
    files = {name: [str(path), path.stat().st_size] for name, path in paths.items()}
    named = sorted((i, categories.get(i)) for i in set(item_ids)) if categories else None
    text = json.dumps([item_ids, files, named, n_candidates, seed])
    return hashlib.sha256(text.encode()).hexdigest()


def _open_work(work, request):
    """Keep the parts of an interrupted run of the same request; drop those of another."""
    stamp = work / "request"
    if work.is_dir() and not (stamp.is_file() and stamp.read_text() == request):
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    stamp.write_text(request)


def _read_ids(work, name, path, memory_limit, progress):
    """Return a domain's distinct item ids in file order, (N,) bytes; kept as a file for an interrupted run."""
    part = work / f"ids-{name}.npy"
    if part.is_file():
        return np.load(part, mmap_mode="r", allow_pickle=False)
    batches = [np.array(b["parent_asin"], dtype=bytes) for b in _read_meta(path, [], memory_limit, progress)]
    ids = np.concatenate(batches)
    ids = ids[np.sort(np.unique(ids, return_index=True)[1])]
    with whole_file(part) as temporary, open(temporary, "wb") as file:
        np.save(file, ids, allow_pickle=False)
    return ids


def _write_part(work, name, path, chosen, memory_limit, progress):
    """Write a domain's chosen items to its part; returns how many. A whole part is left alone."""
    part, count = work / f"part-{name}.gz", work / f"part-{name}.count"
    if part.is_file() and count.is_file():
        return int(count.read_text())
    left = {raw.decode() for raw in chosen}
    n = len(left)
    with (
        whole_file(part) as temporary,
        open(temporary, "wb") as raw,
        gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as file,
    ):
        for batch in _read_meta(path, ["title", "description"], memory_limit, progress):
            for item_id, title, description in zip(batch["parent_asin"], batch["title"], batch["description"]):
                if item_id not in left:
                    continue
                left.remove(item_id)
                meta = {"title": _parse(title), "description": _parse(description)}
                row = {ITEM_ID: item_id, "category": name, "metadata": item_text(meta, recipe="search")}
                file.write((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass"))
    write_text(count, str(n))
    return n


def _parse(raw):
    """Return a JSON column's value."""
    return None if raw is None else json.loads(raw)


def _read_meta(path, fields, memory_limit, progress):
    """Yield columns (dict of lists) of a metadata file a batch at a time; lines without an id are passed over.

    Raises:
        InputError: more than MAX_BROKEN_SHARE of the lines have no item id; a damaged gzip; no item.
    """
    from tqdm import tqdm

    columns = ", ".join(["parent_asin: 'VARCHAR'", *(f"{f}: 'JSON'" for f in fields)])
    sql = f"SELECT {', '.join(['parent_asin', *fields])} FROM {json_lines(path, f'{{{columns}}}')}"
    lines, broken, first = 0, 0, None
    label = f"{'texts' if fields else 'ids'} {Path(path).name}"
    with (
        tempfile.TemporaryDirectory() as folder,
        Duck(folder, memory_limit, progress=False) as duck,
        tqdm(desc=label, unit="item", disable=not progress) as bar,
        reading(duck, path),
    ):
        for batch in duck.batches(sql, ROWS_PER_BATCH):
            rows = batch.to_pydict()
            good = [bool(i) for i in rows["parent_asin"]]
            if first is None and not all(good):
                first = lines + good.index(False)
            lines, broken = lines + len(good), broken + len(good) - sum(good)
            bar.update(len(good))
            yield {c: [v for v, ok in zip(values, good) if ok] for c, values in rows.items()}
    if broken > MAX_BROKEN_SHARE * lines or lines == broken:
        number = line_number_of(path, first) if first is not None else 1
        what = describe_line(path, number) if lines else "the file is empty"
        raise InputError(f"{path} line {number}: {what}; {broken:,} of {lines:,} lines hold no item")


def _join_parts(work, names, output):
    """Join the parts (gzip members follow one another) into the pool."""
    with whole_file(output) as temporary, open(temporary, "wb") as target:
        for name in names:
            part = work / f"part-{name}.gz"
            with open(part, "rb") if output.suffix == ".gz" else gzip.open(part) as source:
                shutil.copyfileobj(source, target, 1 << 20)


def read_item_ids(path):
    """Return the item_id column of a query file.

    Raises:
        InputError: no such file or column, or no row.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if ITEM_ID not in (reader.fieldnames or []):
                found = ", ".join(reader.fieldnames or ["nothing"])
                raise InputError(f"{path} has the columns {found}; expected {ITEM_ID} among them")
            ids = [row[ITEM_ID].strip() for row in reader]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected a query file with a column {ITEM_ID}") from None
    if not ids or not all(ids):
        raise InputError(f"{path}: {'a row without' if ids else 'no row with'} {ITEM_ID}")
    return ids


def main(argv=None):
    """Run from the command line: `python -m dataset_tools.pools --queries=… --raw_dir=… --output=…`."""
    from recbole_blair.cli.main import guard

    parser = argparse.ArgumentParser(description="draw a candidate pool for a query file", allow_abbrev=False)
    parser.add_argument("--queries", required=True, help="CSV with a column item_id")
    parser.add_argument("--raw_dir", required=True, help="folder of the raw metadata")
    parser.add_argument("--output", required=True, help="item_pool.jsonl[.gz]")
    parser.add_argument("--domains", help="A,B (default: all with metadata there)")
    parser.add_argument("--categories", help="asin2category.json, for items that several domains hold")
    parser.add_argument("--candidates", type=int, default=CANDIDATES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory_limit", default="4GB")
    args = parser.parse_args(argv)

    def work():
        categories = json.loads(Path(args.categories).read_text(encoding="utf-8")) if args.categories else None
        domains = args.domains.split(",") if args.domains else None
        report = build_pool(
            read_item_ids(args.queries), args.raw_dir, args.output, domains, categories,
            args.candidates, args.seed, args.memory_limit,
        )  # fmt: skip
        lost = report["wanted_items_without_metadata"]
        print(f"{args.output}: {report['items']} items for {report['pairs']} pairs, seed {args.seed}")
        if lost:
            print(f"wanted items without metadata: {len(lost)}, first {', '.join(lost[:5])}")

    return guard(work)

"""Raw reviews and metadata to atomic files: one pass over each raw file, out of core (DuckDB).

Steps: read the metadata (seven fields) and number its items; stream the reviews (four fields), cleaned; sort by
(user's first event, time, line); go through the users: drop repeats, cut, write rows, and beside them the items. Every
order is total, so the same input gives the same bytes whatever the number of threads.
"""

import contextlib
from pathlib import Path

import numpy as np

from dataset_tools.builds.statistics_file import build_file_names
from dataset_tools.conversion.events import EventStream, cut_by_time, cut_last_out
from dataset_tools.conversion.five_core import CORE_EVENTS, keep_core
from dataset_tools.conversion.reviews import (
    BROKEN,
    check_left,
    raw_reviews_sql,
    read_reviews,
    resolve_instants,
    tally_of,
)
from dataset_tools.conversion.rows import FORMAT_THREADS, write_rows
from dataset_tools.conversion.users import user_runs
from dataset_tools.items.item_file import ItemWriter
from dataset_tools.items.metadata import load_metadata, read_metadata
from dataset_tools.raw.raw_files import check_broken, json_lines, reading
from dataset_tools.storage.disk_file import DiskFile
from dataset_tools.storage.duckdb_session import keep_buffers
from recbole_blair.errors import InputError
from recbole_blair.schema import SPLITS

REVIEW_COLUMNS = "{user_id: 'VARCHAR', parent_asin: 'VARCHAR', rating: 'DOUBLE', timestamp: 'BIGINT'}"
REVIEW_TABLE = "SELECT user_id, item_id, ts, rule FROM review"


def check_splits(counts, valid_start_ms, test_start_ms, protocol):
    """Refuse a build in which a split has no row.

    Raises:
        InputError: names the split, the instants and the fix.
    """
    empty = [name for name, rows in zip(SPLITS, counts.rows) if not rows]
    if not empty:
        return
    if protocol == "last_out":
        cut = "the last event of a user is test, the one before valid: users need at least four events"
        fix = "use --protocol=timestamp, or more data"
    else:
        cut = f"train < {valid_start_ms} <= valid < {test_start_ms} <= test, in ms"
        fix = "choose other instants with --valid_start_ms and --test_start_ms"
    rows = ", ".join(f"{name} {number:,}" for name, number in zip(SPLITS, counts.rows))
    raise InputError(f"the split leaves {' and '.join(empty)} without a row (rows: {rows}; {cut}); {fix}")


@keep_buffers()
def convert(duck, review_path, meta_path, folder, build, settings):
    """Convert one domain.

    Args:
        duck (Duck): an empty session.
        review_path, meta_path (Path): raw files, `.jsonl` or `.jsonl.gz`.
        folder (Path): where the data files are written (a temporary folder: the caller renames).
        build (str): the files' prefix.
        settings (BuildSettings): what the conversion reads.

    Returns:
        dict: the part of `stats.json` that depends on the data.

    Raises:
        InputError: broken or foreign files, nothing left after cleaning, an empty split.
        OSError: ENOSPC when the disk is full.

    Source: arXiv:2403.03952, section 3.1 (timestamp); arXiv:2504.10545 (last_out).
    """
    metadata = load_metadata(duck, meta_path)
    sql, label = raw_reviews_sql(json_lines(review_path, REVIEW_COLUMNS)), f"reviews {Path(review_path).name}"
    with reading(duck, review_path):
        if settings.protocol == "last_out":  # its 5-core is counted in SQL
            duck.run(f"CREATE TABLE review AS {sql}", label)
            sql, label = REVIEW_TABLE, None
        reviews = read_reviews(duck, sql, metadata.item_ids, label=label)
    return write_reviews(duck, metadata, reviews, review_path, folder, build, settings)


def convert_tables(duck, review_path, folder, build, settings, rules):
    """Convert what the tables `review` and `meta` hold; arguments and result as of `convert`.

    `rules` are those that the column `rule` of `review` counts, from 1.
    """
    metadata = read_metadata(duck, "meta")
    duck.run("DROP TABLE meta")
    reviews = read_reviews(duck, REVIEW_TABLE, metadata.item_ids, rules)
    return write_reviews(duck, metadata, reviews, review_path, folder, build, settings)


def write_reviews(duck, metadata, reviews, review_path, folder, build, settings):
    """Sort, cut and write what `read_metadata` and `read_reviews` returned; the rest as of `convert`."""
    by_time = settings.protocol == "timestamp"
    if by_time and not reviews.events.in_table:
        duck.use_threads(duck.threads - 1)  # one core for NumPy, which all else waits for
    *inter_paths, item_path = (folder / name for name in build_file_names(build))
    with ItemWriter(duck, metadata, item_path, settings.ascii_text) as writer:
        reviews.finish()
        check_broken(review_path, int(reviews.by_rule[BROKEN]), reviews.lines, reviews.first_broken)
        tally, events = tally_of(duck, reviews), reviews.events
        check_left(tally, review_path)
        counts, after_dedup, matched = tally.counts, tally.matched + tally.lost, tally.matched
        valid_start_ms, test_start_ms = None, None
        if by_time:
            instants = settings.valid_start_ms, settings.test_start_ms
            valid_start_ms, test_start_ms = resolve_instants(duck, events, *instants)
            cut = cut_by_time(valid_start_ms, test_start_ms)
        else:
            cut = cut_last_out
            after_dedup, found = keep_core(duck, metadata.item_ids)
            counts.update(found)
            core = read_reviews(duck, CORE_EVENTS, metadata.item_ids)
            core.finish()
            events, matched = core.events, core.matched
        stream = EventStream(user_runs(duck, events, "users"), cut, len(metadata.item_ids))
        rows = write_inter_files(duck, inter_paths, stream, metadata.item_ids, settings.max_history, writer)
        if settings.catalogue == "all":
            writer.add(np.flatnonzero(~rows.seen))
        items = writer.finish()
    check_splits(rows, valid_start_ms, test_start_ms, settings.protocol)
    counts["repeated_user_item"] += stream.repeats
    return {
        "instants": {"valid_start_ms": valid_start_ms, "test_start_ms": test_start_ms},
        "cleaning": {"reviews": counts, "metadata": {**metadata.counts, "price_not_a_number": items.bad_prices}},
        "counts": {
            "reviews": tally.reviews,
            "metadata_lines": metadata.records.rows,
            "after_dedup": after_dedup - stream.repeats,
            "interactions": matched - stream.repeats,
        },
        **describe(rows, items),
    }


def write_inter_files(duck, paths, stream, item_ids, max_history, writer):
    """Write the `.inter` files of an EventStream; the ItemWriter gets the items as they occur. Return the RowCounts."""
    from tqdm import tqdm

    threads = min(FORMAT_THREADS, duck.threads)  # beside the one that counts, a third of the work
    with contextlib.ExitStack() as stack:
        files = {split: stack.enter_context(DiskFile(path)) for split, path in zip(SPLITS, paths)}
        bar = stack.enter_context(tqdm(desc="rows", unit="event", disable=not duck.progress))
        rows = write_rows(_counted(stream, bar), files, item_ids, max_history, threads, writer.add)
        for file in files.values():
            file.finish()
    return rows


def _counted(batches, bar):
    for batch in batches:
        yield batch
        bar.update(len(batch.user))


def describe(rows, items):
    """Return the counts of what was written, and the columns of the paper's Table 3."""
    n_rows, n_items = int(rows.rows.sum()), rows.n_items
    ids_hash, text_hash = items.hashes()
    return {
        "rows": n_rows,
        "users": rows.n_users,
        "items": n_items,
        "splits": {
            name: {
                "rows": int(rows.rows[number]),
                "users": int(rows.users[number]),
                "target_items": int(rows.targets[number].sum()),
            }
            for number, name in enumerate(SPLITS)
        },
        "table3": {
            "items": n_items,
            "inters": n_rows + rows.n_users,  # a user's first event is no row
            "avg_history_length": round(rows.history_items / n_rows, 4) if n_rows else 0.0,
            "avg_item_chars": round(items.characters(n_items) / n_items, 2) if n_items else 0.0,
        },
        "catalogue": {
            "items": items.items,
            "without_text": items.without_text,
            "ids_hash": ids_hash,
            "text_hash": text_hash,
        },
    }

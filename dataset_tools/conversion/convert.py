"""Raw reviews and metadata to atomic files: one pass over each raw file, out of core (DuckDB).

Steps: read the metadata (seven fields) and number its items; stream the reviews (four fields), cleaned; order them by
(user's first event, time, line); per user: drop repeated items, split, write rows, and in another thread the items.
Every order is total, so the same input gives the same bytes for any number of threads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from dataset_tools.conversion.cleaning_rules import REVIEW_RULES
from dataset_tools.conversion.event_order import order_events
from dataset_tools.conversion.file_names import build_file_names
from dataset_tools.conversion.five_core import CORE_EVENTS, keep_core
from dataset_tools.conversion.id_mismatch import find_spelling
from dataset_tools.conversion.inter_rows import (
    FORMAT_THREADS,
    HISTORY_ROWS,
    PAIR_ROWS,
    RowCounts,
    RowForm,
    SplitEvents,
    write_rows,
)
from dataset_tools.conversion.last_out_split import split_last_out
from dataset_tools.conversion.random_split import RandomSplit
from dataset_tools.conversion.repeated_events import EventStream
from dataset_tools.conversion.reviews import (
    BROKEN,
    Reviews,
    check_any_matched,
    count_reviews,
    raw_reviews_sql,
    read_reviews,
    unmatched_items,
)
from dataset_tools.conversion.split_reviews import load_split
from dataset_tools.conversion.time_split import resolve_instants, split_by_time
from dataset_tools.items.item_file import ItemCounts, ItemWriter
from dataset_tools.items.metadata import Metadata, load_metadata, read_metadata
from dataset_tools.raw.raw_files import check_broken, json_lines, reading
from dataset_tools.storage.duckdb_session import keep_buffers
from dataset_tools.storage.synced_file import SyncedFile
from recbole_blair.errors import InputError
from recbole_blair.schema import SPLITS, format_ms

if TYPE_CHECKING:
    from dataset_tools.conversion.cleaning_rules import Rule
    from dataset_tools.conversion.settings import BuildSettings
    from dataset_tools.storage.duckdb_session import DuckDBSession

REVIEW_COLUMNS = "{user_id: 'VARCHAR', parent_asin: 'VARCHAR', rating: 'DOUBLE', timestamp: 'BIGINT'}"
REVIEW_TABLE = "SELECT user_id, item_id, ts, rule FROM review"


@keep_buffers()
def convert(
    session: DuckDBSession, review_path: Path, meta_path: Path, folder: Path, build: str, settings: BuildSettings
) -> dict[str, Any]:
    """Convert one domain.

    Args:
        session: an empty DuckDB session.
        review_path, meta_path: raw files, `.jsonl` or `.jsonl.gz`.
        folder: where the data files are written (a temporary folder: the caller renames).
        build: prefix of the files.
        settings: what decides the content of the files.

    Returns:
        dict: the part of `stats.json` that depends on the data.

    Raises:
        InputError: broken or foreign files, nothing left after cleaning, an empty split.
        OSError: ENOSPC when the disk is full.

    Source: arXiv:2403.03952, section 3.2 (timestamp); arXiv:2504.10545 (last_out); BLaIR-Bench (random).
    """
    metadata = load_metadata(session, meta_path)
    sql = raw_reviews_sql(json_lines(review_path, REVIEW_COLUMNS))
    label: str | None = f"reviews {Path(review_path).name}"
    with reading(session, review_path):
        if settings.protocol == "last_out":  # its 5-core is counted in SQL
            session.run(f"CREATE TABLE review AS {sql}", label)
            sql, label = REVIEW_TABLE, None
        reviews = read_reviews(session, sql, metadata.item_ids, label=label)
    return write_build(session, metadata, reviews, review_path, folder, build, settings)


@keep_buffers()
def convert_split(
    session: DuckDBSession, split_paths: Sequence[Path], meta_path: Path, folder: Path, build: str,
    settings: BuildSettings,
) -> dict[str, Any]:  # fmt: skip
    """Convert one domain from its published split files, train, valid and test; the rest as for `convert`."""
    metadata = load_metadata(session, meta_path)
    split_counts = load_split(session, split_paths, meta_path, metadata.item_ids, settings.protocol)
    reviews = read_reviews(session, REVIEW_TABLE, metadata.item_ids)
    counts = write_build(session, metadata, reviews, split_paths[0], folder, build, settings)
    return {"split_files": split_counts, **counts}


def convert_tables(
    session: DuckDBSession, review_path: Path, folder: Path, build: str, settings: BuildSettings,
    rules: Sequence[Rule],
) -> dict[str, Any]:  # fmt: skip
    """Convert the rows of the tables `review` and `meta`; arguments and result as for `convert`.

    Args:
        rules: those that the column `rule` of `review` counts, from 1.
    """
    metadata = read_metadata(session, "meta")
    session.run("DROP TABLE meta")
    reviews = read_reviews(session, REVIEW_TABLE, metadata.item_ids, rules)
    return write_build(session, metadata, reviews, review_path, folder, build, settings)


def write_build(
    session: DuckDBSession, metadata: Metadata, reviews: Reviews, review_path: Path, folder: Path, build: str,
    settings: BuildSettings,
) -> dict[str, Any]:  # fmt: skip
    """Order, split and write what `read_metadata` and `read_reviews` returned; the rest as for `convert`."""
    by_time = settings.protocol == "timestamp"
    if by_time and not reviews.events.in_table:
        session.set_threads(session.threads - 1)  # one core for NumPy, which all else waits for
    *inter_paths, item_path = (folder / name for name in build_file_names(build))
    with ItemWriter(session, metadata, item_path, settings.ascii_text) as writer:
        reviews.finish()
        check_broken(review_path, int(reviews.by_rule[BROKEN]), reviews.lines, reviews.first_broken)
        unmatched = [] if reviews.rules is REVIEW_RULES else unmatched_items(session, reviews)  # Amazon's are published
        spelling = find_spelling(unmatched, metadata.item_ids.to_pylist()) if unmatched else None
        cleaned, events = count_reviews(session, reviews), reviews.events
        check_any_matched(session, reviews, cleaned, metadata.item_ids, review_path)
        by_rule, after_dedup, matched = cleaned.by_rule, cleaned.matched + cleaned.without_metadata, cleaned.matched
        valid_start_ms, test_start_ms = None, None
        split: Callable[[np.ndarray, np.ndarray], np.ndarray] = split_last_out
        if by_time:
            instants = settings.valid_start_ms, settings.test_start_ms
            valid_start_ms, test_start_ms = resolve_instants(session, events, *instants, settings.keep_repeats)
            split = split_by_time(valid_start_ms, test_start_ms)
        elif settings.protocol == "random":
            assert settings.split_shares is not None and settings.split_seed is not None  # BuildSettings fills them in
            split = RandomSplit.of_events(session, events, settings.split_shares, settings.split_seed)
        else:
            after_dedup, core_counts = keep_core(session, metadata.item_ids, settings.core, settings.keep_repeats)
            by_rule.update(core_counts)
            core = read_reviews(session, CORE_EVENTS, metadata.item_ids)
            core.finish()
            events, matched = core.events, core.matched
        ordered, n_items = order_events(session, events, "users"), len(metadata.item_ids)
        stream = EventStream(ordered, split, n_items, settings.keep_repeats)
        form = PAIR_ROWS if settings.protocol == "random" else HISTORY_ROWS
        rows = write_inter_files(session, inter_paths, stream, metadata.item_ids, settings.max_history, writer, form)
        if settings.catalogue == "all":
            writer.add(np.flatnonzero(~rows.seen))
        items = writer.finish()
    check_splits(rows, settings.protocol, valid_start_ms, test_start_ms)
    by_rule["repeated_user_item"] += stream.repeats
    return {
        **({"unmatched_ids": spelling} if spelling else {}),
        "instants": {"valid_start_ms": valid_start_ms, "test_start_ms": test_start_ms},
        "cleaning": {"reviews": by_rule, "metadata": {**metadata.counts, "price_not_a_number": items.bad_prices}},
        "counts": {
            "reviews": cleaned.reviews,
            "metadata_lines": metadata.records.rows,
            "after_dedup": after_dedup - stream.repeats,
            "interactions": matched - stream.repeats,
        },
        **count_content(rows, items),
    }


def write_inter_files(
    session: DuckDBSession, paths: Sequence[Path], stream: EventStream, item_ids: pa.StringArray, max_history: int,
    writer: ItemWriter, form: RowForm = HISTORY_ROWS,
) -> RowCounts:  # fmt: skip
    """Write the `.inter` files of an EventStream; pass the items to the ItemWriter as they occur."""
    threads = min(FORMAT_THREADS, session.threads)  # beside the one that counts, a third of the work
    with contextlib.ExitStack() as stack:
        files = {split: stack.enter_context(SyncedFile(path)) for split, path in zip(SPLITS, paths)}
        bar = stack.enter_context(tqdm(desc="rows", unit="event", disable=not session.progress))
        rows = write_rows(_update_bar(stream, bar), files, item_ids, max_history, threads, writer.add, form)
        for file in files.values():
            file.finish()
    return rows


def _update_bar(batches: Iterable[SplitEvents], bar: tqdm) -> Iterator[SplitEvents]:
    for batch in batches:
        yield batch
        bar.update(len(batch.user))


def check_splits(counts: RowCounts, protocol: str, valid_start_ms: int | None, test_start_ms: int | None) -> None:
    """Refuse a build in which a split has no row; it has instants under the timestamp protocol alone.

    Raises:
        InputError: names the split, the instants and the fix.
    """
    empty = [name for name, rows in zip(SPLITS, counts.rows) if not rows]
    if not empty:
        return
    if protocol == "random":
        bounds = "the pairs of users with two items or more, dealt out at random"
        fix = "use other split_shares, or more data"
    elif valid_start_ms is None or test_start_ms is None:
        bounds = "the last event of a user is test, the one before valid: users need at least four events"
        fix = "use --protocol=timestamp, or more data"
    else:
        bounds = f"train < {format_ms(valid_start_ms)} <= valid < {format_ms(test_start_ms)} <= test"
        fix = "choose other instants with --valid_start_ms and --test_start_ms"
    rows = ", ".join(f"{name} {number:,}" for name, number in zip(SPLITS, counts.rows))
    raise InputError(f"the split leaves {' and '.join(empty)} without a row (rows: {rows}; {bounds}); {fix}")


def count_content(rows: RowCounts, items: ItemCounts) -> dict[str, Any]:
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
            "inters": n_rows + rows.first_events,
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

"""Raw reviews and metadata to atomic files: one pass over each raw file, out of core (DuckDB).

Steps: read the metadata (seven fields) and number its items; read the reviews (four fields);
clean; sort by (user's first event, time, line); stream the users: drop repeats, cut, write rows; write the
items. Every order is total, so the same input gives the same bytes whatever the number of threads.
"""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataset_tools import cleaning
from dataset_tools.build_stats import build_file_names
from dataset_tools.duck import keep_buffers, quote
from dataset_tools.events import EventStream, cut_by_time, cut_last_out
from dataset_tools.item_table import format_table, item_batches, write_items
from dataset_tools.items import META_FIELDS
from dataset_tools.raw_files import GzipCheck, describe_line, line_number_of
from dataset_tools.rows import FORMAT_THREADS, writing_rows
from dataset_tools.users import ROWS_PER_BATCH, gather_events
from recbole_blair.errors import InputError
from recbole_blair.schema import SPLITS

VALID_FROM, TEST_FROM = 0.8, 0.9  # 8:1:1, for data that has no instants of its own


def load_reviews(duck, path):
    """Read the reviews into table `review` (user_id, item_id, ts, rule), in the order of the lines.

    Nothing is joined on the way: DuckDB keeps the order of lines through a scan and a projection only.
    """
    columns = "{user_id: 'VARCHAR', parent_asin: 'VARCHAR', rating: 'DOUBLE', timestamp: 'BIGINT'}"
    load_table(
        duck,
        path,
        f"""CREATE TABLE review AS
        SELECT user_id, parent_asin AS item_id, timestamp AS ts, {cleaning.rule_number_sql()} AS rule
        FROM read_json({quote(path)}, format='newline_delimited', ignore_errors=true, columns={columns})""",
        "reviews",
    )
    check_broken(duck, path, "review", "rule = 1")


def load_metadata(duck, path):
    """Read the metadata into table `meta` (item_id and the raw JSON of `META_FIELDS`), in line order."""
    columns = ", ".join(f"{field}: 'JSON'" for field in META_FIELDS)
    load_table(
        duck,
        path,
        f"""CREATE TABLE meta AS SELECT parent_asin AS item_id, {", ".join(META_FIELDS)}
        FROM read_json({quote(path)}, format='newline_delimited', ignore_errors=true,
                       columns={{parent_asin: 'VARCHAR', {columns}}})""",
        "metadata",
    )
    check_broken(duck, path, "meta", BROKEN_META)


BROKEN_META = " AND ".join(f"{column} IS NULL" for column in ("item_id", *META_FIELDS))


def load_table(duck, path, sql, label):
    """Run the one scan of a raw file, its gzip verified beside it."""
    check = GzipCheck(path)
    try:
        duck.run(sql, f"{label} {Path(path).name}")
    except (duck.error, OSError) as error:
        check.finish()  # a damaged gzip explains the error better
        raise InputError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    check.finish()


def check_broken(duck, path, table, condition):
    """Stop when more than `MAX_BROKEN_SHARE` of the lines are broken.

    Raises:
        InputError: names the file and the first broken line; or the file has no line at all.
    """
    broken, lines, first = duck.run(
        f"SELECT count(*) FILTER ({condition}), count(*), min(rowid) FILTER ({condition}) FROM {table}"
    )[0]
    if not lines:
        raise InputError(f"{path} holds no line; fetch it again")
    if broken > cleaning.MAX_BROKEN_SHARE * lines:
        number = line_number_of(path, first)
        raise InputError(
            f"{path} line {number}: {describe_line(path, number)}; {broken:,} of {lines:,} lines are broken, more "
            f"than {cleaning.MAX_BROKEN_SHARE:.1%}. Fetch the file again, or repair it"
        )


def clean_metadata(duck):
    """Number the items by their first metadata line (table `item`); return the counts of `META_RULES`."""
    duck.run(
        f"""CREATE TABLE item AS SELECT item_id, line, (row_number() OVER (ORDER BY line) - 1)::INTEGER AS item
        FROM (SELECT item_id, min(rowid) AS line FROM meta WHERE coalesce(item_id, '') <> '' GROUP BY item_id)
        WHERE NOT {cleaning.unusable_id_sql("item_id")} ORDER BY line"""
    )
    lines, broken = duck.run(f"SELECT count(*), count(*) FILTER ({BROKEN_META}) FROM meta")[0]
    kept = duck.value("SELECT count(*) FROM item")
    usable = duck.value("SELECT count(*) FROM meta WHERE item_id IN (SELECT item_id FROM item)")
    return lines, dict(
        zip((rule.name for rule in cleaning.META_RULES), (broken, lines - broken - usable, usable - kept))
    )


class Tally(NamedTuple):
    """What cleaning found among the reviews."""

    reviews: int  # lines
    counts: dict  # by the name of the rule in `REVIEW_RULES`
    matched: int  # clean reviews whose item has metadata, repeated ones included
    lost: int  # distinct (user, item) pairs without metadata
    runs: Iterable  # events of users with two or more; see `dataset_tools.users`


def clean_reviews(duck, rules=cleaning.REVIEW_RULES):
    """Make view `event` (user_id, item, ts, tie) of the clean reviews; gather those that have rows.

    Item is NULL where there is no metadata: one join finds the numbers of the items and what has none.

    Returns:
        Tally: `repeated_user_item` holds only the pairs without metadata; the others are found while rows are made.

    Raises:
        InputError: nothing is left.
    """
    by_rule = dict(duck.run("SELECT rule, count(*) FROM review GROUP BY rule"))
    counts = {rule.name: by_rule.get(number, 0) for number, rule in enumerate(rules, 1)}
    duck.run(
        """CREATE VIEW event AS SELECT user_id, item, ts, review.rowid AS tie FROM review LEFT JOIN item USING (item_id)
        WHERE rule = 0"""
    )
    gathered = gather_events(duck, by_rule.get(0, 0), "users")
    duck.run(
        """CREATE TABLE lost AS SELECT user_id, item_id, count(*) AS n FROM review
        SEMI JOIN without_item ON review.rowid = without_item.tie GROUP BY user_id, item_id"""
    )
    user, item = cleaning.unusable_id_sql("user_id"), cleaning.unusable_id_sql("item_id")
    counts["unusable_ids"] = gathered.unusable + drop_lost(duck, f"{user} OR {item}")
    lost, lost_reviews = duck.run("SELECT count(*), coalesce(sum(n), 0)::BIGINT FROM lost")[0]
    counts["repeated_user_item"], counts["item_without_metadata"] = lost_reviews - lost, lost
    return Tally(sum(by_rule.values()), counts, gathered.usable, lost, gathered.runs)


def drop_lost(duck, condition):
    """Delete rows of table `lost`; return how many reviews they stood for."""
    dropped = duck.value(f"SELECT coalesce(sum(n), 0)::BIGINT FROM lost WHERE {condition}")
    if dropped:
        duck.run(f"DELETE FROM lost WHERE {condition}")
    return dropped


def check_left(tally, review_path):
    """Refuse reviews of which none can be used, or none has an item with metadata."""
    if tally.matched:
        return
    if tally.lost:
        raise InputError(
            f"none of the {tally.lost:,} interactions has an item with metadata: the review and metadata files do "
            "not belong together; check that both are of the same domain"
        )
    found = ", ".join(f"{name} {number:,}" for name, number in tally.counts.items() if number)
    raise InputError(f"{review_path}: none of the {tally.reviews:,} reviews is usable ({found})")


def resolve_instants(duck, valid_start_ms, test_start_ms):
    """Return the two instants; those that are None come from 8:1:1 over all interactions by time."""
    if valid_start_ms is not None and test_start_ms is not None:
        return valid_start_ms, test_start_ms
    valid, test = duck.run(
        f"""SELECT quantile_disc(t, {VALID_FROM}), quantile_disc(t, {TEST_FROM}) FROM
        (SELECT min(ts) AS t FROM event WHERE item IS NOT NULL AND NOT {cleaning.unusable_id_sql("user_id")}
         GROUP BY user_id, item)"""
    )[0]
    return (
        valid if valid_start_ms is None else valid_start_ms,
        test if test_start_ms is None else test_start_ms,
    )


def load_item_ids(duck):
    """Return the item ids by item index, as one Arrow string array."""
    import pyarrow as pa

    batches = list(duck.batches("SELECT item_id FROM item ORDER BY item", ROWS_PER_BATCH))
    return pa.concat_arrays([batch.column(0) for batch in batches]) if batches else pa.array([], pa.string())


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


def write_build(duck, folder, build, settings, runs, cut, formatted):
    """Write the four data files into `folder`; return (RowCounts, ItemCounts, repeated interactions).

    Items are written beside the last rows. `formatted` waits for the table of that name.
    """
    from tqdm import tqdm

    *inter_names, item_name = build_file_names(build)
    item_ids = load_item_ids(duck)
    stream = EventStream(runs, cut, len(item_ids))
    with contextlib.ExitStack() as stack:
        files = {
            name: stack.enter_context(open(folder / file_name, "wb", buffering=1 << 20))
            for name, file_name in zip(SPLITS, inter_names)
        }
        bar = stack.enter_context(tqdm(desc="rows", unit="event", disable=not duck.progress))
        batches = _counted(stream, bar)
        threads = min(FORMAT_THREADS, duck.threads)  # beside the one that counts, a third of the work
        with writing_rows(batches, files, item_ids, settings["max_history"], threads, _flush) as rows:
            bar.close()
            order = rows.item_order()
            table3_items = len(order)
            if settings["catalogue"] == "all":
                order = np.concatenate([order, np.setdiff1d(np.arange(len(item_ids)), order)])
            file = stack.enter_context(open(folder / item_name, "wb", buffering=1 << 20))
            bar = stack.enter_context(tqdm(total=len(order), desc="item texts", unit="item", disable=not duck.progress))
            formatted()
            items = write_items(item_batches(duck, order), file, table3_items, bar)
            _flush(file)
    return rows, items, stream.repeats


def _counted(batches, bar):
    for batch in batches:
        yield batch
        bar.update(len(batch.user))


def _flush(file):
    file.flush()
    os.fsync(file.fileno())


@keep_buffers()
def convert(duck, review_path, meta_path, folder, build, settings):
    """Convert one domain.

    Args:
        duck (Duck): an empty session.
        review_path, meta_path (Path): raw files, `.jsonl` or `.jsonl.gz`.
        folder (Path): where the data files are written (a temporary folder: the caller renames).
        build (str): the files' prefix.
        settings (dict): protocol, valid_start_ms, test_start_ms, max_history, ascii_text, catalogue.

    Returns:
        dict: the part of `stats.json` that depends on the data.

    Raises:
        InputError: broken or foreign files, nothing left after cleaning, an empty split.
        OSError: ENOSPC when the disk is full.

    Source: arXiv:2403.03952, section 3.1 (timestamp); arXiv:2504.10545 (last_out).
    """
    load_metadata(duck, meta_path)
    load_reviews(duck, review_path)
    return convert_tables(duck, review_path, folder, build, settings)


def convert_tables(duck, review_path, folder, build, settings, rules=cleaning.REVIEW_RULES):
    """Clean, sort, cut and write what the tables `review` and `meta` hold; arguments and result as of `convert`.

    `rules` are those that the column `rule` of `review` counts, from 1.
    """
    meta_lines, meta_counts = clean_metadata(duck)

    def format_beside(con, stopped):
        format_table(con, stopped, settings["ascii_text"], duck.threads)

    with duck.beside(format_beside) as formatted:  # NumPy's sorting, on one core, leaves the others free
        tally = clean_reviews(duck, rules)
        check_left(tally, review_path)
        counts, after_dedup, events, runs = tally.counts, tally.matched + tally.lost, tally.matched, tally.runs
        valid_start_ms, test_start_ms = None, None
        if settings["protocol"] == "last_out":
            from dataset_tools.last_out import keep_core

            cut = cut_last_out
            after_dedup, found = keep_core(duck)
            counts.update(found)
            events, _, runs = gather_events(duck, after_dedup, "users")
        else:
            instants = settings["valid_start_ms"], settings["test_start_ms"]
            valid_start_ms, test_start_ms = resolve_instants(duck, *instants)
            cut = cut_by_time(valid_start_ms, test_start_ms)
        rows, items, repeats = write_build(duck, folder, build, settings, runs, cut, formatted)
    check_splits(rows, valid_start_ms, test_start_ms, settings["protocol"])
    counts["repeated_user_item"] += repeats
    return {
        "instants": {"valid_start_ms": valid_start_ms, "test_start_ms": test_start_ms},
        "cleaning": {"reviews": counts, "metadata": {**meta_counts, "price_not_a_number": items.bad_prices}},
        "counts": {
            "reviews": tally.reviews,
            "metadata_lines": meta_lines,
            "after_dedup": after_dedup - repeats,
            "interactions": events - repeats,
        },
        **describe(rows, items),
    }


def describe(rows, items):
    """Return the counts of what was written, and the columns of the paper's Table 3."""
    n_rows, n_items = int(rows.rows.sum()), len(rows.item_order())
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
            "inters": n_rows + rows.first_rows,
            "avg_history_length": round(rows.history_items / n_rows, 4) if n_rows else 0.0,
            "avg_item_chars": round(items.characters / n_items, 2) if n_items else 0.0,
        },
        "catalogue": {
            "items": items.items,
            "without_text": items.without_text,
            "ids_hash": ids_hash,
            "text_hash": text_hash,
        },
    }

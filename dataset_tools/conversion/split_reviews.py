"""From the published split files to the table `review`: checked to be whole, of one domain and split as they say."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pyarrow as pa

from dataset_tools.conversion.cleaning_rules import rule_number_sql
from dataset_tools.raw.own_formats import FileFormat, Scan, open_own
from dataset_tools.raw.raw_files import MAX_BROKEN_SHARE, is_gzip, reading
from dataset_tools.storage.spill_buffer import registered
from recbole_blair.errors import InputError
from recbole_blair.files.read import iter_lines
from recbole_blair.schema import SPLITS, TEST_START_MS, VALID_START_MS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dataset_tools.storage.duckdb_session import DuckDBSession

COLUMNS = ("user_id", "parent_asin", "rating", "timestamp")
HISTORY = "history"  # a user's earlier items, joined by spaces
FEWEST_KNOWN = 0.01  # share of a file's rows with metadata below which it is of another domain
BOUNDS = (("train", None, VALID_START_MS), ("valid", VALID_START_MS, TEST_START_MS), ("test", TEST_START_MS, None))
FETCH = "fetch it again (delete it and run the same command)"


def load_split(
    session: DuckDBSession, paths: Sequence[Path], meta_path: Path, item_ids: pa.StringArray, protocol: str
) -> dict[str, int]:
    """Read train, valid and test file into table `review` (user_id, item_id, ts, rule), in this order of lines.

    Within a part the files keep a user's rows in time order, and no event of a user is later than one of the next part:
    so a user's rows with equal times have the order of the raw reviews.

    Args:
        session: DuckDB session.
        paths: of the three files.
        meta_path: of the metadata, for messages.
        item_ids: (items,) the ids with metadata.
        protocol: `last_out`, whose files are the 5-core, or another, whose files are split by time.

    Returns:
        Rows per file; with histories: rows whose history is not the user's earlier items.

    Raises:
        InputError: a file that is cut, has another header, is of another domain, or holds another part's rows.
    """
    headers = [read_header(path) for path in paths]
    if len(set(headers)) > 1:
        raise InputError(f"{paths[0]} and {paths[headers.index(headers[-1])]} differ in their headers; take all three "
                         "files from one folder")  # fmt: skip
    with_history = HISTORY in headers[0]
    history = f", {HISTORY} VARCHAR" if with_history else ""
    session.run(
        f"CREATE TABLE review (user_id VARCHAR, item_id VARCHAR, ts BIGINT, rule UTINYINT, part UTINYINT{history})"
    )
    counts = {f"{split}_rows": load_part(session, path, part, with_history) for part, (split, path) in
              enumerate(zip(SPLITS, paths))}  # fmt: skip
    check_domain(session, paths, meta_path, item_ids)
    if protocol == "last_out":
        check_last_out(session, paths)
    else:
        check_instants(session, paths)
    if with_history:
        counts["history_differs"] = count_other_histories(session)
        check_histories(paths[0], counts["history_differs"], sum(counts[f"{split}_rows"] for split in SPLITS))
    return counts


def read_header(path: Path) -> tuple[str, ...]:
    """Return the columns of a split file.

    Raises:
        InputError: others than those published; or the file ends within a line.
    """
    expected = f"{','.join(COLUMNS)} or the same with ,{HISTORY}"
    first = next((line for _, line in iter_lines(path, f"CSV with the header {expected}")), "")
    names = tuple(first.split(","))
    if names not in (COLUMNS, (*COLUMNS, HISTORY)):
        raise InputError(f"{path} begins with {first[:100]!r}; expected the header {expected}")
    if not is_gzip(path):  # a packed one that is cut is no whole gzip file
        with open(path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                raise InputError(f"{path} ends in the middle of a line: it is cut; {FETCH}")
    return names


def load_part(session: DuckDBSession, path: Path, part: int, with_history: bool) -> int:
    """Append the rows of one file to table `review`; return their number.

    Raises:
        InputError: broken lines, no row.
    """
    columns = (*COLUMNS, HISTORY) if with_history else COLUMNS
    scan = Scan(session, open_own(path, FileFormat("csv", ",", quoting="none"), columns), columns)
    typed = f"""SELECT user_id, parent_asin, try_cast(rating AS DOUBLE) AS rating,
        try_cast(timestamp AS BIGINT) AS timestamp{", " + HISTORY if with_history else ""} FROM {scan.sql()}"""
    before = session.value("SELECT count(*) FROM review")
    with reading(session, path):
        session.run(
            f"""INSERT INTO review SELECT user_id, parent_asin, timestamp, {rule_number_sql()}, {part}
            {", " + HISTORY if with_history else ""} FROM ({typed})""",
            f"split {path.name}",
        )
    rows = session.value("SELECT count(*) FROM review") - before
    broken, place = scan.finish(0, None)
    if not rows + broken:
        raise InputError(f"{path} holds no row; {FETCH}")
    if broken > MAX_BROKEN_SHARE * (rows + broken):
        raise InputError(f"{path} {place}; {broken:,} of {rows + broken:,} lines are broken; {FETCH}")
    session.run(f"INSERT INTO review (rule, part) SELECT 1, {part} FROM range({broken})")
    return rows


def check_domain(session: DuckDBSession, paths: Sequence[Path], meta_path: Path, item_ids: pa.StringArray) -> None:
    """Refuse a file whose items the metadata do not hold.

    Raises:
        InputError: names the file and an item of it.
    """
    with registered(session.con, "item", pa.table([item_ids], ["item_id"])):
        rows = session.run(
            """SELECT part, count(*), count(*) FILTER (item_id IN (SELECT item_id FROM item)), min(item_id) FROM review
            WHERE rule = 0 GROUP BY part ORDER BY part"""
        )
    for part, n, known, item in rows:
        if known < FEWEST_KNOWN * n:
            raise InputError(
                f"{paths[part]} is of another domain than {meta_path.name}: {known:,} of its {n:,} rows have an item "
                f"that is there (first: {item}); put that domain's file in its place"
            )


def check_instants(session: DuckDBSession, paths: Sequence[Path]) -> None:
    """Refuse a part that holds rows of another.

    Raises:
        InputError: names the file, how many rows, the bounds.
    """
    for part, (split, first, after) in enumerate(BOUNDS):
        outside = [f"ts < {first}"] if first is not None else []
        outside += [f"ts >= {after}"] if after is not None else []
        n = session.value(f"SELECT count(*) FROM review WHERE part = {part} AND rule = 0 AND ({' OR '.join(outside)})")
        if n:
            raise InputError(
                f"{paths[part]} holds {n:,} rows outside {split} (from {first or 'the beginning'} to "
                f"{after or 'the end'}, in ms): it is another split's file; {FETCH}"
            )


def check_last_out(session: DuckDBSession, paths: Sequence[Path]) -> None:
    """Refuse parts in which a user does not have exactly one row in test and one in valid.

    Raises:
        InputError: names the file that lacks rows, and how many.
    """
    of_part = ", ".join(f"count(*) FILTER (part = {part}) AS n{part}" for part in range(len(SPLITS)))
    lacks = ", ".join(f"count(*) FILTER (n{part} {'= 0' if part == 0 else '<> 1'})" for part in range(len(SPLITS)))
    by_user = f"SELECT user_id, {of_part} FROM review WHERE user_id IS NOT NULL GROUP BY user_id"
    users, *wrong = session.run(f"SELECT count(*), {lacks} FROM ({by_user})")[0]
    for part, n in enumerate(wrong):
        if n:
            expected = "at least one row" if part == 0 else "one row"
            raise InputError(f"{paths[part]} has not {expected} for {n:,} of {users:,} users: it is cut, or another "
                             f"split's file; {FETCH}")  # fmt: skip


def count_other_histories(session: DuckDBSession) -> int:
    """Return the rows whose history has another length, or another last item, than the user's earlier rows have."""
    return session.value(
        f"""SELECT count(*) FROM (
            SELECT CASE WHEN coalesce({HISTORY}, '') = '' THEN 0 ELSE len(string_split({HISTORY}, ' ')) END AS n,
                string_split({HISTORY}, ' ')[-1] AS last, row_number() OVER earlier - 1 AS before,
                lag(item_id) OVER earlier AS previous
            FROM review WHERE user_id IS NOT NULL WINDOW earlier AS (PARTITION BY user_id ORDER BY ts, rowid))
        WHERE n <> before OR (n > 0 AND last <> previous)"""
    )


def check_histories(path: Path, wrong: int, rows: int) -> None:
    """Refuse files whose histories are not the other rows'; a few may differ where a user's times are equal.

    Raises:
        InputError: names the folder and the number of rows.
    """
    if wrong > MAX_BROKEN_SHARE * rows:
        raise InputError(
            f"{path.parent}: the history of {wrong:,} of {rows:,} rows is not the user's earlier rows: one of the "
            f"three files is cut or of another domain; {FETCH}"
        )

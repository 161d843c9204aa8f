"""The one pass over the reviews: counted by cleaning rule, items numbered, buffered until all users are known.

The stream keeps the order of the lines: DuckDB does so through a scan and a projection, not through a join. Items are
therefore looked up here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataset_tools.conversion.cleaning_rules import REVIEW_RULES, Rule, rule_number_sql
from dataset_tools.conversion.id_mismatch import describe_mismatch
from dataset_tools.conversion.user_events import EVENT_SCHEMA, MOST_TEXT, NO_ROW, event_buffer
from dataset_tools.raw.unusable_ids import are_unusable, unusable_id_sql
from dataset_tools.storage.arrow import to_arrow, to_numpy
from dataset_tools.storage.spill_buffer import SpillBuffer
from recbole_blair.errors import InputError

if TYPE_CHECKING:
    from dataset_tools.storage.duckdb_session import DuckDBSession

HASH = "hash(user_id)"
BROKEN = 1  # number of the first rule, of `REVIEW_RULES` and of `own_tables.RULES`
LINES_PER_BATCH = 61_440
WITHOUT_METADATA_BYTES = 256 << 20  # of such reviews in memory
COMPARED_IDS = 1000  # item ids whose spelling is compared with the metadata's when none of them is there
_PAIR_SCHEMA = pa.schema([("user_id", pa.string()), ("item_id", pa.string())])


class Reviews:
    """What cleaning counts while the reviews are streamed.

    Args:
        session: DuckDB session.
        item_ids: (items,) the ids with metadata.
        rules: those that the reviews' rule numbers count, from 1.
    """

    def __init__(self, session: DuckDBSession, item_ids: pa.StringArray, rules: Sequence[Rule]) -> None:
        self.events = event_buffer(session)  # one row per line; those that make no row have item `NO_ROW`
        self.without_metadata = SpillBuffer(
            session, "review_without_metadata", _PAIR_SCHEMA, most_bytes=WITHOUT_METADATA_BYTES
        )  # the clean reviews of items without metadata
        self.rules, self.by_rule = rules, np.zeros(len(rules) + 1, np.int64)
        self.first_broken: int | None = None  # line number, from 0
        self.matched = 0  # clean reviews whose item has metadata and whose user id can be written
        self.unusable = 0  # those whose user id cannot
        self._item_ids = item_ids
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_lines = self._waiting_bytes = 0

    @property
    def lines(self) -> int:
        """Reviews that were processed."""
        return self.events.rows

    def add(self, batch: pa.RecordBatch) -> None:
        """Take an Arrow record batch (n lines): hash, user_id, item_id, ts, rule; many are processed at once."""
        self._waiting.append(batch)
        self._waiting_lines += len(batch)
        self._waiting_bytes += batch.nbytes
        if self._waiting_lines >= self.events.most_rows or self._waiting_bytes >= MOST_TEXT:
            self.finish()

    def finish(self) -> None:
        """Process the batches that wait."""
        if self._waiting_lines:
            self._process(pa.Table.from_batches(self._waiting))
        self._waiting, self._waiting_lines, self._waiting_bytes = [], 0, 0

    def _process(self, table: pa.Table) -> None:
        rule = to_numpy(table.column("rule"))
        self.by_rule += np.bincount(rule, minlength=len(self.by_rule))
        if self.first_broken is None and (rule == BROKEN).any():
            self.first_broken = self.lines + int(np.argmax(rule == BROKEN))
        clean = rule == 0
        item = to_numpy(pc.index_in(table.column("item_id"), self._item_ids), NO_ROW)
        without_metadata = clean & (item == NO_ROW)
        if without_metadata.any():
            pairs = table.select(_PAIR_SCHEMA.names).filter(to_arrow(without_metadata))
            self.without_metadata.add(pairs.to_batches())
        users, usable = table.column("user_id"), clean & (item != NO_ROW)
        bad = usable & np.concatenate([are_unusable(chunk) for chunk in users.chunks])
        usable &= ~bad
        self.unusable += int(np.count_nonzero(bad))
        self.matched += int(np.count_nonzero(usable))
        item = to_arrow(np.where(usable, item, np.int32(NO_ROW)))
        columns = [table.column("hash"), users, item, to_arrow(to_numpy(table.column("ts"), 0))]
        self.events.add(pa.table(columns, EVENT_SCHEMA).to_batches())


class ReviewCounts(NamedTuple):
    """What cleaning counted among the reviews."""

    reviews: int  # lines
    by_rule: dict[str, int]  # by the name of the rule
    matched: int  # clean reviews whose item has metadata, repeated ones included
    without_metadata: int  # distinct (user, item) pairs without metadata


def raw_reviews_sql(source: str) -> str:
    """Return SQL that gives user_id, item_id, ts and rule of raw reviews."""
    return f"""SELECT user_id, parent_asin AS item_id, timestamp AS ts, {rule_number_sql()} AS rule
        FROM {source}"""


def read_reviews(
    session: DuckDBSession, sql: str, item_ids: pa.StringArray, rules: Sequence[Rule] = REVIEW_RULES,
    label: str | None = None,
) -> Reviews:  # fmt: skip
    """Stream the reviews of a query once; arguments as for `Reviews`.

    Args:
        sql: gives user_id, item_id, ts, rule in the order of the lines.
        label: of the progress bar.

    Returns:
        Reviews: the caller calls its `finish`, while other threads may work.
    """
    reviews = Reviews(session, item_ids, rules)
    sql = f"SELECT {HASH} AS hash, user_id, item_id, ts, rule FROM ({sql})"
    for batch in session.batches(sql, LINES_PER_BATCH, label=label):
        reviews.add(batch)
    return reviews


def count_reviews(session: DuckDBSession, reviews: Reviews) -> ReviewCounts:
    """Return the counts of finished reviews; `repeated_user_item` counts only pairs without metadata so far.

    The other repeated pairs are counted while rows are made.
    """
    counts = {rule.name: int(reviews.by_rule[number]) for number, rule in enumerate(reviews.rules, 1)}
    unusable, without, pairs = count_without_metadata(session, reviews.without_metadata)
    counts["unusable_ids"] = reviews.unusable + unusable
    counts["repeated_user_item"], counts["item_without_metadata"] = without - pairs, pairs
    return ReviewCounts(reviews.lines, counts, reviews.matched, pairs)


def count_without_metadata(session: DuckDBSession, reviews: SpillBuffer) -> tuple[int, int, int]:
    """Return, of the reviews without metadata, those with unusable ids, the others, the others' distinct pairs."""
    if not reviews.rows:
        return 0, 0, 0
    unusable = f"{unusable_id_sql('user_id')} OR {unusable_id_sql('item_id')}"
    with reviews.as_relation():
        return session.run(
            f"""SELECT coalesce(sum(n) FILTER (bad), 0)::BIGINT, coalesce(sum(n) FILTER (NOT bad), 0)::BIGINT,
                count(*) FILTER (NOT bad)
            FROM (SELECT n, {unusable} AS bad FROM
                  (SELECT user_id, item_id, count(*) AS n FROM {reviews.name} GROUP BY user_id, item_id))"""
        )[0]


def check_any_matched(
    session: DuckDBSession, reviews: Reviews, counts: ReviewCounts, item_ids: pa.StringArray, review_path: Path
) -> None:
    """Refuse reviews of which none can be used, or none has an item with metadata.

    Raises:
        InputError: says which of the two, and what was counted; names an id of each file.
    """
    if counts.matched:
        return
    if counts.without_metadata:
        raise InputError(
            f"{review_path}: none of the {counts.without_metadata:,} interactions has an item with metadata; "
            f"{describe_mismatch(unmatched_items(session, reviews), item_ids.to_pylist())}"
        )
    broken = ", ".join(f"{name} {number:,}" for name, number in counts.by_rule.items() if number)
    hint = "; --events_from and --events_until leave events out" if counts.by_rule.get("outside_window") else ""
    raise InputError(f"{review_path}: none of the {counts.reviews:,} reviews is usable ({broken}){hint}")


def unmatched_items(session: DuckDBSession, reviews: Reviews) -> list[str]:
    """Return some items of finished reviews that have no metadata."""
    if not reviews.without_metadata.rows:
        return []
    with reviews.without_metadata.as_relation():
        rows = session.run(f"SELECT item_id FROM {reviews.without_metadata.name} LIMIT {COMPARED_IDS}")
    return [item for (item,) in rows]

"""The one pass over the reviews: counted by cleaning rule, items numbered, held until users can be told apart.

The stream keeps the order of the lines: DuckDB does so through a scan and a projection, not through a join. Items are
therefore looked up here.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataset_tools.conversion import cleaning_rules
from dataset_tools.conversion.unusable_ids import are_unusable
from dataset_tools.conversion.users import EVENT_SCHEMA, MOST_TEXT, NO_ROW, held_events
from dataset_tools.storage.arrow import to_arrow, to_numpy
from dataset_tools.storage.spill_buffer import Held
from recbole_blair.errors import InputError

HASH = "hash(user_id)"
BROKEN = 1  # number of the first rule, of ours and of `own_tables`
LINES_A_BATCH = 61_440
LOST_BYTES = 256 << 20
VALID_FROM, TEST_FROM = 0.8, 0.9  # 8:1:1, for data that has no instants of its own
_LOST_SCHEMA = pa.schema([("user_id", pa.string()), ("item_id", pa.string())])


class Reviews:
    """What cleaning finds while the reviews stream by.

    Args:
        duck (Duck): session.
        item_ids (pa.StringArray): (items,) the ids with metadata.
        rules (sequence of cleaning_rules.Rule): those that the reviews' rule numbers count, from 1.
    """

    def __init__(self, duck, item_ids, rules):
        self.events = held_events(duck)  # a row for each line; those that make no row have item `NO_ROW`
        self.lost = Held(duck, "lost_review", _LOST_SCHEMA, most_bytes=LOST_BYTES)  # clean, but without metadata
        self.rules, self.by_rule = rules, np.zeros(len(rules) + 1, np.int64)
        self.first_broken = None  # line number, from 0
        self.matched = 0  # clean reviews whose item has metadata and whose user id can be written
        self.unusable = 0  # those whose user id cannot
        self._item_ids = item_ids
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_lines = self._waiting_bytes = 0

    @property
    def lines(self):
        """Reviews that were worked on."""
        return self.events.rows

    def add(self, batch):
        """Take an Arrow record batch (n lines): hash, user_id, item_id, ts, rule; work on many at once."""
        self._waiting.append(batch)
        self._waiting_lines += len(batch)
        self._waiting_bytes += batch.nbytes
        if self._waiting_lines >= self.events.most_rows or self._waiting_bytes >= MOST_TEXT:
            self.finish()

    def finish(self):
        """Work on what waits."""
        if self._waiting_lines:
            self._work_on(pa.Table.from_batches(self._waiting))
        self._waiting, self._waiting_lines, self._waiting_bytes = [], 0, 0

    def _work_on(self, table):
        rule = to_numpy(table.column("rule"))
        self.by_rule += np.bincount(rule, minlength=len(self.by_rule))
        if self.first_broken is None and (rule == BROKEN).any():
            self.first_broken = self.lines + int(np.argmax(rule == BROKEN))
        clean = rule == 0
        item = to_numpy(pc.index_in(table.column("item_id"), self._item_ids), NO_ROW)
        self._note_lost(table, clean & (item == NO_ROW))
        users, usable = table.column("user_id"), clean & (item != NO_ROW)
        bad = usable & np.concatenate([are_unusable(chunk) for chunk in users.chunks])
        usable &= ~bad
        self.unusable += int(np.count_nonzero(bad))
        self.matched += int(np.count_nonzero(usable))
        item = to_arrow(np.where(usable, item, np.int32(NO_ROW)))
        columns = [table.column("hash"), users, item, to_arrow(to_numpy(table.column("ts"), 0))]
        self.events.add(pa.table(columns, EVENT_SCHEMA).to_batches())

    def _note_lost(self, table, lost):
        if lost.any():
            self.lost.add(table.select(_LOST_SCHEMA.names).filter(to_arrow(lost)).to_batches())


class Tally(NamedTuple):
    """What cleaning found among the reviews."""

    reviews: int  # lines
    counts: dict  # by the name of the rule
    matched: int  # clean reviews whose item has metadata, repeated ones included
    lost: int  # distinct (user, item) pairs without metadata


def raw_reviews_sql(source):
    """Return SQL that gives user_id, item_id, ts and rule of raw reviews."""
    return f"""SELECT user_id, parent_asin AS item_id, timestamp AS ts, {cleaning_rules.rule_number_sql()} AS rule
        FROM {source}"""


def read_reviews(duck, sql, item_ids, rules=cleaning_rules.REVIEW_RULES, label=None):
    """Stream the reviews of a query once; arguments as of `Reviews`.

    Args:
        sql (str): gives user_id, item_id, ts, rule in the order of the lines.
        label (str | None): of the progress bar.

    Returns:
        Reviews: to be finished, which other work can go on beside.
    """
    found = Reviews(duck, item_ids, rules)
    sql = f"SELECT {HASH} AS hash, user_id, item_id, ts, rule FROM ({sql})"
    for batch in duck.batches(sql, LINES_A_BATCH, label=label):
        found.add(batch)
    return found


def tally_of(duck, reviews):
    """Return the Tally of finished reviews; `repeated_user_item` holds only the pairs without metadata so far.

    The others are found while rows are made.
    """
    counts = {rule.name: int(reviews.by_rule[number]) for number, rule in enumerate(reviews.rules, 1)}
    dropped, lost_reviews, lost = count_lost(duck, reviews.lost)
    counts["unusable_ids"] = reviews.unusable + dropped
    counts["repeated_user_item"], counts["item_without_metadata"] = lost_reviews - lost, lost
    return Tally(reviews.lines, counts, reviews.matched, lost)


def count_lost(duck, lost):
    """Return, of the reviews without metadata, those with unusable ids, the others, the others' distinct pairs."""
    if not lost.rows:
        return 0, 0, 0
    unusable = f"{cleaning_rules.unusable_id_sql('user_id')} OR {cleaning_rules.unusable_id_sql('item_id')}"
    with lost.as_relation():
        return duck.run(
            f"""SELECT coalesce(sum(n) FILTER (bad), 0)::BIGINT, coalesce(sum(n) FILTER (NOT bad), 0)::BIGINT,
                count(*) FILTER (NOT bad)
            FROM (SELECT n, {unusable} AS bad FROM
                  (SELECT user_id, item_id, count(*) AS n FROM {lost.name} GROUP BY user_id, item_id))"""
        )[0]


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


def resolve_instants(duck, events, valid_start_ms, test_start_ms):
    """Return the two instants; those that are None come from 8:1:1 over all interactions by time."""
    if valid_start_ms is not None and test_start_ms is not None:
        return valid_start_ms, test_start_ms
    with events.as_relation():
        valid, test = duck.run(
            f"""SELECT quantile_disc(t, {VALID_FROM}), quantile_disc(t, {TEST_FROM}) FROM
            (SELECT min(ts) AS t FROM {events.name} WHERE item <> {NO_ROW} GROUP BY user_id, item)"""
        )[0]
    return (
        valid if valid_start_ms is None else valid_start_ms,
        test if test_start_ms is None else test_start_ms,
    )

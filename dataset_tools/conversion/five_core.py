"""The 5-core of the last-out protocol, or its users alone.

Source: arXiv:2504.10545 and its public data preparation. For Amazon: start from the iterated 5-core of all users and
items, drop items without metadata, keep users and items with at least five interactions by counts taken once, then
users with at least five left. For Steam (`core=users`, repeats kept): drop items without metadata, keep users with at
least five events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from dataset_tools.raw.unusable_ids import unusable_id_sql
from dataset_tools.storage.spill_buffer import registered

if TYPE_CHECKING:
    from dataset_tools.storage.duckdb_session import DuckDBSession

CORE = 5
CORE_EVENTS = "SELECT user_id, item_id, ts, 0::UTINYINT AS rule FROM core ORDER BY tie"


def keep_core(
    session: DuckDBSession, item_ids: pa.StringArray, core: str = "5-core", keep_repeats: bool = False
) -> tuple[int, dict[str, int]]:
    """Make table `core` (user_id, item_id, ts, tie) of the interactions that stay; needs table `review`.

    Args:
        session: DuckDB session.
        item_ids: (items,) the ids with metadata.
        core: `5-core`, or `users`: only users are counted, after items without metadata are dropped.
        keep_repeats: every event counts; else a user's first with an item alone.

    Returns:
        (pairs, counts): distinct (user, item) pairs before any filter, or events with `keep_repeats`; interactions
        dropped, by the name of the rule.
    """
    usable = f"rule = 0 AND NOT {unusable_id_sql('user_id')} AND NOT {unusable_id_sql('item_id')}"
    if keep_repeats:
        session.run(f"CREATE TABLE pair AS SELECT user_id, item_id, ts, rowid AS tie FROM review WHERE {usable}")
    else:
        session.run(
            f"""CREATE TABLE pair AS SELECT user_id, item_id, min(ts) AS ts, arg_min(rowid, (ts, rowid)) AS tie
            FROM review WHERE {usable} GROUP BY user_id, item_id"""
        )
    reviews = session.value(f"SELECT count(*) FROM review WHERE {usable}")
    pairs = session.value("SELECT count(*) FROM pair")
    outside = iterate_core(session) if core == "5-core" else 0
    with registered(session.con, "item", pa.table([item_ids], ["item_id"])):
        without_metadata = session.value("SELECT count(*) FROM pair WHERE item_id NOT IN (SELECT item_id FROM item)")
        session.run("CREATE TABLE core AS SELECT * FROM pair WHERE item_id IN (SELECT item_id FROM item)")
    return pairs, {
        "repeated_user_item": reviews - pairs,
        "outside_5_core": outside,
        "item_without_metadata": without_metadata,
        "few_after_metadata": keep_frequent(session, items_too=core == "5-core"),
    }


def iterate_core(session: DuckDBSession) -> int:
    """Shrink table `pair` to its 5-core, where every user and item has five pairs; return the pairs dropped."""
    before = left = session.value("SELECT count(*) FROM pair")
    while True:
        session.run(
            f"""CREATE OR REPLACE TABLE pair AS SELECT * FROM pair
            WHERE user_id IN (SELECT user_id FROM pair GROUP BY user_id HAVING count(*) >= {CORE})
            AND item_id IN (SELECT item_id FROM pair GROUP BY item_id HAVING count(*) >= {CORE})"""
        )
        now = session.value("SELECT count(*) FROM pair")
        if now == left:
            return before - left
        left = now


def keep_frequent(session: DuckDBSession, items_too: bool) -> int:
    """Filter table `core` by counts taken once, then drop users with too few left; return the events dropped."""
    before = session.value("SELECT count(*) FROM core")
    if items_too:
        session.run(
            f"""CREATE OR REPLACE TABLE core AS SELECT * FROM core
            WHERE user_id IN (SELECT user_id FROM core GROUP BY user_id HAVING count(*) >= {CORE})
            AND item_id IN (SELECT item_id FROM core GROUP BY item_id HAVING count(*) >= {CORE})"""
        )
    session.run(
        f"""CREATE OR REPLACE TABLE core AS SELECT * FROM core
        WHERE user_id IN (SELECT user_id FROM core GROUP BY user_id HAVING count(*) >= {CORE})"""
    )
    return before - session.value("SELECT count(*) FROM core")

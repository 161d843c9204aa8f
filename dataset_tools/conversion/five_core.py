"""The 5-core of the last-out protocol.

Source: arXiv:2504.10545 and its public data preparation: start from the iterated 5-core of all users and items,
drop items without metadata, keep users and items with at least five interactions by counts taken once, then users
with at least five left.
"""

import pyarrow as pa

from dataset_tools.conversion.cleaning_rules import unusable_id_sql
from dataset_tools.storage.spill_buffer import registered

CORE = 5
CORE_EVENTS = "SELECT user_id, item_id, ts, 0::UTINYINT AS rule FROM core ORDER BY tie"


def keep_core(duck, item_ids):
    """Make table `core` (user_id, item_id, ts, tie) of the interactions that stay; needs table `review`.

    Args:
        duck (Duck): session.
        item_ids (pa.StringArray): (items,) the ids with metadata.

    Returns:
        (pairs, counts): distinct (user, item) pairs before any filter; the counts of the rules that apply here.
    """
    usable = f"rule = 0 AND NOT {unusable_id_sql('user_id')} AND NOT {unusable_id_sql('item_id')}"
    duck.run(
        f"""CREATE TABLE pair AS SELECT user_id, item_id, min(ts) AS ts, arg_min(rowid, (ts, rowid)) AS tie
        FROM review WHERE {usable} GROUP BY user_id, item_id"""
    )
    reviews = duck.value(f"SELECT count(*) FROM review WHERE {usable}")
    pairs = duck.value("SELECT count(*) FROM pair")
    outside = iterate_core(duck)
    with registered(duck.con, "item", pa.table([item_ids], ["item_id"])):
        lost = duck.value("SELECT count(*) FROM pair WHERE item_id NOT IN (SELECT item_id FROM item)")
        duck.run("CREATE TABLE core AS SELECT * FROM pair WHERE item_id IN (SELECT item_id FROM item)")
    return pairs, {
        "repeated_user_item": reviews - pairs,
        "outside_5_core": outside,
        "item_without_metadata": lost,
        "few_after_metadata": keep_frequent(duck),
    }


def iterate_core(duck):
    """Shrink table `pair` to its 5-core, where every user and item has five pairs; return the pairs dropped."""
    before = left = duck.value("SELECT count(*) FROM pair")
    while True:
        duck.run(
            f"""CREATE OR REPLACE TABLE pair AS SELECT * FROM pair
            WHERE user_id IN (SELECT user_id FROM pair GROUP BY user_id HAVING count(*) >= {CORE})
            AND item_id IN (SELECT item_id FROM pair GROUP BY item_id HAVING count(*) >= {CORE})"""
        )
        now = duck.value("SELECT count(*) FROM pair")
        if now == left:
            return before - left
        left = now


def keep_frequent(duck):
    """Filter table `core` by counts taken once, then drop users left with too few; return the events dropped."""
    before = duck.value("SELECT count(*) FROM core")
    duck.run(
        f"""CREATE OR REPLACE TABLE core AS SELECT * FROM core
        WHERE user_id IN (SELECT user_id FROM core GROUP BY user_id HAVING count(*) >= {CORE})
        AND item_id IN (SELECT item_id FROM core GROUP BY item_id HAVING count(*) >= {CORE})"""
    )
    duck.run(
        f"""CREATE OR REPLACE TABLE core AS SELECT * FROM core
        WHERE user_id IN (SELECT user_id FROM core GROUP BY user_id HAVING count(*) >= {CORE})"""
    )
    return before - duck.value("SELECT count(*) FROM core")

"""What a log of one's own holds, counted before anything is left out, and the limits that leave out some of it."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, NamedTuple

from dataset_tools.conversion.own_tables import RULES, TITLE
from recbole_blair.errors import InputError

if TYPE_CHECKING:
    from dataset_tools.storage.duckdb_session import DuckDBSession

NUMBER = {rule.name: number for number, rule in enumerate(RULES, 1)}
DATE_MS = 1000  # per second


class Limits(NamedTuple):
    """What is left out: events outside [from_ms, until_ms), items without a title, users, then items, with few."""

    from_ms: int | None = None
    until_ms: int | None = None
    titled_only: bool = False
    min_events: int = 1
    min_item_events: int = 1


def parse_instant(key: str, text: str | None) -> int | None:
    """Return the Unix ms of `2019-01-01` or `2019-01-01T12:00:00+01:00`; UTC without a zone.

    Raises:
        InputError: no date.
    """
    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"{key}={text!r} is no date; expected one such as 2019-01-01 or 2019-01-01T12:00") from error
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=timezone.utc)
    return round(instant.timestamp() * DATE_MS)


def count_log(session: DuckDBSession) -> dict[str, int | None]:
    """Count the distinct (user, item) pairs of table `review`, those with a row and with a title in `meta`."""
    session.run(
        "CREATE TEMP TABLE pair AS SELECT user_id, item_id, min(ts) AS ts FROM review WHERE rule = 0 GROUP BY ALL"
    )
    session.run(
        f"""CREATE TEMP TABLE item AS SELECT item_id, arg_min({TITLE} IS NOT NULL, rowid) AS titled FROM meta
        GROUP BY item_id"""
    )
    counted = session.run(
        """SELECT count(*), count(DISTINCT user_id), count(DISTINCT item_id), count(titled),
            count(*) FILTER (titled), min(ts), max(ts)
        FROM pair LEFT JOIN item USING (item_id)"""
    )[0]
    session.run("DROP TABLE pair; DROP TABLE item")
    names = ("pairs", "users", "items", "with_metadata", "with_title", "first_ms", "last_ms")
    return dict(zip(names, counted))


def apply_limits(session: DuckDBSession, limits: Limits) -> int:
    """Mark in table `review` the events that the limits leave out, under its rule; return the items' rows left out."""
    untitled = 0
    bounds = [f"ts < {limits.from_ms}"] if limits.from_ms is not None else []
    bounds += [f"ts >= {limits.until_ms}"] if limits.until_ms is not None else []
    if bounds:
        session.run(f"UPDATE review SET rule = {NUMBER['outside_window']} WHERE rule = 0 AND ({' OR '.join(bounds)})")
    if limits.titled_only:
        session.run(
            f"""CREATE TEMP TABLE untitled AS SELECT item_id FROM meta WHERE item_id IS NOT NULL GROUP BY item_id
            HAVING arg_min({TITLE} IS NULL, rowid)"""
        )
        out = "item_id IN (SELECT item_id FROM untitled)"
        session.run(f"UPDATE review SET rule = {NUMBER['item_without_title']} WHERE rule = 0 AND {out}")
        untitled = session.value(f"SELECT count(*) FROM meta WHERE {out}")
        session.run(f"DELETE FROM meta WHERE {out}")
        session.run("DROP TABLE untitled")
    if limits.min_events > 1:
        left = "rule = 0 AND item_id IN (SELECT item_id FROM meta)"
        session.run(
            f"""UPDATE review SET rule = {NUMBER["few_events"]} WHERE {left} AND user_id IN (
                SELECT user_id FROM review WHERE {left} GROUP BY user_id
                HAVING count(DISTINCT item_id) < {limits.min_events})"""
        )
    if limits.min_item_events > 1:  # counted once, as the users were
        session.run(
            f"""UPDATE review SET rule = {NUMBER["few_events_of_item"]} WHERE rule = 0 AND item_id IN (
                SELECT item_id FROM review WHERE rule = 0 GROUP BY item_id
                HAVING count(DISTINCT user_id) < {limits.min_item_events})"""
        )
    return untitled

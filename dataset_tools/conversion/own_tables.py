"""From files of one's own to the tables `review` and `meta`, bad rows counted and named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dataset_tools.conversion.cleaning_rules import MAX_TIME_MS, MIN_TIME_MS, Rule
from dataset_tools.items.item_lines import META_FIELDS
from dataset_tools.raw.own_formats import ALTERNATIVE, Scan
from dataset_tools.raw.raw_files import MAX_BROKEN_SHARE, broken_lines, reading
from dataset_tools.storage.duckdb_session import quote
from recbole_blair.errors import InputError
from recbole_blair.schema import ITEM_ID, TIMESTAMP, USER_ID

if TYPE_CHECKING:
    from dataset_tools.raw.own_formats import OwnFile
    from dataset_tools.storage.duckdb_session import DuckDBSession

TIME_UNITS = ("ms", "s", "iso")
EXAMPLE_FORMAT = "--timestamp_unit='%d.%m.%Y %H:%M'"
INTERACTION_FIELDS = (USER_ID, ITEM_ID, TIMESTAMP)
REPEATED = ("first", "commonest")
TITLE = "nullif(trim(title ->> '$'), '')"  # in table `meta`
LISTS = ("categories", "features")  # fields whose text `list_separator` splits
ESCAPED_ID = r'[\s\x00-\x1f\x7f"%]'  # ids with these are percent-encoded: an atomic file cannot hold them

RULES = (
    Rule("broken_line", "the line does not parse, or has none of the columns that are read"),
    Rule("empty_ids", "the user's or the item's id is absent or empty"),
    Rule("time_missing_or_not_positive", "the time is absent, does not parse, is zero or negative"),
    Rule("time_in_seconds", f"the time is below {MIN_TIME_MS} ms: 1973, or another unit"),
    Rule("time_in_microseconds", f"the time is {MAX_TIME_MS} ms or above: another unit"),
    Rule("unusable_ids", "an id reads as missing, like NULL or nan"),
    Rule("repeated_user_item", "the user had the item before; the earliest is kept, ties by line"),
    Rule("item_without_metadata", "the items file does not hold the item"),
    Rule("outside_window", "the time is before `events_from`, or not before `events_until`"),
    Rule("item_without_title", "the item has no title, and `titled_only` is set"),
    Rule("few_events", "the user has fewer than `min_events` items that are left"),
    Rule("few_events_of_item", "the item has fewer than `min_item_events` users that are left"),
)


def id_sql(text: str) -> str:
    """Return SQL of an id: white space, control characters, quotes and % are percent-encoded, with all else unusual."""
    return f"CASE WHEN regexp_matches({text}, '{ESCAPED_ID}') THEN url_encode({text}) ELSE {text} END"


def time_sql(text: str, unit: str) -> str:
    """Return SQL of a time in Unix milliseconds, NULL where it does not parse; a unit with % is a strptime format."""
    if "%" in unit:
        form = unit.replace("'", "''")
        return f"epoch_ms(try_strptime({text}, '{form}')::TIMESTAMPTZ)"
    if unit == "iso":
        return f"epoch_ms(try_cast({text} AS TIMESTAMPTZ))"  # plain TIMESTAMP ignores an offset
    factor = 1000 if unit == "s" else 1
    return f"try_cast(round(try_cast({text} AS DOUBLE) * {factor}) AS BIGINT)"


def load_interactions(
    session: DuckDBSession, file: OwnFile, mapping: Mapping[str, Sequence[str]], unit: str
) -> dict[str, int]:
    """Read the interactions into table `review` (user_id, item_id, ts, rule), in the order of the lines.

    Args:
        session: DuckDB session.
        file: from `open_own`.
        mapping: field to columns; several of `timestamp` are joined by `-`; without it every time is 0.
        unit: see `time_sql`.

    Returns:
        dict: users and items whose ids are percent-encoded.

    Raises:
        InputError: broken lines, a wrong time unit.
    """
    for field in (USER_ID, ITEM_ID):
        if len(mapping[field]) > 1:
            raise InputError(f"--columns: {field}={'+'.join(mapping[field])}; expected one column")
    session.run("SET TimeZone = 'UTC'")  # of times without a zone
    scan = Scan(session, file, [name for names in mapping.values() for name in names])
    user, item = (scan.text_sql(mapping[field][0]) for field in (USER_ID, ITEM_ID))
    timed = TIMESTAMP in mapping
    time = joined_sql(scan, mapping[TIMESTAMP]) if timed else "NULL"
    with reading(session, file.path):
        session.run(
            f"""CREATE TABLE review AS SELECT {id_sql("u")} AS user_id, {id_sql("i")} AS item_id, ts, CASE
            WHEN u IS NULL AND i IS NULL AND t IS NULL THEN 1
            WHEN coalesce(u, '') = '' OR coalesce(i, '') = '' THEN 2
            WHEN {str(not timed).lower()} THEN 0
            WHEN ts IS NULL OR ts <= 0 THEN 3
            WHEN ts < {MIN_TIME_MS} THEN 4
            WHEN ts >= {MAX_TIME_MS} THEN 5 ELSE 0 END::UTINYINT AS rule
        FROM (SELECT trim(u) AS u, trim(i) AS i, t, {time_sql("t", unit) if timed else "0::BIGINT"} AS ts
              FROM (SELECT {user} AS u, {item} AS i, {time} AS t FROM {scan.sql()}))""",
            f"interactions {file.path.name}",
        )
    rejected = check_broken(session, scan, "review", "rule = 1")
    session.run(f"INSERT INTO review SELECT NULL, NULL, NULL, 1 FROM range({rejected})")
    if timed:
        check_unit(session, file, mapping[TIMESTAMP], unit)
    encoded = "count(DISTINCT {0}) FILTER (contains({0}, '%') AND rule = 0)"
    users, items = session.run(f"SELECT {encoded.format('user_id')}, {encoded.format('item_id')} FROM review")[0]
    return {"users": users, "items": items}


def joined_sql(scan: Scan, names: Sequence[str]) -> str:
    """Return SQL of a time that stands in one column, or in several (`year+month+day`), then joined by `-`."""
    return " || '-' || ".join(scan.text_sql(name) for name in names)


@dataclass(frozen=True)
class ItemRules:
    """How the items' rows become fields.

    Args:
        list_separator: splits the text of categories and features; None: a text is one entry, but for columns of
            type token_seq in an atomic file, whose tokens a blank parts.
        parse_lists: a text such as `['a', 'b']` or `["a", "b"]` is a list.
        missing: texts that mean "no value".
        repeated: `first`: an item's first row is kept; `commonest`: the one whose title most of its rows have, ties by
            line.
    """

    list_separator: str | None = None
    parse_lists: bool = False
    missing: Sequence[str] = ()
    repeated: str = "first"


def load_items(
    session: DuckDBSession, file: OwnFile | None, mapping: Mapping[str, Sequence[str]], rules: ItemRules
) -> None:
    """Read the items into table `meta` (item_id, `META_FIELDS` as JSON): an item's first row is the one that counts.

    Args:
        session: DuckDB session.
        file: from `open_own`; None: the items are the interactions' ids, without fields.
        mapping: field to columns; one may be alternatives, `title|app_name`: the first that is not empty.
        rules: how rows become fields.
    """
    if file is None:
        empty = ", ".join(f"NULL::JSON AS {field}" for field in META_FIELDS)
        session.run(
            f"""CREATE TABLE meta AS SELECT item_id, {empty} FROM (SELECT item_id, min(rowid) AS first FROM review
            WHERE rule = 0 GROUP BY item_id) ORDER BY first"""
        )
        return
    scan = Scan(
        session, file, [name for names in mapping.values() for one in names for name in alternatives(file, one)]
    )
    fields = ", ".join(f"{field_sql(scan, f, mapping.get(f), rules)} AS {f}" for f in META_FIELDS)
    text = f"nullif(trim({scan.text_sql(mapping[ITEM_ID][0])}), '')"
    with reading(session, file.path):
        sql = f"CREATE TABLE meta AS SELECT {id_sql(text)} AS item_id, {fields} FROM {scan.sql()}"
        session.run(sql, f"items {file.path.name}")
    check_broken(session, scan, "meta", " AND ".join(f"{column} IS NULL" for column in ("item_id", *META_FIELDS)))
    if rules.repeated == "commonest":
        put_commonest_first(session)


def alternatives(file: OwnFile, name: str) -> list[str]:
    """Return the columns that `a|b` names, those that the file has."""
    return [column for column in name.split(ALTERNATIVE) if column in file.columns]


def put_commonest_first(session: DuckDBSession) -> None:
    """Order table `meta` so that an item's first row is the one with its commonest title; rows without one are last."""
    columns = ", ".join(("item_id", *META_FIELDS))
    session.run(
        f"""CREATE OR REPLACE TABLE meta AS SELECT {columns} FROM (
            SELECT *, count(*) OVER (PARTITION BY item_id, named) AS n FROM (
            SELECT *, rowid AS line, {TITLE} AS named FROM meta))
        ORDER BY named IS NULL, n DESC, line"""
    )


def field_sql(scan: Scan, field: str, names: Sequence[str] | None, rules: ItemRules) -> str:
    """Return SQL of one metadata field as JSON: a value, or the list of all columns' values."""
    if not names:
        return "NULL::JSON"
    values = [value_sql(scan, name, field, rules) for name in names]
    if len(values) == 1:
        return flat_sql(values[0]) if field in LISTS and scan.file.kind != "csv" else values[0]
    lists = [
        f"""CASE WHEN {v} IS NULL OR json_type({v}) = 'NULL' THEN []::VARCHAR[] WHEN json_type({v}) = 'ARRAY'
        THEN try_cast({v} AS VARCHAR[]) ELSE [{v} ->> '$'] END"""
        for v in (f"({value})" for value in values)
    ]
    return f"to_json(flatten([{', '.join(lists)}]))"


def flat_sql(value: str) -> str:
    """Return SQL of JSON, a list of lists of texts as one list of the different texts: `[["a", "b"], ["a", "c"]]`."""
    flat = f"flatten(try_cast({value} AS VARCHAR[][]))"
    different = f"to_json(list_filter({flat}, lambda x, i: list_position({flat}, x) = i))"
    return f"CASE WHEN json_type({value} -> 0) = 'ARRAY' THEN {different} ELSE {value} END"


def value_sql(scan: Scan, name: str, field: str, rules: ItemRules) -> str:
    """Return SQL of one column, or of the first of several alternatives that is not empty, as JSON."""
    columns, values = alternatives(scan.file, name), []
    for column in columns:
        value, text = scan.json_sql(column), f"trim({scan.text_sql(column)})"
        if rules.missing or len(columns) > 1:
            words = ", ".join(map(quote, ("", *rules.missing)))
            value = f"CASE WHEN {text} NOT IN ({words}) THEN {value} END"
        values.append(value)
    value = f"coalesce({', '.join(values)})" if len(values) > 1 else values[0]
    if rules.parse_lists:  # DuckDB's cast reads quotes of both kinds
        text = f"({value} ->> '$')"
        parsed = f"coalesce(to_json(try_cast({text} AS VARCHAR[])), {value})"
        value = f"CASE WHEN {text} LIKE '[%]' THEN {parsed} ELSE {value} END"
    separator = rules.list_separator or (" " if scan.file.sequences.intersection(columns) else None)
    if separator and field in LISTS:
        split = f"to_json(string_split(({value}) ->> '$', {quote(separator)}))"
        value = f"CASE json_type({value}) WHEN 'VARCHAR' THEN {split} ELSE {value} END"
    return value


def check_broken(session: DuckDBSession, scan: Scan, table: str, condition: str) -> int:
    """Stop when more than `MAX_BROKEN_SHARE` of the lines are broken; return those that are no rows of the table.

    Raises:
        InputError: names the file and the first broken line; or the file has no row.
    """
    path = scan.file.path
    empty, rows, first = broken_lines(session, table, condition)
    rejected, place = scan.finish(empty, first)
    if not rows + rejected:
        raise InputError(f"{path} holds no row")
    broken, lines = empty + rejected, rows + rejected
    if broken > MAX_BROKEN_SHARE * lines:
        raise InputError(
            f"{path}{' ' + place if place else ''}; {broken:,} of {lines:,} lines are broken, more than "
            f"{MAX_BROKEN_SHARE:.1%}. Repair the file, or name its format: --source, --delimiter, --encoding"
        )
    return rejected


def check_unit(session: DuckDBSession, file: OwnFile, columns: Sequence[str], unit: str) -> None:
    """Refuse times that are mostly of another unit than the one named.

    Raises:
        InputError: names the unit, the first time of the file, and what to pass.
    """
    wrong = dict(session.run("SELECT rule, count(*) FROM review WHERE rule IN (3, 4, 5) GROUP BY rule"))
    lines = session.value("SELECT count(*) FROM review")
    for rule, times in wrong.items():
        if 2 * times > lines:
            what = {
                3: "do not parse", 4: "are before 1973: smaller than the unit says", 5: "are after 2286: larger than "
                "the unit says; milliseconds are the finest",
            }[rule]  # fmt: skip
            first = first_value(session, file, columns)
            raise InputError(
                f"{file.path}: {times:,} of {lines:,} times {what} (timestamp_unit={unit}); the first is {first!r}; "
                f"try {' or '.join(other_units(unit, first))}"
            )


def first_value(session: DuckDBSession, file: OwnFile, columns: Sequence[str]) -> str | None:
    """Return the first time of a file of any kind, from its columns."""
    scan = Scan(session, file, columns)
    value = session.run(f"SELECT {joined_sql(scan, columns)} FROM {scan.sql()} LIMIT 1")[0][0]
    scan.finish(0, None)
    return value


def other_units(unit: str, value: str | None) -> list[str]:
    """Return the options to try for a time like `value`, which `unit` does not read."""
    number = value is not None and value.strip().lstrip("-").replace(".", "", 1).isdigit()
    units = [other for other in TIME_UNITS if other != unit and (other == "iso") != number]
    options = [f"--timestamp_unit={other}" for other in units]
    return options if number else [*options, f"a format of its own, such as {EXAMPLE_FORMAT}"]

"""Counts of raw reviews and metadata: Tables 1 and 3 of arXiv:2403.03952 for any domains, over their union exactly.

Each raw file is scanned once, with the fields that are needed, and spills to disk beyond the memory limit. A token here
is a word: a run of characters that are not ASCII white space. The paper counts the tokens of a tokenizer it does
not name, of an item the whole dictionary of its attributes; so token counts are of the same kind, not equal.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from dataset_tools.builds.folder import build_is_whole, check_raw_unchanged
from dataset_tools.builds.settings import AmazonSettings
from dataset_tools.builds.statistics_file import require_stats
from dataset_tools.conversion import cleaning_rules
from dataset_tools.conversion.convert import convert
from dataset_tools.raw.fetch import ensure_raw
from dataset_tools.raw.raw_files import broken_lines, check_broken, json_lines, reading
from dataset_tools.storage.duckdb_session import quote
from dataset_tools.storage.resources import Resources
from recbole_blair.errors import InputError
from recbole_blair.files.checksum import file_crc32
from recbole_blair.files.own_json import read_own_json, write_own_json
from recbole_blair.files.paths import file_stamps
from recbole_blair.schema import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dataset_tools.storage.duckdb_session import DuckDBSession

TEXT_FIELDS = ("title", "features", "categories", "description")  # of an item, as recommenders read it
COUNTS = ("reviews", "users", "items", "items_with_metadata", "metadata_items", "review_tokens", "metadata_tokens")
SUMMED = ("reviews", "review_tokens", "metadata_tokens", "broken_reviews", "broken_metadata", "reviews_without_time")
TABLE3 = ("items", "inters", "avg_history_length", "avg_item_chars")
QUIET = Resources(progress=False)


def words_sql(text: str) -> str:
    """Return SQL of the number of words of an SQL text that is not null."""
    return rf"len(regexp_extract_all({text}, '[^ \t\n\f\r]+'))"


def field_text_sql(field: str) -> str:
    """Return SQL of a JSON field as one text: a list's parts with a space between, "" for null."""
    return (
        f"CASE json_type({field}) WHEN 'ARRAY' THEN array_to_string({field} ->> '$[*]', ' ') "
        f"WHEN 'NULL' THEN '' ELSE coalesce({field} ->> '$', '') END"
    )


def count_domain(
    raw_dir: Path | str,
    domain: str,
    *,
    data_path: Path | str = "dataset",
    table3: bool = True,
    revision: str = "main",
    keep_dir: Path | str | None = None,
    resources: Resources = QUIET,
) -> dict[str, Any]:
    """Count one domain.

    Args:
        raw_dir: where the raw files are; missing ones of Amazon's domains are downloaded, the sample's made.
        domain: any name that `prepare` takes.
        data_path: a whole build of the default protocol there gives Table 3; nothing is written there.
        table3: False leaves Table 3 out, which takes as long as `prepare` where there is no build.
        revision: hub version of raw files that are missing.
        keep_dir: folder that gets the result and, as Parquet, the ids for `count_union`. What it holds of the same
            raw files is taken from there.
        resources: tables beyond its memory spill to the system's temporary folder (TMPDIR).

    Returns:
        `domain`; `COUNTS`, where items are those with a review and metadata_items those with a metadata line;
        first_ms, last_ms (None without any time); broken_reviews, broken_metadata (lines that are no JSON object),
        reviews_without_time; table3: `TABLE3` and `source` (build or computed), or None.

    Raises:
        InputError: an unknown domain, raw files that are missing or broken, a build that contradicts them.
    """
    settings = AmazonSettings.resolve(domain, raw_dir, revision=revision)
    name = settings.raw_name
    paths = ensure_raw(raw_dir, name, revision, resources.progress)
    counted_of = _counted_of(paths, table3)
    kept = None if keep_dir is None else _load_kept(Path(keep_dir), name, counted_of)
    if kept is not None:
        return kept
    with tempfile.TemporaryDirectory(prefix="recbole-blair-stats-") as folder:
        with resources.open_session(folder) as duck:
            counts = _count(duck, *paths)
            if keep_dir is not None:
                _save_ids(duck, Path(keep_dir), name)
        counts = {"domain": name, **counts, "table3": None}
        if table3:
            counts["table3"] = _table3(Path(folder), settings, paths, Path(data_path), resources)
    if keep_dir is not None:
        write_own_json(
            Path(keep_dir) / f"{name}.json",
            {"counted_of": counted_of, "found": counts, "crc32": _ids_crc32(Path(keep_dir), name)},
        )
    return counts


def _counted_of(paths: Sequence[Path], table3: bool) -> dict[str, Any]:
    """What a kept result must have been counted of: the same raw files by the same version."""
    return {"files": file_stamps(paths), "table3": table3, "version": VERSION}


def _load_kept(folder: Path, name: str, counted_of: dict[str, Any]) -> dict[str, Any] | None:
    """Return the result that an earlier, interrupted count kept; None where it is missing or of other files."""
    path, ids = folder / f"{name}.json", [folder / f"{name}.{kind}.parquet" for kind in ("users", "items")]
    if not path.is_file() or not all(one.is_file() for one in ids):
        return None
    kept = read_own_json(path, "kept counts", f"delete it to count {name} again", ("found", "counted_of"))
    same = kept["counted_of"] == counted_of and kept.get("crc32") == _ids_crc32(folder, name)
    return kept["found"] if same else None


def _ids_crc32(folder: Path, name: str) -> list[str]:
    """Return the checksums of the kept ids of a domain."""
    return [file_crc32(folder / f"{name}.{kind}.parquet") for kind in ("users", "items")]


def count_domains(
    raw_dir: Path | str,
    domains: Sequence[str],
    *,
    keep_dir: Path | str | None = None,
    resources: Resources = QUIET,
    **options: Any,
) -> dict[str, Any]:
    """Count several domains and their union, in which a user or item of two domains counts once.

    Args:
        raw_dir: see `count_domain`.
        domains: names.
        keep_dir: folder, made if missing, that keeps what was counted, domain by domain: called again after a kill
            this goes on behind the last whole one. None keeps nothing.
        resources: as of `count_domain`.
        options: its further arguments.

    Returns:
        `domains` (list of the results of `count_domain`), `total` (the counts without table3; None for one).
    """
    if len(domains) == 1:
        return {"domains": [count_domain(raw_dir, domains[0], resources=resources, **options)], "total": None}
    with tempfile.TemporaryDirectory(prefix="recbole-blair-stats-") as temporary:
        folder = Path(temporary if keep_dir is None else keep_dir)
        folder.mkdir(exist_ok=True)
        counts = []
        for domain in tqdm(domains, desc="domains", unit="domain", disable=not resources.progress):
            counts.append(count_domain(raw_dir, domain, keep_dir=folder, resources=resources, **options))
        with tempfile.TemporaryDirectory(dir=temporary) as spill, resources.open_session(spill) as duck:
            total = count_union(duck, counts, folder)
    return {"domains": counts, "total": total}


def count_union(duck: DuckDBSession, counts: Sequence[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Return the counts over several domains from their results and the ids saved in `folder`."""
    total = {"domain": "total", **{name: sum(one[name] for one in counts) for name in SUMMED}}
    names = [one["domain"] for one in counts]
    users, items = (
        f"read_parquet([{', '.join(quote(folder / f'{name}.{kind}.parquet') for name in names)}])"
        for kind in ("users", "items")
    )
    total["users"] = duck.run(f"SELECT count(*) FROM (SELECT DISTINCT user_id FROM {users})", "users of all")[0][0]
    sql = f"SELECT bool_or(reviewed) AS r, bool_or(described) AS d FROM {items} GROUP BY item_id"
    total |= _item_counts(duck, sql, "items of all")
    for name, choose in (("first_ms", min), ("last_ms", max)):
        total[name] = choose((one[name] for one in counts if one[name] is not None), default=None)
    return total


def _count(duck: DuckDBSession, review_path: Path, meta_path: Path) -> dict[str, Any]:
    """Scan both raw files into the tables `review` and `item`; return the counts of Table 1."""
    columns = "{user_id: 'VARCHAR', parent_asin: 'VARCHAR', timestamp: 'BIGINT', title: 'VARCHAR', text: 'VARCHAR'}"
    whole = f"timestamp BETWEEN {cleaning_rules.MIN_TIME_MS} AND {cleaning_rules.MAX_TIME_MS - 1}"
    with reading(duck, review_path):
        duck.run(
            f"""CREATE TABLE review AS
            SELECT nullif(user_id, '') AS user_id, nullif(parent_asin, '') AS item_id,
                   CASE WHEN {whole} THEN timestamp END AS ts,
                   {words_sql("concat_ws(' ', title, text)")}::UINTEGER AS words,
                   coalesce(user_id, parent_asin, timestamp::VARCHAR, title, text) IS NULL AS broken
            FROM {json_lines(review_path, columns)}""",
            f"reviews {review_path.name}",
        )
    check_broken(review_path, *broken_lines(duck, "review", "broken"))
    fields = ", ".join(f"{field}: 'JSON'" for field in TEXT_FIELDS)
    text = f"concat_ws(' ', {', '.join(field_text_sql(field) for field in TEXT_FIELDS)})"
    with reading(duck, meta_path):
        duck.run(
            f"""CREATE TABLE meta AS
            SELECT nullif(parent_asin, '') AS item_id, {words_sql(text)}::UINTEGER AS words,
                   coalesce(parent_asin, {", ".join(f"{field}::VARCHAR" for field in TEXT_FIELDS)}) IS NULL AS broken
            FROM {json_lines(meta_path, f"{{parent_asin: 'VARCHAR', {fields}}}")}""",
            f"metadata {meta_path.name}",
        )
    check_broken(meta_path, *broken_lines(duck, "meta", "broken"))
    duck.run(
        """CREATE TABLE item AS
        SELECT item_id, bool_or(reviewed) AS reviewed, bool_or(NOT reviewed) AS described, max(words) AS words FROM (
            SELECT DISTINCT item_id, true AS reviewed, 0 AS words FROM review WHERE item_id IS NOT NULL
            UNION ALL SELECT item_id, false, arg_min(words, rowid) FROM meta WHERE item_id IS NOT NULL GROUP BY item_id
        ) GROUP BY item_id""",
        "items",
    )
    names = ("reviews", "broken_reviews", "reviews_without_time", "review_tokens", "first_ms", "last_ms")
    row = duck.run(
        """SELECT count(*) FILTER (NOT broken), count(*) FILTER (broken), count(*) FILTER (NOT broken AND ts IS NULL),
        coalesce(sum(words), 0)::BIGINT, min(ts), max(ts) FROM review"""
    )[0]
    counts = dict(zip(names, row))
    counts["broken_metadata"] = duck.value("SELECT count(*) FROM meta WHERE broken")
    counts["users"] = duck.run(
        "SELECT count(*) FROM (SELECT DISTINCT user_id FROM review WHERE user_id IS NOT NULL)", "users"
    )[0][0]
    counts |= _item_counts(duck, "SELECT reviewed AS r, described AS d FROM item", None)
    counts["metadata_tokens"] = duck.value("SELECT coalesce(sum(words), 0)::BIGINT FROM item")
    return counts


def _item_counts(duck: DuckDBSession, sql: str, label: str | None) -> dict[str, int]:
    """Return the counts of items from SQL with one row per item: r, it has a review; d, it has metadata."""
    names = ("items", "items_with_metadata", "metadata_items")
    query = f"SELECT count(*) FILTER (r), count(*) FILTER (r AND d), count(*) FILTER (d) FROM ({sql})"
    return dict(zip(names, duck.run(query, label)[0]))


def _save_ids(duck: DuckDBSession, folder: Path, name: str) -> None:
    """Write a domain's user and item ids, each once, for the union."""
    for kind, sql in (
        ("users", "SELECT DISTINCT user_id FROM review WHERE user_id IS NOT NULL"),
        ("items", "SELECT item_id, reviewed, described FROM item"),
    ):
        duck.run(f"COPY ({sql}) TO {quote(folder / f'{name}.{kind}.parquet')} (FORMAT parquet)")


def _table3(
    folder: Path, settings: AmazonSettings, paths: tuple[Path, Path], data_path: Path, resources: Resources
) -> dict[str, Any]:
    """Return Table 3 of a build that is there, else of one that is converted below `folder` and not kept."""
    name = settings.build_name
    build = data_path / name
    if build_is_whole(build, settings):
        check_raw_unchanged(build, paths)
        table3, source = require_stats(build)["table3"], "build"
    else:
        work = folder / "build"
        work.mkdir()
        with resources.open_session(work) as duck:
            try:
                table3, source = convert(duck, *paths, work, name, settings)["table3"], "computed"
            except InputError as error:
                return {**dict.fromkeys(TABLE3), "source": "none", "reason": str(error)}
    return {**{column: table3[column] for column in TABLE3}, "source": source}

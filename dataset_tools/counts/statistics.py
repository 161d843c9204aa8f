"""Counts of raw reviews and metadata: Tables 1 and 3 of arXiv:2403.03952 for any domains, over their union exactly.

Each raw file is scanned once, with the fields that are needed, and spills to disk beyond the memory limit. A token here
is a word: a run of characters that are not ASCII white space. The paper counts the tokens of a tokenizer it does
not name, of an item the whole dictionary of its attributes; so token counts are of the same kind, not equal.
"""

import json
import tempfile
from pathlib import Path

from dataset_tools.builds.build_stats import load_stats
from dataset_tools.conversion import cleaning_rules
from dataset_tools.prepare import build_is_whole, build_name_of, build_settings, check_raw_unchanged, raw_name
from dataset_tools.pretraining.review_pairs import write_json
from dataset_tools.raw.fetch import ensure_raw
from dataset_tools.raw.raw_files import broken_lines, check_broken, json_lines, reading
from dataset_tools.storage.duckdb_session import Duck, quote
from recbole_blair.errors import InputError
from recbole_blair.files.paths import file_stamps
from recbole_blair.schema import VERSION

TEXT_FIELDS = ("title", "features", "categories", "description")  # of an item, as recommenders read it
COUNTS = ("reviews", "users", "items", "items_with_metadata", "metadata_items", "review_tokens", "metadata_tokens")
SUMMED = ("reviews", "review_tokens", "metadata_tokens", "broken_reviews", "broken_metadata", "reviews_without_time")
TABLE3 = ("items", "inters", "avg_history_length", "avg_item_chars")


def words_sql(text):
    """Return SQL of the number of words of an SQL text that is not null."""
    return rf"len(regexp_extract_all({text}, '[^ \t\n\f\r]+'))"


def field_text_sql(field):
    """Return SQL of a JSON field as one text: a list's parts with a space between, "" for null."""
    return (
        f"CASE json_type({field}) WHEN 'ARRAY' THEN array_to_string({field} ->> '$[*]', ' ') "
        f"WHEN 'NULL' THEN '' ELSE coalesce({field} ->> '$', '') END"
    )


def domain_statistics(
    raw_dir,
    domain,
    memory_limit="4GB",
    threads=None,
    data_path="dataset",
    table3=True,
    progress=False,
    revision="main",
    keep_dir=None,
):
    """Count one domain.

    Args:
        raw_dir (path): where the raw files are; missing ones of Amazon's domains are downloaded, the sample's made.
        domain (str): any name that `prepare` takes.
        memory_limit (str): DuckDB's; beyond it temporary tables spill to the system's temporary folder (TMPDIR).
        threads (int | None): None takes the cores, at most 8.
        data_path (path): a whole build of the default protocol there gives Table 3; nothing is written there.
        table3 (bool): False leaves Table 3 out, which takes as long as `prepare` where there is no build.
        progress (bool): draw progress bars.
        revision (str): hub version of raw files that are missing.
        keep_dir (path | None): folder that gets the result and, as Parquet, the ids for `union_statistics`. What it
            holds of the same raw files is taken from there.

    Returns:
        dict: `domain`; `COUNTS`, where items are those with a review and metadata_items those with a metadata line;
        first_ms, last_ms (None without any time); broken_reviews, broken_metadata (lines that are no JSON object),
        reviews_without_time; table3: `TABLE3` and `source` (build or computed), or None.

    Raises:
        InputError: an unknown domain, raw files that are missing or broken, a build that contradicts them.
    """
    settings = build_settings(domain, revision=revision, raw_dir=raw_dir)
    paths = ensure_raw(raw_dir, settings, raw_name(settings), progress)
    counted_of = _counted_of(paths, table3)
    kept = None if keep_dir is None else _load_kept(keep_dir, raw_name(settings), counted_of)
    if kept is not None:
        return kept
    with tempfile.TemporaryDirectory(prefix="recbole-blair-stats-") as folder:
        with Duck(folder, memory_limit, threads, progress) as duck:
            found = _count(duck, *paths)
            if keep_dir is not None:
                _save_ids(duck, Path(keep_dir), raw_name(settings))
        found = {"domain": raw_name(settings), **found, "table3": None}
        if table3:
            found["table3"] = _table3(Path(folder), settings, paths, data_path, memory_limit, threads, progress)
    if keep_dir is not None:
        write_json(Path(keep_dir) / f"{raw_name(settings)}.json", {"counted_of": counted_of, "found": found})
    return found


def _counted_of(paths, table3):
    """What a kept result must have been counted of: the same raw files by the same version."""
    return {"files": file_stamps(paths), "table3": table3, "version": VERSION}


def _load_kept(folder, name, counted_of):
    """Return the result that an earlier, interrupted count kept; None where it is missing or of other files."""
    folder = Path(folder)
    path, ids = folder / f"{name}.json", [folder / f"{name}.{kind}.parquet" for kind in ("users", "items")]
    if not path.is_file() or not all(one.is_file() for one in ids):
        return None
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); delete it to count {name} again") from error
    return kept["found"] if kept["counted_of"] == counted_of else None


def statistics(raw_dir, domains, keep_dir=None, **options):
    """Count several domains and their union, in which a user or item of two domains counts once.

    Args:
        raw_dir (path): see `domain_statistics`.
        domains (list of str): names.
        keep_dir (path | None): folder, made if missing, that keeps what was counted, domain by domain: called again
            after a kill this goes on behind the last whole one. None keeps nothing.
        options: further arguments of `domain_statistics`.

    Returns:
        dict: `domains` (list of the results of `domain_statistics`), `total` (the counts without table3; None for one).
    """
    if len(domains) == 1:
        return {"domains": [domain_statistics(raw_dir, domains[0], **options)], "total": None}
    from tqdm import tqdm

    with tempfile.TemporaryDirectory(prefix="recbole-blair-stats-") as temporary:
        folder = temporary if keep_dir is None else keep_dir
        Path(folder).mkdir(exist_ok=True)
        found = []
        for domain in tqdm(domains, desc="domains", unit="domain", disable=not options.get("progress")):
            found.append(domain_statistics(raw_dir, domain, keep_dir=folder, **options))
        with tempfile.TemporaryDirectory(dir=temporary) as spill:
            limits = options.get("memory_limit", "4GB"), options.get("threads"), options.get("progress", False)
            with Duck(spill, *limits) as duck:
                total = union_statistics(duck, found, folder)
    return {"domains": found, "total": total}


def union_statistics(duck, found, folder):
    """Return the counts over several domains from their results and the ids saved in `folder`."""
    folder = Path(folder)
    total = {"domain": "total", **{name: sum(one[name] for one in found) for name in SUMMED}}
    names = [one["domain"] for one in found]
    users, items = (
        f"read_parquet([{', '.join(quote(folder / f'{name}.{kind}.parquet') for name in names)}])"
        for kind in ("users", "items")
    )
    total["users"] = duck.run(f"SELECT count(*) FROM (SELECT DISTINCT user_id FROM {users})", "users of all")[0][0]
    sql = f"SELECT bool_or(reviewed) AS r, bool_or(described) AS d FROM {items} GROUP BY item_id"
    total |= _item_counts(duck, sql, "items of all")
    for name, choose in (("first_ms", min), ("last_ms", max)):
        total[name] = choose((one[name] for one in found if one[name] is not None), default=None)
    return total


def _count(duck, review_path, meta_path):
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
            f"reviews {Path(review_path).name}",
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
            f"metadata {Path(meta_path).name}",
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
    found = dict(zip(names, row))
    found["broken_metadata"] = duck.value("SELECT count(*) FROM meta WHERE broken")
    found["users"] = duck.run(
        "SELECT count(*) FROM (SELECT DISTINCT user_id FROM review WHERE user_id IS NOT NULL)", "users"
    )[0][0]
    found |= _item_counts(duck, "SELECT reviewed AS r, described AS d FROM item", None)
    found["metadata_tokens"] = duck.value("SELECT coalesce(sum(words), 0)::BIGINT FROM item")
    return found


def _item_counts(duck, sql, label):
    """Return the counts of items from SQL with a row an item: r, it has a review; d, it has metadata."""
    names = ("items", "items_with_metadata", "metadata_items")
    query = f"SELECT count(*) FILTER (r), count(*) FILTER (r AND d), count(*) FILTER (d) FROM ({sql})"
    return dict(zip(names, duck.run(query, label)[0]))


def _save_ids(duck, folder, name):
    """Write a domain's user and item ids, each once, for the union."""
    for kind, sql in (
        ("users", "SELECT DISTINCT user_id FROM review WHERE user_id IS NOT NULL"),
        ("items", "SELECT item_id, reviewed, described FROM item"),
    ):
        duck.run(f"COPY ({sql}) TO {quote(folder / f'{name}.{kind}.parquet')} (FORMAT parquet)")


def _table3(folder, settings, paths, data_path, memory_limit, threads, progress):
    """Return Table 3 of a build that is there, else of one that is converted below `folder` and not kept."""
    name = build_name_of(settings)
    build = Path(data_path) / name
    if build_is_whole(build, settings):
        check_raw_unchanged(build, *paths)
        found, source = load_stats(build)["table3"], "build"
    else:
        from dataset_tools.conversion.convert import convert

        work = folder / "build"
        work.mkdir()
        with Duck(work, memory_limit, threads, progress) as duck:
            try:
                found, source = convert(duck, *paths, work, name, settings)["table3"], "computed"
            except InputError as error:
                return {**dict.fromkeys(TABLE3), "source": "none", "reason": str(error)}
    return {**{column: found[column] for column in TABLE3}, "source": source}

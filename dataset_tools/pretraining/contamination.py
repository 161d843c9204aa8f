"""Contamination report: what of validation and test occurs in the pretraining pairs, by id and by near-equal text.

Near-equal means that two texts share at least `MIN_JACCARD` of their three-word shingles. Candidates are found by
MinHash bands (Broder 1997; Leskovec et al., Mining of Massive Datasets, chapter 3) and then counted exactly, so what
is reported is right; a pair of texts at the threshold is missed once in some 300 times. Everything runs in DuckDB and
spills to disk.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_tools.raw.domains import resolve_datasets
from dataset_tools.raw.fetch import ensure_raw
from dataset_tools.raw.raw_files import json_lines, reading
from dataset_tools.storage.duckdb_session import quote
from recbole_blair.errors import InputError
from recbole_blair.files.write import whole_file, work_folder, write_json
from recbole_blair.schema import MATCHED_REVIEWS, TEST_START_MS, VALID_START_MS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dataset_tools.storage.duckdb_session import DuckDBSession
    from dataset_tools.storage.resources import Resources

REPORT = "contamination.json"
EVALUATION_ITEMS = "evaluation_items.txt"  # for --exclude_items
MIN_JACCARD = 0.8
BANDS, BAND_ROWS = 8, 3  # 1 - (1 - 0.8**3)**8 = 0.997 of the pairs of texts at the threshold are found
SHINGLE_WORDS = 3


def report_contamination(
    pairs: Path | str,
    spec: str,
    raw_dir: Path | str,
    resources: Resources,
    valid_start_ms: int = VALID_START_MS,
    test_start_ms: int = TEST_START_MS,
) -> dict[str, Any]:
    """Compare pairs with the evaluation reviews of some domains; write the report beside the pairs.

    Args:
        pairs: folder that `make_pair_files` wrote.
        spec: domains whose validation and test reviews are looked up; not only those the pairs come from.
        raw_dir: their raw files.
        resources: what the work may use.
        valid_start_ms, test_start_ms: the two instants, Unix ms; validation lies between them, test after.

    Returns:
        For `valid` and `test`: reviews, users, items; of them in the pairs by review id, user and item; reviews
        whose text equals a context, or is near-equal to one. Near-equal counts include equal ones.

    Raises:
        InputError: no pairs there.
    """
    folder = Path(pairs)
    shards = sorted(folder.glob("*.parquet"))
    if not shards:
        raise InputError(f"{folder} holds no Parquet shards of pairs; make them with --prepare_only first")
    with work_folder(folder / "contamination") as work, resources.open_session(work) as duck:
        load_pairs(duck, shards)
        duck.run("CREATE TABLE evaluation (split VARCHAR, user_id VARCHAR, item_id VARCHAR, ts BIGINT, text VARCHAR)")
        for name in resolve_datasets(spec, raw_dir):
            reviews, _ = ensure_raw(raw_dir, name, progress=resources.progress)
            load_evaluation(duck, reviews, valid_start_ms, test_start_ms)
        find_matches(duck)
        report: dict[str, Any] = {split: count_split(duck, split) for split in ("valid", "test")}
        report["pairs"] = duck.value("SELECT count(*) FROM pair")
        report["pairs_near_evaluation_text"] = write_matched(duck, folder / MATCHED_REVIEWS)
        report["evaluation_items"] = write_items(duck, folder / EVALUATION_ITEMS)
    report |= {"domains": spec, "min_jaccard": MIN_JACCARD, "instants": [valid_start_ms, test_start_ms]}
    write_json(folder / REPORT, report)
    return report


def normal_sql(text: str) -> str:
    """Return SQL of a text without tags and entities, lower case, letters and digits only, single spaces."""
    plain = rf"regexp_replace(regexp_replace({text}, '<[^>]*>', ' ', 'g'), '&#?[A-Za-z0-9]+;', ' ', 'g')"
    return rf"trim(regexp_replace(lower({plain}), '[^\pL\pN]+', ' ', 'g'))"


def load_pairs(duck: DuckDBSession, shards: Sequence[Path]) -> None:
    """Read keys and normalised contexts of the pairs."""
    files = ", ".join(quote(path) for path in shards)
    try:
        duck.run(
            f"CREATE TABLE pair AS SELECT user_id, item_id, timestamp AS ts, {normal_sql('context')} AS text "
            f"FROM read_parquet([{files}])",
            "pairs",
        )
    except duck.error as error:
        raise InputError(f"the shards in {shards[0].parent} cannot be read: {str(error).splitlines()[0]}") from error


def load_evaluation(duck: DuckDBSession, path: Path, valid_start_ms: int, test_start_ms: int) -> None:
    """Add a domain's reviews from the first instant on."""
    columns = "{user_id: 'VARCHAR', parent_asin: 'VARCHAR', timestamp: 'BIGINT', title: 'VARCHAR', text: 'VARCHAR'}"
    text = normal_sql("concat_ws(' ', title, text)")
    with reading(duck, path):
        duck.run(
            f"INSERT INTO evaluation SELECT CASE WHEN timestamp >= {int(test_start_ms)} THEN 'test' ELSE 'valid' END, "
            f"user_id, parent_asin, timestamp, {text} FROM {json_lines(path, columns)} "
            f"WHERE timestamp >= {int(valid_start_ms)}",
            f"evaluation reviews {path.name}",
        )


def shingles_sql(text: str) -> str:
    """Return SQL of the list of distinct three-word shingles; a shorter text is its own shingle."""
    words = f"string_split({text}, ' ')"
    parts = " || ' ' || ".join(f"w[i + {offset}]" for offset in range(SHINGLE_WORDS))
    each = f"list_transform(range(1, len(w) - {SHINGLE_WORDS - 2}), lambda i: {parts})"
    whole = f"CASE WHEN len(w) < {SHINGLE_WORDS} THEN [{text}] ELSE {each} END"
    return f"(SELECT list_distinct({whole}) FROM (SELECT {words} AS w))"


def find_matches(duck: DuckDBSession) -> None:
    """Make table `match` (evaluation text, pair text) of near-equal texts, each text once."""
    masks = random.Random(0)
    for side in ("pair", "evaluation"):
        duck.run(
            f"CREATE TABLE {side}_text AS SELECT text, {shingles_sql('text')} AS shingles FROM "
            f"(SELECT DISTINCT text FROM {side} WHERE text <> '')",
            f"shingles {side}",
        )
    constants = [[masks.getrandbits(63) for _ in range(BAND_ROWS)] for _ in range(BANDS)]
    for side in ("pair", "evaluation"):
        bands = ", ".join(
            "hash("
            + ", ".join(f"list_min(list_transform(hashes, lambda h: xor(h, {value}::UBIGINT)))" for value in [*row])
            + f", {number})"
            for number, row in enumerate(constants)
        )
        hashes = "list_transform(shingles, lambda s: hash(s))"
        duck.run(
            f"CREATE TABLE {side}_band AS SELECT text, unnest([{bands}]) AS band FROM "
            f"(SELECT text, {hashes} AS hashes FROM {side}_text)",
            f"bands {side}",
        )
    common = "len(list_intersect(p.shingles, e.shingles))"
    duck.run(
        f"""CREATE TABLE match AS SELECT e.text AS evaluation_text, p.text AS pair_text FROM
        (SELECT DISTINCT e.text AS e_text, p.text AS p_text FROM evaluation_band e JOIN pair_band p USING (band))
        JOIN evaluation_text e ON e.text = e_text JOIN pair_text p ON p.text = p_text
        WHERE {common} >= {MIN_JACCARD} * (len(p.shingles) + len(e.shingles) - {common})""",
        "near-equal texts",
    )


def count_split(duck: DuckDBSession, split: str) -> dict[str, int]:
    """Return the counts of one split."""
    mine = f"evaluation WHERE split = {quote(split)}"
    row = duck.run(
        f"""SELECT count(*), count(DISTINCT user_id), count(DISTINCT item_id),
        count(*) FILTER ((user_id, item_id, ts) IN (SELECT (user_id, item_id, ts) FROM pair)),
        count(DISTINCT user_id) FILTER (user_id IN (SELECT user_id FROM pair)),
        count(DISTINCT item_id) FILTER (item_id IN (SELECT item_id FROM pair)),
        count(*) FILTER (item_id IN (SELECT item_id FROM pair)),
        count(*) FILTER (text IN (SELECT text FROM pair WHERE text <> '')),
        count(*) FILTER (text IN (SELECT evaluation_text FROM match))
        FROM {mine}"""
    )[0]
    names = (
        *("reviews", "users", "items", "reviews_in_pairs", "users_in_pairs", "items_in_pairs"),
        *("reviews_of_items_in_pairs", "reviews_with_equal_text", "reviews_with_near_equal_text"),
    )
    return dict(zip(names, row))


def write_matched(duck: DuckDBSession, path: Path) -> int:
    """Write the pairs whose text is near an evaluation review's as JSONL; return how many."""
    sql = (
        "SELECT user_id, item_id, ts FROM pair WHERE text IN (SELECT pair_text FROM match) "
        "ORDER BY user_id, item_id, ts"
    )
    rows = duck.run(sql)
    lines = (json.dumps({"user_id": u, "item_id": i, "timestamp": t}) + "\n" for u, i, t in rows)
    write_lines(path, lines)
    return len(rows)


def write_items(duck: DuckDBSession, path: Path) -> int:
    """Write the ids of the evaluation items, one per line; return how many."""
    rows = duck.run("SELECT DISTINCT item_id FROM evaluation WHERE item_id <> '' ORDER BY item_id")
    write_lines(path, (f"{item}\n" for (item,) in rows))
    return len(rows)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines of text."""
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(lines)

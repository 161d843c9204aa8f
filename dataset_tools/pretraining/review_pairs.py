"""Raw reviews and metadata to pretraining pairs: context = review, metadata = item, in Parquet shards.

Only reviews before the first instant count, and a seeded share of them: whether a review is taken depends on its user,
item and time alone, so it is the same whatever the order of lines, files and threads. A domain's pairs are written in
the order of that hash, which is a random order.

Source: arXiv:2403.03952, section 3.1, and the released code (both sides longer than 30 characters).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from dataset_tools.conversion import cleaning_rules
from dataset_tools.raw.domains import resolve_datasets
from dataset_tools.raw.fetch import ensure_raw
from dataset_tools.raw.raw_files import broken_lines, check_broken, json_lines, reading
from dataset_tools.storage.duckdb_session import quote
from dataset_tools.storage.resources import Resources
from recbole_blair.errors import InputError
from recbole_blair.files.checksum import file_sha256
from recbole_blair.files.own_json import read_own_json, write_own_json
from recbole_blair.files.read import check_file, iter_lines
from recbole_blair.files.write import locked_folder, put_in_place, work_folder
from recbole_blair.schema import VALID_START_MS
from recbole_blair.text.item_text import clean_text, item_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dataset_tools.storage.duckdb_session import DuckDBSession

SHARE = 0.1  # of the reviews, as in the paper
MIN_CHARS = 30
SHARD_ROWS = 100_000
BATCH_ROWS = 20_480
CACHED_TEXTS = 100_000  # metadata texts kept for items that come again
META_FIELDS = ("title", "features", "description")
UNFINISHED = ".unfinished"  # in a folder whose pairs are not all there yet
MANIFEST = "manifest.json"
NO_REPORTS = (MANIFEST, "contamination.json")  # JSON files of the folder that record no domain
BROKEN_REVIEW = "user_id IS NULL AND parent_asin IS NULL AND timestamp IS NULL AND text IS NULL"

# (name, SQL over a raw line that is true when the review is left out); the first that holds counts.
REVIEW_RULES = (
    ("broken_json", BROKEN_REVIEW),
    ("empty_ids", "coalesce(user_id, '') = '' OR coalesce(parent_asin, '') = ''"),
    ("time_missing_or_not_positive", "timestamp IS NULL OR timestamp <= 0"),
    ("time_in_seconds", f"timestamp < {cleaning_rules.MIN_TIME_MS}"),
    ("time_in_microseconds", f"timestamp >= {cleaning_rules.MAX_TIME_MS}"),
    ("from_the_first_instant_on", "timestamp >= {end_ms}"),
    ("not_sampled", "substr({key}, 1, 15) >= {bound}"),
    ("excluded_item", "parent_asin IN (SELECT item_id FROM excluded_item)"),
    ("excluded_review", "{key} IN (SELECT key FROM excluded_review)"),
)
LATER_RULES = ("repeated_review", "item_without_metadata", "context_too_short", "metadata_too_short")


@dataclass(frozen=True)
class PairSettings:
    """Which reviews and items make pairs.

    Args:
        share: part of the reviews, above 0, at most 1.
        seed: which part.
        min_chars: both sides must have more characters.
        end_ms: reviews from this instant on are left out, Unix ms.
        exclude_items: file of item ids, one per line.
        exclude_reviews: JSONL of {user_id, item_id, timestamp}.
    """

    share: float = SHARE
    seed: int = 0
    min_chars: int = MIN_CHARS
    end_ms: int = VALID_START_MS
    exclude_items: Path | str | None = None
    exclude_reviews: Path | str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the settings as the folder of the pairs records them: files by the hash of their content."""
        hashes = {name: file_hash(getattr(self, name)) for name in ("exclude_items", "exclude_reviews")}
        return {**asdict(self), **hashes}


def key_sql(seed: int, user: str = "user_id", item: str = "parent_asin", time: str = "timestamp") -> str:
    """Return SQL of a review's key: 32 hex digits that depend on seed, user, item and time."""
    return f"md5(concat_ws('|', '{int(seed)}', {user}, {item}, {time}))"


def make_pair_files(
    spec: str,
    raw_dir: Path | str,
    folder: Path | str,
    settings: PairSettings,
    resources: Resources,
) -> Path:
    """Write the pairs of one or more domains; domains that are there already are left as they are.

    Args:
        spec: names separated by commas, or `all`.
        raw_dir: where the raw files are, or are downloaded to.
        folder: gets `<Domain>-00000.parquet` …, `<Domain>.json` (counts per rule, hashes) and manifest.json.
        settings: which pairs.
        resources: what the work may use.

    Returns:
        The folder.

    Raises:
        InputError: bad input, pairs of other settings in the folder, or no pair left.
    """
    folder = Path(folder)
    domains = resolve_datasets(spec, raw_dir)
    recorded = settings.to_json()
    # Under torchrun every process comes here: the first makes, the others find.
    with locked_folder(folder, ".lock", marks=(UNFINISHED,)):
        check_settings(folder, recorded, domains)
        missing = [name for name in domains if not (folder / f"{name}.json").is_file()]
        if not missing and (folder / MANIFEST).is_file() and not (folder / UNFINISHED).exists():
            return folder
        (folder / UNFINISHED).touch()
        for name in missing:
            make_domain(folder, name, ensure_raw(raw_dir, name, progress=resources.progress), settings, resources)
        write_manifest(folder, recorded)
        (folder / UNFINISHED).unlink()
    return folder


def file_hash(path: Path | str | None) -> str | None:
    """Return the SHA-256 of a file, hex, or None for no file."""
    if path is None:
        return None
    try:
        return file_sha256(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); it lists what stays out of the pairs") from error


def read_report(path: Path) -> dict[str, Any]:
    """Return what is recorded of a domain's pairs.

    Raises:
        InputError: it is damaged.
    """
    keys = ("domain", "settings", "counts", "shards", "pairs")
    report = read_own_json(path, "the record of a domain's pairs", "delete it: its pairs are made again", keys)
    if not isinstance(report["settings"], dict):
        raise InputError(f"{path} is damaged: its settings are no object; delete it: its pairs are made again")
    return report


def check_settings(folder: Path, settings: dict[str, Any], domains: Sequence[str]) -> None:
    """Refuse a folder that holds pairs of other settings or other domains.

    Raises:
        InputError: names the first key that differs.
    """
    for path in sorted(folder.glob("*.json")):
        if path.name in NO_REPORTS:
            continue
        if path.stem not in domains:
            raise InputError(
                f"{folder} holds pairs of {path.stem} too, which is not asked for; choose another --pairs_path"
            )
        saved = read_report(path)
        for key, value in settings.items():
            if saved["settings"].get(key) != value:
                raise InputError(
                    f"{folder} holds pairs made with {key}={saved['settings'].get(key)!r}, asked is {value!r}; choose "
                    "another --pairs_path or delete the folder"
                )


def make_domain(
    folder: Path, name: str, paths: tuple[Path, Path], settings: PairSettings, resources: Resources
) -> None:
    """Write one domain's shards, then its report, which makes them count."""
    for stale in folder.glob(f"{name}-*.parquet"):
        stale.unlink()
    with work_folder(folder / name) as work:
        (work / "duck").mkdir()
        with resources.open_session(work / "duck") as duck:
            load_excluded(duck, settings)
            counts = load_sampled_reviews(duck, paths[0], settings)
            load_wanted_metadata(duck, paths[1])
            counts |= dict.fromkeys(LATER_RULES, 0)
            counts["repeated_review"] = duck.value("SELECT count(*) - count(DISTINCT key) FROM review WHERE rule = 0")
            shards = write_shards(duck, work, name, settings.min_chars, counts)
        for shard in shards:
            put_in_place(work / shard["file"], folder / shard["file"])
        report = {"domain": name, "settings": settings.to_json(), "counts": counts, "shards": shards}
        report["pairs"] = sum(shard["pairs"] for shard in shards)
        write_own_json(folder / f"{name}.json", report)


def load_excluded(duck: DuckDBSession, settings: PairSettings) -> None:
    """Read the items and the reviews that stay out into tables."""
    items, reviews = settings.exclude_items, settings.exclude_reviews
    duck.run("CREATE TABLE excluded_item (item_id VARCHAR)")
    duck.run("CREATE TABLE excluded_review (key VARCHAR)")
    if items is not None:
        lines = [word for _, line in iter_lines(items, "item ids, one per line") for word in line.split()]
        duck.con.execute("INSERT INTO excluded_item SELECT unnest(?)", [lines])
    if reviews is not None:
        check_file(reviews, "JSON lines of user_id, item_id, timestamp")
        columns = "{user_id: 'VARCHAR', item_id: 'VARCHAR', timestamp: 'BIGINT'}"
        source = f"read_json({quote(reviews)}, format='newline_delimited', columns={columns})"
        try:
            duck.run(f"INSERT INTO excluded_review SELECT {key_sql(settings.seed, item='item_id')} FROM {source}")
        except duck.error as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"{reviews} is not JSONL of user_id, item_id, timestamp: {reason}") from error


def load_sampled_reviews(duck: DuckDBSession, path: Path, settings: PairSettings) -> dict[str, int]:
    """Read the reviews that are taken into table `review`; return how many each rule left out.

    Lines that are left out keep their rule only, so the table is small whatever the file.
    """
    key = key_sql(settings.seed)
    bound = quote(f"{min(int(settings.share * 16**15), 16**15 - 1):015x}") if settings.share < 1 else "'g'"
    rules = [(name, sql.format(key=key, bound=bound, end_ms=settings.end_ms)) for name, sql in REVIEW_RULES]
    cases = " ".join(f"WHEN {sql} THEN {number}" for number, (_, sql) in enumerate(rules, 1))
    columns = "{user_id: 'VARCHAR', parent_asin: 'VARCHAR', timestamp: 'BIGINT', title: 'VARCHAR', text: 'VARCHAR'}"
    kept = ("user_id", "parent_asin AS item_id", "timestamp AS ts", "title", "text", f"{key} AS key")
    fields = ", ".join(
        f"CASE WHEN rule = 0 THEN {part.split(' AS ')[0]} END AS {part.rsplit(' ', 1)[-1]}" for part in kept
    )
    with reading(duck, path):
        duck.run(
            f"CREATE TABLE review AS SELECT rule, {fields} FROM (SELECT *, (CASE {cases} ELSE 0 END)::UTINYINT AS rule "
            f"FROM {json_lines(path, columns)})",
            f"reviews {path.name}",
        )
    check_broken(path, *broken_lines(duck, "review", "rule = 1"))
    by_rule = dict(duck.run("SELECT rule, count(*) FROM review GROUP BY rule"))
    counts = {"reviews": sum(by_rule.values())}
    return counts | {name: by_rule.get(number, 0) for number, (name, _) in enumerate(rules, 1)}


def load_wanted_metadata(duck: DuckDBSession, path: Path) -> None:
    """Read the metadata of the items that a taken review names into table `meta`, an item's first line."""
    columns = "{" + ", ".join(["parent_asin: 'VARCHAR'", *(f"{field}: 'JSON'" for field in META_FIELDS)]) + "}"
    with reading(duck, path):
        duck.run(
            f"CREATE TABLE raw_meta AS SELECT parent_asin AS item_id, {', '.join(META_FIELDS)} FROM "
            f"{json_lines(path, columns)}",
            f"metadata {path.name}",
        )
    broken = " AND ".join(f"{column} IS NULL" for column in ("item_id", *META_FIELDS))
    check_broken(path, *broken_lines(duck, "raw_meta", broken))
    duck.run(
        "CREATE TABLE meta AS SELECT * FROM raw_meta WHERE item_id IN (SELECT item_id FROM review WHERE rule = 0) "
        "QUALIFY row_number() OVER (PARTITION BY item_id ORDER BY rowid) = 1"
    )


def write_shards(
    duck: DuckDBSession, work: Path, name: str, min_chars: int, counts: dict[str, int]
) -> list[dict[str, Any]]:
    """Clean the texts, drop short ones, write Parquet; return each shard's file, rows and SHA-256."""
    sql = (
        "SELECT r.user_id, r.item_id, r.ts, r.title, r.text, m.item_id AS found, "
        + ", ".join(f"m.{field} AS m_{field}" for field in META_FIELDS)
        + " FROM (SELECT * FROM review WHERE rule = 0 QUALIFY row_number() OVER (PARTITION BY key ORDER BY rowid) = 1)"
        " r LEFT JOIN meta m USING (item_id) ORDER BY r.key"
    )
    total = duck.value("SELECT count(DISTINCT key) FROM review WHERE rule = 0")
    writer = ShardWriter(work, name)
    texts: dict[str, str] = {}
    with tqdm(total=total, desc=f"pairs {name}", unit=" reviews", disable=not duck.progress) as bar:
        for batch in duck.batches(sql, BATCH_ROWS):
            if len(texts) > CACHED_TEXTS:
                texts.clear()
            writer.add(pairs_of(batch.to_pylist(), name, min_chars, texts, counts))
            bar.update(batch.num_rows)
    return writer.finish()


def pairs_of(
    rows: Iterable[dict[str, Any]], domain: str, min_chars: int, texts: dict[str, str], counts: dict[str, int]
) -> list[dict[str, Any]]:
    """Return the pairs of joined rows; adds to `counts`.

    Args:
        rows: review and metadata columns; the metadata as JSON text.
        domain: name of the domain.
        min_chars: see `PairSettings`.
        texts: metadata texts by item id, filled here.
        counts: number of reviews left out, by rule.
    """
    pairs = []
    for row in rows:
        item_id = row["item_id"]
        if row["found"] is None:
            counts["item_without_metadata"] += 1
            continue
        if item_id not in texts:
            fields = {f: None if row[f"m_{f}"] is None else json.loads(row[f"m_{f}"]) for f in META_FIELDS}
            texts[item_id] = item_text(fields, recipe="pretraining")
        context = f"{clean_text(row['title'])} {clean_text(row['text'])}".strip()
        if len(context) <= min_chars:
            counts["context_too_short"] += 1
        elif len(texts[item_id]) <= min_chars:
            counts["metadata_too_short"] += 1
        else:
            pair = {"context": context, "metadata": texts[item_id], "item_id": item_id, "timestamp": row["ts"]}
            pairs.append({**pair, "user_id": row["user_id"], "domain": domain})
    return pairs


class ShardWriter:
    """Parquet files of at most `SHARD_ROWS` pairs."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.waiting: list[dict[str, Any]] = []  # pairs of the shard that is not full yet
        self.shards: list[dict[str, Any]] = []

    def add(self, pairs: list[dict[str, Any]]) -> None:
        """Take pairs; write the shards that are full."""
        self.waiting += pairs
        while len(self.waiting) >= SHARD_ROWS:
            self._write(self.waiting[:SHARD_ROWS])
            self.waiting = self.waiting[SHARD_ROWS:]

    def finish(self) -> list[dict[str, Any]]:
        """Write the rest and return what was written."""
        if self.waiting:
            self._write(self.waiting)
            self.waiting = []
        return self.shards

    def _write(self, pairs: list[dict[str, Any]]) -> None:
        import pyarrow as pa  # heavy
        import pyarrow.parquet as pq

        types = {name: pa.string() for name in ("context", "metadata", "item_id", "user_id", "domain")}
        schema = pa.schema([*types.items(), ("timestamp", pa.int64())])
        path = self.folder / f"{self.name}-{len(self.shards):05d}.parquet"
        pq.write_table(pa.Table.from_pylist(pairs, schema), path, compression="zstd")
        self.shards.append({"file": path.name, "pairs": len(pairs), "sha256": file_sha256(path)})


def write_manifest(folder: Path, settings: dict[str, Any]) -> None:
    """Write manifest.json: pairs and counts of every domain, and one hash of all shards.

    Raises:
        InputError: no pair in any domain.
    """
    paths = [path for path in sorted(folder.glob("*.json")) if path.name not in NO_REPORTS]
    reports = [read_report(path) for path in paths]
    shards = [shard for report in reports for shard in report["shards"]]
    digest = hashlib.sha256("\n".join(shard["sha256"] for shard in shards).encode()).hexdigest()
    domains = {report["domain"]: {"pairs": report["pairs"], **report["counts"]} for report in reports}
    pairs = sum(report["pairs"] for report in reports)
    if not pairs:
        raise InputError(
            f"no pairs left: {json.dumps(domains)}; raise --sample_share, lower --min_chars, or add domains"
        )
    write_own_json(folder / MANIFEST, {"pairs": pairs, "sha256": digest, "settings": settings, "domains": domains})

"""What is asked and what counts as right: query rows with gains over positions of the pool.

Two protocols. `rows`: one row a (query, wanted item), as the paper scores both data sets; a sibling item that is
just as right counts as wrong. `graded`: one row a query, gains E 1, S .1, C .01, I 0, siblings counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from recbole_blair.errors import InputError
from recbole_blair.search.readers import unique_texts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from recbole_blair.search.readers import Pool, Queries

# Gains of the ESCI benchmark (arXiv:2206.06588) times 100: qrels files hold integers, and NDCG does not change
# when all gains are multiplied by one number.
GAINS = {"E": 100, "S": 10, "C": 1, "I": 0}
LABELS = {"Exact": "E", "Substitute": "S", "Complement": "C", "Irrelevant": "I"} | {k: k for k in GAINS}
RELEVANT_GAIN = GAINS["E"]  # recall and MRR count Exact items only
PROTOCOLS = ("rows", "graded")


@dataclass(frozen=True)
class Task:
    """Queries to rank and their judgements.

    `ids[i]` is the row's id in run files, `texts[i]` its query, `gains[i]` {pool position: gain 0-100},
    `domains[i]` the category of what is wanted, `groups` (n,) int64: rows with the same query text share a number
    (they are not independent: resampling draws whole groups). `missing`: [(row id, item id)] of judged items that are
    not in the pool; `left_out`: ids of rows that cannot be scored and count in no mean.
    """

    ids: list[str]
    texts: list[str]
    gains: list[dict[int, int]]
    domains: list[str]
    groups: np.ndarray
    missing: list[tuple[str, str]]
    left_out: list[str]
    protocol: str

    def __len__(self) -> int:
        return len(self.ids)


def build_rows_task(queries: Queries, pool: Pool, categories: Mapping[str, str] | None = None) -> Task:
    """Build the paper's task: each row of the query file alone, its item the one right answer.

    Rows whose item is not in the pool cannot be scored: they are left out of every mean and listed.

    Args:
        queries: rows.
        pool: candidates.
        categories: item id -> domain; None takes the pool's own category.

    Raises:
        InputError: no row's item is in the pool.
    """
    position = {item_id: i for i, item_id in enumerate(pool.item_ids)}
    kept, missing = [], []
    ids = _row_ids(queries.qids)
    for row, item_id in enumerate(queries.item_ids):
        if item_id in position:
            kept.append(row)
        else:
            missing.append((ids[row], item_id))
    if not kept:
        raise InputError(
            f"none of the {len(queries)} items asked for in {queries.path} is in the pool {pool.path} (first: "
            f"{queries.item_ids[0]!r}); the two files do not belong together"
        )
    where = [position[queries.item_ids[r]] for r in kept]
    return Task(
        ids=[ids[r] for r in kept],
        texts=[queries.texts[r] for r in kept],
        gains=[{p: RELEVANT_GAIN} for p in where],
        domains=[_domain(pool, p, categories) for p in where],
        groups=unique_texts([queries.texts[r] for r in kept])[1],
        missing=missing,
        left_out=[row_id for row_id, _ in missing],
        protocol="rows",
    )


def build_graded_task(
    judgements: Iterable[tuple[str, str, str, str]], pool: Pool, categories: Mapping[str, str] | None = None
) -> Task:
    """Build the graded task: one row a query, all its judged items of the pool.

    The domain of a query is the commonest among its Exact items. Queries without an Exact item in the pool are left
    out; both they and judged items outside the pool are listed.

    Args:
        judgements: (query id, query text, item id, label); labels are the keys of LABELS.
        pool: candidates.
        categories: item id -> domain.

    Raises:
        InputError: an unknown label; no query with an Exact item in the pool.
    """
    position = {item_id: i for i, item_id in enumerate(pool.item_ids)}
    texts: dict[str, str] = {}
    gains: dict[str, dict[int, int]] = defaultdict(dict)
    missing = []
    for query_id, text, item_id, label in judgements:
        if label not in LABELS:
            raise InputError(f"label {label!r} of query {query_id!r}; known labels: {', '.join(LABELS)}")
        texts.setdefault(query_id, text)
        if item_id not in position:
            missing.append((query_id, item_id))
            continue
        gain, place = GAINS[LABELS[label]], position[item_id]
        gains[query_id][place] = max(gain, gains[query_id].get(place, 0))
    ids = [q for q in texts if RELEVANT_GAIN in gains[q].values()]
    if not ids:
        raise InputError(f"no query has an item labelled Exact in the pool {pool.path}; the files do not match")
    return Task(
        ids=ids,
        texts=[texts[q] for q in ids],
        gains=[dict(gains[q]) for q in ids],
        domains=[_query_domain(pool, gains[q], categories) for q in ids],
        groups=unique_texts([texts[q] for q in ids])[1],
        missing=missing,
        left_out=[q for q in texts if RELEVANT_GAIN not in gains[q].values()],
        protocol="graded",
    )


def judgements_of(queries: Queries) -> Iterator[tuple[str, str, str, str]]:
    """Yield a query file's rows as Exact judgements, one query a distinct text (its first qid names it)."""
    first: dict[str, str] = {}
    for qid, text, item_id in zip(queries.qids, queries.texts, queries.item_ids):
        yield first.setdefault(text, qid), text, item_id, "E"


def _query_domain(pool: Pool, gains: Mapping[int, int], categories: Mapping[str, str] | None) -> str:
    """Return the commonest domain among the Exact items; equal counts: the earliest in the pool."""
    places = sorted(p for p, gain in gains.items() if gain == RELEVANT_GAIN)
    return Counter(_domain(pool, p, categories) for p in places).most_common(1)[0][0]


def _domain(pool: Pool, position: int, categories: Mapping[str, str] | None) -> str:
    """Return an item's domain: the given mapping first, the pool's category else."""
    own = pool.categories[position]
    return categories.get(pool.item_ids[position], own) if categories else own


def _row_ids(qids: list[str]) -> list[str]:
    """Return one id a row: the qid where it is unique, else `<qid>.<occurrence from 0>`; no white space."""
    count, ids = Counter(qids), []
    seen: Counter[str] = Counter()
    for qid in ("_".join(q.split()) or "q" for q in qids):
        ids.append(f"{qid}.{seen[qid]}" if count[qid] > 1 else qid)
        seen[qid] += 1
    return ids if len(set(ids)) == len(ids) else [f"row{i}" for i in range(len(qids))]

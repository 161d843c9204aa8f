"""The Shopping Queries (ESCI) files in Parquet: the published filters, graded judgements, a pool of its products.

Sources: arXiv:2206.06588 (the files and labels); arXiv:2403.03952, section 3.3 (the filters).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from recbole_blair.errors import InputError
from recbole_blair.files.write import whole_file
from recbole_blair.schema import ITEM_ID, UNKNOWN_DOMAIN
from recbole_blair.search.readers import NO_TITLE, Pool, Queries, read_table
from recbole_blair.search.tasks import LABELS
from recbole_blair.text.item_text import clean_text, item_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import pandas as pd

EXAMPLES_FILE = "shopping_queries_dataset_examples.parquet"
PRODUCTS_FILE = "shopping_queries_dataset_products.parquet"
EXAMPLE_COLUMNS = ("query", "query_id", "product_id", "product_locale", "esci_label", "small_version", "split")
PRODUCT_COLUMNS = ("product_id", "product_title", "product_description", "product_locale")


def load_examples(path: Path | str, locale: str = "us", split: str = "test") -> pd.DataFrame:
    """Load the judgements of one split and locale, small version, in file order.

    Labels are `E S C I` as published or spelt out; both are read.

    Returns:
        DataFrame: EXAMPLE_COLUMNS; a query with white space only is refused.

    Raises:
        InputError: missing columns, an unknown label, no row left, an empty query.
    """
    table = read_table(path, EXAMPLE_COLUMNS, "the ESCI examples")
    keep = (
        (table["product_locale"] == locale)
        & (table["split"] == split)
        & (table["small_version"].astype(str).isin(["1", "True"]))
    )
    table = table.loc[keep, list(EXAMPLE_COLUMNS)].reset_index(drop=True)
    if not len(table):
        raise InputError(f"{path}: no row of split {split!r}, locale {locale!r} and the small version")
    unknown = sorted(set(table["esci_label"]) - set(LABELS))
    if unknown:
        raise InputError(f"{path}: unknown esci_label {unknown[0]!r}; known: {', '.join(LABELS)}")
    table["query"] = [" ".join(str(q).split()) for q in table["query"]]
    if (table["query"] == "").any():
        bad = table["query_id"][table["query"] == ""].iloc[0]
        raise InputError(f"{path}: query_id {bad} has an empty query; remove its rows")
    return table


def published_rows(
    examples: pd.DataFrame, categories: Mapping[str, str], path: Path | str = "ESCI examples"
) -> Queries:
    """Apply the published filters: label Exact, item of a known category; one row a (query, item).

    Args:
        examples: from `load_examples`.
        categories: item id -> category; an item that is not there, or whose category holds `Unknown`, goes.

    Returns:
        Queries: qids count rows from 0, as the released script numbers them.

    Raises:
        InputError: nothing left.
    """
    exact = examples["esci_label"].map(LABELS) == "E"
    known = examples["product_id"].map(lambda i: UNKNOWN_DOMAIN not in categories.get(str(i), UNKNOWN_DOMAIN))
    rows = examples[exact & known]
    if not len(rows):
        raise InputError(f"{path}: no Exact item of a known category; is the category mapping the right one?")
    return Queries(
        qids=[str(i) for i in range(len(rows))],
        texts=rows["query"].tolist(),
        item_ids=[str(i) for i in rows["product_id"]],
        path=str(path),
    )


def graded_judgements(examples: pd.DataFrame) -> Iterator[tuple[str, str, str, str]]:
    """Yield (query id, query, item id, label) of every judged pair."""
    for row in examples.itertuples(index=False):
        yield str(row.query_id), str(row.query), str(row.product_id), str(row.esci_label)


def pool_of_products(path: Path | str, locale: str = "us", pool_text: str = "all") -> Pool:
    """Build a pool of all products of a locale; the text is title and description, cleaned; no category is known.

    Args:
        path: the products file.
        locale: whose products are taken.
        pool_text: `title` leaves out the descriptions.

    Raises:
        InputError: missing columns, no product of the locale, a product twice.
    """
    table = read_table(path, PRODUCT_COLUMNS, "the ESCI products")
    table = table[table["product_locale"] == locale]
    ids = [str(i) for i in table["product_id"]]
    if not ids:
        raise InputError(f"{path}: no product of locale {locale!r}")
    if len(set(ids)) != len(ids):
        twice = table["product_id"][table["product_id"].duplicated()].iloc[0]
        raise InputError(f"{path}: product {twice!r} is there twice for locale {locale!r}; remove one row")
    if pool_text == "title":
        return Pool(
            ids, [UNKNOWN_DOMAIN] * len(ids), [clean_text(t) or NO_TITLE for t in table["product_title"]], str(path)
        )
    texts = [
        item_text({"title": title or None, "description": description or None}, recipe="search")
        for title, description in zip(table["product_title"], table["product_description"])
    ]
    return Pool(ids, [UNKNOWN_DOMAIN] * len(ids), texts, str(path))


def write_queries(queries: Queries, path: Path | str) -> None:
    """Write a query file in the published columns (qid, query, item_id)."""
    import pandas as pd  # heavy

    columns = {"qid": queries.qids, "query": queries.texts, ITEM_ID: queries.item_ids}
    with whole_file(path) as temporary:
        pd.DataFrame(columns).to_csv(temporary, index=False, lineterminator="\n")

"""The published ESCI filters and the graded protocol, on generated files in the published format."""

import pandas as pd
import pytest
from esci_files import CATEGORIES, write_esci

from recbole_blair.errors import InputError
from recbole_blair.search import esci
from recbole_blair.search.datasets import find_files, load_pool, load_task
from recbole_blair.search.evaluate import evaluate
from recbole_blair.search.readers import load_queries


@pytest.fixture
def folder(tmp_path):
    write_esci(tmp_path / "esci")
    return tmp_path / "esci"


def test_published_filters(folder):
    files = find_files(str(folder))
    pool, categories = load_pool(files)
    task = load_task(files, pool, "rows", categories)
    examples = pd.read_parquet(folder / esci.EXAMPLES_FILE)
    by_hand = [
        (r.query, r.product_id)
        for r in examples.itertuples()
        if r.split == "test" and r.product_locale == "us" and r.small_version == 1 and r.esci_label == "E"
        if r.product_id in categories
    ]
    wanted = [pool.item_ids[next(iter(g))] for g in task.gains]
    assert list(zip(task.texts, wanted)) == by_hand
    assert task.ids == [str(i) for i in range(len(by_hand))]
    assert set(task.domains) <= set(CATEGORIES.values())
    assert "lamp" not in task.texts
    assert len(pool) == 300  # one locale
    assert any("Made for the" in text for text in pool.texts)
    assert not any("<p>" in text for text in pool.texts)


def test_graded_beats_rows_where_siblings_stand_above(folder, tmp_path):
    shared = {"data_path": tmp_path, "progress": False, "n_boot": 0, "ks": [10]}
    rows = evaluate(str(folder), "bm25", tmp_path / "rows", protocol="rows", **shared)
    graded = evaluate(str(folder), "bm25", tmp_path / "graded", protocol="graded", **shared)
    assert graded["table"][0]["mrr@10"] > rows["table"][0]["mrr@10"]
    assert graded["queries"] == 40
    assert (graded["queries_left_out"], graded["judged_items_not_in_pool"]) == (1, 1)  # the ghost
    qrels = pd.read_csv(tmp_path / "graded" / "qrels.trec", sep=" ", header=None, names=["q", "0", "item", "gain"])
    examples = esci.load_examples(folder / esci.EXAMPLES_FILE)
    gains = (
        examples[examples["query_id"] == 0]
        .set_index("product_id")["esci_label"]
        .map({"E": 100, "S": 10, "C": 1, "I": 0})
    )
    assert qrels[qrels["q"] == 0].set_index("item")["gain"].to_dict() == gains.to_dict()


def test_released_bm25_runs_on_published_format(folder, tmp_path):
    shared = {"data_path": tmp_path, "progress": False, "n_boot": 0, "ks": [10]}
    ours = evaluate(str(folder), "bm25", tmp_path / "a", **shared)
    released = evaluate(str(folder), "bm25", tmp_path / "b", bm25={"variant": "released"}, **shared)
    assert "case kept" in released["depends_on"]["bm25_released"]
    assert released["table"][0]["ndcg@10"] < ours["table"][0]["ndcg@10"]  # titles are capitalised, queries are not


def test_spelt_out_labels_are_read(folder):
    path = folder / esci.EXAMPLES_FILE
    table = pd.read_parquet(path)
    short = esci.load_examples(path)
    names = {"E": "Exact", "S": "Substitute", "C": "Complement", "I": "Irrelevant"}
    table.assign(esci_label=table["esci_label"].map(names)).to_parquet(path)
    long = esci.load_examples(path)
    assert long["esci_label"].map({v: k for k, v in names.items()}).tolist() == short["esci_label"].tolist()


def test_written_queries_are_read_back(folder, tmp_path):
    examples = esci.load_examples(folder / esci.EXAMPLES_FILE)
    queries = esci.published_rows(examples, load_pool(find_files(str(folder)))[1])
    esci.write_queries(queries, tmp_path / "test.csv")
    again = load_queries(tmp_path / "test.csv")
    assert (again.qids, again.texts, again.item_ids) == (queries.qids, queries.texts, queries.item_ids)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="esci_label"), "missing: esci_label"),
        (lambda t: t.assign(split="train"), "no row of split 'test'"),
        (lambda t: t.assign(esci_label="Q"), "unknown esci_label 'Q'"),
        (lambda t: t.assign(query=" "), "has an empty query"),
    ],
)
def test_refusals(folder, change, message):
    path = folder / esci.EXAMPLES_FILE
    change(pd.read_parquet(path)).to_parquet(path)
    with pytest.raises(InputError, match=message):
        esci.load_examples(path)


def test_product_twice_is_refused(folder):
    path = folder / esci.PRODUCTS_FILE
    table = pd.read_parquet(path)
    pd.concat([table, table.head(1)]).to_parquet(path)
    with pytest.raises(InputError, match="product 'B000000000' is there twice"):
        esci.pool_of_products(path)


def test_products_by_title_alone(tmp_path):
    write_esci(tmp_path)
    files = find_files(str(tmp_path))
    whole, titles = load_pool(files)[0], load_pool(files, "title")[0]
    assert titles.item_ids == whole.item_ids and titles.texts != whole.texts
    assert all(text.startswith(title.rstrip(".")) for text, title in zip(whole.texts, titles.texts) if title != ".")

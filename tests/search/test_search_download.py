"""The published sets are fetched with the real hub client, from a hub-like server on loopback."""

import hashlib
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pandas as pd
import pytest
from esci_files import write_esci
from loopback import LoopbackServer
from test_rankers import ITEMS, QUERIES

COMMIT = "a" * 40
ROOT = Path(__file__).resolve().parents[2]


class Hub(LoopbackServer):
    """Serves `files` {repository/path: bytes} as the hub does; `asked` holds the paths of GET requests."""

    def __init__(self, files):
        super().__init__(Handler)
        self.files, self.asked = files, []


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.server.asked.append(self.path)
        self.answer(True)

    def answer(self, body):
        path = self.path.partition("?")[0]
        if path.startswith("/api/datasets/"):
            repo = path[len("/api/datasets/") :].split("/tree/")[0]
            names = [k[len(repo) + 1 :] for k in self.server.files if k.startswith(repo + "/")]
            rows = [
                {"type": "file", "path": n, "size": len(self.server.files[f"{repo}/{n}"]), "oid": "0"} for n in names
            ]
            return self.send(json.dumps(rows).encode(), body, "application/json")
        key = path.removeprefix("/datasets/").replace("/resolve/main/", "/").replace(f"/resolve/{COMMIT}/", "/")
        if key in self.server.files:
            return self.send(self.server.files[key], body, "application/octet-stream")
        self.send_response(404)
        self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, data, body, kind):
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)


def search(tmp_path, hub, *args):
    env = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
    env |= {"PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_XET": "1"}
    env.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-m", "recbole_blair", "search", "--data_path=data", "--quiet", "--topk=5", *args]
    return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240)


def c4_files():
    pool = "".join(json.dumps({"item_id": i, "category": c, "metadata": m}) + "\n" for i, c, m in ITEMS)
    queries = pd.DataFrame(QUERIES, columns=["qid", "query", "item_id"]).to_csv(index=False)
    repo = "McAuley-Lab/Amazon-C4"
    return {f"{repo}/test.csv": queries.encode(), f"{repo}/sampled_item_metadata_1M.jsonl": pool.encode()}


def test_amazon_c4_is_fetched_once(tmp_path):
    with Hub(c4_files()) as hub:
        first = search(tmp_path, hub, "--dataset=amazon-c4", "--output_dir=a")
        assert first.returncode == 0, first.stderr
        assert "bm25 on amazon-c4, protocol rows: 4 queries, 8 items" in first.stdout
        asked = len(hub.asked)
        again = search(tmp_path, hub, "--dataset=amazon-c4", "--output_dir=b")
        assert again.returncode == 0, again.stderr
        assert len(hub.asked) == asked


def test_a_file_the_hub_lacks_is_named(tmp_path):
    files = c4_files()
    files.pop("McAuley-Lab/Amazon-C4/sampled_item_metadata_1M.jsonl")
    with Hub(files) as hub:
        done = search(tmp_path, hub, "--dataset=amazon-c4")
    assert done.returncode == 2
    assert "cannot fetch sampled_item_metadata_1M.jsonl of McAuley-Lab/Amazon-C4" in done.stderr
    assert "Traceback" not in done.stderr


def test_titles_are_fetched_where_there_is_no_pool(tmp_path):
    files, pool = c4_files(), "McAuley-Lab/Amazon-C4/sampled_item_metadata_1M.jsonl"
    titles = "McAuley-Lab/BLaIR-Bench-API/prod_search_dls/Amazon-C4/C4_titles_only_na2period.jsonl"
    files[titles] = files.pop(pool)
    with Hub(files) as hub:
        done = search(tmp_path, hub, "--dataset=amazon-c4", "--pool_text=title", "--output_dir=a")
        assert done.returncode == 0, done.stderr
        asked = len(hub.asked)
        assert search(tmp_path, hub, "--dataset=amazon-c4", "--pool_text=title", "--output_dir=b").returncode == 0
        assert len(hub.asked) == asked
    names = {path.name for path in (tmp_path / "data/amazon-c4").iterdir() if not path.name.startswith(".")}
    assert names == {"test.csv", "C4_titles_only_na2period.jsonl"}
    assert json.loads((tmp_path / "a/metrics.json").read_text())["pool_text"] == "title"


def test_reddit_movie_is_fetched_and_read_as_it_is(tmp_path):
    folder = "McAuley-Lab/BLaIR-Bench-API/prod_search_dls/Reddit_Movie"
    files = {
        f"{folder}/reddit_movie_id2name.json": json.dumps({"tt1": "Alien (1979)", "tt2": "Red lamps"}).encode(),
        f"{folder}/test.csv": b"target,query,metadata\ntt2,the one with red lamps,Red lamps\n",
    }
    with Hub(files) as hub:
        done = search(tmp_path, hub, "--dataset=reddit-movie", "--output_dir=a")
    assert done.returncode == 0, done.stderr
    assert "bm25 on reddit-movie, protocol rows: 1 queries, 2 items" in done.stdout


@pytest.mark.slow
def test_esci_queries_are_fetched_and_filtered(tmp_path):
    source = tmp_path / "source"
    write_esci(source)
    files = {
        "tasksource/esci/data/test-00000-of-00001-abc.parquet": "shopping_queries_dataset_examples.parquet",
        "McAuley-Lab/Amazon-Reviews-2023/asin2category.json": "asin2category.json",
    }
    with Hub({key: (source / name).read_bytes() for key, name in files.items()}) as hub:
        done = search(tmp_path, hub, "--dataset=esci")
        assert done.returncode == 2
        assert "holds no item pool" in done.stderr
        assert "python -m dataset_tools.pools --queries=data/esci/test.csv" in done.stderr
        table = pd.read_csv(tmp_path / "data/esci/test.csv")
        assert list(table.columns) == ["qid", "query", "item_id"]
        rows = [{"item_id": i, "category": "Unknown", "metadata": q} for i, q in zip(table["item_id"], table["query"])]
        pool = {row["item_id"]: row for row in rows}.values()
        (tmp_path / "data/esci/item_pool.jsonl").write_text("".join(json.dumps(r) + "\n" for r in pool))
        asked = len(hub.asked)
        done = search(tmp_path, hub, "--dataset=esci", "--output_dir=a")
        assert done.returncode == 0, done.stderr
        assert len(hub.asked) == asked
    assert "Home_and_Kitchen" in done.stdout  # domains come from asin2category.json

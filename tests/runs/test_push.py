"""Runs, encoders and features pushed to a hub on loopback."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from builds import random_sequences, write_pair_build
from hub_repositories import DATASETS, TOKEN
from hub_runs import TEST, VISITORS, load, push, refused, same
from recommend_runs import save_run

import recbole_blair
from recbole_blair.cli.main import main
from recbole_blair.errors import InputError
from recbole_blair.files.own_json import write_own_json
from recbole_blair.quick_start import run as train
from recbole_blair.runs import fetch
from recbole_blair.runs.hub_layout import OWN_KEYS

RUNS = [
    ("SASRecText", {}), ("UniSRecBlair", {"feature_transform": "whiten:8"}), ("SASRecID", {}), ("SeqPop", {}),
    ("GRU4Rec", {}), ("HSTUBlair", {}), ("UniSRecBlair", {"plm": "tfidf-svd"}),
]  # fmt: skip


@pytest.mark.parametrize(("model", "keys"), RUNS)
def test_a_run_recommends_the_same_where_its_build_never_was(hub, world, make_run, tmp_path, capsys, model, keys):
    folder, root = make_run(model, **keys), world[0]
    expected = load(str(folder))
    assert push(folder) == 0
    away = shutil.move(root / "secretplace", tmp_path / "away")
    try:
        found = load()
        same(found, expected)
        assert expected.titles == found.titles and repr(found).startswith(f"Recommender({model} on tiny, 40 items")
        if hasattr(found.scorer.model, "project_items"):
            assert found.similar("i001").equals(expected.similar("i001"))
        assert load().recommend(VISITORS).equals(expected.recommend(VISITORS))  # of the cache
    finally:
        shutil.move(away, root / "secretplace")


def test_new_items_with_the_encoder_and_without_it(hub, world, make_run):
    new = [{"item_id": "new", "title": "red steel lamp"}]
    for keys, plm in (({}, world[2]), ({"plm": "tfidf-svd"}, None)):
        folder = make_run("SASRecText", **keys)
        assert push(folder) == 0
        expected = load(str(folder), new_items=new).score(VISITORS)
        assert np.array_equal(load(new_items=new, plm=plm).score(VISITORS), expected)
        if plm:
            with pytest.raises(InputError, match=r"the encoder folder of .*tiny-encoder-.* has gone; give the folder"):
                load(new_items=new)


def test_a_run_brings_the_encoder_that_it_trained(hub, world, tmp_path):
    build = shutil.copytree(world[1], tmp_path / "data" / "tiny", ignore=shutil.ignore_patterns("*.feature*", ".cache"))
    keys = {"data_path": str(build.parent), "plm": world[2], "output_dir": str(tmp_path / "run"), "device": "cpu"}
    fast = {"epochs": 1, "hidden_size": 16, "inner_size": 32, "softmax": "sampled", "n_negatives": 8, "threads": 1}
    train("SASRecText", "tiny", precision="fp32", train_encoder="last:1", encoder_warmup_steps=1, **fast, **keys)
    new = [{"item_id": "new", "title": "red steel lamp"}]
    expected = load(str(tmp_path / "run"), new_items=new).score(VISITORS)
    assert push(tmp_path / "run") == 0
    shutil.rmtree(tmp_path / "run")
    shutil.rmtree(build)
    assert np.array_equal(load(new_items=new).score(VISITORS), expected)
    assert "encoder/model.safetensors" in hub.files("shop/games")


@pytest.mark.parametrize(("model", "keys"), RUNS)
def test_no_user_no_history_and_no_path_is_sent(hub, world, make_run, model, keys):
    folder = make_run(model, **keys)
    assert push(folder, "--private") == 0
    files = hub.files("shop/games")
    assert hub.private == {"shop/games"}
    everything = b"\0".join([*files.values(), *map(str.encode, files), *hub.lfs.values(), *(b for _, b in hub.sent)])
    assert b"USR-" not in everything and b"secretplace" not in everything and TOKEN.encode() not in everything
    assert b"item_id_list:token_seq" not in everything
    assert not OWN_KEYS & yaml.safe_load(files["config.yaml"]).keys()
    first = next(iter(random_sequences(n_users=30, n_items=40).values()))
    assert str(first[0][1]).encode() not in everything  # the time of an event
    fetched = [n for n in files if n != "README.md"]
    assert all(fetch.ALLOWED.fullmatch(name) for name in fetched if name != "checksums.json")
    assert {Path(name).suffix for name in fetched} <= {".yaml", ".json", ".txt", ".safetensors"}
    recorded = json.loads(files["checksums.json"])
    assert recorded == {n: hashlib.sha256(files[n]).hexdigest() for n in fetched if n != "checksums.json"}


def front_matter(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_the_card_has_the_metrics_of_the_run_and_says_how_to_use_it(hub, make_run):
    assert push(make_run("SASRecText")) == 0
    card = hub.files("shop/games")["README.md"].decode()
    front = front_matter(card)
    (result,) = front["model-index"][0]["results"]
    assert (
        {m["type"]: m["value"] for m in result["metrics"]}
        == TEST
        == json.loads(hub.files("shop/games")["metrics.json"])["test"]
    )
    assert result["dataset"]["name"] == "tiny" and result["dataset"]["split"] == "test"
    assert front["library_name"] == "recbole_blair" and "base_model" not in front
    assert "No row, no user id and no history" in " ".join(card.split())
    code = card.split("```python\n")[1].split("```")[0].replace("load(", "load(device='cpu', show_progress=False, run=")
    exec(compile(code, "card", "exec"), {})


def test_the_base_model_is_named_where_it_is_on_the_hub(hub, make_run, world, tmp_path):
    config = make_run("SASRecText") / "config.yaml"
    run = shutil.copytree(config.parent, tmp_path / "run")
    (run / "config.yaml").write_text(config.read_text().split("\n", 1)[1].replace(world[2], "intfloat/e5-small-v2"))
    assert push(run) == 0
    assert front_matter(hub.files("shop/games")["README.md"].decode())["base_model"] == "intfloat/e5-small-v2"


def test_a_second_push_sends_nothing_twice_and_a_changed_run_only_what_changed(hub, make_run, tmp_path, capsys):
    run = shutil.copytree(make_run("SASRecText"), tmp_path / "run")
    assert push(run) == 0
    url = capsys.readouterr().out.splitlines()[-1]
    assert url.startswith(f"{hub.url}/shop/games/commit/") and hub.commits == 1
    hub.requests.clear()
    assert push(run) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{url}: nothing has changed since"
    assert hub.commits == 1 and not [path for method, path in hub.requests if method == "PUT"]
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps({**metrics, "test": {"mrr": 0.5}}))
    assert push(run) == 0 and hub.commits == 2
    assert not [path for method, path in hub.requests if method == "PUT"]
    assert load().scorer.run.metrics["test"] == {"mrr": 0.5}  # the new commit, in a folder of its own


def test_a_push_that_broke_off_goes_on(hub, make_run, capsys):
    run = make_run("SASRecText")
    hub.refuse = ("POST", "/commit/", 413)
    assert "pushing to shop/games failed: the hub answered 413" in refused(capsys, run)
    large = [path for method, path in hub.requests if method == "PUT"]
    assert large and hub.files("shop/games") == {}
    hub.refuse = None
    assert push(run) == 0
    assert [path for method, path in hub.requests if method == "PUT"] == large
    same(load(), load(str(run)))


def test_a_killed_push_is_done_by_the_same_command(hub, make_run, tmp_path):
    """Also: the client's own variables say which hub and which token."""
    run, temporary = make_run("SASRecText"), tmp_path / "temporary"
    temporary.mkdir()
    hub.held = threading.Event()
    root = str(Path(recbole_blair.__file__).parents[1])
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1",
           "TMPDIR": str(temporary), "PYTHONPATH": root}  # fmt: skip
    argv = [sys.executable, "-m", "recbole_blair", "push", str(run), "--repo=shop/games"]
    process = subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 240
        while not [path for method, path in hub.requests if method == "PUT"] and time.monotonic() < until:
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
        hub.held.set()
    assert hub.files("shop/games") == {} and list(temporary.iterdir())
    hub.held = None
    assert subprocess.run(argv, env=env, capture_output=True, check=False).returncode == 0
    assert not list(temporary.iterdir())  # what the killed one left is gone
    same(load(), load(str(run)))


def test_branches_are_made_and_read(hub, make_run):
    assert push(make_run("SASRecText")) == 0
    assert push(make_run("SASRecID"), "--revision=v2") == 0
    assert load().scorer.run.info.name == "SASRecText"
    second = load("shop/games@v2")
    assert second.scorer.run.info.name == "SASRecID"
    commit = second.scorer.run.folder.name
    assert commit == hub.commit_id(hub.files("shop/games", branch="v2"))
    assert load(f"shop/games@{commit}").scorer.run.folder == second.scorer.run.folder
    with pytest.raises(InputError, match=r"fetching it at v3 from the hub failed: there is no such"):
        load("shop/games@v3")


def test_a_dry_run_shows_everything_and_asks_nobody(hub, make_run, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    assert push(make_run("SASRecText"), "--dry_run") == 0
    shown = capsys.readouterr().out
    assert hub.requests == []
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert push(make_run("SASRecText")) == 0
    files = hub.files("shop/games")
    assert all(f"{len(data):>15,} bytes  {name}\n" in shown for name, data in files.items())
    assert files["README.md"].decode() in shown and shown.endswith("nothing was sent (--dry_run)\n")


def test_what_cannot_be_pushed(hub, world, make_run, tmp_path, capsys):
    _, build, _ = world
    unfinished = save_run(tmp_path / "unfinished", "SASRec", build, finished=False)
    assert "has not ended; finish it by `recbole-blair train --resume=" in refused(capsys, unfinished)
    assert "FPMC needs its users, who are never sent" in refused(capsys, make_run("FPMC"))
    pairs = {"train": [("u", "i1"), ("v", "i2")], "valid": [("u", "i2")], "test": [("v", "i1")]}
    general = save_run(tmp_path / "BPR", "BPR", write_pair_build(tmp_path, pairs), protocol="random")
    assert "BPR ranks for users it was trained on, who are never sent" in refused(capsys, general)
    assert "a build, with the feature files" in refused(capsys, build)
    for nothing in (tmp_path, tmp_path / "gone", build / "tiny.item"):
        assert "is nothing that can be pushed; give a run's folder" in refused(capsys, nothing)
    damaged = shutil.copytree(make_run("SASRecText"), tmp_path / "damaged")
    (damaged / "checkpoint" / "best.safetensors").write_bytes(b"x" * 100)
    assert "best.safetensors is damaged" in refused(capsys, damaged)
    assert "the build tiny that" in refused(capsys, make_run("SASRec"), f"--data_path={tmp_path / 'empty'}")
    assert push(make_run("SASRec")) == 0
    load()
    fetched = next((tmp_path / "hf" / "assets").rglob("config.yaml")).parent
    assert "came from the hub; push the run that it was made from" in refused(capsys, fetched)


@pytest.mark.parametrize(
    "repo", ["org/../x", "a b/c", "org", "a/b/c", "org/x.git", "org/-x", "org/" + "x" * 100, "ö/x"]
)
def test_names_that_no_repository_has(hub, make_run, capsys, repo):
    assert f"--repo={repo}: " in refused(capsys, make_run("SASRec"), repo=repo)
    assert hub.requests == []


@pytest.mark.parametrize("branch", ["a b", "../x", "a..b", "-x"])
def test_names_that_no_branch_has(hub, make_run, capsys, branch):
    assert "expected the name of a branch" in refused(capsys, make_run("SASRec"), f"--revision={branch}")


@pytest.mark.parametrize(
    ("status", "words"), [(401, "refuses it (401)"), (403, "may not do that (403)"), (404, "no such repository"),
                          (500, "answered 500")],
)  # fmt: skip
def test_a_hub_that_refuses_is_one_line(hub, make_run, monkeypatch, capsys, status, words):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # of the client's repeated attempts
    for method, pattern in (("POST", "repos/create"), ("POST", "preupload"), ("PUT", "/lfs/")):
        hub.refuse = (method, pattern, status)
        assert words in refused(capsys, make_run("SASRec"))
    assert push(make_run("SASRec"), "--dry_run") == 0
    hub.refuse = None
    assert push(make_run("SASRec")) == 0
    hub.refuse = ("GET", "/api/models", status)
    with pytest.raises(InputError, match=r"shop/games is no folder here, and fetching it from the hub failed: "):
        load()


def test_a_wrong_token_is_refused_and_a_missing_one_is_named_before_any_work(hub, make_run, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    line = refused(capsys, make_run("SASRec"))
    assert "the hub refuses it (401)" in line and "hf_wrong" not in line
    monkeypatch.delenv("HF_TOKEN")
    hub.requests.clear()
    assert "pushing needs a token of the hub: log in by `hf auth login`" in refused(capsys, "gone")
    assert hub.requests == []


def test_an_encoder_is_pushed_and_encodes_the_same(hub, world, tmp_path, capsys):
    from recbole_blair.text.encoders import load_encoder

    folder = Path(shutil.copytree(world[2], tmp_path / "mine"))
    (folder / "pretraining").mkdir()
    (folder / "pretraining" / "metrics.json").write_text(json.dumps({"after": {"ndcg@10": 1 / 3}}))
    (folder / "README.md").write_text("---\nlicense: mit\nbase_model: /home/x/base\ntags: [mine]\n---\n\n# Mine\n")
    (folder / "optimizer.pt").write_bytes(b"x")
    assert push(folder, repo="shop/encoder") == 0
    files = hub.files("shop/encoder")
    assert {"optimizer.pt", "pretraining/metrics.json"}.isdisjoint(files) and "model.safetensors" in files
    front, card = front_matter(files["README.md"].decode()), files["README.md"].decode()
    assert front["license"] == "mit" and "base_model" not in front and "mine" in front["tags"] and "# Mine" in card
    assert front["model-index"][0]["results"][0]["metrics"] == [{"type": "ndcg@10", "value": 1 / 3}]
    texts = ["red lamp", "blue steel kettle"]
    vectors = [load_encoder(plm, device="cpu").encode(texts, progress=False) for plm in (str(folder), "shop/encoder")]
    assert np.array_equal(*vectors)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pytorch_model.bin is a pickle; save the encoder again" in refused(capsys, folder)


def test_features_are_pushed_and_taken_as_vectors(hub, world, tmp_path, capsys):
    build = shutil.copytree(world[1], tmp_path / "tiny", ignore=shutil.ignore_patterns(".cache"))
    feature = next(path for path in build.glob("*.feature") if "tiny-encoder" in path.name)
    header = Path(f"{feature}.json")
    write_own_json(header, {**json.loads(header.read_text()), "endpoint": "http://inside:8000/v1"})
    assert push(feature, repo="shop/features") == 0
    files = hub.files("shop/features", DATASETS)
    assert not [name for name, data in files.items() if b"inside" in data]
    assert sorted(files) == ["README.md", "checksums.json", "features.json", "features.safetensors", "item_ids.txt"]
    local = tmp_path / "local"
    local.mkdir()
    for name, data in files.items():
        (local / name).write_bytes(data)
    copy = shutil.copytree(build, tmp_path / "data" / "tiny", ignore=shutil.ignore_patterns("*.feature*", ".cache"))
    plm = f"vectors:{local / 'features.safetensors'}"
    assert main(["encode", f"--build={copy}", f"--plm={plm}", "--quiet"]) == 0
    made = next(copy.glob("*.feature"))
    assert made.read_bytes() == feature.read_bytes()
    shutil.copy(feature, tmp_path / "alone.feature")
    assert "is not in its build's folder" in refused(capsys, tmp_path / "alone.feature")

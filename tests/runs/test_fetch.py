"""Runs fetched from a hub on loopback: what is refused, what is damaged, and the commands that take their names."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hub_runs import VISITORS, load, push, refused, same

from recbole_blair.cli.main import main
from recbole_blair.errors import InputError
from recbole_blair.files.checksum import checksums_text, with_checksum_line
from recbole_blair.runs.evaluate_run import evaluate_run


def test_no_network(hub, make_run, monkeypatch, capsys):
    assert push(make_run("SASRecText")) == 0
    expected = load().recommend(VISITORS)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", "http://127.0.0.1:9", raising=False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert load().recommend(VISITORS).equals(expected)  # what was fetched stays
    with pytest.raises(
        InputError, match=r"other/run is no folder here, .* failed: it is not in the cache, and no answer"
    ):
        load("other/run")
    assert "pushing to shop/games failed: no answer from the hub" in refused(capsys, make_run("SASRecText"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused(capsys, make_run("SASRecText"))
    assert load().recommend(VISITORS).equals(expected)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        load("other/run")


@pytest.mark.parametrize("file", ["checkpoint/best.safetensors", "catalogue/features.safetensors", "config.yaml",
                                  "catalogue/items.txt", "checksums.json"])  # fmt: skip
def test_a_damaged_download_is_refused_and_fetched_again(hub, make_run, file):
    run = make_run("SASRecText")
    assert push(run) == 0
    hub.corrupt = {file}
    with pytest.raises(InputError, match=r"is damaged"):
        load()
    hub.corrupt = set()
    same(load(), load(str(run)))


def rewrite(hub, repo="shop/games", **changes):
    """Change files of a repository, and its list of checksums with them."""
    files = hub.files(repo)
    files.update({name.replace("__", "/"): data for name, data in changes.items()})
    digests = {
        n: hashlib.sha256(data).hexdigest() for n, data in files.items() if n not in ("README.md", "checksums.json")
    }
    files["checksums.json"] = checksums_text(digests).encode()


@pytest.mark.parametrize("name", ["../../x", "a/b", "/etc", "..", "", ".", 5, "a\0b", None])
def test_names_never_lead_out_of_the_folder(hub, make_run, tmp_path, name):
    assert push(make_run("SASRecText")) == 0
    about = json.loads(hub.files("shop/games")["catalogue/about.json"])
    for key in ("dataset", "encoder"):
        if (key, name) == ("encoder", None):
            continue
        rewrite(hub, **{"catalogue__about.json": json.dumps({**about, key: name}).encode()})
        with pytest.raises(InputError, match=rf"{key} is .*which can be no name of a file"):
            load()
    assert not list((tmp_path / "hf" / "assets").rglob("config.yaml"))


def test_a_run_that_names_a_plugin_is_refused(hub, make_run, tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    assert push(make_run("SASRecText")) == 0
    config = hub.files("shop/games")["config.yaml"].decode().partition("\n")[2]  # without the line of its checksum
    text = with_checksum_line(f"{config}plugin: [{tmp_path / 'evil.py'}]\n")
    rewrite(hub, **{"config.yaml": text.encode()})
    with pytest.raises(InputError, match="names plugin, which no pushed run does"):
        load()


@pytest.mark.parametrize("name", ["model.pkl", "checkpoint/state.pt", "code.py", "encoder/x/../../../y.json",
                                  "encoder/*.json", "encoder/x.bin", "encoder/.x.json", "catalogue/x"])  # fmt: skip
def test_files_that_no_run_has_are_not_downloaded(hub, make_run, tmp_path, name):
    assert push(make_run("SASRecText")) == 0
    hub.put("shop/games", {"x.pkl": b"no"})
    hub.files("shop/games")["checksums.json"] = checksums_text(
        {**json.loads(hub.files("shop/games")["checksums.json"]), name: "0" * 64}
    ).encode()
    hub.requests.clear()
    with pytest.raises(InputError, match=r"which no run has; nothing of it was downloaded|is damaged"):
        load()
    asked = {path.rpartition("/")[2] for method, path in hub.requests if "/resolve/" in path}
    assert asked == {"checksums.json"}


def test_other_repositories_and_local_paths(hub, tmp_path, make_run):
    hub.put("shop/plain", {"config.json": b"{}", "model.safetensors": b"x", "pytorch_model.bin": b"x"})
    with pytest.raises(InputError, match=r"shop/plain on the hub is no run .* given by --plm=shop/plain"):
        load("shop/plain")
    (tmp_path / "runs").mkdir()
    hub.requests.clear()
    for here in ("runs/gone", Path("shop/games"), str(tmp_path / "gone"), "./gone", "gone"):
        with pytest.raises(InputError, match=r"holds no config.yaml: it is no run folder"):
            load(here)
    assert hub.requests == []
    with pytest.raises(InputError, match=r"Cannot have -- or \.\. in repo_id"):
        load("shop/a..b")


def test_every_command_that_recommends_takes_a_name_of_the_hub(hub, make_run, tmp_path, capsys):
    run = make_run("SASRecText")
    assert push(run) == 0
    users = tmp_path / "users.jsonl"
    users.write_text("".join(json.dumps(user) + "\n" for user in VISITORS))
    quiet = ["--device=cpu", "--quiet"]
    for command in (["recommend", f"--users={users}"], ["similar", "--items=i001"], ["export-vectors", "--users=none"]):
        shown = {}
        for name in (str(run), "shop/games"):
            capsys.readouterr()
            assert main([*command, f"--checkpoint={name}", *quiet]) == 0
            shown[name] = capsys.readouterr().out
        assert len(set(shown.values())) == 1
    assert main(["export-vectors", "--checkpoint=shop/games", *quiet]) == 2
    assert "holds no users; give histories, or --users=none" in capsys.readouterr().err


def test_evaluating_needs_the_build(hub, world, make_run):
    run = make_run("SASRecText")
    assert push(run) == 0
    with pytest.raises(InputError, match=r"holds no interactions of tiny; give the folder .* by --data_path=FOLDER"):
        evaluate_run("shop/games", device="cpu")
    expected = evaluate_run(run, device="cpu")
    found = evaluate_run("shop/games", device="cpu", data_path=world[1].parent)
    assert found[0] == expected[0] and np.array_equal(found[1], expected[1])
    known = "USR-u1-XQ"
    assert load(data_path=world[1].parent).recommend(known).equals(load(str(run)).recommend(known))
    with pytest.raises(InputError, match=r"unknown user 'USR-u1-XQ'; tiny has 0 users"):
        load().recommend(known)

"""A build whose users have names of their own, runs on it, and a hub on loopback."""

import json
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / room) for room in ("", "runs", "recommend", "text")]

from builds import random_sequences, write_build
from hub_repositories import TOKEN, Hub
from hub_runs import TEST
from recommend_runs import item_words, save_run
from tiny_encoders import write_tiny_encoder

from recbole_blair.text.encode import encode_build


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A build of 30 users with names of their own and 40 items, and a tiny encoder."""
    root = tmp_path_factory.mktemp("world")
    plm = str(write_tiny_encoder(root / "secretplace" / "tiny-encoder", pooling="mean"))
    events = {f"USR-{u}-XQ": rows for u, rows in random_sequences(n_users=30, n_items=40).items()}
    build = write_build(
        root / "secretplace" / "data", events, texts={f"i{n:03d}": f"{item_words(n)}." for n in range(40)}
    )
    encode_build(build, plm, device="cpu", precision="fp32", progress=False)
    encode_build(build, "tfidf-svd", device="cpu", precision="fp32", progress=False)
    return root, build, plm


@pytest.fixture(scope="session")
def make_run(world):
    """Return the folder of a finished run by model and keys; each is made once."""
    root, build, plm = world
    made = {}

    def make(model, **keys):
        name = "-".join([model, *(f"{v}" for v in keys.values())]).replace(":", "_")
        if name not in made:
            places = {"plm": plm, "checkpoint_dir": str(root / "secretplace")}
            folder = save_run(root / "secretplace" / name, model, build, **{**places, **keys})
            metrics = json.loads((folder / "metrics.json").read_text())
            (folder / "metrics.json").write_text(json.dumps({**metrics, "test": TEST, "best_valid": TEST}))
            made[name] = folder
        return made[name]

    return make


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that the client asks, with a token and an empty cache."""
    with Hub() as server:
        for name, value in {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "hf" / "hub"),
            "HF_ASSETS_CACHE": str(tmp_path / "hf" / "assets"),
            "HF_HUB_DISABLE_XET": True,
        }.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", server.url, raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.chdir(tmp_path)
        yield server

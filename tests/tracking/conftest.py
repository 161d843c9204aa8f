"""A tiny build, and trackers that write into the test's folder."""

import json

import pytest
from builds import random_sequences, write_build
from fake_trackers import WANDB

KEYS = {
    "epochs": 4, "train_batch_size": 16, "device": "cpu", "precision": "fp32", "show_progress": False, "threads": 1,
    "hidden_size": 16, "inner_size": 16, "n_layers": 1, "n_heads": 1, "learning_rate": 0.003, "stopping_step": 20,
}  # fmt: skip


@pytest.fixture(scope="session")
def tracked_build(tmp_path_factory):
    """The data_path of a build called tiny."""
    return str(write_build(tmp_path_factory.mktemp("data"), random_sequences(n_users=40, n_items=20)).parent)


@pytest.fixture
def keys(tracked_build, tmp_path):
    return {**KEYS, "data_path": tracked_build, "output_dir": str(tmp_path / "run")}


@pytest.fixture
def mlflow_store(tmp_path, monkeypatch):
    """MLflow with its store in a folder; its databases take seconds to be made."""
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install mlflow-skinny")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    yield mlflow.MlflowClient((tmp_path / "mlruns").as_uri())
    mlflow.set_tracking_uri(None)


@pytest.fixture
def wandb_calls(tmp_path, monkeypatch):
    """A module that stands for wandb; returns a function that gives what was called: [name, args, kwargs]."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "wandb.py").write_text(WANDB)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.delitem(__import__("sys").modules, "wandb", raising=False)
    monkeypatch.setenv("WANDB_CALLS", str(tmp_path / "calls.jsonl"))
    yield lambda: [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]
    __import__("sys").modules.pop("wandb", None)

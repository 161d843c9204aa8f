"""Nothing of the caller leaks into a run, and nothing of a run into the caller."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from builds import random_sequences, write_build

from recbole_blair.quick_start import run

KEYS = {"epochs": 1, "train_batch_size": 32, "device": "cpu", "precision": "fp32", "show_progress": False}
ROOT = Path(__file__).resolve().parents[1]

IN_A_FRESH_PROCESS = """
import json, os, sys
import recbole_blair
heavy = ("torch", "transformers", "ray", "recbole", "pandas", "pyarrow", "duckdb")
told = {"light": [m for m in heavy if m in sys.modules]}
before = dict(os.environ), os.getcwd()
from recbole_blair.quick_start import run
data_path, out = sys.argv[1], sys.argv[2]
sys.argv = ["x", "--epochs=77", "--model=BPR", "--gpu_id=3", "junk", "--learning_rate=9"]
result = run("SASRec", "tiny", data_path=data_path, output_dir=out, epochs=1, device="cpu", precision="fp32",
             show_progress=False)
told["epochs"] = result["epochs"]
told["loaded"] = [m for m in ("ray", "transformers", "recbole.quick_start") if m in sys.modules]
told["changed"] = sorted(k for k in {**os.environ, **before[0]} if os.environ.get(k) != before[0].get(k)
                         and not k.startswith(("KMP_", "TORCHINDUCTOR_")))  # PyTorch's compiler sets its own
told["moved"] = os.getcwd() != before[1]
told["left"] = os.listdir(".")
told["argv"] = sys.argv[1:]
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    return str(write_build(tmp_path_factory.mktemp("data"), random_sequences(n_users=30)).parent)


@pytest.fixture
def empty_cwd(tmp_path, monkeypatch):
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_a_fresh_process_stays_clean(data_path, empty_cwd, tmp_path):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", IN_A_FRESH_PROCESS, data_path, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "light": [], "epochs": 1, "loaded": [], "changed": [], "moved": False, "left": [],
        "argv": ["--epochs=77", "--model=BPR", "--gpu_id=3", "junk", "--learning_rate=9"],
    }  # fmt: skip


def environment_without_torch():
    """The environment without what PyTorch itself sets when its compiler is imported."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("KMP_", "TORCHINDUCTOR_"))}


@pytest.mark.parametrize("visible", [None, "", "5,6"])
def test_visible_devices_are_neither_read_nor_set(data_path, empty_cwd, tmp_path, monkeypatch, visible):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    before = environment_without_torch()
    run("SeqPop", "tiny", data_path=data_path, output_dir=str(tmp_path / "run"), device="cpu", precision="fp32")
    assert environment_without_torch() == before and os.environ.get("CUDA_VISIBLE_DEVICES") == visible


def test_the_callers_arguments_are_not_read(data_path, empty_cwd, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest", "--epochs=50", "--hidden_size=7", "--seed=1", "-x", "--junk"])
    result = run("GRU4Rec", "tiny", data_path=data_path, output_dir=str(tmp_path / "run"), **KEYS)
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (result["epochs"], saved["hidden_size"], result["seed"]) == (1, 128, 2020)
    assert sys.argv[1] == "--epochs=50" and not list(empty_cwd.iterdir())


def test_the_global_yaml_loader_is_as_it_was(data_path, empty_cwd, tmp_path):
    loaders = (yaml.SafeLoader, yaml.FullLoader, yaml.Loader)
    before = [{k: list(v) for k, v in loader.yaml_implicit_resolvers.items()} for loader in loaders]
    run("SASRec", "tiny", data_path=data_path, output_dir=str(tmp_path / "run"), **KEYS)
    assert [{k: list(v) for k, v in loader.yaml_implicit_resolvers.items()} for loader in loaders] == before
    assert yaml.safe_load("1e-3") == "1e-3"


def test_no_log_handler_is_left(data_path, empty_cwd, tmp_path):
    import logging

    before = list(logging.getLogger().handlers), logging.getLogger().level
    run("SASRec", "tiny", data_path=data_path, output_dir=str(tmp_path / "run"), **KEYS)
    assert (list(logging.getLogger().handlers), logging.getLogger().level) == before
    assert not logging.getLogger(f"recbole_blair.run.{(tmp_path / 'run').resolve()}").handlers

"""Killed with SIGKILL in the middle of an epoch and run again: bit-equal weights and equal metrics."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from builds import random_sequences, write_build, write_features
from safetensors.torch import load_file

from recbole_blair.cli.main import main
from recbole_blair.quick_start import run, run_many
from recbole_blair.tracking.callback import Callback
from recbole_blair.train import checkpoint, run_folder, trainer

ROOT = Path(__file__).resolve().parents[1]
KEYS = {
    "epochs": 5, "train_batch_size": 8, "device": "cpu", "precision": "fp32", "show_progress": False, "threads": 1,
    "plm": "someone/test-encoder", "hidden_size": 16, "inner_size": 32, "adaptor_hidden_sizes": [24],
    "learning_rate": 0.003, "stopping_step": 20, "lr_schedule": "cosine", "warmup_steps": 7,
}  # fmt: skip


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    folder = write_build(tmp_path_factory.mktemp("data"), random_sequences(n_users=60, n_items=30))
    write_features(folder)
    return str(folder.parent)


@pytest.fixture(scope="module")
def unbroken(data_path, tmp_path_factory):
    """The folder and the metrics of a run that nobody stopped."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    return folder, run("SASRecText", "tiny", data_path=data_path, output_dir=str(folder), **KEYS)


def arguments(keys):
    return ["train", "--model=SASRecText", "--dataset=tiny", *(f"--{k}={v}" for k, v in keys.items())]


def epochs_done(folder):
    """The newest whole epoch in a run folder; 0 when there is none."""
    return max((int(p.name[6:]) for p in (folder / "checkpoint").glob("epoch-*")), default=0)


def start_and_kill(argv, when, cwd, limit_s=240):
    """Start the command, send SIGKILL as soon as `when()` holds, and wait for its end."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "recbole_blair", *argv]
    process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + limit_s
        while not when():
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() < end, "the run did not get there in time"
            time.sleep(0.005)
        time.sleep(0.03)  # into the next epoch
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL


def assert_same_run(folder, other):
    """Weights to the bit, of the best and the last epoch, and every metric."""
    for name in ("best.safetensors", f"epoch-{epochs_done(other):04d}/model.safetensors"):
        ours, theirs = (load_file(f / "checkpoint" / name) for f in (folder, other))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    ours, theirs = (json.loads((f / "metrics.json").read_text()) for f in (folder, other))
    for key in ("test", "best_valid", "best_epoch", "epochs", "stopped_early"):
        assert ours[key] == theirs[key]


@pytest.fixture(scope="module")
def killed(data_path, tmp_path_factory):
    """The folder of a run that was killed in the middle of an epoch, after its second."""
    root = tmp_path_factory.mktemp("killed")
    (root / "cwd").mkdir()
    keys = {**KEYS, "data_path": data_path, "output_dir": root / "run"}
    start_and_kill(arguments(keys), lambda: epochs_done(root / "run") >= 2, root / "cwd")
    assert 2 <= epochs_done(root / "run") < KEYS["epochs"], "killed too late to show anything"
    assert not (root / "run" / "metrics.json").exists() and not list((root / "cwd").iterdir())
    return root / "run"


def test_resume_ends_as_if_nothing_had_happened(killed, unbroken, tmp_path):
    folder = tmp_path / "by_resume"
    shutil.copytree(killed, folder)
    assert main(["train", f"--resume={folder}"]) == 0
    assert_same_run(folder, unbroken[0])
    assert "resumed after epoch" in (folder / "log.txt").read_text()


def test_the_same_command_goes_on_in_the_same_folder(killed, unbroken, data_path, tmp_path):
    folder = tmp_path / "by_output_dir"
    shutil.copytree(killed, folder)
    started = epochs_done(folder)
    heard = []
    hears = Callback(on_epoch_end=lambda state, metrics: heard.append(state.epoch))
    keys = {**KEYS, "data_path": data_path, "output_dir": str(folder)}
    run(
        "SASRecText",
        "tiny",
        callbacks=[hears],
        **keys,
    )
    assert heard == list(range(started + 1, KEYS["epochs"] + 1))  # nothing is trained twice
    assert_same_run(folder, unbroken[0])


@pytest.mark.parametrize(("step", "nth"), [("save_weights", 3), ("save_epoch", 3), ("keep_epoch", 5), ("load_best", 1)])
def test_a_kill_between_any_two_writes_changes_nothing(unbroken, data_path, tmp_path, monkeypatch, step, nth):
    """Before the best weights, between them and the epoch, with two epochs there, and after the last epoch."""
    keys = {**KEYS, "data_path": data_path, "output_dir": str(tmp_path / "run")}
    real, calls = getattr(checkpoint, step), []

    def dies(*args, **kwargs):
        calls.append(args)
        if len(calls) == nth:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.checkpoint, step, dies)
        with pytest.raises(KeyboardInterrupt):
            run("SASRecText", "tiny", **keys)
    torch.rand(7)  # whatever the process does in between
    run("SASRecText", "tiny", **keys)
    assert_same_run(tmp_path / "run", unbroken[0])
    assert [path.name for path in (tmp_path / "run" / "checkpoint").glob("epoch-*")] == ["epoch-0005"]


@pytest.mark.slow
def test_several_runs_go_on_where_they_were(data_path, tmp_path):
    many = {
        **KEYS,
        "epochs": 4,
        "train_batch_size": 16,
        "seeds": [1, 2],
        "baselines": ["SASRec"],
        "data_path": data_path,
    }
    whole, root = tmp_path / "whole", tmp_path / "run"
    run_many("SASRecText", "tiny", **many, output_dir=str(whole))
    third = root / "SASRec-1"
    argv = arguments({**many, "output_dir": root})
    start_and_kill(argv, lambda: epochs_done(third) >= 1, tmp_path)
    assert epochs_done(third) < 4 and not (root / "SASRec-2").exists()
    finished = {p: p.stat().st_mtime_ns for name in ("SASRecText-1", "SASRecText-2") for p in (root / name).rglob("*")}
    assert main(["train", f"--resume={root}"]) == 0
    assert {p: p.stat().st_mtime_ns for p in finished} == finished
    for name in ("SASRecText-1", "SASRecText-2", "SASRec-1", "SASRec-2"):
        assert_same_run(root / name, whole / name)


def test_two_processes_do_not_train_in_one_folder(data_path, unbroken, tmp_path, capsys):
    """The second is told so and touches nothing; once the first is gone, killed or not, the folder is free."""
    folder = tmp_path / "run"
    keys = {**KEYS, "data_path": data_path, "output_dir": str(folder)}
    holder = "import sys, time; from recbole_blair.train.run_folder import only_trainer\n"
    holder += "with only_trainer(sys.argv[1]): print('held', flush=True); time.sleep(240)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", holder, str(folder)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"held\n"
        assert main(arguments(keys)) == 2
        assert f"another process trains in {folder}" in capsys.readouterr().err
        assert sorted(p.name for p in folder.iterdir()) == [run_folder.LOCK]
    finally:
        process.kill()
        process.wait()
    assert run("SASRecText", "tiny", **keys)["test"] == unbroken[1]["test"]

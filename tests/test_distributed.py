"""Two gloo processes against one with the doubled batch: loss, weights and metrics; started by --nproc."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from recbole_blair.errors import InputError
from recbole_blair.parallel.launch import check_processes

QUIET = {
    "UniSRecBlair": [
        "inner_size=16",
        "hidden_dropout_prob=0",
        "attn_dropout_prob=0",
        "adaptor_dropout_prob=0",
        "noisy_gating=False",
    ],
    "HSTU": ["dropout_prob=0", "softmax=full"],  # sampled negatives are each process's own draws
}
SMALL = [
    *("dataset=sample", "sample_users=60", "sample_items=50", "plm=tfidf-svd", "epochs=2", "seed=3"),
    *("seeds=", "baselines=", "hidden_size=16", "learner=sgd"),  # Adam would blow rounding up where gradients vanish
    *("device=cpu", "precision=fp32", "show_progress=False", "learning_rate=0.3", "threads=1"),
]
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


def train(folder, model, *keys):
    """Run the command line; returns the finished process."""
    words = [f"model={model}", *SMALL, f"data_path={folder / 'data'}", *keys]
    command = [sys.executable, "-m", "recbole_blair", "train", *(f"--{word}" for word in words)]
    return subprocess.run(command, capture_output=True, text=True, env=ENV, cwd=folder, timeout=900)


def epoch_losses(run):
    """The loss of every epoch, from the log."""
    lines = [line for line in (run / "log.txt").read_text().splitlines() if "  loss " in line]
    return [float(line.split("  loss ")[1].split()[0]) for line in lines]


@pytest.mark.parametrize("model", [pytest.param("UniSRecBlair"), pytest.param("HSTU", marks=pytest.mark.slow)])
def test_two_processes_train_as_one_with_the_doubled_batch(tmp_path, model):
    for name, size, nproc in (("one", 32, 1), ("two", 16, 2)):
        done = train(
            tmp_path,
            model,
            *QUIET[model],
            f"train_batch_size={size}",
            f"nproc={nproc}",
            f"output_dir={tmp_path / name}",
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("test on sample") == 1  # the first process alone prints the table
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert epoch_losses(tmp_path / "two") == pytest.approx(epoch_losses(tmp_path / "one"), abs=2e-3)
    for part in ("test", "best_valid"):
        assert two[part] == pytest.approx(one[part], rel=0.02)
    first, second = (load_file(tmp_path / name / "checkpoint" / "best.safetensors") for name in ("one", "two"))
    for key, value in first.items():
        np.testing.assert_allclose(second[key], value, atol=2e-3)


def test_one_bad_key_is_said_once_before_any_process_starts(tmp_path):
    done = train(tmp_path, "UniSRecBlair", "nproc=2", "learning_rat=1")
    assert done.returncode == 2
    assert done.stderr.count("error:") == 1 and "learning_rate" in done.stderr


def test_what_only_the_processes_find_out_is_said_once_too(tmp_path):
    done = train(tmp_path, "UniSRecBlair", "nproc=2", "train_stage=pretrain")
    assert done.returncode == 2
    assert done.stderr.count("error:") == 1 and "trains in one process" in done.stderr


@pytest.mark.parametrize(
    ("nproc", "device", "message"),
    [
        (0, "cpu", "nproc=0 in the configuration is out of range; expected int, 1 to"),
        ("two", "cpu", "nproc='two' in the configuration is a str; expected int, 1 to"),
        (2, "cuda:1", "one device"),
        (99999, "cpu", r"nproc=99999 in the configuration is out of range; .* \(the cores of this machine\)"),
        (2, "cuda", "--nproc=2, but 0 CUDA devices are visible"),
    ],
)
def test_impossible_numbers_of_processes_are_refused(monkeypatch, nproc, device, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InputError, match=message):
        check_processes(nproc, device)


def test_several_processes_from_python_are_refused(tmp_path):
    from recbole_blair.quick_start import run

    with pytest.raises(InputError, match=r"nproc=2, but this is one process"):
        run("SeqPop", "sample", nproc=2, data_path=str(tmp_path), sample_users=60, sample_items=50)

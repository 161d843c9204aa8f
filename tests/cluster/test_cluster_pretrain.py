"""pretrain --engine=ray: the processes that torchrun would start, the same steps, the same encoder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from local_ray import real_ray, two_cpus
from safetensors.torch import load_file

from recbole_blair.cli.main import main
from recbole_blair.cluster.pretrain import short_line, worker_resources
from recbole_blair.errors import InputError
from recbole_blair.parallel.ray_cluster import cpus_that_fit
from tests.pretrain.conftest import pair_rows, tiny_config

FAST = ["--device=cpu", "--precision=fp32", "--per_device_batch=8", "--max_length=24", "--holdout=0.2"]


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory):
    """Sixty pairs of 30 items."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in pair_rows(60, 30)))
    return path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny BERT without dropout: what differs between two runs is then arithmetic alone."""
    from transformers import AutoModelForMaskedLM

    from recbole_blair.pretrain.load import train_tokenizer

    folder = tmp_path_factory.mktemp("encoder") / "tiny-bert"
    tokenizer = train_tokenizer([row[side] for row in pair_rows(60) for side in ("context", "metadata")], 300, 64)
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(tiny_config(tokenizer, dropout=0.0)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ray_here():
    """One Ray for the tests of this module."""
    with two_cpus():
        yield


def arguments(pairs, encoder, out, *more):
    return ["pretrain", f"--pairs={pairs}", f"--plm={encoder}", f"--output_dir={out}", *FAST, *more]


@real_ray
def test_two_workers_train_as_two_processes_of_torchrun(ray_here, tmp_path, pairs_file, encoder, capfd):
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone"]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    command = arguments(pairs_file, encoder, tmp_path / "torchrun", "--show_progress=False")
    done = subprocess.run(
        [*launch, "-m", "recbole_blair", *command], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]

    ray = ("--engine=ray", "--num_workers=2", "--ray_cpus=2", "--logging_steps=1")
    command = arguments(pairs_file, encoder, tmp_path / "ray", *ray)
    assert main(command) == 0
    shown = capfd.readouterr()
    assert "2 workers with 0 GPU, 1 CPUs each" in shown.err and "step 1  loss" in shown.err
    assert shown.out.count("held-out contexts") == 1

    metrics = [json.loads((tmp_path / f / "pretraining" / "metrics.json").read_text()) for f in ("torchrun", "ray")]
    assert metrics[1]["processes"] == 2 and metrics[1]["steps"] == metrics[0]["steps"]
    assert metrics[1]["after"] == pytest.approx(metrics[0]["after"], abs=0.02)
    weights = [load_file(tmp_path / f / "model.safetensors") for f in ("torchrun", "ray")]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-4, rtol=1e-3, msg=name)
    assert not (tmp_path / "ray" / "pretraining" / ".ray").exists()

    assert main(command) == 0  # finished: no cluster is started
    assert "workers with" not in capfd.readouterr().err


@real_ray
def test_what_a_worker_refuses_is_one_line_and_is_not_tried_again(ray_here, tmp_path, pairs_file, encoder, capfd):
    ray = ("--engine=ray", "--num_workers=1", "--ray_cpus=1", "--min_chars=5000", "--show_progress=False")
    assert main(arguments(pairs_file, encoder, tmp_path / "out", *ray)) == 2
    error = capfd.readouterr().err
    assert error.splitlines()[-1].startswith("error: no pairs left to train on")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--engine=ray",), "--engine=ray needs --num_workers=N"),
        (("--engine=ray", "--num_workers=0"), "num_workers=0 in the command line is out of range; expected int, 1 to"),
        (("--engine=ray", "--num_workers=two"), "num_workers='two' in the command line is a str; expected int, 1 to"),
        (("--engine=dask",), "--engine='dask' is not one of local, ray"),
        (("--num_workers=2",), "--num_workers=2 belongs to --engine=ray"),
    ],
)
def test_wrong_use_starts_nothing(tmp_path, pairs_file, encoder, capsys, more, message):
    assert main(arguments(pairs_file, encoder, tmp_path / "out", *more)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_workers_fit_the_nodes():
    nodes = [{"CPU": 3.0}, {"CPU": 3.0, "GPU": 1.0}]
    assert [cpus_that_fit(nodes, n) for n in (1, 2, 3, 4, 6, 7)] == [3, 3, 1, 1, 1, 0]
    assert worker_resources(nodes, "cpu", 2) == {"CPU": 3, "GPU": 0}
    assert worker_resources(nodes, "auto", 1) == {"CPU": 1, "GPU": 1}
    with pytest.raises(InputError, match=r"--num_workers=2 do not fit: each takes a CPU and a GPU; there are 2 node"):
        worker_resources(nodes, "auto", 2)
    with pytest.raises(InputError, match="the cluster has no GPU"):
        worker_resources(nodes[:1], "cuda", 1)


def test_a_line_of_the_log_is_short():
    assert short_line('{"step": 10, "loss": 2.34567, "pairs_per_second": 812.25}') == (
        "step 10  loss 2.3457  pairs_per_second 812.25"
    )

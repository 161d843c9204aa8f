"""Trainings that are logged: what arrives equals metrics.json; a killed and resumed one is one series in one run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recbole_blair.quick_start import run
from recbole_blair.tracking.callback import Callback
from recbole_blair.tracking.trackers import PROJECT

ROOT = Path(__file__).resolve().parents[2]
KILLED = """
import json, os, signal, sys
from recbole_blair.quick_start import run
from recbole_blair.tracking.callback import Callback

def kill(state, metrics):
    if state.epoch == 3:  # logged, but not saved
        os.kill(os.getpid(), signal.SIGKILL)

run("SASRecID", "tiny", callbacks=[Callback(on_epoch_end=kill)], **json.loads(sys.argv[1]))
"""


def scalars(folder):
    """Return {name: [(step, value), …]} of a folder's event files, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def steps(series):
    return [step for step, _ in series]


def only_run(client):
    (experiment,) = [e for e in client.search_experiments() if e.name == PROJECT]
    (found,) = client.search_runs([experiment.experiment_id])
    return found


def mlflow_series(client, run_id, name):
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)]


def test_tensorboard_holds_what_metrics_json_says(keys):
    result = run("SASRecID", "tiny", log=["tensorboard"], **keys)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found, folder = scalars(keys["output_dir"]), Path(keys["output_dir"])
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1  # the curves are not written twice
    for name, value in result["test"].items():
        assert found[f"test/{name}"] == [(4, np.float32(value))]
    for name, value in result["best_valid"].items():
        assert dict(found[f"valid/{name}"])[result["best_epoch"]] == np.float32(value)
    for name in ("train/loss", "train/seconds", "train/learning_rate", "valid/ndcg@10", "valid/seconds"):
        assert steps(found[name]) == [1, 2, 3, 4]
    assert {value for _, value in found["train/learning_rate"]} == {np.float32(0.003)}
    events = EventAccumulator(str(folder)).Reload()
    assert b"learning_rate" in events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    assert b"test/ndcg@10" in events.PluginTagToContent("hparams")["_hparams_/experiment"]
    assert sorted(json.loads((folder / "trackers.json").read_text())) == ["json_crc32", "tensorboard"]


def test_logging_changes_no_weight(keys, tmp_path, mlflow_store):
    plain = run("SASRecID", "tiny", **keys)
    logged = run("SASRecID", "tiny", log="tensorboard,mlflow", **{**keys, "output_dir": str(tmp_path / "logged")})
    assert logged["test"] == plain["test"] and logged["best_valid"] == plain["best_valid"]
    assert not (Path(keys["output_dir"]) / "trackers.json").exists()


def test_a_killed_training_goes_on_in_the_same_runs(keys, tmp_path, mlflow_store):
    keys["log"] = ["tensorboard", "mlflow"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", KILLED, json.dumps(keys)], env=environment, cwd=tmp_path, timeout=500)
    assert done.returncode == -signal.SIGKILL
    begun = only_run(mlflow_store)
    assert begun.info.status == "RUNNING" and steps(mlflow_series(mlflow_store, begun.info.run_id, "train/loss")) == [
        1,
        2,
        3,
    ]

    result = run("SASRecID", "tiny", **keys)
    resumed, series = only_run(mlflow_store), scalars(keys["output_dir"])
    assert (resumed.info.run_id, resumed.info.status) == (begun.info.run_id, "FINISHED")
    for name in ("train/loss", "valid/ndcg@10"):
        curve = mlflow_series(mlflow_store, begun.info.run_id, name.replace("@", "_at_"))
        assert steps(series[name]) == steps(curve) == [1, 2, 3, 4]  # no step twice, none left out
        assert [np.float32(value) for _, value in curve] == [value for _, value in series[name]]
    assert mlflow_series(mlflow_store, begun.info.run_id, "test/ndcg_at_10") == [(4, result["test"]["ndcg@10"])]
    assert resumed.data.params["learning_rate"] == "0.003" and resumed.data.params["model"] == "SASRecID"
    assert not {"data_path", "output_dir", "log"} & set(resumed.data.params)


def test_an_interrupted_run_has_failed_until_it_goes_on(keys, mlflow_store):
    def stop(state, metrics):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("SASRecID", "tiny", log="mlflow", callbacks=[Callback(on_epoch_end=stop)], **keys)
    assert only_run(mlflow_store).info.status == "FAILED"
    run("SASRecID", "tiny", log="mlflow", **keys)
    assert only_run(mlflow_store).info.status == "FINISHED"


@pytest.mark.slow
def test_the_database_that_mlflow_makes_by_itself_is_found_again(keys, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install mlflow-skinny")
    pytest.importorskip("alembic", reason="the database needs alembic")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(None)
    seen = []
    stop = Callback(on_save=lambda state: seen.append(mlflow.get_tracking_uri()) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("SASRecID", "tiny", log="mlflow", callbacks=[stop], **keys)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    mlflow.set_tracking_uri(None)
    run("SASRecID", "tiny", log="mlflow", **keys)
    assert seen[0] == f"sqlite:///{tmp_path}/mlflow.db"
    client = mlflow.MlflowClient(seen[0])
    assert steps(mlflow_series(client, only_run(client).info.run_id, "train/loss")) == [1, 2, 3, 4]
    mlflow.set_tracking_uri(None)


def test_wandb_resumes_by_its_id(keys, wandb_calls, monkeypatch):
    def stop(state, metrics):
        if state.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setenv("WANDB_PROJECT", "mine")
    with pytest.raises(KeyboardInterrupt):
        run("SASRecID", "tiny", log="wandb", callbacks=[Callback(on_epoch_end=stop)], **keys)
    result = run("SASRecID", "tiny", log="wandb", **keys)
    calls = wandb_calls()
    first, second = [kwargs for name, _, kwargs in calls if name == "init"]
    assert first == second and first["resume"] == "allow" and len(first["id"]) == 16
    assert (first["project"], first["name"], first["group"]) == ("mine", "run", None)
    assert first["dir"] == keys["output_dir"]
    losses = [(kwargs["step"], args[0]["train/loss"]) for name, args, kwargs in calls
              if name == "log" and "train/loss" in args[0]]  # fmt: skip
    assert steps(losses) == [1, 2, 3, 4]
    assert [args[0]["learning_rate"] for name, args, _ in calls if name == "config"] == [0.003]  # stored once
    assert [kwargs["exit_code"] for name, _, kwargs in calls if name == "finish"] == [1, 0]
    summary = {k: v for name, args, _ in calls if name == "summary" for k, v in args[0].items()}
    assert all(summary[f"test/{name}"] == value for name, value in result["test"].items())


def test_a_server_that_is_not_there_is_one_line_before_the_first_step(keys, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install mlflow-skinny")
    from recbole_blair.errors import InputError

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InputError, match="--log=mlflow cannot start a run") as refused:
        run("SASRecID", "tiny", log="mlflow", **keys)
    assert "secret" not in str(refused.value) and not list(Path(keys["output_dir"]).glob("checkpoint/epoch-*"))


@pytest.mark.slow
def test_of_several_processes_the_first_one_logs(keys, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    flags = [f"--{key}={value}" for key, value in keys.items()]
    command = [sys.executable, "-m", "recbole_blair", "train", "--model=SASRecID", "--dataset=tiny", *flags]
    subprocess.run([*command, "--nproc=2", "--log=tensorboard"], env=environment, cwd=tmp_path, timeout=900, check=True)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["processes"] == 2 and len(list((tmp_path / "run").glob("events.out.*"))) == 1
    found = scalars(tmp_path / "run")
    assert steps(found["train/loss"]) == [1, 2, 3, 4]
    assert found["test/ndcg@10"] == [(4, np.float32(metrics["test"]["ndcg@10"]))]

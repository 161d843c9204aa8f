"""A sweep at trackers: one run for it, one below it per trial."""

import json
from pathlib import Path

import numpy as np
import pytest

from recbole_blair.cli.main import main
from recbole_blair.tracking.trackers import PROJECT
from tests.tracking.conftest import KEYS
from tests.tracking.test_training import mlflow_series, scalars, steps

pytestmark = pytest.mark.xdist_group("ray")


@pytest.mark.slow
def test_a_sweep_is_the_parent_of_its_trials(tracked_build, tmp_path, mlflow_store, monkeypatch):
    pytest.importorskip("ray", reason="ray is not installed")
    (tmp_path / "space.yaml").write_text("learning_rate: {choice: [0.001, 0.01]}\n")
    keys = {key: value for key, value in KEYS.items() if key not in ("threads", "show_progress", "learning_rate")}
    keys.update(epochs=3, data_path=tracked_build, space=tmp_path / "space.yaml", output_dir=tmp_path / "sweep",
                search="grid", scheduler="none", ray_cpus=2, log="tensorboard,mlflow")  # fmt: skip
    argv = ["tune", "--model=SASRecID", "--dataset=tiny", *(f"--{key}={value}" for key, value in keys.items())]
    assert main(argv) == 0
    best = json.loads((tmp_path / "sweep/best.json").read_text())
    (experiment,) = [e for e in mlflow_store.search_experiments() if e.name == PROJECT]
    runs = {run.data.tags["mlflow.runName"]: run for run in mlflow_store.search_runs([experiment.experiment_id])}
    assert sorted(runs) == ["sweep", "sweep/0000", "sweep/0001"]
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    parent = runs["sweep"].info.run_id
    for number in (0, 1):
        child, folder = runs[f"sweep/000{number}"], tmp_path / f"sweep/trials/000{number}"
        assert child.data.tags["mlflow.parentRunId"] == parent
        losses = [json.loads(line)["loss"] for line in (folder / "progress.jsonl").read_text().splitlines()]
        assert mlflow_series(mlflow_store, child.info.run_id, "train/loss") == list(enumerate(losses, 1))
        assert scalars(folder)["train/loss"] == [(n, np.float32(loss)) for n, loss in enumerate(losses, 1)]
    assert {runs[f"sweep/000{n}"].data.params["learning_rate"] for n in (0, 1)} == {"0.001", "0.01"}
    assert mlflow_series(mlflow_store, parent, "best/test/ndcg_at_10") == [(2, best["test"]["ndcg@10"])]
    assert mlflow_series(mlflow_store, parent, "trials/finished") == [(2, 2)]
    assert runs["sweep"].data.params["space.learning_rate"] == '{"choice": [0.001, 0.01]}'
    assert scalars(tmp_path / "sweep")["best/valid/ndcg@10"] == [(2, np.float32(best["valid"]["ndcg@10"]))]
    # the same command again: a finished sweep logs nothing twice
    assert main(argv) == 0
    assert steps(mlflow_series(mlflow_store, parent, "best/test/ndcg_at_10")) == [2]
    assert len(list(Path(tmp_path / "sweep/trials/0000").glob("events.out.*"))) == 1

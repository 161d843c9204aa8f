"""A pretraining that is logged: resumed into the same runs, with the figures of metrics.json."""

import json
from pathlib import Path

import numpy as np
import pytest

from recbole_blair.pretrain.run import pretrain
from recbole_blair.pretrain.settings import resolve_settings
from recbole_blair.tracking.callback import Callback
from tests.pretrain.conftest import encoder_folder, pair_rows, tokenizer  # noqa: F401  the tiny encoder
from tests.tracking.test_training import mlflow_series, only_run, scalars, steps


@pytest.fixture
def settings(tmp_path, encoder_folder):  # noqa: F811
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in pair_rows(60, 30)))
    keys = {
        "pairs": str(pairs), "plm": str(encoder_folder), "output_dir": str(tmp_path / "encoder"), "device": "cpu",
        "precision": "fp32", "show_progress": False, "per_device_batch": 16, "max_length": 24, "holdout": "0.2",
        "epochs": 3, "save_steps": 0, "logging_steps": 1, "log": ["tensorboard", "mlflow"],
    }  # fmt: skip
    return resolve_settings(keys)


def test_an_interrupted_pretraining_goes_on_in_the_same_runs(settings, mlflow_store):
    heard = []

    def stop(state, metrics):
        if state.epoch == 2:  # its steps are logged, its checkpoint is not written
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(settings, [Callback(on_epoch_end=stop)])
    begun = only_run(mlflow_store)
    assert begun.info.status == "FAILED"
    hears = Callback(
        on_train_begin=lambda state: heard.append(("begin", state.global_step)),
        on_evaluate=lambda state, metrics: heard.append((round(state.epoch), metrics["ndcg@10"])),
        on_train_end=lambda state, results: heard.append(("end", results["after"]["ndcg@10"])),
    )
    metrics = pretrain(settings, [hears])
    per_epoch = metrics["steps"] // 3
    assert heard[0] == ("begin", per_epoch) == ("begin", metrics["resumed_at"])
    assert [epoch for epoch, _ in heard[1:]] == [2, 3, "end"] and heard[-1][1] == metrics["after"]["ndcg@10"]

    run_id, series = only_run(mlflow_store).info.run_id, scalars(Path(settings.output_dir) / "pretraining/tensorboard")
    assert run_id == begun.info.run_id and only_run(mlflow_store).info.status == "FINISHED"
    assert (
        steps(series["loss"]) == list(range(1, 3 * per_epoch + 1)) == steps(mlflow_series(mlflow_store, run_id, "loss"))
    )
    assert steps(series["eval_ndcg@10"]) == [per_epoch, 2 * per_epoch, 3 * per_epoch]
    for when, step in (("before", 0), ("after", metrics["steps"])):
        value = metrics[when]["ndcg@10"]
        assert series[f"{when}_ndcg@10"] == [(step, np.float32(value))]
        assert mlflow_series(mlflow_store, run_id, f"{when}_ndcg_at_10") == [(step, value)]
    assert len(list((Path(settings.output_dir) / "pretraining").rglob("events.out.*"))) == 2  # one per start


def test_a_callback_may_stop_a_pretraining(settings):
    settings["log"] = None
    metrics = pretrain(settings, [Callback(on_epoch_end=lambda state, metrics: metrics["loss"] > 0)])
    assert metrics["steps"] == -(-metrics["data"]["train"] // 16) and "ndcg@10" in metrics["after"]

"""Whole runs on a tiny build: what they write, going on, starting from another, RecBole's own models."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from builds import random_sequences, write_build, write_features

from recbole_blair.cli.main import main
from recbole_blair.errors import InputError
from recbole_blair.figures import fraction
from recbole_blair.quick_start import run, run_many
from recbole_blair.registry import list_models
from recbole_blair.runs.evaluate_run import evaluate_run
from recbole_blair.runs.open_run import open_run
from recbole_blair.tracking.callback import Callback
from recbole_blair.train import run_folder

FAST = {
    "epochs": 2, "train_batch_size": 32, "device": "cpu", "precision": "fp32", "show_progress": False,
    "plm": "someone/test-encoder",
}  # fmt: skip
SMALL_TEXT = {"hidden_size": 16, "inner_size": 32, "adaptor_hidden_sizes": [24]}
RECBOLE = [name for name, info in list_models().items() if info.from_recbole and not info.ranks_users]


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    folder = write_build(tmp_path_factory.mktemp("data"), random_sequences(n_users=40, n_items=120))
    write_features(folder)
    return str(folder.parent)


@pytest.fixture(scope="module")
def text_run(data_path, tmp_path_factory):
    """A finished SASRecText run, trained from an empty working directory, and what it returned."""
    root = tmp_path_factory.mktemp("text_run")
    (root / "cwd").mkdir()
    before = os.getcwd()
    os.chdir(root / "cwd")
    try:
        result = run(
            "SASRecText",
            "tiny",
            data_path=data_path,
            output_dir=str(root / "run"),
            save_ranks=True,
            **SMALL_TEXT,
            **FAST,
        )
        left = list((root / "cwd").iterdir())
    finally:
        os.chdir(before)
    return root / "run", result, left


RESULTS = ("metrics.json", "ranks.parquet")


def test_a_run_writes_into_its_folder_and_nowhere_else(text_run):
    folder, _, left = text_run
    assert left == []
    names = {path.name.split(".")[0] if path.name.startswith("events") else path.name for path in folder.iterdir()}
    assert names == {".lock", "checkpoint", "checksums.json", "config.yaml", "events", "log.txt", *RESULTS}
    files = sorted(path.name for path in (folder / "checkpoint").iterdir())
    assert files == ["best.safetensors", "checksums.json", "epoch-0002"]
    log = (folder / "log.txt").read_text()
    assert "SASRecText on tiny, seed 2020, cpu, fp32" in log and "epoch 2  loss " in log


def test_metrics_hold_what_results_depend_on(text_run):
    folder, result, _ = text_run
    metrics = run_folder.load_metrics(folder)
    assert {**metrics, "output_dir": str(folder)} == result
    wanted = {
        "model": "SASRecText", "dataset": "tiny", "protocol": "timestamp", "seed": 2020, "epochs": 2,
        "history_masked": False, "encoder": "someone--test-encoder", "n_items": 118, "precision": "fp32",
        "device": "cpu",
    }  # fmt: skip
    assert {key: metrics[key] for key in wanted} == wanted
    assert set(metrics["test"]) == {f"{m}@{k}" for m in ("recall", "ndcg", "hit", "mrr") for k in (10, 50)} | {"mrr"}
    assert all(0 <= value <= 1 for value in metrics["test"].values()) and "ndcg@10" in metrics["best_valid"]
    assert set(metrics["seconds"]) == {"load", "train", "valid", "test"} and metrics["peak_memory_mb"] > 10
    assert "middle" in metrics["ties"] and metrics["versions"]["torch"] == torch.__version__
    assert metrics["rows"]["valid"] == metrics["rows"]["test"] == 40


def test_saved_ranks_give_the_metrics_again(text_run):
    import pyarrow.parquet as pq

    folder, result, _ = text_run
    table = pq.read_table(folder / "ranks.parquet").to_pydict()
    rank = np.array(table["rank"])
    assert np.mean(rank <= 10) == result["test"]["recall@10"] and np.mean(1 / rank) == result["test"]["mrr"]
    sequences = random_sequences(n_users=40, n_items=120)
    for user, item, length in zip(table["user_id"], table["item_id"], table["history_length"]):
        assert sequences[user][-1][0] == item and len(sequences[user]) - 1 == length


def test_the_best_weights_score_the_same_again(text_run):
    folder, result, _ = text_run
    metrics, rank = evaluate_run(folder)
    assert metrics == result["test"] and len(rank) == 40
    valid, _ = evaluate_run(folder, "valid", topk=[10], mask_history=True)
    assert valid["ndcg@10"] >= result["best_valid"]["ndcg@10"]
    opened = open_run(folder)
    assert (opened.config["hidden_size"], opened.dataset.n_items, opened.model.training) == (16, 119, False)
    with pytest.raises(InputError, match="'learning_rate' is no evaluation key"):
        evaluate_run(folder, learning_rate=1.0)


def test_evaluate_prints_the_metrics(text_run, capsys):
    folder, result, _ = text_run
    assert main(["evaluate", f"--checkpoint={folder}", "--topk=10"]) == 0
    assert f"ndcg@10      {fraction(result['test']['ndcg@10'])}" in capsys.readouterr().out
    assert main(["evaluate", f"--checkpoint={folder}", "--topk=ten"]) == 2
    assert main(["evaluate", f"--checkpoint={folder.parent}"]) == 2
    assert "it is no run folder" in capsys.readouterr().err


def test_a_finished_run_is_left_alone_and_its_results_printed(text_run, data_path, capsys):
    folder, result, _ = text_run
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    keys = {**FAST, **SMALL_TEXT, "save_ranks": True, "data_path": data_path, "output_dir": str(folder)}
    argv = [f"--{k}={v}" for k, v in keys.items()]
    assert main(["train", "--model=SASRecText", "--dataset=tiny", *argv]) == 0
    shown = capsys.readouterr()
    assert "is a finished run of this configuration" in shown.err
    assert "SASRecText" in shown.out and f"{result['test']['ndcg@10']:.4f}".removeprefix("0") in shown.out
    assert run("SASRecText", "tiny", **keys) == result
    assert run(None, None, resume=str(folder)) == result
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_another_configuration_in_the_same_folder_is_refused(text_run, data_path):
    folder, _, _ = text_run
    keys = {**FAST, **SMALL_TEXT, "save_ranks": True, "data_path": data_path, "output_dir": str(folder)}
    with pytest.raises(InputError, match=r"another configuration \(learning_rate 0\.001 -> 0\.01\).*--resume="):
        run("SASRecText", "tiny", **keys, learning_rate=0.01)
    with pytest.raises(InputError, match=r"another configuration \(.*model 'SASRecText' -> 'SeqPop', .*"):
        run("SeqPop", "tiny", data_path=data_path, output_dir=str(folder), device="cpu", precision="fp32")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"learning_rate": 0.5}, r"learning_rate=0\.5 differs from its 0\.001"),
        ({"model": "SASRec"}, "model='SASRec' differs from its 'SASRecText'"),
        ({"dataset": "other"}, "dataset='other' differs from its 'tiny'"),
    ],
)
def test_resuming_with_other_keys_is_refused(text_run, given, words):
    folder, _, _ = text_run
    model, dataset = given.pop("model", None), given.pop("dataset", None)
    for start in (run, run_many):
        with pytest.raises(InputError, match=f"goes on with its own configuration; {words}"):
            start(model, dataset, resume=str(folder), **given)


def test_resume_prints_its_configuration(text_run, capsys):
    folder, _, _ = text_run
    assert main(["train", f"--resume={folder}", "--print_config"]) == 0
    assert "model: SASRecText\n" in capsys.readouterr().out
    assert main(["train", "--resume"]) == 2
    assert "--resume needs the folder of a run" in capsys.readouterr().err


def test_a_run_starts_from_another_runs_weights(text_run, data_path, tmp_path):
    folder, result, _ = text_run
    keys = {**FAST, **SMALL_TEXT, "data_path": data_path, "init_from": str(folder)}
    same = run("SASRecText", "tiny", **{**keys, "epochs": 0, "output_dir": str(tmp_path / "same")})
    assert same["test"] == result["test"]
    with pytest.raises(InputError, match=r"do not fit this model: .* is \(.*--init_strict=False"):
        run("SASRecText", "tiny", **{**keys, "inner_size": 48, "output_dir": str(tmp_path / "strict")})
    loose = run(
        "SASRecText", "tiny", **{**keys, "inner_size": 48, "init_strict": False, "output_dir": str(tmp_path / "l")}
    )
    assert loose["epochs"] == 2 and "; fresh: encoder" in (tmp_path / "l" / "log.txt").read_text()


def test_same_seed_same_result_and_another_seed_another(text_run, data_path, tmp_path):
    _, result, _ = text_run
    keys = {**FAST, **SMALL_TEXT, "data_path": data_path}
    again = run("SASRecText", "tiny", output_dir=str(tmp_path / "again"), threads=1, **keys)
    assert again["best_valid"] == result["best_valid"] and again["test"] == result["test"]
    other = run("SASRecText", "tiny", output_dir=str(tmp_path / "other"), seed=1, **keys)
    assert other["test"] != result["test"]


def test_several_seeds_and_baselines_share_a_folder_and_a_table(data_path, tmp_path, capsys):
    keys = {**FAST, "data_path": data_path, "output_dir": tmp_path / "many"}
    argv = [f"--{k}={v}" for k, v in keys.items()]
    own = ["--hidden_size=16", "--inner_size=32", "--adaptor_hidden_sizes=24"]  # SASRec must not get these
    many = ["--seeds=1,2", "--baselines=SASRec,SeqPop"]
    assert main(["train", "--model=SASRecText", "--dataset=tiny", *argv, *own, *many]) == 0
    shown = capsys.readouterr().out
    assert "±" in shown and all(name in shown for name in ("SASRecText", "SASRec", "SeqPop"))
    names = sorted(path.name for path in (tmp_path / "many").iterdir() if path.is_dir())
    assert names == sorted(f"{m}-{s}" for m in ("SASRecText", "SASRec", "SeqPop") for s in (1, 2))
    assert run_folder.load_config(tmp_path / "many" / "SASRec-2")["hidden_size"] == 64
    assert run_folder.load_config(tmp_path / "many" / "SASRecText-2")["hidden_size"] == 16
    pop = [json.loads((tmp_path / "many" / f"SeqPop-{s}" / "metrics.json").read_text()) for s in (1, 2)]
    assert pop[0]["test"] == pop[1]["test"] and pop[0]["epochs"] == 0


def losses_into(losses):
    return Callback(on_epoch_end=lambda state, metrics: losses.append(metrics["loss"]))


def test_run_makes_one_run(data_path):
    with pytest.raises(InputError, match=r"run\(\) makes one run; seeds is for run_many\(\)"):
        run("SeqPop", "tiny", data_path=data_path, seeds=[1, 2])


def test_what_is_no_callback_is_refused():
    with pytest.raises(InputError, match=r"callbacks\[1\] is a builtin_function_or_method; expected a .*Callback"):
        run("SeqPop", "tiny", callbacks=[Callback(), print])


def test_sampled_pairs_train_a_bpr_model(data_path, tmp_path):
    keys = {**FAST, "data_path": data_path, "loss_type": "BPR", "learning_rate": 0.01, "epochs": 4}
    losses = []
    run("GRU4Rec", "tiny", output_dir=str(tmp_path / "bpr"), callbacks=[losses_into(losses)], **keys)
    assert losses[-1] < losses[0] < 0.75  # log 2 at the start


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec"])
def test_recboles_baselines_learn(data_path, tmp_path, name):
    losses = []
    keys = {**FAST, "data_path": data_path, "epochs": 4, "learning_rate": 0.01}
    result = run(name, "tiny", output_dir=str(tmp_path / name), callbacks=[losses_into(losses)], **keys)
    assert losses[-1] < 0.9 * losses[0]
    assert result["encoder"] is None and result["n_items"] == 118


@pytest.mark.slow
@pytest.mark.parametrize("name", RECBOLE)
def test_every_listed_model_of_recbole_trains(data_path, tmp_path, name):
    keys = {**FAST, "data_path": data_path, "output_dir": str(tmp_path / name)}
    losses, had_ray = [], "ray" in sys.modules  # another test of this process may have loaded it
    result = run(name, "tiny", callbacks=[losses_into(losses)], **keys)
    assert result["epochs"] == 2 and losses[1] < losses[0]
    assert list(Path(tmp_path).iterdir()) == [tmp_path / name]
    assert ("ray" in sys.modules) == had_ray

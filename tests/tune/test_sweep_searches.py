"""Other searches and schedulers in a real Ray on two CPUs: Optuna, PBT, a model of a plugin file."""

import json

import pytest
import torch
from local_ray import REAL_RAY
from safetensors.torch import load_file
from sweeps import epochs_of, flags, points, statuses, tune_argv

from recbole_blair.cli.main import main
from recbole_blair.config import load_yaml
from recbole_blair.tune import sweep_dir as files

pytest.importorskip("ray", reason="the extra tune is not installed")
pytestmark = [*REAL_RAY, pytest.mark.usefixtures("ray_here")]


def test_optuna_learns_and_a_finished_sweep_grows(sweep_keys, tmp_path, capfd):
    pytest.importorskip("optuna")
    folder, space = tmp_path / "sweep", tmp_path / "space.yaml"
    space.write_text(
        "learning_rate: {loguniform: [1.0e-5, 1.0e-2]}\nsoftmax: {choice: [full, sampled]}\n"
        "n_negatives: {choice: [8, 16], when: {softmax: sampled}}\nadaptor_hidden_sizes: {choice: [[24], [32, 24]]}\n"
    )
    keys = {k: v for k, v in sweep_keys.items() if k != "adaptor_hidden_sizes"} | {"epochs": 3}
    argv = tune_argv(folder, keys, space=space, search="optuna", num_samples=5, grace_period=1, defaults_first=True,
                     max_concurrent=1)  # fmt: skip
    assert main(argv) == 0
    first = points(folder)
    assert len(first) == 5 and first[0] == {}
    assert all(("n_negatives" in p) == (p["softmax"] == "sampled") for p in list(first.values())[1:])
    touched = {p: p.stat().st_mtime_ns for p in (folder / "trials").rglob("*") if p.is_file()}

    assert main(["tune", f"--resume={folder}", "--num_samples=8"]) == 0
    later = points(folder)
    assert len(later) == 8 and {n: later[n] for n in first} == first
    assert len({json.dumps(p) for p in later.values()}) == 8  # what it draws then is not the same again
    assert {p: p.stat().st_mtime_ns for p in touched} == touched
    assert set(statuses(folder).values()) <= {"finished", "stopped"}
    best = json.loads((folder / "best.json").read_text())
    assert best["valid"]["ndcg@10"] == max(t.best("ndcg@10")["ndcg@10"] for t in files.load_trials(folder))
    assert "Warning" not in capfd.readouterr().err


def test_pbt_goes_on_from_better_trials_with_other_rates(sweep_keys, tmp_path):
    folder, space = tmp_path / "sweep", tmp_path / "space.yaml"
    space.write_text("learning_rate: {loguniform: [1.0e-6, 1.0e-2]}\nhidden_size: {choice: [16, 32]}\n")
    keys = {**sweep_keys, "epochs": 6}
    argv = tune_argv(folder, keys, space=space, scheduler="pbt", perturbation_interval=1, num_samples=4, seed=1)
    assert main(argv) == 0
    trials = files.load_trials(folder)
    assert set(statuses(folder).values()) == {"finished"}
    adopters = [t for t in trials if t.adopted]
    assert adopters
    for trial in adopters:
        lines = files.read_progress(files.trial_dir(folder, trial.number))
        at = max(i for i, line in enumerate(lines) if "adopted" in line)
        line, donor = lines[at], trials[lines[at]["adopted"]]
        assert donor.number != trial.number
        config = load_yaml(files.trial_dir(folder, trial.number) / "config.yaml")
        assert config["learning_rate"] == line["point"]["learning_rate"] == trial.point["learning_rate"]
        assert [x["epoch"] for x in lines[at + 1 :]] == list(range(line["epoch"] + 1, 7))
        state = torch.load(
            files.trial_dir(folder, trial.number) / "checkpoint" / "epoch-0006" / "state.pt", weights_only=True
        )
        assert state["optimiser"]["param_groups"][0]["lr"] == config["learning_rate"]  # not the donor's
        weights = load_file(files.trial_dir(folder, trial.number) / "checkpoint" / "best.safetensors")
        assert config["hidden_size"] in {w.shape[0] for w in weights.values()}
    alone = [t for t in trials if not t.adopted]
    assert all(epochs_of(folder, t.number) == list(range(1, 7)) for t in alone)
    best = json.loads((folder / "best.json").read_text())
    assert set(best["test"]) >= {"ndcg@10", "mrr"}


def test_recboles_own_models_by_another_metric(sweep_keys, tmp_path):
    """Their spaces name keys that only RecBole's YAML has."""
    folder = tmp_path / "sweep"
    own = ("inner_size", "adaptor_hidden_sizes")
    keys = {k: v for k, v in sweep_keys.items() if k not in own}
    argv = [
        "tune",
        "--model=GRU4Rec",
        "--dataset=tiny",
        *flags({**keys, "epochs": 2, "num_samples": 2, "max_concurrent": 1}),
    ]
    argv += [f"--output_dir={folder}", "--ray_cpus=2", "--metric=mrr@7", "--topk=5", "--metrics=recall"]
    assert main(argv) == 0
    best = json.loads((folder / "best.json").read_text())
    assert set(best["valid"]) == set(best["test"]) == {"recall@5", "mrr@7"} and best["metric"] == "mrr@7"
    assert load_yaml(folder / "best.yaml")["valid_metric"] == "mrr@7"

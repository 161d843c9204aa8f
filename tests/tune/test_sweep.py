"""A real Ray on two CPUs: eight trials, of which ASHA stops some; everything a sweep leaves behind."""

import json

import pytest
import yaml
from sweeps import MODEL, assert_none_left, descendants, epochs_of, flags, points, statuses, tune_argv

from recbole_blair.cli.main import main
from recbole_blair.runs.evaluate_run import evaluate_run
from recbole_blair.tune import sweep_dir as files

pytest.importorskip("ray", reason="the extra tune is not installed")


@pytest.mark.xdist_group("ray")
def test_asha_stops_bad_trials_and_the_best_is_evaluated(sweep_keys, space_file, tmp_path, capfd):
    """One sweep of eight trials, looked at from all sides: starting Ray takes longest."""
    import pyarrow.parquet as pq

    folder = tmp_path / "sweep"
    before = {p.pid for p in descendants()}
    argv = tune_argv(folder, {**sweep_keys, "epochs": 3}, space=space_file, num_samples=8, grace_period=1)
    assert main(argv) == 0
    shown = capfd.readouterr()
    assert_none_left([p for p in descendants() if p.pid not in before])

    ended = statuses(folder)
    stopped = {n for n, status in ended.items() if status == "stopped"}
    assert len(ended) == 8 and 1 <= len(stopped) <= 6
    assert set(ended.values()) == {"stopped", "finished"}
    for number, status in ended.items():  # stopped at a rung, early; the others had every epoch once
        epochs = epochs_of(folder, number)
        assert epochs == list(range(1, len(epochs) + 1))
        assert len(epochs) == (1 if status == "stopped" else 3)

    # a process opens the data for its first trial and for no other
    first = {n: files.read_progress(files.trial_dir(folder, n))[0] for n in ended}
    pids = {line["pid"] for line in first.values()}
    assert sum(line["opened"] for line in first.values()) == len(pids) <= 2

    best = json.loads((folder / "best.json").read_text())
    rows = pq.read_table(folder / "results.parquet").to_pylist()
    assert best["trial"] == max(rows, key=lambda row: row["valid/ndcg@10"])["trial"] not in stopped
    assert {
        row["trial"]: {"learning_rate": row["learning_rate"], "hidden_size": row["hidden_size"]} for row in rows
    } == (points(folder))
    run = folder / best["run"]
    assert best["test"] == evaluate_run(run)[0]
    assert not list((folder / "trials").glob("*/metrics.json"))  # nobody else looked at the test rows

    config = yaml.safe_load((folder / "best.yaml").read_text())
    assert {**config, **best["point"]} == config and (config["model"], config["dataset"]) == ("SASRecText", "tiny")
    page = (folder / "report.html").read_text()
    trials = page.split('id="trials"')[1]
    assert trials.count("<tr>") == 9 and f'<a href="trials/{best["trial"]:04d}/">' in trials
    assert page.count("<svg") == 3 and 'src="http' not in page

    assert shown.out.count("stopped") > len(stopped) and "best: trial" in shown.out
    assert "RayWarning" not in shown.err and "WARNING" not in shown.err and "usage stat" not in shown.err.lower()
    assert not (folder / ".ray").exists()

    check_again(folder, argv, best, capfd)


def check_again(folder, argv, best, capfd):
    """The same command on a finished sweep starts nothing; best.yaml is a run that ends where its trial ended."""
    before = {path: path.stat().st_mtime_ns for path in (folder / "trials").rglob("*") if path.is_file()}
    assert main(argv) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert main(["tune", *MODEL, f"--resume={folder}", "--search_seed=1"]) == 2
    assert "search_seed=1 differs from its 2020" in capfd.readouterr().err

    rerun = folder.parent / "rerun"
    own = {"output_dir": rerun, "threads": 1, "show_progress": False}
    assert main(["train", f"--config_files={folder / 'best.yaml'}", *flags(own)]) == 0
    metrics = json.loads((rerun / "metrics.json").read_text())
    assert metrics["best_valid"] == pytest.approx(best["valid"]) and metrics["test"] == pytest.approx(best["test"])

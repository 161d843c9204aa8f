"""Things that go wrong in a real Ray on two CPUs: a killed trial, a killed driver, trials that cannot work."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from local_ray import REAL_RAY
from safetensors.torch import load_file
from sweeps import (
    assert_none_left,
    descendants,
    epochs_of,
    points,
    statuses,
    tune_argv,
    wait_for,
)

from recbole_blair.cli.main import main
from recbole_blair.quick_start import run
from recbole_blair.tune import driver
from recbole_blair.tune import sweep_dir as files
from recbole_blair.tune.trial import run_trial

pytest.importorskip("ray", reason="the extra tune is not installed")
pytestmark = [*REAL_RAY, pytest.mark.usefixtures("ray_here")]
ROOT = Path(__file__).resolve().parents[2]
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")  # they look for their Ray for a minute before they give up


def progress(folder, number):
    return [x for x in files.read_progress(files.trial_dir(folder, number)) if "adopted" not in x]


def assert_as_unbroken(folder, number, keys, tmp_path):
    """A trial that was interrupted has the weights and the metrics of a run that was not."""
    trial = files.load_trials(folder)[number]
    plain = run("SASRecText", "tiny", output_dir=str(tmp_path / "plain"), threads=1, **{**keys, **trial.point})
    ours, theirs = (
        f / "checkpoint" / "best.safetensors" for f in (files.trial_dir(folder, number), tmp_path / "plain")
    )
    ours, theirs = load_file(ours), load_file(theirs)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert trial.best("ndcg@10")["ndcg@10"] == plain["best_valid"]["ndcg@10"]


def test_a_killed_trial_comes_back_from_its_checkpoint(sweep_keys, space_file, tmp_path, capfd):
    folder, keys = tmp_path / "sweep", {**sweep_keys, "epochs": 12}

    def kill():
        lines = wait_for(lambda: [x for x in progress(folder, 0) if x["epoch"] == 3], 400, "epoch 3")
        os.kill(lines[0]["pid"], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert main(tune_argv(folder, keys, space=space_file, num_samples=2, scheduler="none", max_concurrent=1)) == 0
    killer.join()
    pids = [line["pid"] for line in progress(folder, 0)]
    assert len(set(pids)) == 2 and pids[0] != pids[-1]
    assert epochs_of(folder, 0) == epochs_of(folder, 1) == list(range(1, 13))  # each epoch once
    assert set(statuses(folder).values()) == {"finished"}
    assert "resumed after epoch" in (files.trial_dir(folder, 0) / "log.txt").read_text()
    shown = capfd.readouterr().err
    assert "and goes on from there" in shown and "trial   0  failed after epoch" in shown
    assert_as_unbroken(folder, 0, keys, tmp_path)


def test_a_killed_driver_goes_on_with_the_same_trials(sweep_keys, space_file, tmp_path):
    folder, keys = tmp_path / "sweep", {**sweep_keys, "epochs": 12}
    argv = tune_argv(folder, keys, space=space_file, num_samples=8, grace_period=1)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "recbole_blair", *argv]
    with open(tmp_path / "driver.txt", "w") as said:
        driver = subprocess.Popen(command, env=environment, stdout=said, stderr=subprocess.STDOUT)

    def some_over_and_some_going():
        assert driver.poll() is None, (tmp_path / "driver.txt").read_text()[-3000:]
        ended = [n for n, s in statuses(folder).items() if s in ("finished", "stopped")]
        going = [n for n, s in statuses(folder).items() if s == "unfinished" and len(progress(folder, n)) >= 2]
        return ended and going and (ended, going)

    try:
        ended, going = wait_for(some_over_and_some_going, 1200, "a trial that is over and one that is not")
        below = descendants(driver.pid)  # this process has a Ray of its own
        assert len(below) > 4  # Ray's own and the trials'
    finally:
        driver.kill()
        driver.wait()
    assert_none_left([p for p in below if p.name() not in AGENTS])  # nobody writes into the folder any more
    planned, before = points(folder), {n: progress(folder, n) for n in range(8)}
    assert len(planned) == 8 and not (folder / "best.json").exists()

    assert main(["tune", f"--resume={folder}"]) == 0
    assert points(folder) == planned
    assert set(statuses(folder).values()) <= {"finished", "stopped"} and len(statuses(folder)) == 8
    for number in range(8):
        epochs = epochs_of(folder, number)
        assert epochs == list(range(1, len(epochs) + 1))
    for number in ended:  # nobody touched them
        assert progress(folder, number) == before[number]
    kept = [x for n in going for x in before[n][:-1] if x in progress(folder, n)]
    assert len(kept) == sum(len(before[n]) - 1 for n in going)  # at most one epoch was repeated
    best = json.loads((folder / "best.json").read_text())
    values = {n: max(x["ndcg@10"] for x in progress(folder, n)) for n in range(8)}
    assert values[best["trial"]] == max(values.values())
    finished = [n for n in going if statuses(folder)[n] == "finished"]
    if finished:
        assert_as_unbroken(folder, finished[0], keys, tmp_path)
    assert_none_left(below, 180)


def test_a_trial_that_cannot_work_is_reported_and_the_sweep_goes_on(sweep_keys, tmp_path, capfd):
    """A learning rate that ends in an infinite loss, and a width that does not divide by the heads."""
    folder, space = tmp_path / "sweep", tmp_path / "space.yaml"
    space.write_text(
        "learning_rate: {choice: [0.001, 1.0e+30]}\nhidden_size: {choice: [16, 17], when: {learning_rate: 0.001}}\n"
    )
    keys = {**sweep_keys, "epochs": 2, "max_concurrent": 1}
    argv = tune_argv(folder, keys, space=space, search="grid", scheduler="none")
    assert main(argv) == 0
    found = {t.number: (t.point, t.status, t.error) for t in files.load_trials(folder)}
    assert [s for _, s, _ in found.values()] == ["finished", "failed", "failed"]
    errors = {(p["learning_rate"], p.get("hidden_size")): e for p, _, e in found.values()}
    assert "n_heads" in errors[0.001, 17] and "the loss became" in errors[1e30, None]
    shown = capfd.readouterr()
    assert shown.err.count("and goes on from there") == 2  # once each
    assert "trial 1 failed:" in shown.err and "1 finished, 2 failed" in shown.out
    assert json.loads((folder / "best.json").read_text())["trial"] == 0

    only = tmp_path / "only.yaml"
    only.write_text("hidden_size: {choice: [17]}\n")
    argv = tune_argv(tmp_path / "none", keys, space=only, search="grid", max_failures=0)
    assert main(argv) == 1
    assert not (tmp_path / "none" / "best.yaml").exists() and "1 failed" in capfd.readouterr().out


def test_a_stopped_trial_may_take_its_time_to_end(sweep_keys, tmp_path, capfd, monkeypatch):
    """Its process is given the next trial, which waits until the thread of the one before is over."""
    folder, space = tmp_path / "sweep", tmp_path / "space.yaml"
    space.write_text("learning_rate: {choice: [0.01, 1.0e-7, 2.0e-7, 3.0e-7]}\n")

    def end_slowly(config, sweep):
        try:
            run_trial(config, sweep)
        finally:
            time.sleep(4)

    monkeypatch.setattr(driver, "run_trial", end_slowly)
    keys = {**sweep_keys, "epochs": 2, "max_concurrent": 1}
    assert main(tune_argv(folder, keys, space=space, search="grid", grace_period=1)) == 0
    ended = list(statuses(folder).values())
    assert set(ended) == {"finished", "stopped"} and "stopped" in ended[:-1], capfd.readouterr().err


def test_the_time_is_over_and_a_resumed_sweep_has_as_much_again(sweep_keys, space_file, tmp_path, capfd):
    folder, keys = tmp_path / "sweep", {**sweep_keys, "epochs": 3000, "stopping_step": 9000, "max_concurrent": 1}
    seconds = 10
    argv = tune_argv(folder, keys, space=space_file, num_samples=2, scheduler="none", time_budget_s=seconds)
    while main(argv):  # over before the first epoch on a machine this slow: nothing to show, and 1
        assert set(statuses(folder).values()) == {"planned"} and seconds < 600
        seconds *= 2
        argv = ["tune", f"--resume={folder}", f"--time_budget_s={seconds}"]
    first = {n: len(progress(folder, n)) for n in range(2)}
    assert set(statuses(folder).values()) <= {"unfinished", "planned"} and max(first.values()) >= 1
    assert f"they go on with --resume={folder}" in capfd.readouterr().out.replace("\n", "")
    assert (folder / "best.yaml").is_file()
    later = first
    while sum(later.values()) == sum(first.values()):
        assert seconds < 600
        assert main(["tune", f"--resume={folder}", f"--time_budget_s={seconds}"]) == 0
        later, seconds = {n: len(progress(folder, n)) for n in range(2)}, seconds * 2
    assert all(later[n] >= first[n] for n in range(2))
    for number in range(2):
        assert epochs_of(folder, number) == list(range(1, later[number] + 1))

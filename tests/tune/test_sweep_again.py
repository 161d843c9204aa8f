"""The same command goes on with an interrupted sweep; a sweep at work is never silent."""

import os
import time

import pytest

from recbole_blair.errors import InputError
from recbole_blair.tune import heartbeat
from recbole_blair.tune import sweep_dir as files
from recbole_blair.tune.run import build_sweep
from recbole_blair.tune.sweep_dir import Trial


@pytest.fixture
def asked(sweep_keys, space_file, tmp_path, monkeypatch):
    """The arguments of `build_sweep` for two trials, without a folder."""
    monkeypatch.chdir(tmp_path)
    return {"options": {"space": str(space_file), "num_samples": 2, "ray_cpus": 2}, **sweep_keys}


@pytest.fixture
def begun(asked):
    """A sweep that has its folder, of another time, and two trials: one after epoch 2, one not begun."""
    sweep = build_sweep("SASRecText", "tiny", **asked)
    sweep.folder = sweep.folder.with_name("20200101-000000-tune-SASRecText-tiny")
    files.save_sweep(sweep.folder, sweep.spec())
    for trial in sweep.trials:
        files.save_trial(sweep.folder, trial)
    for epoch in (1, 2):
        line = {"epoch": epoch, "loss": 1.0, "ndcg@10": 0.1 * epoch, "seconds": 1.0}
        files.append_progress(files.trial_dir(sweep.folder, 0), line)
    return sweep


def test_the_same_command_goes_on(begun, asked, capsys):
    again = build_sweep("SASRecText", "tiny", **asked)
    assert again.folder.name == begun.folder.name and [t.status for t in again.trials] == ["unfinished", "planned"]
    assert f"going on with the interrupted sweep {again.folder}" in capsys.readouterr().err


@pytest.mark.parametrize("change", [{"fresh": True}, {"epochs": 77}, {"seed": 3}])
def test_another_sweep_starts_anew(begun, asked, change):
    assert build_sweep("SASRecText", "tiny", **{**asked, **change}).folder.name != begun.folder.name


def test_a_sweep_on_an_older_build_is_left_alone(begun, asked):
    os.utime(begun.folder / files.SWEEP, (1, 1))
    assert build_sweep("SASRecText", "tiny", **asked).folder.name != begun.folder.name


def test_a_finished_sweep_is_left_alone(begun, asked):
    (begun.folder / files.BEST_RUN).write_text("{}")
    assert build_sweep("SASRecText", "tiny", **asked).folder.name != begun.folder.name


def test_fresh_contradicts_the_folder_of_a_sweep(begun, asked):
    with pytest.raises(InputError, match=f"--fresh starts a new sweep, but {begun.folder} holds one"):
        build_sweep("SASRecText", "tiny", fresh=True, output_dir=str(begun.folder), **asked)
    with pytest.raises(InputError, match=r"--fresh starts a new sweep, but --resume=.* goes on with one"):
        build_sweep(None, None, resume=str(begun.folder), fresh=True)


def test_a_line_says_what_runs_and_the_best_so_far(begun, capsys):
    words = "sweep: 0 of 2 trials over; trial 0 after epoch 2; best ndcg@10 .2000 (trial 0)"
    assert heartbeat.describe_progress(begun) == words
    with heartbeat.heartbeat(begun, every_s=0.05):
        time.sleep(0.5)
    assert capsys.readouterr().err.count(words) >= 2
    time.sleep(0.2)
    assert not capsys.readouterr().err  # it ended with the sweep
    files.append_progress(files.trial_dir(begun.folder, 1), {"epoch": 1, "loss": 1.0, "ndcg@10": 0.3, "seconds": 1.0})
    for trial in (0, 1):
        files.save_trial(begun.folder, Trial(trial, {}, files.FINISHED))
    assert heartbeat.describe_progress(begun).endswith("2 of 2 trials over; the best one's test rows are evaluated")


def test_the_line_before_the_first_epoch(begun):
    (files.trial_dir(begun.folder, 0) / files.PROGRESS).unlink()
    words = "sweep: 0 of 2 trials over; data are made, or the first trials start"
    assert heartbeat.describe_progress(begun) == words

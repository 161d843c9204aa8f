"""The same command goes on with the run that was interrupted, and with no other."""

import os
import shutil

import pytest
from builds import random_sequences, write_build
from filelock import FileLock

from recbole_blair import quick_start
from recbole_blair.cli.main import main
from recbole_blair.train import checkpoint

ARGV = ["train", "--model=SASRecID", "--dataset=tiny", "--data_path=data", "--epochs=3", "--hidden_size=8"]
ARGV += ["--device=cpu", "--show_progress=False", "--n_negatives=4", "--threads=1"]


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """The folder of a run that Ctrl-C stopped after its first epoch, in the current folder's runs/."""
    write_build(tmp_path / "data", random_sequences(20))
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        real = checkpoint.save_epoch

        def stop(*args):
            real(*args)
            raise KeyboardInterrupt

        patch.setattr(checkpoint, "save_epoch", stop)
        assert main(ARGV) == 130
    (run,) = (tmp_path / "runs").iterdir()
    return run.rename(run.with_name(f"20200101-000000-{run.name.split('-', 2)[2]}"))


def runs(tmp_path):
    return sorted(path.name for path in (tmp_path / "runs").iterdir())


def without(argv, option):
    return [word for word in argv if word.split("=")[0] != option.split("=")[0]]


def test_the_same_command_goes_on(stopped, tmp_path, capsys):
    assert main(ARGV) == 0
    shown = capsys.readouterr().err
    assert f"going on with the interrupted run {stopped.relative_to(tmp_path)} of this configuration" in shown
    assert "resumed after epoch 1 of 3" in shown and runs(tmp_path) == [stopped.name]
    assert (stopped / "metrics.json").is_file()
    assert main(ARGV) == 0  # that one is finished: a new run
    assert len(runs(tmp_path)) == 2


def test_a_python_call_goes_on_too(stopped, tmp_path):
    keys = {"data_path": "data", "epochs": 3, "hidden_size": 8, "device": "cpu", "show_progress": False}
    result = quick_start.run("SASRecID", "tiny", n_negatives=4, threads=1, **keys)
    assert result["output_dir"] == str(stopped.relative_to(tmp_path))


@pytest.mark.parametrize("other", ["--fresh", "--seed=7", "--hidden_size=16", "--data_path=elsewhere", "--epochs=2"])
def test_another_configuration_starts_anew(stopped, tmp_path, other):
    shutil.copytree("data", "elsewhere", copy_function=shutil.copy2)
    assert main([*without(ARGV, other), other]) == 0
    assert len(runs(tmp_path)) == 2 and not (stopped / "metrics.json").exists()


def test_a_run_on_an_older_build_is_left_alone(stopped, tmp_path):
    later = stopped.joinpath("config.yaml").stat().st_mtime + 5
    os.utime("data/tiny/tiny.test.inter", (later, later))
    assert main(ARGV) == 0
    assert len(runs(tmp_path)) == 2 and not (stopped / "metrics.json").exists()


def test_a_run_that_another_process_trains_is_left_alone(stopped, tmp_path):
    with FileLock(stopped / ".lock"):
        assert main(ARGV) == 0
    assert len(runs(tmp_path)) == 2 and not (stopped / "metrics.json").exists()


def test_several_seeds_go_on_where_they_were(tmp_path, monkeypatch, capsys):
    write_build(tmp_path / "data", random_sequences(20))
    monkeypatch.chdir(tmp_path)
    real = quick_start.evaluate_test
    with monkeypatch.context() as patch:

        def stop_the_second(trainer, *args):
            if trainer.config["seed"] == 2:
                raise KeyboardInterrupt
            return real(trainer, *args)

        patch.setattr(quick_start, "evaluate_test", stop_the_second)
        assert main([*ARGV, "--seeds=1,2"]) == 130
    (root,) = (tmp_path / "runs").iterdir()
    assert f"--resume={root.relative_to(tmp_path)}" in capsys.readouterr().err
    assert main([*ARGV, "--seeds=1,2"]) == 0 and runs(tmp_path) == [root.name]
    assert all((root / f"SASRecID-{seed}" / "metrics.json").is_file() for seed in (1, 2))


def test_fresh_contradicts_the_folder_of_a_run(stopped, capsys):
    assert main([*ARGV, "--fresh", f"--output_dir={stopped}"]) == 2
    assert f"error: --fresh starts a new run, but {stopped} holds one" in capsys.readouterr().err
    assert main(["train", f"--resume={stopped}", "--fresh"]) == 2
    assert "leave out one of the two" in capsys.readouterr().err


def test_the_end_says_why_and_what_is_next(stopped, capsys):
    more = ["--stopping_step=1", "--learning_rate=1e-12", "--epochs=9", "--output_dir=runs/mine"]
    assert main([*without(ARGV, "--epochs"), *more]) == 0
    shown = capsys.readouterr().err
    why = "stopped early: 1 validations without a better ndcg@10 (stopping_step: 1); best: epoch 1"
    assert f"training ended after epoch 2 of 9, {why}" in shown and "(at most " in shown
    assert "next: recbole-blair report runs/mine  or  recbole-blair recommend --checkpoint=runs/mine --users=" in shown
    assert main([*ARGV, "--output_dir=runs/all"]) == 0
    assert "training ended after epoch 3 of 3, all epochs are done; best: epoch" in capsys.readouterr().err


def test_ctrl_c_before_there_is_a_run_names_the_command(tmp_path, monkeypatch, capsys):
    write_build(tmp_path / "data", random_sequences(20))
    monkeypatch.chdir(tmp_path)

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(quick_start, "open_dataset", stop)
    assert main([*ARGV, "--seed=3"]) == 130
    shown = capsys.readouterr().err
    assert f"interrupted; go on with: recbole-blair {' '.join([*ARGV, '--seed=3'])}" in shown

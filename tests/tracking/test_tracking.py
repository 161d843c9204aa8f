"""What is logged when: waiting, failures, resumed runs, one line for what is missing."""

import importlib.util
import json
import threading

import pytest
from fake_trackers import Told, state

from recbole_blair.errors import InputError
from recbole_blair.tracking import tracking as module
from recbole_blair.tracking.trackers import TRACKERS, RunPlace, check_trackers
from recbole_blair.tracking.tracking import Tracking, describe, hyper_parameters


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A Tracking of the tracker `told` in a folder, the lines it printed, and its run."""
    monkeypatch.setitem(TRACKERS, "told", Told)

    def build(names=("told",), parent=None):
        lines = []
        tracking = Tracking(names, RunPlace(tmp_path, "run", parent), {"epochs": 3}, lines.append)
        return tracking, lines, next(iter(tracking.runs.values()), None)

    return build


def sent(run):
    return [(step, values) for name, values, step in (call for call in run.calls if call[0] == "send")]


def test_numbers_go_to_the_run_until_it_ends(make):
    tracking, lines, run = make()
    with tracking:
        tracking.on_train_begin(state(0))
        tracking.on_log(state(1), {"loss": 2.0})
        tracking.on_log(state(1), {"valid": 0.5})
        assert sent(run) == [(1, {"loss": 2.0}), (1, {"valid": 0.5})]  # taken when on_log returns
    assert run.calls[0] == ("start", 0) and run.calls[-1] == ("finish", False) and not lines
    thread = tracking.workers["told"].thread
    thread.join(5)
    assert not thread.is_alive()


def test_without_trackers_nothing_is_started_or_written(make, tmp_path):
    tracking, _, _ = make(names=None)
    with tracking:
        tracking.on_train_begin(state(0))
        tracking.on_log(state(1), {"loss": 2.0})
    assert not tracking.workers and not list(tmp_path.iterdir())


def test_a_resumed_run_logs_no_step_again(make):
    first, _, _ = make()
    with first:
        first.on_train_begin(state(0))
        for epoch in (1, 2):
            first.on_log(state(epoch), {"loss": -epoch})
    again, _, run = make()
    with again:
        again.on_train_begin(state(1))  # killed before the second epoch's checkpoint
        for epoch in (2, 3):
            again.on_log(state(epoch), {"loss": -epoch, "test": 0.5} if epoch == 3 else {"loss": -epoch})
    assert run.kept["id"] == "a run" and not run.fresh
    assert sent(run) == [(3, {"loss": -3, "test": 0.5})]


def test_what_a_tracker_did_not_take_is_sent_with_the_next_line(make):
    tracking, lines, run = make()
    run.script["send"] = [ConnectionError("no route to https://ann:secret@tracker.example/api"), TimeoutError("again")]
    with tracking:
        tracking.on_train_begin(state(0))
        for epoch in (1, 2, 3):
            tracking.on_log(state(epoch), {"loss": epoch})
    assert sent(run) == [(1, {"loss": 1}), (2, {"loss": 2}), (3, {"loss": 3})]
    (line,) = lines
    assert "ConnectionError: no route to https://tracker.example/api; training goes on" in line and "secret" not in line


def test_what_never_reached_the_tracker_is_said(make):
    tracking, lines, run = make()
    run.script["send"] = [OSError("gone")] * 9
    with tracking:
        tracking.on_train_begin(state(0))
        for epoch in (1, 2):
            tracking.on_log(state(epoch), {"loss": epoch})
    assert "2 lines of the log never reached --log=told" in lines[-1] and len(lines) == 2


def test_training_waits_once_for_a_tracker_that_does_not_answer(make, monkeypatch):
    tracking, lines, run = make()
    answer = threading.Event()
    run.script["send"] = [lambda: answer.wait(60)]
    tracking.patience_s["told"] = 0.05
    with tracking:
        tracking.on_train_begin(state(0))
        tracking.on_log(state(1), {"loss": 1})
        assert "training no longer waits" in lines[0] and tracking.patience_s["told"] == 0
        tracking.on_log(state(2), {"loss": 2})
        assert sent(run) == []
        answer.set()
    assert sent(run) == [(1, {"loss": 1}), (2, {"loss": 2})] and len(lines) == 1


def test_a_tracker_that_hangs_keeps_no_other_waiting(make, monkeypatch):
    monkeypatch.setitem(TRACKERS, "other", Told)
    tracking, _, run = make(names=("told", "other"))
    answer = threading.Event()
    run.script["send"] = [lambda: answer.wait(60)]
    tracking.patience_s["told"] = 0.05
    with tracking:
        tracking.on_train_begin(state(0))
        for epoch in (1, 2):
            tracking.on_log(state(epoch), {"loss": epoch})
        assert sent(run) == [] and sent(tracking.runs["other"]) == [(1, {"loss": 1}), (2, {"loss": 2})]
        answer.set()
    assert sent(run) == sent(tracking.runs["other"])


def test_what_waits_is_sent_at_the_end(make):
    tracking, lines, run = make()
    run.script["send"] = [OSError("busy")]
    with tracking:
        tracking.on_train_begin(state(0))
        tracking.on_log(state(1), {"loss": 1})
    assert sent(run) == [(1, {"loss": 1})] and len(lines) == 1


def test_the_end_does_not_wait_for_ever(make, monkeypatch):
    monkeypatch.setattr(module, "END_S", 0.05)
    tracking, lines, run = make()
    answer = threading.Event()
    run.script["finish"] = [lambda: answer.wait(60)]
    with tracking:
        tracking.on_train_begin(state(0))
    answer.set()
    assert "did not take all within" in lines[0]


def test_an_error_ends_the_run_as_failed(make):
    tracking, _, run = make()
    with pytest.raises(KeyboardInterrupt), tracking:
        tracking.on_train_begin(state(0))
        raise KeyboardInterrupt
    assert run.calls[-1] == ("finish", True)


def test_a_trial_that_was_stopped_did_not_fail(make):
    tracking, _, run = make()
    with pytest.raises(SystemExit), tracking:
        tracking.on_train_begin(state(0))
        raise SystemExit(0)
    assert run.calls[-1] == ("finish", False)


def test_a_tracker_that_cannot_start_is_one_line(make, monkeypatch):
    tracking, _, run = make()
    run.script["start"] = [PermissionError("log in first")]
    with (
        pytest.raises(InputError, match=r"--log=told cannot start a run: PermissionError: log in first\. See"),
        tracking,
    ):
        tracking.on_train_begin(state(0))
    assert run.calls == []
    monkeypatch.setattr(module, "START_S", 0.05)
    tracking, _, run = make()
    answer = threading.Event()
    run.script["start"] = [lambda: answer.wait(60)]
    with pytest.raises(InputError, match=r"--log=told cannot start a run: no answer within"), tracking:
        tracking.on_train_begin(state(0))
    answer.set()


def test_a_damaged_record_is_one_line(make, tmp_path):
    (tmp_path / "trackers.json").write_text('{"told": {"id": ')
    with pytest.raises(InputError, match=r"trackers\.json .*; delete it for new runs there"):
        make()
    for wrong in ({"told": 3}, {"told": {"steps": [1]}}, {"told": {"steps": {"loss": "x"}}}):
        (tmp_path / "trackers.json").write_text(json.dumps(wrong))
        with pytest.raises(InputError, match=r"trackers\.json is damaged: .*; delete it for new runs there"):
            make()


def test_the_hyper_parameters_are_plain_and_tell_no_folders(tmp_path):
    (tmp_path / "encoder").mkdir()
    config = {
        "model": "SASRecID", "topk": [10, 50], "learning_rate": 0.001, "mask_history": False, "clip_grad_norm": None,
        "plm": str(tmp_path / "encoder"), "init_from": "/elsewhere/runs/first", "USER_ID_FIELD": "user_id",
        "plm_base_url": "https://key@server/v1", "MAX_ITEM_LIST_LENGTH": 50,
    }  # fmt: skip
    assert hyper_parameters(config) == {
        "model": "SASRecID", "topk": "[10, 50]", "learning_rate": 0.001, "mask_history": False, "plm": "encoder",
        "init_from": "first", "MAX_ITEM_LIST_LENGTH": 50,
    }  # fmt: skip
    assert hyper_parameters({"plm": "someone/an-encoder"}) == {"plm": "someone/an-encoder"}


def test_an_error_is_one_short_line():
    assert describe(ValueError("a\n  b https://u:p@h/x")) == "ValueError: a b https://h/x"
    assert len(describe(ValueError("x" * 5000))) < 320


@pytest.mark.parametrize(
    ("names", "absent", "line"),
    [
        (["tensorboard"], ["accelerate"], r"--log=tensorboard needs accelerate, .* 'recbole-blair\[track\]'$"),
        (["mlflow"], ["mlflow"], r"--log=mlflow needs mlflow, not installed for .*: pip install mlflow$"),
        (["tensorboard", "wandb"], ["wandb"], r"--log=wandb needs wandb, not installed for .*: pip install wandb$"),
        (["wandb"], ["wandb", "accelerate"], r"accelerate and wandb, .*: pip install 'recbole-blair\[track\]' wandb$"),
    ],
)  # fmt: skip
def test_a_library_that_is_missing_is_named(monkeypatch, names, absent, line):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else real("json"))
    with pytest.raises(InputError, match=line):
        check_trackers(names)
    check_trackers(None)


def test_a_folder_of_wandbs_name_is_not_the_library(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    if importlib.util.find_spec("wandb").origin is None:  # else it is installed
        with pytest.raises(InputError, match="needs wandb"):
            check_trackers(["wandb"])

"""A trial that Ray dropped before it began is recorded as failed, with a reason; one not reached stays planned."""

from types import SimpleNamespace

import pytest

from recbole_blair.tune import sweep_dir as files
from recbole_blair.tune.sweep_dir import Trial


class RayTrial(SimpleNamespace):
    """Stands for one of Ray's trials: its text is its name."""

    ERROR = "ERROR"

    def __str__(self):
        return f"{self.number:04d}"


def test_a_trial_that_ray_dropped_has_failed(tmp_path, capsys):
    pytest.importorskip("ray", reason="the extra tune is not installed")
    from recbole_blair.tune.driver import DROPPED, Journal

    ended = [("ERROR", files.PLANNED), ("PENDING", files.PLANNED), ("TERMINATED", files.STOPPED)]
    for number, (_, written) in enumerate(ended):
        files.save_trial(tmp_path, Trial(number, {}, written))
    files.save_trial(tmp_path, Trial(3, {}, files.FAILED, "its own reason"))
    sweep = SimpleNamespace(folder=tmp_path, metric="ndcg@10", settings={"search": "grid"}, trials=range(4))
    trials = [RayTrial(number=number, status=status) for number, status in enumerate([*[s for s, _ in ended], "ERROR"])]
    Journal(sweep, ()).on_experiment_end(trials)
    assert [(trial.status, trial.error) for trial in files.load_trials(tmp_path)] == [
        ("failed", DROPPED), ("planned", None), ("stopped", None), ("failed", "its own reason")
    ]  # fmt: skip
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and "trial   0 of 4  failed after epoch 0" in shown and "it never began" in shown

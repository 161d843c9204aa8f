"""`ops: plain` runs a training with the plain forms alone, and is kept in the run's configuration."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from builds import random_sequences, write_build, write_features

from recbole_blair.errors import InputError
from recbole_blair.ops import plain_ops, switch
from recbole_blair.quick_start import run
from recbole_blair.runs.evaluate_run import evaluate_run
from recbole_blair.tracking.callback import Callback
from recbole_blair.train.run_folder import load_config

KEYS = {
    "epochs": 2, "train_batch_size": 16, "device": "cpu", "precision": "fp32", "show_progress": False,
    "plm": "someone/test-encoder", "hidden_size": 16, "n_heads": 2, "seed": 3,
}  # fmt: skip
QUIET = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "adaptor_dropout_prob": 0.0, "noisy_gating": False}


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    folder = write_build(tmp_path_factory.mktemp("data"), random_sequences(n_users=30, n_items=15))
    write_features(folder)
    return str(folder.parent)


@pytest.fixture
def chosen(monkeypatch):
    """What was chosen, fast or plain, at each call of an operation."""
    called = []
    monkeypatch.setattr(switch, "plain_ops", lambda: called.append(switch._chosen) or switch._chosen == "plain")
    return called


@pytest.mark.parametrize("model", ["UniSRecBlair", "HSTUBlair"])
def test_plain_and_fast_train_to_the_same_losses(model, data_path, tmp_path, chosen):
    """Without dropout nothing is random but the start."""
    quiet = QUIET if model == "UniSRecBlair" else {"dropout_prob": 0.0, "softmax": "full"}
    losses = {}
    for ops in ("fast", "plain"):
        chosen.clear()
        kept = losses[ops] = []
        run(
            model, "tiny", ops=ops, data_path=data_path, output_dir=str(tmp_path / ops),
            callbacks=[Callback(on_epoch_end=lambda _, m, kept=kept: kept.append(m["loss"]))], **KEYS, **quiet,
        )  # fmt: skip
        assert set(chosen) == {ops} and not plain_ops()
    assert losses["plain"] == pytest.approx(losses["fast"], rel=1e-4)
    assert load_config(tmp_path / "plain")["ops"] == "plain"
    metrics = [evaluate_run(tmp_path / "plain", data_path=data_path, ops=ops)[0] for ops in ("plain", "fast")]
    assert metrics[0] == pytest.approx(metrics[1], abs=1e-6) and not plain_ops()


def test_a_run_of_the_other_form_is_another_run(data_path, tmp_path):
    keys = {**KEYS, "epochs": 1, "data_path": data_path, "output_dir": str(tmp_path / "run")}
    run("SeqPop", "tiny", **{k: v for k, v in keys.items() if k not in ("hidden_size", "n_heads")})
    with pytest.raises(InputError, match="ops 'fast' -> 'plain'"):
        run("SeqPop", "tiny", ops="plain", **{k: v for k, v in keys.items() if k not in ("hidden_size", "n_heads")})

"""The last_out protocol from raw files to metrics: its split, its masking, its metrics, and all of it recorded."""

import json

import numpy as np
import pytest

from recbole_blair.cli.main import main
from recbole_blair.config import resolve_config
from recbole_blair.quick_start import run
from recbole_blair.registry import find_model
from recbole_blair.runs.evaluate_run import evaluate_run
from recbole_blair.runs.open_run import open_run

FAST = {
    "sample_users": 120, "sample_items": 80, "epochs": 1, "device": "cpu", "precision": "fp32", "show_progress": False,
}  # fmt: skip
NAMES = ["hit@10", "ndcg@10", "mrr@10", "hit@50", "ndcg@50", "mrr@50", "hit@200", "ndcg@200", "mrr@200", "mrr"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An HSTU trained from nothing with --protocol=last_out alone: (folder of the builds, run folder, metrics)."""
    root = tmp_path_factory.mktemp("last_out")
    metrics = run(
        "HSTU", "sample", protocol="last_out", data_path=str(root / "data"), raw_dir=str(root / "raw"),
        output_dir=str(root / "run"), train_batch_size=32, n_layers=1, **FAST,
    )  # fmt: skip
    return root, root / "run", metrics


def test_what_the_protocol_sets_is_used_and_recorded(trained):
    _, run_dir, metrics = trained
    assert list(metrics["test"]) == NAMES
    written = json.loads((run_dir / "metrics.json").read_text())
    assert (written["protocol"], written["history_masked"]) == ("last_out", True)
    assert written["dataset"] == "sample-u120-i80-last_out"
    assert 0 < written["test"]["hit@10"] <= written["test"]["hit@50"] <= written["test"]["hit@200"] <= 1


def test_every_user_has_one_row_in_valid_and_one_in_test(trained):
    _, run_dir, _ = trained
    dataset = open_run(run_dir).dataset
    users = {split: np.asarray(rows.user) for split, rows in dataset.rows.items()}
    assert len(set(users["test"])) == len(users["test"]) == dataset.n_users - 1
    np.testing.assert_array_equal(users["valid"], users["test"])
    last = {split: np.asarray(rows.target) for split, rows in dataset.rows.items()}
    np.testing.assert_array_equal(last["valid"] + 1, last["test"])
    ends = np.append(np.asarray(dataset.user_start)[2:], len(dataset.seq_items))
    np.testing.assert_array_equal(last["test"], ends - 1)
    counts = np.bincount(users["train"], minlength=dataset.n_users)[1:]
    assert counts.min() >= 2  # five events: a first one, at least two train targets, valid, test


def test_masking_lifts_targets_above_their_history(trained):
    _, run_dir, metrics = trained
    masked, rank = evaluate_run(run_dir)
    open_, open_rank = evaluate_run(run_dir, mask_history=False)
    assert masked == metrics["test"]
    assert (rank <= open_rank).all() and (rank < open_rank).any()
    assert list(open_) == NAMES


def test_what_is_given_outranks_the_protocol():
    info = find_model("HSTU")
    keys = ("mask_history", "topk", "metrics")
    asked = resolve_config(info, "Games", overrides={"protocol": "last_out", "mask_history": False, "topk": [5]})
    assert [asked[k] for k in keys] == [False, [5], ["hit", "ndcg", "mrr"]]
    plain = resolve_config(info, "Games")
    assert [plain[k] for k in keys] == [False, [10, 50], ["recall", "ndcg", "hit", "mrr"]]


def test_the_protocol_may_come_from_a_file(tmp_path):
    (tmp_path / "mine.yaml").write_text("protocol: last_out\nmetrics: [ndcg]\n")
    config = resolve_config(find_model("SASRecID"), "Games", [tmp_path / "mine.yaml"])
    assert (config["mask_history"], config["topk"], config["metrics"]) == (True, [10, 50, 200], ["ndcg"])
    back = resolve_config(find_model("SASRecID"), "Games", [tmp_path / "mine.yaml"], {"protocol": "timestamp"})
    assert (back["mask_history"], back["topk"]) == (False, [10, 50])


def test_the_commands_agree_on_the_build(trained, capsys, monkeypatch):
    root, _, _ = trained
    shared = [f"--data_path={root / 'data'}", f"--raw_dir={root / 'raw'}", "--protocol=last_out"]
    shared += ["--sample_users=120", "--sample_items=80"]
    before = {p: p.stat().st_mtime_ns for p in (root / "data").rglob("*.inter")}
    assert main(["prepare", "--dataset=sample", "--quiet", *shared]) == 0
    assert {p: p.stat().st_mtime_ns for p in (root / "data").rglob("*.inter")} == before
    capsys.readouterr()
    args = ["--model=SeqPop", "--dataset=sample", "--seeds=2020", "--baselines=", "--show_progress=False"]
    assert main(["train", *args, *shared, "--device=cpu", f"--output_dir={root / 'pop'}"]) == 0
    shown = capsys.readouterr().out
    for word in ("hit@10", "hit@200", "ndcg@200", "mrr", "history masked"):
        assert word in shown
    assert "recall" not in shown

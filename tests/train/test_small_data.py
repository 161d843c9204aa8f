"""Few rows: the batch is chosen by them, so that a model learns before its patience runs out."""

import json

import pytest
from builds import random_sequences, write_build

from recbole_blair.cli.main import main
from recbole_blair.config import resolve_config
from recbole_blair.data.dataset import BlairDataset
from recbole_blair.registry import find_model
from recbole_blair.registry.build_model import build_loaders, choose_batch_size, describe_batches
from recbole_blair.schema import format_ms


@pytest.mark.parametrize(
    ("rows", "full", "processes", "size"),
    [
        (75_495, 2048, 1, 2048),  # Electronics: as in the papers
        (16_384, 2048, 1, 2048),  # 8 steps: as it is
        (16_383, 2048, 1, 512),  # 16,383 / 16 = 1,023.9, the power of two below: 32 steps
        (1_700, 2048, 1, 64),  # 106: 27 steps in place of one
        (1_700, 2048, 2, 32),  # the same 64 rows of two processes
        (100, 2048, 1, 16),  # not below 16
        (1_000, 128, 1, 32),  # windows of HSTU: 62
        (1_024, 128, 1, 128),
        (5, 8, 1, 8),  # never above what is a full batch
    ],
)
def test_the_size_follows_the_rows(rows, full, processes, size):
    assert choose_batch_size(rows, full, processes) == size


def test_only_a_size_that_nobody_gave_is_chosen(tmp_path):
    dataset = BlairDataset(write_build(tmp_path, random_sequences(300, longest=8)))
    rows = len(dataset.rows["train"])
    assert 600 <= rows < 1024

    def size(model, **keys):
        info = find_model(model)
        return build_loaders(info, resolve_config(info, "tiny", overrides=keys), dataset)["train"].batch_size

    assert [size("SASRec"), size("SASRec", train_batch_size=2048), size("SASRec", full_batch_size=64)] == [32, 2048, 64]
    assert size("SASRecID") == 16  # of 300 windows, full_batch_size: 128


def test_the_line_names_rows_steps_and_the_key():
    assert describe_batches(1_700, 64, given=False).startswith(
        "train_batch_size: 64 for 1,700 rows, 27 steps per epoch"
    )
    assert "train_batch_size=2048 makes 1 step per epoch of 1,700 rows" in describe_batches(1_700, 2048, given=True)
    assert describe_batches(1_700, 64, given=True) is None


def test_sasrec_learns_1700_rows(tmp_path, monkeypatch, capsys):
    """Items follow a ring: the next one is certain. In four epochs four steps do less than a hundred."""
    write_build(tmp_path / "data", random_sequences(440, n_items=60, longest=9))
    monkeypatch.chdir(tmp_path)
    argv = ["train", "--model=SASRec", "--dataset=tiny", "--data_path=data", "--device=cpu", "--show_progress=False"]
    argv += ["--epochs=4", "--threads=1", "--hidden_size=32", "--inner_size=32", "--n_layers=1"]
    found = {}
    for name, more in (("one", ["--train_batch_size=2048"]), ("default", [])):
        assert main([*argv, *more, f"--output_dir={name}"]) == 0
        found[name] = json.loads((tmp_path / name / "metrics.json").read_text())
    assert 1_400 < found["one"]["rows"]["train"] < 2_000
    assert (found["one"]["train_batch_size"], found["default"]["train_batch_size"]) == (2048, 64)
    assert found["one"]["test"]["ndcg@10"] < 0.4 < 0.6 < found["default"]["test"]["ndcg@10"]
    shown = capsys.readouterr().err
    assert "warning: train_batch_size=2048 makes 1 step per epoch" in shown and "train_batch_size: 64 for 1," in shown


def test_a_sample_of_another_size_has_the_keys_of_the_sample():
    for model in ("UniSRecBlair", "HSTU"):
        keys = [resolve_config(find_model(model), name).plain() for name in ("sample", "sample-u100-i60")]
        assert {key for key in keys[0] if keys[0][key] != keys[1][key]} == {"dataset"}
    assert keys[1]["train_batch_size"] == 16 and keys[1]["plm"] == "tfidf-svd"
    assert resolve_config(find_model("HSTU"), "sample-of-mine")["plm"] != "tfidf-svd"


def test_instants_are_shown_as_dates():
    assert format_ms(1628643414042) == "2021-08-11 00:56:54.042 UTC (1628643414042)"
    assert format_ms(0) == "1970-01-01 00:00:00 UTC (0)"
    assert format_ms(10**20) == str(10**20)

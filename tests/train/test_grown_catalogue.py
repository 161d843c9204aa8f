"""`train --init_from` after a night: the catalogue grew and has another order; known items bring their rows along."""

import json

from builds import random_sequences, write_build
from safetensors.torch import load_file

from recbole_blair.cli.main import main

ARGV = ["train", "--model=SASRecID", "--device=cpu", "--show_progress=False", "--threads=1", "--hidden_size=8"]
ARGV += ["--n_negatives=4", "--epochs=1"]


def item_ids(folder):
    return (folder / "checkpoint/items.txt").read_text().splitlines()


def table_of(folder):
    """The one matrix with a row per item, without the rows beside them."""
    weights = load_file(folder / "checkpoint/best.safetensors").values()
    n_items = json.loads((folder / "metrics.json").read_text())["n_items"]
    (table,) = (value for value in weights if value.ndim == 2 and value.shape[0] - n_items in (0, 1, 2))
    return table[min(1, len(table) - n_items) :][:n_items]


def test_rows_of_known_items_are_carried_over(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_build(tmp_path / "old", random_sequences(30, n_items=20))
    write_build(tmp_path / "new", random_sequences(40, n_items=26, seed=3))
    assert main([*ARGV, "--dataset=tiny", "--data_path=old", "--output_dir=a"]) == 0
    more = ["--init_from=a", "--learning_rate=1e-12"]  # so that the rows stay what they were
    assert main([*ARGV, "--dataset=tiny", "--data_path=new", "--output_dir=b", *more]) == 0
    assert "started from a; 20 of 26 items known by their id, the others start afresh" in capsys.readouterr().err
    before, after = (dict(zip(item_ids(tmp_path / x), table_of(tmp_path / x))) for x in "ab")
    assert list(before) != [item for item in after if item in before] and len(after) == 26
    for item, row in before.items():
        assert (after[item] - row).abs().max() < 1e-6, item

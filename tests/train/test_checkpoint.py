"""Run folders: no pickle, atomic writes, random states, starting from another run, damaged files."""

import errno
import os
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from recbole_blair.config import Config
from recbole_blair.errors import InputError
from recbole_blair.train import checkpoint, run_folder
from recbole_blair.train.checkpoint import load_initial_weights, load_last_epoch, save_epoch, save_weights

CPU = torch.device("cpu")


def model(width=3, extra=False):
    layers = {"a": torch.nn.Linear(width, 2)}
    if extra:
        layers["b"] = torch.nn.Linear(2, 2)
    return torch.nn.ModuleDict(layers)


def state(epoch):
    return {"epoch": epoch, "random": checkpoint.random_states(CPU), "best_value": 0.25, "best_metrics": {"mrr": 0.1}}


def draws():
    return random.random(), np.random.random(), np.random.standard_normal(), torch.rand(2).tolist()  # noqa: NPY002


def test_an_epoch_holds_no_pickled_object(tmp_path):
    net = model()
    save_epoch(tmp_path, 3, net, {**state(3), "optimiser": torch.optim.Adam(net.parameters()).state_dict()})
    folder = tmp_path / "checkpoint" / "epoch-0003"
    assert sorted(p.name for p in folder.iterdir()) == ["checksums.json", "model.safetensors", "state.pt"]
    assert torch.load(folder / "state.pt", weights_only=True)["epoch"] == 3
    weights, found = load_last_epoch(tmp_path)
    assert all(torch.equal(weights[k], v) for k, v in net.state_dict().items()) and found["best_value"] == 0.25


def test_random_states_go_on_where_they_were(tmp_path):
    np.random.standard_normal()  # noqa: NPY002  leaves half a pair of normal numbers behind
    random.gauss(0, 1)
    save_epoch(tmp_path, 1, model(), state(1))
    expected = draws()
    assert draws() != expected
    checkpoint.restore_random_states(load_last_epoch(tmp_path)[1]["random"], CPU)
    assert draws() == expected


def test_a_new_epoch_replaces_the_old_one_and_what_kills_left(tmp_path):
    root = tmp_path / "checkpoint"
    save_epoch(tmp_path, 9999, model(), state(9999))
    (root / ".epoch-10000.blair-0123abcd.tmp").mkdir()
    (root / ".best.safetensors.blair-0123abcd.tmp").write_bytes(b"half")
    (root / "best.safetensors").write_bytes(b"kept")
    save_epoch(tmp_path, 10000, model(), state(10000))
    assert sorted(p.name for p in root.iterdir()) == ["best.safetensors", "epoch-10000"]


def test_the_newest_epoch_counts_by_number(tmp_path):
    save_epoch(tmp_path, 10000, model(), state(10000))
    os.rename(tmp_path / "checkpoint" / "epoch-10000", tmp_path / "kept")
    save_epoch(tmp_path, 9999, model(), state(9999))
    os.rename(tmp_path / "kept", tmp_path / "checkpoint" / "epoch-10000")
    assert load_last_epoch(tmp_path)[1]["epoch"] == 10000


def test_an_unfinished_epoch_folder_is_not_loaded(tmp_path):
    assert load_last_epoch(tmp_path) is None
    (tmp_path / "checkpoint" / ".epoch-0002.blair-0123abcd.tmp").mkdir(parents=True)
    assert load_last_epoch(tmp_path) is None


def test_a_full_disk_leaves_the_earlier_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    run_folder.save_config(tmp_path, Config({"model": "old"}))

    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        run_folder.save_config(tmp_path, Config({"model": "new"}))
    assert path.read_text().endswith("\nmodel: old\n") and [p.name for p in tmp_path.iterdir()] == ["config.yaml"]
    with pytest.raises(OSError, match="No space left"):
        save_epoch(tmp_path, 1, model(), state(1))
    assert not list((tmp_path / "checkpoint").glob("*"))


@pytest.mark.parametrize("file", ["state.pt", "model.safetensors"])
@pytest.mark.parametrize("keep", [0, 20, 0.5])
def test_a_damaged_checkpoint_is_named(tmp_path, file, keep):
    save_epoch(tmp_path, 2, model(), state(2))
    path = tmp_path / "checkpoint" / "epoch-0002" / file
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(InputError, match=rf"epoch-0002/{file} is damaged: .*delete .*epoch-0002 to go on without it"):
        load_last_epoch(tmp_path)


def test_a_pickle_in_place_of_the_state_is_refused(tmp_path):
    import pickle

    class Sly:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    save_epoch(tmp_path, 2, model(), state(2))
    (tmp_path / "checkpoint" / "epoch-0002" / "state.pt").write_bytes(pickle.dumps(Sly()))
    with pytest.raises(InputError, match=r"state\.pt is damaged"):
        load_last_epoch(tmp_path)
    assert not (tmp_path / "made").exists()


def test_damaged_best_weights_and_metrics_are_named(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "best.safetensors").write_bytes(b"\x10")
    with pytest.raises(InputError, match=r"best\.safetensors is damaged"):
        checkpoint.load_best(tmp_path)
    (tmp_path / "metrics.json").write_text('{"model": ')
    with pytest.raises(InputError, match=r"metrics\.json is not JSON"):
        run_folder.load_metrics(tmp_path)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no config\.yaml: it is no run folder"):
        run_folder.load_config(tmp_path)
    with pytest.raises(InputError, match=r"holds no checkpoint/best\.safetensors: it is no run folder"):
        checkpoint.load_best(tmp_path)


def save_best(folder, net):
    save_weights(folder / "checkpoint" / "best.safetensors", net)
    return folder


def test_strict_initial_weights_are_all_or_nothing(tmp_path):
    given = model()
    target = model()
    assert load_initial_weights(target, save_best(tmp_path, given), strict=True) == ([], None)
    assert torch.equal(target["a"].weight, given["a"].weight)
    wider, before = model(width=5), model(width=5)
    wider.load_state_dict(before.state_dict())
    with pytest.raises(InputError, match=r"a\.weight is \(2, 3\) there, \(2, 5\) here; .*--init_strict=False"):
        load_initial_weights(wider, tmp_path, strict=True)
    assert torch.equal(wider["a"].weight, before["a"].weight)
    with pytest.raises(InputError, match=r"b\.bias is absent there, \(2,\) here"):
        load_initial_weights(model(extra=True), tmp_path, strict=True)
    with pytest.raises(InputError, match=r"b\.bias is \(2,\) there, absent here"):
        load_initial_weights(model(), save_best(tmp_path / "more", model(extra=True)), strict=True)


def test_loose_initial_weights_list_what_stayed_fresh(tmp_path):
    given, target = model(), model(width=5, extra=True)
    fresh, _ = load_initial_weights(target, save_best(tmp_path, given), strict=False)
    assert fresh == ["a.weight", "b.bias", "b.weight"] and torch.equal(target["a"].bias, given["a"].bias)
    with pytest.raises(InputError, match=r"no weight of .* fits this model"):
        load_initial_weights(torch.nn.Linear(7, 7), tmp_path, strict=False)


def test_saved_weights_are_plain_safetensors(tmp_path):
    net = torch.nn.Linear(2, 2)
    net.register_buffer("big", torch.ones(5), persistent=False)
    save_weights(tmp_path / "w.safetensors", net)
    assert sorted(load_file(tmp_path / "w.safetensors")) == ["bias", "weight"]


class TableOfItems(torch.nn.Module):
    """Rows of 2 numbers: the padding item, the items, one more; a bias per item; and a matrix of something else."""

    def __init__(self, n_items, first):
        super().__init__()
        self.table = torch.nn.Embedding(n_items + 2, 2)
        self.table.weight.data = torch.arange(first, first + n_items + 2.0)[:, None].repeat(1, 2)
        self.bias = torch.nn.Parameter(torch.arange(first, first + n_items, 1.0))
        self.other = torch.nn.Linear(2, 3)


def test_a_grown_catalogue_finds_its_rows_by_item_id(tmp_path):
    """Former items a b c in rows 1 2 3, now b d a c e: b, a and c bring their rows along, d and e stay fresh."""
    given, target = TableOfItems(3, 0), TableOfItems(5, 100)
    save_best(tmp_path, given)
    checkpoint.save_item_ids(tmp_path, given, ["a", "b", "c"])
    assert load_initial_weights(target, tmp_path, True, ["b", "d", "a", "c", "e"]) == ([], 3)
    assert target.table.weight[:, 0].tolist() == [0, 2, 102, 1, 3, 105, 4]  # the last row is the former last one's
    assert target.bias.tolist() == [1, 101, 0, 2, 104]
    assert torch.equal(target.other.weight, given.other.weight)


def test_as_many_items_in_another_order_find_their_rows_too(tmp_path):
    """The Linear has as many rows as there are items: it is no table, and stays as it is."""
    given, target = TableOfItems(3, 0), TableOfItems(3, 100)
    save_best(tmp_path, given)
    checkpoint.save_item_ids(tmp_path, given, ["a", "b", "c"])
    assert load_initial_weights(target, tmp_path, True, ["c", "b", "x"]) == ([], 2)
    assert target.table.weight[:, 0].tolist() == [0, 3, 2, 103, 4]
    assert torch.equal(target.other.weight, given.other.weight)
    same = TableOfItems(3, 100)
    assert load_initial_weights(same, tmp_path, True, ["a", "b", "c"]) == ([], None)
    assert torch.equal(same.table.weight, given.table.weight)

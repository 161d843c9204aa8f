"""Pooling: hand-worked values, and what a folder says about it."""

import json

import pytest
import torch

from recbole_blair.errors import InputError
from recbole_blair.text.pooling import folder_pooling, pool

# Two texts, three positions, width 2; the second text has one token, the rest of it is padding.
STATES = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [8.0, 0.0]], [[5.0, 7.0], [99.0, 99.0], [99.0, 99.0]]])
LENGTHS = torch.tensor([3, 1])


def test_cls_takes_the_first_position():
    assert pool(STATES, LENGTHS, "cls").tolist() == [[1.0, 2.0], [5.0, 7.0]]


def test_mean_leaves_padding_out():
    assert pool(STATES, LENGTHS, "mean").tolist() == [[4.0, 2.0], [5.0, 7.0]]


def test_low_precision_states_are_averaged_in_float32():
    states = torch.full((1, 512, 1), 1.0, dtype=torch.bfloat16)
    states[0, 0] = 3.0
    out = pool(states, torch.tensor([512]), "mean")
    assert out.dtype == torch.float32
    assert out.item() == pytest.approx(514 / 512, abs=1e-7)


def test_unknown_pooling_is_named():
    with pytest.raises(ValueError, match="'max' is not one of cls, mean"):
        pool(STATES, LENGTHS, "max")


def declare(folder, config, modules=None):
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    if modules is not None:
        (folder / "modules.json").write_text(json.dumps(modules))


def test_a_folder_that_says_nothing(tmp_path):
    assert folder_pooling(tmp_path) is None


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": ["mean"]}, "mean"),
    ],
)
def test_both_ways_of_declaring_it(tmp_path, config, expected):
    declare(tmp_path, config)
    assert folder_pooling(tmp_path) == expected


def test_modules_say_where_it_is(tmp_path):
    (tmp_path / "my_pooling").mkdir()
    (tmp_path / "my_pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    modules = [{"path": "", "type": "x.Transformer"}, {"path": "my_pooling", "type": "x.Pooling"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    assert folder_pooling(tmp_path) == "mean"


@pytest.mark.parametrize("config", [{"pooling_mode": "lasttoken"}, {"pooling_mode": ["cls", "mean"]}])
def test_a_pooling_not_offered_is_refused_with_the_fix(tmp_path, config):
    declare(tmp_path, config)
    with pytest.raises(InputError, match=r"asks for pooling .*one of cls, mean; choose one with --pooling=cls"):
        folder_pooling(tmp_path)


def test_a_broken_file_is_named(tmp_path):
    declare(tmp_path, {})
    (tmp_path / "1_Pooling" / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json is not valid JSON"):
        folder_pooling(tmp_path)

"""Pooling: hand-worked values, and the ways in which it is declared."""

import pytest
import torch

from recbole_blair.errors import InputError
from recbole_blair.text.pooling import parse_modes, pool, read_modes

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


def test_lasttoken_takes_the_texts_own_last_position():
    assert pool(STATES, LENGTHS, "lasttoken").tolist() == [[8.0, 0.0], [5.0, 7.0]]


def test_unknown_pooling_is_named():
    with pytest.raises(ValueError, match="'max' is not one of cls, mean"):
        pool(STATES, LENGTHS, "max")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("cls",)),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, ("mean",)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, ("max", "mean")),
        ({"pooling_mode": "lasttoken"}, ("lasttoken",)),
        ({"pooling_mode": ["cls", "mean"]}, ("cls", "mean")),
        ({}, ("mean",)),
    ],
)
def test_both_ways_of_declaring_it(config, expected):
    assert read_modes(config) == expected


def test_poolings_asked_for():
    assert parse_modes("cls+mean") == ("cls", "mean")
    with pytest.raises(InputError, match="--plm_pooling=cls,mean: 'cls,mean' is not one of cls, mean, max, mean_sqrt"):
        parse_modes("cls,mean")
    with pytest.raises(InputError, match="the encoder's pooling configuration: 'first' is not one of"):
        read_modes({"pooling_mode": "first"})

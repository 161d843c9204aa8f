"""Precision: what auto becomes, and a warning where bf16 would crawl."""

import warnings

import pytest
import torch

from recbole_blair.ops import device


@pytest.mark.parametrize(("fast", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_takes_bf16_where_the_chip_has_it(monkeypatch, fast, expected):
    monkeypatch.setattr(device, "has_fast_bf16", lambda _: fast)
    assert device.resolve_precision("auto", torch.device("cpu")) == expected


def test_bf16_on_a_processor_without_units_for_it_is_warned_of(monkeypatch):
    monkeypatch.setattr(device, "has_fast_bf16", lambda _: False)
    with pytest.warns(UserWarning, match=r"neither AVX512-BF16 nor AMX.*precision=auto takes fp32"):
        assert device.resolve_precision("bf16", torch.device("cpu")) == "bf16"
    monkeypatch.setattr(device, "has_fast_bf16", lambda _: True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert device.resolve_precision("bf16", torch.device("cpu")) == "bf16"

"""Tiny encoders and builds; a real Ray on two CPUs."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "text"))

from tiny_encoders import some_texts, write_items, write_tiny_encoder

pytest.importorskip("ray", reason="the extra tune is not installed")


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory):
    """The folder of a two-layer encoder of width 32."""
    return write_tiny_encoder(tmp_path_factory.mktemp("encoders") / "tiny")


@pytest.fixture
def build(tmp_path):
    """The folder of a build of 240 items."""
    return write_items(tmp_path / "ray" / "shop", some_texts(240))


@pytest.fixture
def whole(tmp_path, tiny_bert):
    """The folder of the same build, encoded in this process."""
    import torch

    from recbole_blair.text.encode import encode_build

    folder = write_items(tmp_path / "here" / "shop", some_texts(240))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        encode_build(folder, tiny_bert, precision="fp32", batch_tokens=64, progress=False)
    finally:
        torch.set_num_threads(threads)
    return folder

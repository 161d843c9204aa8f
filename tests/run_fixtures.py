"""Runs on one small build, made once: fixtures that the conftest.py of a room imports."""

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
sys.path += [str(TESTS / room) for room in ("recommend", "text")]

from recommend_runs import save_run, write_text_build
from tiny_encoders import write_tiny_encoder


@pytest.fixture(scope="session")
def plm(tmp_path_factory):
    """The folder of a tiny encoder."""
    return str(write_tiny_encoder(tmp_path_factory.mktemp("plm") / "tiny-encoder", pooling="mean"))


@pytest.fixture(scope="session")
def build(tmp_path_factory, plm):
    """A build of 30 users and 40 items, its texts encoded."""
    return write_text_build(tmp_path_factory.mktemp("data"), plm)


@pytest.fixture(scope="session")
def make_run(tmp_path_factory, build, plm):
    """Return the folder of a run by model and keys; each is made once."""
    made = {}

    def make(model, **keys):
        key = (model, *sorted(keys.items()))
        if key not in made:
            made[key] = save_run(tmp_path_factory.mktemp("run") / model, model, build, plm=plm, **keys)
        return made[key]

    return make

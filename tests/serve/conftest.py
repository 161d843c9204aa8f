"""Runs on one small build, made once, and servers of them."""

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / room) for room in ("serve", "recommend", "text", "report")]
sys.path.insert(0, str(TESTS))

from chromium import browser_page, skip_without_chromium
from recommend_runs import save_run, write_text_build
from running_server import RunningServer
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


@pytest.fixture(scope="session")
def server(make_run):
    """A server of a text model and, to compare, a model of ids; nobody adds items to it."""
    pytest.importorskip("fastapi", reason="the serve extra is not installed")
    with RunningServer(make_run("UniSRecBlair"), f"--compare={make_run('SASRec')}") as running:
        yield running


@pytest.fixture(scope="session")
def chromium_page(tmp_path_factory):
    """A page of one browser for all tests."""
    skip_without_chromium()
    with browser_page(tmp_path_factory.mktemp("browser")) as page:
        yield page

"""Runs on one small build, made once, and a server of them."""

import pytest
from run_fixtures import build, make_run, plm  # noqa: F401  fixtures of this room's tests
from running_server import RunningServer


@pytest.fixture(scope="session")
def server(make_run):  # noqa: F811  pytest hands the fixture over
    """A server of a text model and, to compare, a model of ids; nobody adds items to it."""
    pytest.importorskip("fastapi", reason="the serve extra is not installed")
    with RunningServer(make_run("UniSRecBlair"), f"--compare={make_run('SASRec')}") as running:
        yield running

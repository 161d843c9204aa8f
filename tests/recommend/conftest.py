"""Runs on one small build, made once."""

from run_fixtures import build, make_run, plm  # noqa: F401  fixtures of this room's tests

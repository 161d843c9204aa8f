"""Tiny finished runs, made once, and a browser."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # builds

from builds import random_sequences, write_build, write_features
from chromium import browser_page, find_chromium

FAST = {
    "epochs": 2, "train_batch_size": 32, "device": "cpu", "precision": "fp32", "show_progress": False,
    "plm": "someone/test-encoder", "save_ranks": True, "dataset": "tiny",
}  # fmt: skip
SMALL = {
    "SASRecText": {"hidden_size": 16, "inner_size": 32, "adaptor_hidden_sizes": [24]},
    "SASRec": {"hidden_size": 16, "inner_size": 32},
    "SeqPop": {},
}
SCRIPT = "</script><script>alert(1)</script>"  # a title that is no markup


def train(model, seed, folder, data_path, **keys):
    """Train one tiny run; returns its folder."""
    from recbole_blair.quick_start import run

    run(model, seed=seed, output_dir=str(folder), data_path=str(data_path), **{**SMALL[model], **FAST, **keys})
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """A data path with the build `tiny`: 40 users, items on a ring, one item with markup for a title."""
    folder = write_build(tmp_path_factory.mktemp("report_data"), random_sequences(n_users=40, n_items=60))
    write_features(folder)
    item = folder / "tiny.item"
    item.write_text(item.read_text().replace("title of i010\t", f"{SCRIPT}\t"))
    return folder.parent


@pytest.fixture(scope="session")
def tiny_runs(tiny_data, tmp_path_factory):
    """A folder of runs: three models, two seeds each, all with ranks. Tests do not change it."""
    root = tmp_path_factory.mktemp("report_runs")
    for model in SMALL:
        for seed in (1, 2):
            train(model, seed, root / f"{model}-{seed}", tiny_data)
    return root


@pytest.fixture(scope="session")
def chromium_page(tmp_path_factory):
    """One page of a headless Chromium."""
    if find_chromium() is None:
        pytest.skip("no Chromium is on the PATH (Debian: apt-get install chromium; or set CHROMIUM to a browser)")
    with browser_page(tmp_path_factory.mktemp("chromium")) as page:
        yield page

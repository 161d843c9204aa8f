"""Tiny finished runs, made once."""

import pytest
from builds import random_sequences, write_build, write_features
from report_runs import SMALL, train

SCRIPT = "</script><script>alert(1)</script>"  # a title that is no markup


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

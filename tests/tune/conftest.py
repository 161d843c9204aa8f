"""A tiny build that a sweep can tell good and bad learning rates apart on."""

import pytest
from builds import random_sequences, write_build, write_features
from local_ray import two_cpus

SPACE = """
learning_rate: {loguniform: [1.0e-5, 1.0e-2], points: 2}
hidden_size: {choice: [16, 32]}
"""


@pytest.fixture(scope="session")
def tune_data(tmp_path_factory):
    """The data_path of a build called tiny, with features of an encoder called test-encoder."""
    folder = write_build(tmp_path_factory.mktemp("data"), random_sequences(n_users=200, n_items=60))
    write_features(folder)
    return str(folder.parent)


@pytest.fixture(scope="session")
def space_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("space") / "space.yaml"
    path.write_text(SPACE)
    return str(path)


@pytest.fixture(scope="session")
def sweep_keys(tune_data):
    """What every sweep of these tests has in common."""
    return {
        "data_path": tune_data, "plm": "someone/test-encoder", "device": "cpu", "precision": "fp32", "epochs": 9,
        "train_batch_size": 64, "stopping_step": 50, "inner_size": 32, "adaptor_hidden_sizes": [24],
    }  # fmt: skip


@pytest.fixture(scope="module")
def ray_here():
    """One Ray for the sweeps of a module, which would otherwise start one each."""
    with two_cpus():
        yield

"""What the benches of training and evaluation compare agrees, and they keep up with what a model asks of a dataset."""

import sys
from pathlib import Path

import pytest

from recbole_blair import compat

sys.path.append(str(Path(__file__).resolve().parent / "bench"))


@pytest.fixture(autouse=True)
def ready():
    compat.apply()


def test_a_training_step_and_the_released_one():
    import bench_training_step

    loss, gradients = bench_training_step.agreement("cpu")
    assert loss < 1e-5 and gradients < 1e-4


def test_evaluation_and_a_naive_one():
    import bench_evaluation

    wrong, _ = bench_evaluation.agreement("cpu", with_bf16=False)
    assert wrong == 0


def test_hstu_and_its_padded_form():
    import bench_hstu

    assert max(bench_hstu.agreement("cpu")) < 1e-4

"""A small bench of two encoders, made once."""

import shutil

import pytest
from bench_command import run_bench

from recbole_blair.steps.world import write_encoder

SHAPE = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 500,
    "positions": 64,
}  # fmt: skip


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory):
    """The folder of a BERT of random weights."""
    words = ["red lamp", "blue chair for the garden", "game of two players", "soft baby blanket", "office paper"]
    records = [{"title": f"{word} {n}", "features": [], "description": []} for n in range(40) for word in words]
    return write_encoder(tmp_path_factory.mktemp("encoder") / "tiny", records, SHAPE)


@pytest.fixture(scope="session")
def finished_bench(tiny_encoder, tmp_path_factory):
    """A bench of tfidf-svd, to which the tiny encoder was added. Tests do not change it."""
    folder = tmp_path_factory.mktemp("bench")
    assert run_bench(folder, "--plm=tfidf-svd") == 0
    assert run_bench(folder, f"--plm=tfidf-svd,tiny={tiny_encoder}") == 0
    return folder


@pytest.fixture
def copied_bench(finished_bench, tmp_path):
    """A copy that a test may change."""
    shutil.copytree(finished_bench, tmp_path / "bench")
    return tmp_path / "bench"

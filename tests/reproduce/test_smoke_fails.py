"""Smoke is no rubber stamp: what is broken on purpose fails the rows that depend on it, and no other."""

import numpy as np
import pytest

from recbole_blair.reproduce.run import FAIL, PASS, reproduce
from recbole_blair.steps.step import Places

STATISTICS, IDS, TEXT = "blair-table3/dataset/games", "blair-table4/sasrec/games", "slices-demo/unisrec/sample"
LAST_OUT, BM25, SVD = "hstu-blair-games/items/games", "slices-search/bm25/c4", "slices-search/tfidf-svd/c4"
TEXT_HSTU, PRETRAINING, TABLE1 = (
    "hstu-blair-games/hstu-te3l/games",
    "slices-pretraining/contrastive/pairs",
    "blair-table1",
)


def verdicts(tmp_path, *ids):
    """Reproduce rows in smoke; return {id: verdict} and {id: names of failed checks}."""
    results = reproduce(",".join(ids), Places(output_dir=str(tmp_path)), "smoke")
    failed = {r["id"]: {c["name"] for c in r["checks"] if c["verdict"] == FAIL} for r in results}
    return {r["id"]: r["verdict"] for r in results}, failed


def leak(monkeypatch):
    """Move the instant of validation by a year: later rows leak into training."""
    from dataset_tools.conversion import convert, time_split

    def late(valid_start_ms, test_start_ms):
        return time_split.split_by_time(valid_start_ms + 300 * 86_400_000, test_start_ms)

    monkeypatch.setattr(convert, "split_by_time", late)


def test_a_broken_split_fails_the_rows_of_that_protocol(monkeypatch, tmp_path):
    leak(monkeypatch)
    found, failed = verdicts(tmp_path, STATISTICS, LAST_OUT, BM25)
    assert found == {STATISTICS: FAIL, LAST_OUT: PASS, BM25: PASS}
    assert failed[STATISTICS] == {"split", "statistics"}


def test_shuffled_times_fail_the_split(monkeypatch, tmp_path):
    from dataset_tools.conversion import convert

    rng = np.random.default_rng(0)

    def shuffled(valid_start_ms, test_start_ms):
        return lambda _, time_ms: rng.permutation(
            (time_ms >= valid_start_ms).astype(np.int8) + (time_ms >= test_start_ms)
        )

    monkeypatch.setattr(convert, "split_by_time", shuffled)
    found, failed = verdicts(tmp_path, STATISTICS)
    assert found == {STATISTICS: FAIL} and "split" in failed[STATISTICS]


def test_permuted_vectors_fail_dense_search_alone(monkeypatch, tmp_path):
    from recbole_blair.search.index_dir import IndexDir

    plain = IndexDir.item_vectors
    permute = lambda vectors: vectors[np.random.default_rng(0).permutation(len(vectors))]  # noqa: E731
    monkeypatch.setattr(IndexDir, "item_vectors", lambda *args: permute(plain(*args)))
    found, failed = verdicts(tmp_path, SVD, BM25)
    assert found == {SVD: FAIL, BM25: PASS}
    assert failed[SVD] == {"search_beats_chance"}


@pytest.mark.slow
def test_permuted_features_fail_the_rows_of_text_alone(monkeypatch, tmp_path):
    from recbole_blair.data.dataset import BlairDataset

    plain = BlairDataset.set_text_features

    def permuted(self, features, header=None):
        plain(self, features[np.random.default_rng(0).permutation(len(features))], header)

    monkeypatch.setattr(BlairDataset, "set_text_features", permuted)
    found, failed = verdicts(tmp_path, TEXT, TEXT_HSTU, IDS, STATISTICS, BM25)
    assert found == {TEXT: FAIL, TEXT_HSTU: FAIL, IDS: PASS, STATISTICS: PASS, BM25: PASS}
    assert "cold_text" in failed[TEXT] and failed[TEXT_HSTU] == {"features"}


@pytest.mark.slow
def test_a_loss_without_gradient_fails_what_is_trained(monkeypatch, tmp_path):
    from recbole_blair.pretrain.step import Step
    from recbole_blair.train.trainer import BlairTrainer

    plain = BlairTrainer.__init__

    def flat(self, config, model, *args, **kwargs):
        plain(self, config, model, *args, **kwargs)
        loss = self.step_loss
        self.step_loss = lambda batch: loss(batch).detach() + 0 * sum(p.sum() for p in model.parameters())

    monkeypatch.setattr(BlairTrainer, "__init__", flat)
    run = Step.run

    def without_gradient(self, *args, **kwargs):
        losses = run(self, *args, **kwargs)
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.zero_()
        return losses

    monkeypatch.setattr(Step, "run", without_gradient)
    found, failed = verdicts(tmp_path, IDS, TEXT, PRETRAINING, STATISTICS, BM25)
    assert found == {IDS: FAIL, TEXT: FAIL, PRETRAINING: FAIL, STATISTICS: PASS, BM25: PASS}
    assert {"loss_falls", "learns"} <= failed[IDS] and "loss_falls" in failed[TEXT]
    assert {"pretraining_falls", "retrieval_rises"} <= failed[PRETRAINING]


@pytest.mark.slow
def test_every_row_passes(tmp_path):
    from recbole_blair.reproduce.tables import find_rows

    found, failed = verdicts(tmp_path, "all")
    assert found.keys() == {row.id for row in find_rows("all")}  # none left out in silence
    assert {row: checks for row, checks in failed.items() if found[row] != PASS} == {}

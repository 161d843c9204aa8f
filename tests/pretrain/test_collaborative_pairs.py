"""Pairs of a build's training rows: which, with what texts, masked how, and that nothing later gets in."""

import json

import pyarrow.parquet as pq
import pytest
import torch
from builds import TEST_MS, VALID_MS, random_sequences, write_build

from recbole_blair.cli.main import main
from recbole_blair.errors import InputError
from recbole_blair.pretrain.collaborative_pairs import CollaborativeSettings, cut_text, make_collaborative_pairs
from recbole_blair.pretrain.data import PairCollator
from recbole_blair.pretrain.step import Objective, contrastive_loss
from tests.pretrain.conftest import pair_rows, sentences
from tests.pretrain.test_contrastive_loss import naive_loss

T = 1_500_000_000_000
# u1 buys a, b, c in training, d in validation, e in test; u2 buys b, c in training.
EVENTS = {
    "u1": [("a", T), ("b", T + 1), ("c", T + 2), ("d", VALID_MS), ("e", TEST_MS)],
    "u2": [("b", T), ("c", T + 3), ("a", VALID_MS + 1), ("b", TEST_MS + 1)],
}
TEXTS = {item: f"{item * 3} long words about {item}." for item in "abcde"}


def rows_of(folder):
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.mark.parametrize(
    ("kinds", "contexts"),
    [
        # a -> b and b -> c of u1, b -> c of u2; the history (a, b) of u1, the latest first
        ("next", ["aaa long words about a.", "bbb long words about b.", "bbb long words about b."]),
        ("history", ["aaa long words", "bbb long words; aaa long words", "bbb long words"]),
        ("history+next", ["aaa long words about a.", "bbb long words about b.", "bbb long words; aaa long words",
                          "bbb long words about b."]),
    ],
)  # fmt: skip
def test_pairs_of_the_training_rows_worked_by_hand(tmp_path, kinds, contexts):
    build = write_build(tmp_path, EVENTS, texts=TEXTS)
    folder = make_collaborative_pairs(build, tmp_path / "p", CollaborativeSettings(kinds, 10, 16), progress=False)
    rows = rows_of(folder)
    assert [row["context"] for row in rows] == contexts
    assert {row["metadata"] for row in rows} == {TEXTS["b"], TEXTS["c"]}
    assert {row["history_id"] for row in rows} == {"u1", "u2"}
    assert rows[0]["timestamp"] == T + 1
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["training_rows"] == 3 and sum(shard["pairs"] for shard in manifest["shards"]) == len(rows)


def test_the_same_build_gives_the_same_folder_and_another_setting_another(tmp_path):
    build = write_build(tmp_path, EVENTS, texts=TEXTS)
    first = make_collaborative_pairs(build, tmp_path / "p", CollaborativeSettings(), progress=False)
    stamp = (first / "manifest.json").stat().st_mtime_ns
    assert make_collaborative_pairs(build, tmp_path / "p", CollaborativeSettings(), progress=False) == first
    assert (first / "manifest.json").stat().st_mtime_ns == stamp
    other = CollaborativeSettings(history_items=1)
    assert make_collaborative_pairs(build, tmp_path / "p", other, progress=False) != first


def test_rows_of_validation_and_test_change_nothing(tmp_path):
    """The pairs of a build, and of the same one with other validation and test items, are equal to the byte."""
    later = {u: [(i if t < VALID_MS else "z", t) for i, t in events] for u, events in EVENTS.items()}
    texts = {**TEXTS, "z": "marker marker marker marker"}
    found = []
    for name, events in (("one", EVENTS), ("two", later)):
        build = write_build(tmp_path / name, events, texts=texts)
        folder = make_collaborative_pairs(build, tmp_path / name, CollaborativeSettings(), progress=False)
        found.append([(path.name, path.read_bytes()) for path in sorted(folder.glob("*.parquet"))])
    assert found[0] == found[1]
    assert "marker" not in str(rows_of(folder))


def test_review_pairs_are_mixed_in_up_to_the_first_instant(tmp_path):
    build = write_build(tmp_path, EVENTS, texts=TEXTS)
    reviews = tmp_path / "reviews.jsonl"
    pair = {"context": "a review of it", "metadata": "the item", "item_id": "a"}
    times = (T, None, VALID_MS - 1, VALID_MS, TEST_MS)
    reviews.write_text("".join(json.dumps({**pair, "timestamp": time}) + "\n" for time in times))
    folder = make_collaborative_pairs(build, tmp_path / "p", CollaborativeSettings(), reviews, progress=False)
    mixed = [row["timestamp"] for row in rows_of(folder) if row["history_id"] is None]
    assert mixed == [T, None, VALID_MS - 1]
    counts = json.loads((folder / "manifest.json").read_text())["counts"]
    assert counts == {
        "history_pairs": 1, "next_pairs": 3, "review_pairs": 3, "reviews_from_the_first_instant_on": 2
    }  # fmt: skip


def test_a_build_whose_training_rows_reach_beyond_its_instant_is_refused(tmp_path):
    build = write_build(tmp_path, EVENTS, texts=TEXTS)
    (build / "tiny.stats.json").write_text(json.dumps({"instants": {"valid_start_ms": T + 2}}))
    with pytest.raises(InputError, match="row 2 is of the first instant 1500000000002 or later"):
        make_collaborative_pairs(build, tmp_path / "p", CollaborativeSettings(), progress=False)


@pytest.mark.parametrize(
    ("text", "n", "cut"), [("a b c.", 9, "a b c"), ("abc def", 5, "abc"), ("abc def", 3, "abc"), ("abcdef", 3, "abc")]
)
def test_texts_are_cut_between_words(text, n, cut):
    assert cut_text(text, n) == cut


def test_pairs_of_one_history_or_with_one_context_are_no_negatives():
    torch.manual_seed(0)
    vectors = torch.randn(8, 6, dtype=torch.float64)  # 4 contexts, 4 metadata
    batch = {"item_key": [1, 2, 3, 4], "metadata_key": [1, 2, 3, 4], "history_key": [7, 8, 7, -1],
             "context_key": [5, 6, 9, 6]}  # fmt: skip
    batch = {name: torch.tensor(keys) for name, keys in batch.items()}
    same = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]], dtype=torch.bool)
    for masked in (True, False):
        expected = naive_loss(vectors[:4], vectors[4:], torch.arange(4), 1.0, same if masked else None)
        objective = Objective(temperature=1.0, mask_same_history=masked)
        assert torch.allclose(contrastive_loss(vectors, batch, objective), expected, atol=1e-12)


@pytest.fixture
def text_build(tmp_path):
    """A build whose items read like the pairs that the tiny tokenizer knows; item i030 and up come in validation."""
    events = random_sequences(n_users=20, n_items=30)
    events = {u: [(i if t < VALID_MS else f"i{n % 9 + 30:03d}", t) for n, (i, t) in enumerate(e)]
              for u, e in events.items()}  # fmt: skip
    texts = {f"i{n:03d}": text for n, text in enumerate(sentences(30))}
    later = {f"i{n:03d}": f"marker words of item number {n} that come later" for n in range(30, 40)}
    return write_build(tmp_path, events, texts={**texts, **later})


def test_pretraining_on_a_build_never_sees_a_later_item(text_build, encoder_folder, tmp_path, monkeypatch):
    seen = []
    call = PairCollator.__call__

    def watched(self, rows):
        seen.extend(text for row in rows for text in (row["context"], row["metadata"]))
        return call(self, rows)

    monkeypatch.setattr(PairCollator, "__call__", watched)
    reviews = tmp_path / "reviews.jsonl"
    reviews.write_text("".join(json.dumps(row) + "\n" for row in pair_rows(20)))
    out = tmp_path / "out"
    command = ["pretrain", f"--pairs_from={text_build}", f"--pairs={reviews}", f"--pairs_path={tmp_path / 'p'}"]
    command += [f"--plm={encoder_folder}", f"--output_dir={out}", "--device=cpu", "--show_progress=False"]
    assert main([*command, "--per_device_batch=8", "--max_length=24", "--holdout=0.1"]) == 0
    assert len(seen) > 100 and not any("marker" in text for text in seen)
    assert any("; " in text for text in seen) and any("I bought" in text for text in seen)
    metrics = json.loads((out / "pretraining" / "metrics.json").read_text())
    assert metrics["data"]["build"] == "tiny" and metrics["data"]["review_pairs"] == 20
    card = (out / "README.md").read_text()
    assert "pairs of the training rows of tiny" in card and "- training rows sha256: " in card


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--pairs_from=nowhere"], "--pairs_from=nowhere: no such folder; expected the folder of a build"),
        (["--pairs_from=.", "--pairs_kinds=both"], "pairs_kinds='both'"),
        (["--pairs_from=.", "--pairs=x", "--dataset=Games"], "either --pairs=FILE or --dataset=NAME"),
        ([], "either --pairs=FILE or --dataset=NAME, or --pairs_from=BUILD"),
    ],
)
def test_wrong_use_is_one_line(tmp_path, monkeypatch, capsys, given, message):
    monkeypatch.chdir(tmp_path)
    assert main(["pretrain", *given, "--output_dir=out"]) == 2
    assert message in capsys.readouterr().err

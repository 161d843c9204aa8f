"""The dataset RecBole's models are built from: ids, counts, whole histories, features, foreign builds."""

import shutil
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from builds import random_sequences, write_build, write_features

from recbole_blair.config import resolve_config
from recbole_blair.data.build import ensure_build, ensure_features, foreign_build
from recbole_blair.data.dataset import BlairDataset
from recbole_blair.data.feature_transforms import fit_transform
from recbole_blair.errors import InputError
from recbole_blair.registry import find_model

SEQUENCES = random_sequences(n_users=20, n_items=12, seed=2, longest=10)


@pytest.fixture
def folder(tmp_path):
    return write_build(tmp_path, SEQUENCES, max_history=3)


def settings(folder, **overrides):
    keys = {"data_path": str(folder.parent), "device": "cpu", "show_progress": False, **overrides}
    return resolve_config(find_model("SASRecText"), folder.name, (), keys)


def test_ids_run_from_one_in_item_order_and_lead_back(folder):
    dataset = BlairDataset(folder)
    tokens = [line.split("\t")[0] for line in (folder / "tiny.item").read_text().splitlines()[1:]]
    assert dataset.item_num == dataset.n_items == len(tokens) + 1 == dataset.num("item_id")
    assert dataset.user_num == len(SEQUENCES) + 1 == dataset.num("user_id")
    assert dataset.id2token("item_id", [0, 1, len(tokens)]) == ["[PAD]", tokens[0], tokens[-1]]
    assert dataset.token2id("item_id", tokens).tolist() == list(range(1, len(tokens) + 1))
    assert dataset.id2token("user_id", dataset.token2id("user_id", ["u7"])) == ["u7"]


def test_unknown_ids_and_fields_are_refused(folder):
    dataset = BlairDataset(folder)
    with pytest.raises(InputError, match="tiny has no item_id 'nope'"):
        dataset.token2id("item_id", ["i001", "nope"])
    with pytest.raises(InputError, match="no ids of 'brand'; known: user_id, item_id"):
        dataset.num("brand")


def test_item_counts_are_targets_of_a_split(folder):
    dataset = BlairDataset(folder)
    expected = np.zeros(dataset.n_items, int)
    for events in SEQUENCES.values():
        for item, _ in events[1:-2]:
            expected[dataset.token2id("item_id", [item])[0]] += 1
    assert dataset.item_counts("train").tolist() == expected.tolist()


@pytest.mark.parametrize("full", [True, False])
def test_histories_kept_and_whole(folder, full):
    dataset = BlairDataset(folder)
    assert dataset.chained
    rows = np.arange(len(dataset.rows["test"]))[::-1]
    items, length = dataset.history_of("test", rows, full)
    expected = [[item for item, _ in SEQUENCES[f"u{u}"][:-1]] for u in range(len(SEQUENCES))][::-1]
    expected = expected if full else [history[-3:] for history in expected]
    assert length.tolist() == [len(history) for history in expected]
    assert dataset.id2token("item_id", items) == list(chain.from_iterable(expected))


def test_whole_histories_of_rows_that_do_not_chain_are_refused(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for split, line in (("train", "u\tx\ty"), ("valid", "u\tz\tx"), ("test", "u\ty\tz")):
        (other / f"other.{split}.inter").write_text(f"user_id:token\titem_id_list:token_seq\titem_id:token\n{line}\n")
    dataset = BlairDataset(other)
    assert not dataset.chained and dataset.stats() == {}
    with pytest.raises(InputError, match="other keeps no whole sequences"):
        dataset.history_of("test", np.arange(1), full=True)
    assert dataset.history_of("test", np.arange(1))[0].tolist() == dataset.token2id("item_id", ["y"]).tolist()


def test_features_are_rows_in_item_order(folder):
    array = write_features(folder, width=5, encoder="mine")
    dataset = BlairDataset(folder)
    with pytest.raises(InputError, match="no text features are loaded for tiny"):
        _ = dataset.text_features
    dataset.load_text_features("mine", plm_size=5)
    assert torch.equal(dataset.text_features, torch.from_numpy(array))
    assert dataset.text_header["encoder"] == "mine"


def test_features_of_another_width_or_build_are_refused(folder, tmp_path):
    write_features(folder, width=5, encoder="mine")
    dataset = BlairDataset(folder)
    with pytest.raises(InputError, match=r"tiny\.mine\.feature has width 5 but plm_size is 768; set plm_size: 5"):
        dataset.load_text_features("mine", plm_size=768)
    with pytest.raises(InputError, match="2 feature rows for 12 items of tiny"):
        dataset.set_text_features(np.zeros((2, 5), np.float32))
    other = write_build(tmp_path / "b", random_sequences(n_users=20, n_items=9), name="other")
    for file in folder.glob("tiny.mine.feature*"):
        shutil.copy(file, other / file.name.replace("tiny.", "other.", 1))
    with pytest.raises(InputError, match=r"other\.mine\.feature was made for other items \(12 rows, the dataset has 9"):
        BlairDataset(other).load_text_features("mine")


def test_features_that_are_there_are_taken_without_loading_an_encoder(folder):
    write_features(folder, encoder="someone--mine")
    assert ensure_features(settings(folder, plm="someone/mine"), folder) == "someone--mine"


@pytest.mark.parametrize(
    "keys", [{"plm_pooling": "cls"}, {"plm_max_length": 64}, {"plm_prompt": "item: "}, {"plm": "another/mine"}]
)
def test_features_made_with_other_settings_are_not_taken(folder, monkeypatch, keys):
    write_features(folder, encoder="someone--mine")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"--plm=(someone|another)/mine is no folder here and could not be fetched"):
        ensure_features(settings(folder, **{"plm": "someone/mine", **keys}), folder)


def test_features_whose_header_says_otherwise_are_refused(folder):
    write_features(folder, encoder="someone--mine")
    header = folder / f"{folder.name}.someone--mine.feature.json"
    header.write_text(header.read_text().replace("someone/mine", "another/mine"))
    with pytest.raises(InputError, match="it was made with another/mine, not someone/mine"):
        ensure_features(settings(folder, plm="someone/mine"), folder)


def test_missing_features_are_made(folder):
    assert ensure_features(settings(folder, plm="tfidf-svd"), folder) == "tfidf-svd"
    dataset = BlairDataset(folder)
    dataset.load_text_features("tfidf-svd")
    assert len(dataset.text_features) == 12 and torch.isfinite(dataset.text_features).all()


def test_an_encoding_that_was_killed_is_gone_on_with(folder):
    """The progress file says the features are not whole, whatever lies under the final name."""
    write_features(folder, encoder="tfidf-svd")
    (folder / "tiny.tfidf-svd.feature.partial.json").write_text("{}")
    assert ensure_features(settings(folder, plm="tfidf-svd"), folder) == "tfidf-svd"
    BlairDataset(folder).load_text_features("tfidf-svd")


def test_a_build_of_another_tool_is_found_by_its_name(folder):
    assert foreign_build(settings(folder)) == folder == ensure_build(settings(folder))
    (folder / "tiny.stats.json").write_text('{"settings": {}}')  # then it is ours, and conversion looks after it
    assert foreign_build(settings(folder)) is None
    (folder / "tiny.stats.json").write_text("{}")
    with pytest.raises(InputError, match=r"tiny\.stats\.json is damaged: .*statistics of a build; delete it"):
        foreign_build(settings(folder))


def test_a_path_is_no_dataset_name(folder):
    config = settings(folder)
    with pytest.raises(InputError, match="is a path; give a name, and its folder by --data_path"):
        foreign_build(config.replace(dataset=str(folder)))


def test_a_build_lacking_a_split_is_no_build(folder):
    (folder / "tiny.valid.inter").unlink()
    assert foreign_build(settings(folder)) is None


def test_items_of_rows_are_targets_and_histories(tmp_path):
    folder = write_build(tmp_path, random_sequences(n_users=10))
    dataset = BlairDataset(folder)
    for split in ("train", "valid", "test"):
        rows = dataset.rows[split]
        wanted = {int(i) for t, n in zip(rows.target, rows.length) for i in dataset.seq_items[t - n : t + 1]}
        assert dataset.items_of_rows(split).tolist() == sorted(wanted)


def test_a_transform_is_kept_beside_the_features_and_fitted_again_for_others(tmp_path):
    folder = write_build(tmp_path, random_sequences(n_users=10))
    raw = write_features(folder) * 1.0
    dataset = BlairDataset(folder)
    rows = dataset.items_of_rows("train") - 1
    kept = folder / f"{folder.name}.someone--test-encoder.whiten-4.transform"
    for name in ("rms", "whiten:4"):
        dataset.load_text_features("someone--test-encoder", transform=name)
        np.testing.assert_array_equal(dataset.text_features, fit_transform(name, raw, rows).apply(raw))
    stamp = kept.stat().st_mtime_ns
    BlairDataset(folder).load_text_features("someone--test-encoder", transform="whiten:4")
    assert kept.stat().st_mtime_ns == stamp
    raw = write_features(folder, seed=1) * 1.0
    kept.write_bytes(kept.read_bytes()[:100])
    dataset.load_text_features("someone--test-encoder", transform="whiten:4")
    np.testing.assert_array_equal(dataset.text_features, fit_transform("whiten:4", raw, rows).apply(raw))
    dataset.load_text_features("someone--test-encoder")
    np.testing.assert_array_equal(dataset.text_features, raw)


def test_targets_that_are_in_the_history_are_counted(tmp_path):
    """u: a b a (in it) | b (in it) | a c; v: a | b | a, the first a beyond the one event that its row keeps."""
    early, valid, test = 1_500_000_000_000, 1_628_643_414_042, 1_658_002_729_837
    u = [("a", early), ("b", early + 1), ("a", early + 2), ("b", valid), ("a", test), ("c", test + 1)]
    v = [("a", early), ("b", valid + 1), ("a", test + 2)]
    dataset = BlairDataset(write_build(tmp_path, {"u": u, "v": v}, max_history=1))
    assert [dataset.count_repeats(split) for split in ("train", "valid", "test")] == [1, 1, 2]
    assert not dataset.keeps_repeats()
    (tmp_path / "tiny" / "tiny.stats.json").write_text('{"settings": {"keep_repeats": true}}')
    assert dataset.keeps_repeats()

"""The demo's claim: on the generated data text helps, and it is the text that helps."""

import numpy as np
import pytest

EPOCHS = 6  # half the demo's: the lead is there, and the test stays short


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The sample build with its features, made the way training makes it."""
    from recbole_blair.config import resolve_config
    from recbole_blair.quick_start import open_dataset
    from recbole_blair.registry import find_model
    from recbole_blair.train.runtime import runtime_config

    root = tmp_path_factory.mktemp("sample")
    keys = {
        "data_path": str(root / "dataset"), "raw_dir": str(root / "raw"), "epochs": EPOCHS, "seeds": None,
        "baselines": None, "show_progress": False, "device": "cpu",
    }  # fmt: skip
    info = find_model("UniSRecBlair")
    config = runtime_config(resolve_config(info, "sample", overrides=keys))
    return root, keys, open_dataset(info, config, {})


def train(sample, model, name, dataset):
    """Train one model on the given dataset; returns its test metrics."""
    from recbole_blair.config import resolve_config
    from recbole_blair.quick_start import open_dataset, train_one
    from recbole_blair.registry import find_model
    from recbole_blair.train.runtime import runtime_config

    root, keys, _ = sample
    info = find_model(model)
    known = keys if model != "SeqPop" else {**keys, "epochs": 0}
    config = runtime_config(resolve_config(info, "sample", overrides={**known, "output_dir": str(root / name)}))
    datasets = {}
    opened = open_dataset(info, config, datasets)
    datasets = dict.fromkeys(datasets, dataset or opened)
    return train_one(info, config, datasets)["test"]


@pytest.mark.slow
def test_text_is_ahead_and_permuted_text_is_not(sample):
    _, _, true = sample
    from recbole_blair.data.dataset import BlairDataset

    permuted = BlairDataset(true.build_dir)
    order = np.random.default_rng(0).permutation(true.n_items - 1)
    permuted.set_text_features(np.ascontiguousarray(np.asarray(true.text_features)[order]), true.text_header)
    text = train(sample, "UniSRecBlair", "text", true)["ndcg@10"]
    shuffled = train(sample, "UniSRecBlair", "shuffled", permuted)["ndcg@10"]
    ids = train(sample, "SASRec", "ids", None)["ndcg@10"]
    popular = train(sample, "SeqPop", "pop", None)["ndcg@10"]
    best_without_text = max(ids, popular)
    assert text > 1.15 * best_without_text, (text, ids, popular)
    assert shuffled < 1.05 * best_without_text, (shuffled, ids, popular)
    assert text > 1.2 * shuffled, (text, shuffled)


def test_new_items_are_where_text_helps(sample):
    """Some test targets never occur in training: an id model cannot know them."""
    _, _, dataset = sample
    targets = dataset.seq_items[dataset.rows["test"].target]
    trained = np.union1d(
        dataset.seq_items[dataset.rows["train"].target],
        dataset.history_of("train", np.arange(len(dataset.rows["train"])))[0],
    )
    new = ~np.isin(targets, trained)
    assert 0.1 < new.mean() < 0.6

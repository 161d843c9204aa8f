"""train_style of the SASRec-like models: a pass over whole sequences is the sum of its prefix rows, quicker."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from builds import random_sequences, write_build

from recbole_blair.config import resolve_config
from recbole_blair.data.dataset import BlairDataset
from recbole_blair.data.loader import RowLoader, SequenceLoader
from recbole_blair.errors import InputError
from recbole_blair.model.layers import HistoryEncoder
from recbole_blair.quick_start import run
from recbole_blair.registry import find_model
from recbole_blair.registry.build_model import build_loaders, build_model
from recbole_blair.train.runtime import runtime_config, seed_everything

MODELS = ("SASRecID", "SASRecText", "UniSRecBlair")
QUIET = {
    "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "adaptor_dropout_prob": 0.0, "noisy_gating": False,
    "hidden_size": 16, "inner_size": 32, "n_exps": 3, "precision": "fp32", "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    data = BlairDataset(write_build(tmp_path_factory.mktemp("styles"), random_sequences(n_users=30, n_items=20)))
    data.set_text_features(torch.randn(data.n_items - 1, 12, generator=torch.Generator().manual_seed(1)))
    return data


def make(name, dataset, **overrides):
    info = find_model(name)
    known = {k: v for k, v in QUIET.items() if k in info.load_defaults() or k in ("precision", "device")}
    config = runtime_config(resolve_config(info, "tiny", overrides={**known, **overrides}))
    seed_everything(5)
    return config, build_model(info, config, dataset).double()


def batches(dataset):
    """All train targets in one batch: as rows, and as whole sequences."""
    rows = next(iter(RowLoader(dataset, "train", 10_000)))
    sequences = next(iter(SequenceLoader(dataset, 10_000)))
    assert len(sequences) < len(rows) == int((sequences["target_list"] > 0).sum())
    return rows, sequences


def loss_and_gradients(model, batch, monkeypatch):
    if model.softmax.kind == "sampled":  # the same negatives for both
        items = torch.arange(1, model.n_items)
        negatives = items[::2].contiguous()
        own = model.softmax.options.negatives_of == "position"
        draw = lambda target: negatives.expand(len(target), -1) if own else negatives  # noqa: E731
        monkeypatch.setattr(model.softmax, "draw", draw)
    model.compute_dtype = torch.float64
    if hasattr(model, "item_texts"):
        model.item_texts.features = model.item_texts.features.double()
    if hasattr(model, "text_features"):
        model.text_features = model.text_features.double()
    loss = model.calculate_loss(batch)
    return loss, torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)


OPTIONS = [{"softmax": "full"}, {"softmax": "sampled"}]
OF_IDS = [
    {"layers": "ligr", "label_smoothing": 0.1},
    {"score": "cosine", "temperature": 0.2, "softmax": "sampled", "negatives_of": "position", "logq": False},
    {"loss": "gbce", "softmax": "sampled"},
    {"loss": "gbce", "softmax": "sampled", "negatives_of": "position", "layers": "ligr"},
]


@pytest.mark.parametrize(
    ("name", "options"), [(n, o) for n in MODELS for o in OPTIONS] + [("SASRecID", o) for o in OF_IDS]
)
def test_a_sequence_is_the_mean_of_its_prefix_rows_in_loss_and_gradient(name, options, dataset, monkeypatch):
    _, model = make(name, dataset, **options)
    rows, sequences = batches(dataset)
    expected, expected_grads = loss_and_gradients(model, rows, monkeypatch)
    loss, grads = loss_and_gradients(model, sequences, monkeypatch)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-7)
    assert sum(g is not None for g in grads) > 10
    for got, wanted in zip(grads, expected_grads):
        assert (got is None) == (wanted is None)
        if got is not None:
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-7)


def test_every_position_gives_the_state_of_each_prefix():
    torch.manual_seed(0)
    encoder = HistoryEncoder(9, 2, 2, 8, 16, 0.0, 0.0, "gelu", 1e-12, 0.5).double().eval()
    vectors = torch.randn(6, 8, dtype=torch.float64)
    length = torch.tensor([3, 9, 1, 5])
    row = torch.randint(0, 6, (4, 9))
    states, place = encoder.every_position(vectors, row, length)
    assert sorted(place.tolist()) == [b * 9 + i for b in range(4) for i in range(int(length[b]))]
    for state, where in zip(states, place.tolist()):
        b, last = divmod(where, 9)
        alone = encoder(vectors, row[b : b + 1, : last + 1], torch.tensor([last + 1]))[0]
        torch.testing.assert_close(state, alone)


def test_what_comes_later_changes_no_earlier_state():
    encoder = HistoryEncoder(6, 2, 2, 8, 16, 0.0, 0.0, "gelu", 1e-12, 0.5).double().eval()
    vectors, length = torch.randn(6, 8, dtype=torch.float64), torch.tensor([6])
    row = torch.tensor([[0, 1, 2, 3, 4, 5]])
    before, _ = encoder.every_position(vectors, row, length)
    after, _ = encoder.every_position(vectors, torch.tensor([[0, 1, 2, 5, 5, 5]]), length)
    assert torch.equal(before[:3], after[:3])
    assert not torch.allclose(before[3], after[3])


@pytest.mark.parametrize("name", MODELS)
def test_the_key_chooses_the_loader(name, dataset):
    for style, kind in (("sequence", SequenceLoader), ("prefix", RowLoader)):
        config, _ = make(name, dataset, train_style=style)
        loaders = build_loaders(find_model(name), config, dataset)
        assert type(loaders["train"]) is kind and type(loaders["valid"]) is RowLoader


@pytest.mark.parametrize("options", [{}, *(pytest.param(o, marks=pytest.mark.slow) for o in OF_IDS)])
def test_sequences_train(options, tmp_path, monkeypatch):
    write_build(tmp_path / "data", random_sequences(n_users=60, n_items=12))
    monkeypatch.chdir(tmp_path)
    metrics = run(
        "SASRecID", "tiny", data_path=str(tmp_path / "data"), epochs=30, train_batch_size=16, hidden_size=32,
        learning_rate=0.01, hidden_dropout_prob=0.1, attn_dropout_prob=0.1, show_progress=False, device="cpu",
        output_dir=str(tmp_path / "run"), n_negatives=8, **options,
    )  # fmt: skip
    assert metrics["test"]["ndcg@10"] > 0.6  # the items follow a ring of 12; chance is below .4


def test_wrong_use(dataset):
    with pytest.raises(InputError, match=r"train_style='rows' in .* is not one of sequence, prefix"):
        make("SASRecText", dataset, train_style="rows")
    with pytest.raises(InputError, match="loss=gbce is of sampled negatives; set softmax: sampled"):
        make("SASRecID", dataset, loss="gbce")
    with pytest.raises(InputError, match=r"label_smoothing=0.1 is of the softmax; set it to 0 with loss=gbce"):
        make("SASRecID", dataset, loss="gbce", softmax="sampled", label_smoothing=0.1)
    with pytest.raises(InputError, match="train_stage=pretrain contrasts whole histories"):
        make("UniSRecBlair", dataset, train_style="sequence", train_stage="pretrain")

"""Encoders that train with a recommender: the same loss and gradients as a naive loop over every item's text."""

import copy
import itertools
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from builds import random_sequences, write_build
from tiny_encoders import some_texts, write_tiny_encoder, write_tiny_model

from recbole_blair.config import resolve_config
from recbole_blair.data.dataset import BlairDataset
from recbole_blair.errors import InputError
from recbole_blair.registry import find_model
from recbole_blair.registry.build_model import build_loaders, build_model
from recbole_blair.text.batching import plan_batches
from recbole_blair.text.encoders import load_encoder
from recbole_blair.text.trained import layers, memory, ragged_rows, source
from recbole_blair.text.trained.choice import EncoderTraining
from recbole_blair.text.trained.item_texts import TrainedTexts, draw_rows
from recbole_blair.text.trained.ragged_rows import STAMP, VALUES
from recbole_blair.text.trained.source import TextSource
from recbole_blair.train.runtime import runtime_config, seed_everything

N_ITEMS = 20
TEXTS = [text or "red lamp" for text in some_texts(N_ITEMS)]
KINDS = ("last:1", "last:2", "lora:2", "full")
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "adaptor_dropout_prob": 0.0, "dropout_prob": 0.0}


@pytest.fixture(scope="module")
def plm(tmp_path_factory):
    return str(write_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny", pooling="mean"))


def source_of(folder, plm, training="last:1", dtype=torch.float64, **changes):
    """A source of twenty texts."""
    folder.mkdir(exist_ok=True)
    ids = [f"i{n:03d}" for n in range(N_ITEMS)]
    device = torch.device("cpu")
    return TextSource(EncoderTraining.parse(training), folder, plm, {}, ids, TEXTS, device, dtype, **changes)


def without_dropout(texts):
    for module in texts.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("dropout_prob", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return texts


def whole_encoder(plm):
    """The encoder as `encode` loads it, in float64, and its vectors of all texts, one text at a time."""
    encoder = load_encoder(plm, device="cpu", precision="fp32", trainable=True)
    model = encoder.replicas[0][1].double()

    def vectors():
        ids = [encoder.tokenizer(text, truncation=True, max_length=encoder.max_length)["input_ids"] for text in TEXTS]
        return torch.cat([model(torch.tensor([row]), torch.tensor([len(row)])) for row in ids])

    return model, vectors


@pytest.mark.parametrize("training", KINDS)
def test_untrained_texts_give_the_vectors_of_the_encoder(tmp_path, plm, training):
    texts = source_of(tmp_path / "b", plm, training, batch_tokens=64).build().eval()
    with torch.no_grad():
        expected = whole_encoder(plm)[1]()
    torch.testing.assert_close(texts(), expected, rtol=1e-6, atol=1e-9)
    chosen = torch.tensor([5, 2, 5])
    torch.testing.assert_close(without_dropout(texts.train())(chosen), expected[chosen - 1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["bert", "roberta", "mpnet", "modernbert", "qwen3"])
def test_the_last_layers_of_a_family(tmp_path, kind):
    folder = write_tiny_model(tmp_path / kind, kind)
    texts = source_of(tmp_path / "b", str(folder), "last:1", torch.float32).build().eval()
    expected = load_encoder(folder, device="cpu", precision="fp32").encode(TEXTS, progress=False)
    np.testing.assert_allclose(texts().numpy(), expected, rtol=1e-4, atol=1e-5)
    loss = without_dropout(texts.train())(torch.tensor([1, 2])).square().sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in texts.trained_parameters() if p.numel() > 64)


def test_an_encoder_that_cannot_be_cut_is_named(tmp_path):
    folder = write_tiny_model(tmp_path / "t5", "t5")
    with pytest.raises(InputError, match=r"a t5 model does not run from the states .*; use lora:8 or full"):
        source_of(tmp_path / "b", str(folder), "last:1", torch.float32).build()
    assert not list((tmp_path / "b").rglob("values.bin"))[1:], "states were computed before it was known"


def joint_model(tmp_path, plm, model, training, per_step=None, **changes):
    """A recommender whose encoder trains, a batch of it, its dataset; float64, no dropout."""
    build = write_build(tmp_path, random_sequences(n_users=20, n_items=N_ITEMS), texts=None)
    info = find_model(model)
    small = {"hidden_size": 16, "n_heads": 2, "inner_size": 32, "adaptor_hidden_sizes": [24], "n_exps": 3, **NO_DROPOUT}
    keys = {k: v for k, v in small.items() if k in info.load_defaults()}
    keys |= {"softmax": "sampled", "n_negatives": 6, "plm": plm, "device": "cpu", "train_batch_size": 8, **changes}
    if model == "UniSRecBlair":
        keys["noisy_gating"] = False
    if model == "HSTUBlair":
        keys["negatives_of"] = "step"
    config = runtime_config(resolve_config(info, build.name, (), keys)).replace(compute_dtype=torch.float64)
    dataset = BlairDataset(build)
    dataset.text_source = source_of(build, plm, training, batch_tokens=64, per_step=per_step)
    seed_everything(3)
    network = build_model(info, config, dataset).double()
    without_dropout(network.item_texts)
    return network, next(iter(build_loaders(info, config, dataset)["train"]))


class NaiveTexts(nn.Module):
    """Encodes every item of the catalogue in every step, and takes the rows that are asked for."""

    def __init__(self, plm, width):
        super().__init__()
        self.model, self.vectors = whole_encoder(plm)
        self.width = width

    def forward(self, items=None):
        vectors = self.vectors()
        return vectors if items is None else vectors[items - 1]


@pytest.mark.parametrize("model", ["UniSRecBlair", "SASRecText", "HSTUBlair"])
@pytest.mark.parametrize("training", ["last:1", "last:2", "full"])
def test_a_joint_step_equals_a_naive_one_that_encodes_every_item(tmp_path, plm, model, training):
    ours, batch = joint_model(tmp_path, plm, model, training)
    naive = copy.copy(ours)
    naive._modules = dict(ours._modules)
    naive.item_texts = NaiveTexts(plm, ours.item_texts.width)
    naive.item_texts.model.requires_grad_(True)
    losses = []
    for network in (naive, ours.train()):
        network.zero_grad()
        torch.manual_seed(7)  # the same negatives
        losses.append(network.calculate_loss(batch))
        losses[-1].backward()
        if network is naive:
            recommender = {k: p.grad.clone() for k, p in ours.named_parameters() if p.grad is not None}
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
    own = {k: p.grad for k, p in ours.named_parameters() if not k.startswith("item_texts") and p.grad is not None}
    assert own and own.keys() == recommender.keys()
    for name in own:
        torch.testing.assert_close(own[name], recommender[name], rtol=1e-6, atol=1e-9)
    layers = naive.item_texts.model.transformer.encoder.layer
    mine = ours.item_texts.network.transformer.encoder.layer
    for theirs, layer in zip(list(layers)[len(layers) - len(mine) :], mine):
        for (name, a), b in zip(theirs.named_parameters(), layer.parameters()):
            torch.testing.assert_close(b.grad, a.grad, rtol=1e-6, atol=1e-9, msg=name)
    assert any(p.grad.abs().max() > 1e-6 for p in ours.item_texts.trained_parameters())


@pytest.mark.parametrize("training", KINDS)
def test_caching_equals_one_graph_with_dropout(tmp_path, plm, training):
    """The second pass draws the masks of the first, and leaves the generator where the plain step leaves it."""
    found = []
    for caching in (True, False):
        torch.manual_seed(1)
        texts = source_of(tmp_path / "b", plm, training, batch_tokens=48, caching=caching).build().train()
        if training.startswith("lora"):  # B starts at zero, and then A gets no gradient
            for name, weight in texts.named_parameters():
                if "lora_B" in name:
                    nn.init.normal_(weight, std=0.1)
        torch.manual_seed(5)
        vectors = texts(torch.arange(1, 13))
        (vectors * torch.arange(12.0, dtype=torch.float64)[:, None].cos()).square().sum().backward()
        found.append((vectors.detach(), [p.grad for p in texts.trained_parameters()], torch.rand(3)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=0)
    for cached, plain in zip(found[0][1], found[1][1]):
        torch.testing.assert_close(cached, plain, rtol=1e-9, atol=1e-12)
    assert torch.equal(found[0][2], found[1][2])


@pytest.mark.parametrize("model", ["UniSRecBlair", "HSTUBlair"])
@pytest.mark.parametrize("training", ["last:1", "full"])
def test_a_step_that_draws_every_text_equals_one_that_encodes_them(tmp_path, plm, model, training):
    """From a fresh table, with as many draws as texts: the same loss and gradients; with fewer the same loss."""
    found = []
    for per_step in (None, N_ITEMS, 2):
        ours, batch = joint_model(tmp_path, plm, model, training, per_step=per_step)
        torch.manual_seed(7)
        loss = ours.train().calculate_loss(batch)
        before = ours.item_texts.n_encoded
        loss.backward()
        found.append((loss.item(), {k: p.grad for k, p in ours.named_parameters() if p.grad is not None}))
        assert per_step != 2 or ours.item_texts.n_encoded - before <= 2
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-9) == pytest.approx(found[2][0], rel=1e-9)
    assert found[0][1].keys() == found[1][1].keys() == found[2][1].keys()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, rtol=1e-6, atol=1e-9, msg=name)
        if not name.startswith("item_texts"):
            torch.testing.assert_close(found[2][1][name], gradient, rtol=1e-6, atol=1e-9, msg=name)


def test_draws_have_the_mean_of_the_whole_gradient():
    """Rows of size 3, 1, 0, 4: p = 3/8, 1/8, 0, 4/8. Over all pairs of draws, sum of p(draws) x weighted rows = g."""
    gradient = torch.tensor([[3.0, 0], [0, -1], [0, 0], [0, 4]], dtype=torch.float64)
    share, mean = [3 / 8, 1 / 8, 0, 4 / 8], torch.zeros_like(gradient)
    for draws in itertools.product((0, 1, 3), repeat=2):
        with mock.patch("torch.multinomial", return_value=torch.tensor(draws)) as drawn:
            rows, weights = draw_rows(gradient, 2)
        assert drawn.call_args.args[0].tolist() == share and rows.tolist() == sorted(set(draws))
        mean[rows] += share[draws[0]] * share[draws[1]] * gradient[rows] * weights[:, None]
    torch.testing.assert_close(mean, gradient)
    assert draw_rows(torch.zeros(4, 2), 2)[1].isfinite().all()
    assert draw_rows(torch.full((4, 2), float("nan")), 2)[1].isfinite().all()


def test_steps_that_draw_write_into_a_table_that_lasts_one_epoch(tmp_path, plm):
    texts = source_of(tmp_path / "b", plm, "last:1", per_step=3).build().eval()
    texts()
    assert texts.train().n_encoded == N_ITEMS, "the table of the evaluation serves the epoch"
    before = texts.table.clone()
    with torch.no_grad():
        texts.trained_parameters()[0].add_(1.0)
    torch.manual_seed(1)
    (texts(torch.arange(1, 11)) ** 2).sum().backward()
    changed = (texts.table != before).any(1)
    assert 1 <= int(changed.sum()) == texts.n_encoded - N_ITEMS <= 3 and not changed[10:].any()
    n_steps = texts.n_encoded - N_ITEMS
    fresh = texts.eval()()
    assert texts.n_encoded == 2 * N_ITEMS + n_steps and not torch.equal(fresh, before)
    texts.train().load_state_dict(texts.state_dict())
    assert texts.table is None, "other weights, another table"
    assert texts.train().table.equal(fresh), "without dropout, in training as well"


def test_memory_of_a_step_holds_one_chunk(tmp_path, plm):
    texts = source_of(tmp_path / "b", plm, "last:1", batch_tokens=64).build().train()
    sizes = []
    encode = TrainedTexts.encode_chunk
    texts.encode_chunk = lambda rows: sizes.append(len(rows)) or encode(texts, rows)
    vectors = texts(torch.arange(1, N_ITEMS + 1))
    assert vectors.grad_fn is not None and len(sizes) > 3
    assert all(len(rows) * texts.rows.lengths[rows].max() <= 64 or len(rows) == 1
               for rows in texts.chunks(np.arange(N_ITEMS), 64))  # fmt: skip
    forward = len(sizes)
    vectors.sum().backward()
    assert len(sizes) == 2 * forward and sum(sizes) == 2 * N_ITEMS


def test_frozen_layers_are_computed_once_and_kept(tmp_path, plm, monkeypatch):
    counted = []
    encode = source.encode_below
    monkeypatch.setattr(source, "encode_below", lambda *a: counted.append(len(a[1])) or encode(*a))
    first = source_of(tmp_path / "b", plm, "last:1").build()
    assert sum(counted) == N_ITEMS
    for _ in range(2):  # steps and tables, in this run and the next
        first.train()(torch.arange(1, 5)).sum().backward()
        first.eval()()
        first = source_of(tmp_path / "b", plm, "last:1").build()
    assert sum(counted) == N_ITEMS
    source_of(tmp_path / "b", plm, "last:2").build()  # another layer
    assert sum(counted) == 2 * N_ITEMS
    changed = source_of(tmp_path / "b", plm, "last:1")
    changed.texts[3], was = "blue chair", changed.texts[3]
    try:
        changed.build()
    finally:
        changed.texts[3] = was
    assert sum(counted) == 3 * N_ITEMS


@pytest.mark.parametrize(("saved_every_s", "left"), [(-1.0, 3), (1e9, 0)])
def test_a_killed_computation_of_states_goes_on(tmp_path, plm, monkeypatch, saved_every_s, left):
    """Killed in its fourth batch: the three before it are kept where they were written down; the bits are the same."""
    monkeypatch.setattr(source, "BATCH_TOKENS", {"cpu": 32})
    monkeypatch.setattr(ragged_rows, "SAVED_EVERY_S", saved_every_s)
    unbroken = source_of(tmp_path / "a", plm, "last:1").build()
    encode, calls = source.encode_below, []

    def dies(model, ids, lengths, number):
        calls.append(len(ids))
        if len(calls) == 5:  # the first is of the check that the encoder can be cut
            raise KeyboardInterrupt
        return encode(model, ids, lengths, number)

    with monkeypatch.context() as patch:
        patch.setattr(layers, "encode_below", dies)
        patch.setattr(source, "encode_below", dies)
        with pytest.raises(KeyboardInterrupt):
            source_of(tmp_path / "b", plm, "last:1").build()
    (partial,) = (tmp_path / "b" / ".cache").rglob("*.partial")
    assert (partial / "progress.json").exists() == bool(left)
    calls.clear()
    monkeypatch.setattr(source, "encode_below", lambda *a: calls.append(len(a[1])) or encode(*a))
    again = source_of(tmp_path / "b", plm, "last:1").build()
    assert len(calls) == len(plan_batches(unbroken.rows.lengths, 32)) - left
    assert np.array_equal(again.rows.values, unbroken.rows.values) and not partial.exists()


@pytest.mark.parametrize("damage", ["values", "stamp"])
def test_damaged_states_are_made_again(tmp_path, plm, capsys, damage):
    whole = source_of(tmp_path / "b", plm, "last:1").build().eval()()
    for path in (tmp_path / "b" / ".cache").rglob(VALUES if damage == "values" else STAMP):
        data = bytearray(path.read_bytes())
        data[7] ^= 1
        path.write_bytes(data)
    again = source_of(tmp_path / "b", plm, "last:1").build().eval()()
    assert torch.equal(whole, again) and capsys.readouterr().err.count("it is made again") == 2


def test_the_table_is_encoded_once_until_training_goes_on(tmp_path, plm):
    texts = source_of(tmp_path / "b", plm, "last:1").build().eval()
    before = texts()
    texts(torch.tensor([3]))
    assert texts.n_encoded == N_ITEMS
    with torch.no_grad():
        texts.trained_parameters()[0].add_(1.0)
    after = texts.train().eval()()
    assert texts.n_encoded == 2 * N_ITEMS and not torch.equal(before, after)


def test_only_trained_weights_are_saved_and_they_restore_the_rest(tmp_path, plm):
    texts = source_of(tmp_path / "b", plm, "last:1", torch.float32, scale=0.5).build()
    with torch.no_grad():
        for weight in texts.trained_parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    state = {k: v.clone() for k, v in texts.state_dict().items()}
    assert set(state) == {"scale", *(f"network.{k}" for k, p in texts.network.named_parameters() if p.requires_grad)}
    other = source_of(tmp_path / "b", plm, "last:1", torch.float32).build().eval()
    other()
    other.load_state_dict(state)
    assert torch.equal(other(), texts.eval()())


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ("last:3", r"train_encoder=last:3, but the encoder has 2 layers; give last:2 or less"),
        ("full", r"train_encoder=full needs about 0\.\d GiB more on cpu \(gradients and optimiser 0\.\d, activations"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_computed(tmp_path, plm, monkeypatch, training, message):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    with pytest.raises(InputError, match=message):
        source_of(tmp_path / "b", plm, training).prepare()
    assert not (tmp_path / "b" / ".cache").exists()


def test_bytes_of_a_training_worked_by_hand(plm):
    """A layer of width 32: four maps of attention, two of the inner layer, two norms; LoRA of rank 2 on six."""
    model = load_encoder(plm, device="cpu", precision="fp32", trainable=True).replicas[0][1]
    layer = 4 * (32 * 32 + 32) + (32 * 64 + 64) + (64 * 32 + 32) + 2 * 64
    assert memory.count_trained(model, EncoderTraining("last", 1)) == layer
    assert memory.count_trained(model, EncoderTraining("last", 2)) == 2 * layer
    pooler = 2 * (32 + 32)
    assert memory.count_trained(model, EncoderTraining("lora", 2)) == 2 * 2 * (4 * 64 + 2 * 96) + pooler
    needed = memory.training_bytes(model, EncoderTraining("last", 1), 100, 50, 2)
    assert needed == {
        "gradients and optimiser": 12 * layer, "activations of a pass": 4 * 100 * 32 * 16,
        "vectors of all items": 4 * 50 * 32,
    }  # fmt: skip

"""UniSRecBlair: its stages, its losses against naive forms, item drop by hand."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from builds import random_sequences, write_build

from recbole_blair.config import resolve_config
from recbole_blair.data.dataset import BlairDataset
from recbole_blair.data.loader import RowLoader
from recbole_blair.model.unisrecblair import drop_items
from recbole_blair.registry import find_model
from recbole_blair.registry.build_model import build_model
from recbole_blair.train.runtime import runtime_config, seed_everything

QUIET = {
    "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "adaptor_dropout_prob": 0.0, "noisy_gating": False,
    "hidden_size": 16, "inner_size": 32, "n_exps": 3, "precision": "fp32", "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    data = BlairDataset(write_build(tmp_path_factory.mktemp("unisrec"), random_sequences(n_users=30, n_items=20)))
    data.set_text_features(torch.randn(data.n_items - 1, 12, generator=torch.Generator().manual_seed(1)))
    return data


def make(dataset, **overrides):
    info = find_model("UniSRecBlair")
    config = runtime_config(resolve_config(info, "tiny", overrides={**QUIET, **overrides}))
    seed_everything(5)
    return build_model(info, config, dataset)


def batch_of(dataset, size=16):
    return next(iter(RowLoader(dataset, "train", size, bucket=False)))


def naive_layer(layer, x):
    """Causal self-attention and feed-forward on padded positions (B, L, H), in plain products."""
    q, k, v = (part.unflatten(-1, (layer.n_heads, -1)).transpose(1, 2) for part in layer.qkv(x).chunk(3, -1))
    scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5  # (B, heads, L, L)
    later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
    mixed = (scores.masked_fill(later, float("-inf")).softmax(-1) @ v).transpose(1, 2).flatten(2)
    x = layer.attn_norm(layer.attn_out(mixed) + x)
    return layer.ff_norm(layer.ff_out(layer.act(layer.ff_in(x))) + x)


def naive_logits(model, batch):
    """The released way: the adaptor on every position and on every item, the padding item left out."""
    features = F.pad(model.item_texts.features, (0, 0, 1, 0))

    def adapt(x):
        gates = F.softmax(x @ model.adaptor.w_gate, -1).unsqueeze(-1)
        experts = torch.stack([(x - b) @ w.T for w, b in zip(model.adaptor.weight, model.adaptor.bias)], -2)
        return (gates * experts).sum(-2)

    x = model.encoder.norm(
        adapt(features[batch["item_id_list"]])
        + model.encoder.position_embedding.weight[: batch["item_id_list"].shape[1]]
    )
    for layer in model.encoder.layers:
        x = naive_layer(layer, x)
    state = x[torch.arange(len(x)), batch["item_length"] - 1]
    table = F.normalize(adapt(features[1:]), dim=1)
    return F.normalize(state, dim=1) @ table.T / model.temperature


@pytest.mark.parametrize("stage", ["inductive_ft", "transductive_ft"])
def test_loss_and_gradients_equal_the_naive_step(dataset, stage):
    model = make(dataset, train_stage=stage)
    batch = batch_of(dataset)
    if stage == "transductive_ft":
        model.id_embedding.weight.data.zero_()  # the naive form below has no ids
    loss = model.calculate_loss(batch)
    names = [n for n, _ in model.adaptor.named_parameters() if n != "w_noise"]
    params = [dict(model.adaptor.named_parameters())[n] for n in names] + list(model.encoder.parameters())
    grads = torch.autograd.grad(loss, params)
    naive = F.cross_entropy(naive_logits(model, batch), batch["item_id"] - 1)
    assert loss.item() == pytest.approx(naive.item(), abs=1e-5)
    for ours, expected in zip(grads, torch.autograd.grad(naive, params)):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_pretraining_loss_equals_a_loop_and_masked_pairs_count_nothing(dataset, monkeypatch):
    model = make(dataset, train_stage="pretrain", **{"lambda": 0.5})
    batch = batch_of(dataset, 64)
    monkeypatch.setattr("recbole_blair.model.unisrecblair.drop_items", lambda seq, length, ratio: (seq, length))
    state = model.user_vectors(batch)
    positive = model.item_vectors()[batch["item_id"]]
    target = batch["item_id"].tolist()
    assert len(set(target)) < len(target), "the case needs two rows with one target"

    def loop(others):
        total = 0.0
        for i in range(len(state)):
            kept = [j for j in range(len(state)) if j == i or target[j] != target[i]]
            logits = torch.stack([state[i] @ others[j] for j in kept]) / model.temperature
            total = total - torch.log_softmax(logits, 0)[kept.index(i)]
        return total / len(state)

    expected = loop(positive) + 0.5 * loop(state)
    assert model.calculate_loss(batch).item() == pytest.approx(expected.item(), abs=1e-5)


def test_inductive_model_scores_by_text_alone(dataset):
    model = make(dataset).eval()
    batch = batch_of(dataset)
    with torch.inference_mode():
        before = model.full_sort_predict(batch)
        model.item_texts.features[3] = model.item_texts.features[7]  # item 4 gets the text of item 8
        after = model.full_sort_predict(batch)
    keep = ~(batch["item_id_list"] == 4).any(1)
    torch.testing.assert_close(after[keep][:, 4], before[keep][:, 8])
    model.item_texts.features[3] = torch.randn(12)


def test_sampled_softmax_trains(dataset):
    model = make(dataset, softmax="sampled", n_negatives=8)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = model.calculate_loss(batch_of(dataset))
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_drop_items_keeps_the_first_and_closes_gaps():
    seq = torch.tensor([[5, 6, 7, 8], [3, 0, 0, 0]])
    length = torch.tensor([4, 1])
    for seed in range(20):
        torch.manual_seed(seed)
        dropped, n = drop_items(seq, length, 0.5)
        for row in range(2):
            kept = dropped[row, : n[row]].tolist()
            original = seq[row, : length[row]].tolist()
            assert kept[0] == original[0] and kept == [x for x in original if x in kept]
            assert dropped[row, n[row] :].eq(0).all()
    everything, n = drop_items(seq, length, 0.0)
    assert torch.equal(everything, seq) and torch.equal(n, length)


def test_unknown_width_is_named(dataset, tmp_path):
    from recbole_blair.errors import InputError

    with pytest.raises(InputError, match=r"feature rows for 20 items"):
        dataset.set_text_features(torch.zeros(3, 12))

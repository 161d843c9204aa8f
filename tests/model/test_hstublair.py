"""HSTUBlair's three fusions: scores against vectors made pair by pair, items without a trained id, whole runs."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from builds import TEST_MS, random_sequences, write_build, write_features

from recbole_blair.config import resolve_config
from recbole_blair.data.dataset import BlairDataset
from recbole_blair.data.loader import RowLoader, SequenceLoader
from recbole_blair.errors import InputError
from recbole_blair.ops import sampled_softmax
from recbole_blair.quick_start import run
from recbole_blair.registry import find_model
from recbole_blair.registry.build_model import build_loaders, build_model
from recbole_blair.train.evaluation import Evaluator
from recbole_blair.train.runtime import runtime_config, seed_everything

FUSIONS = ["add", "gate", "attention"]
SMALL = {
    "hidden_size": 16, "n_heads": 2, "d_qk": 8, "d_v": 8, "n_layers": 2, "gate_size": 4, "device": "cpu",
    "precision": "fp32", "show_progress": False,
}  # fmt: skip


def sequences():
    """Users in a ring of items, and one item that occurs in test alone."""
    users = random_sequences(n_users=40, n_items=20, longest=9)
    users["u0"] = [*users["u0"], ("new", TEST_MS + 10_000)]
    return users


def text_of(dataset, width=12):
    return torch.randn(dataset.n_items - 1, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    data = BlairDataset(write_build(tmp_path_factory.mktemp("hstublair"), sequences()))
    data.set_text_features(text_of(data))
    return data


def make(dataset, fusion="add", awake=True, **overrides):
    """A small model, its fusion weights away from their start where `awake`, and its configuration."""
    info = find_model("HSTUBlair")
    config = runtime_config(resolve_config(info, "tiny", overrides={**SMALL, "fusion": fusion, **overrides}))
    seed_everything(7)
    model = build_model(info, config, dataset)
    if awake:
        for name, weight in model.named_parameters():
            if name.startswith(("query", "key", "id_embedding")):
                torch.nn.init.normal_(weight, std=0.5)
    return model, config


def rows_of(dataset, n=8):
    return next(iter(RowLoader(dataset, "train", n, bucket=False)))


@pytest.mark.parametrize("fusion", ["gate", "attention"])
def test_a_fusion_starts_as_the_sum(dataset, fusion):
    batch = rows_of(dataset)
    base, _ = make(dataset, "add", awake=False)
    other, _ = make(dataset, fusion, awake=False)
    other.load_state_dict(base.state_dict(), strict=False)
    with torch.inference_mode():
        torch.testing.assert_close(
            other.eval().full_sort_predict(batch), base.eval().full_sort_predict(batch), rtol=1e-4, atol=1e-5
        )
        for name in ("query", "key"):
            torch.nn.init.normal_(getattr(other, name).weight, std=0.5)
        assert not torch.allclose(other.full_sort_predict(batch), base.full_sort_predict(batch), atol=1e-3)


def test_add_is_the_id_plus_the_linear_text(dataset):
    model, _ = make(dataset)
    items = torch.tensor([3, 1, 7])
    text = dataset.text_features[items - 1] @ model.text_projection.weight.T + model.text_projection.bias
    torch.testing.assert_close(model.project_items(items), model.id_embedding.weight[items - 1] + text)


def test_gated_scores_equal_vectors_made_pair_by_pair(dataset):
    model, _ = make(dataset, "gate")
    model.double().compute_dtype = torch.float64
    batch = rows_of(dataset)
    with torch.no_grad():
        model.eval()
        scores = model.full_sort_predict(batch)
        e, t, trained = model.sources()
        users = model.user_vectors(batch)
        query = users * 4.0 @ model.query.weight.T + model.query.bias  # sqrt(16)
        seen_gates = []
        for b in range(len(users)):
            for i in range(len(e)):
                g = torch.sigmoid(query[b] @ (model.key.weight @ (e[i] + t[i]))) if trained[i] else torch.tensor(1.0)
                seen_gates.append(float(g))
                vector = (1 - g) * e[i] + g * t[i]
                expected = users[b] @ vector / vector.norm()
                torch.testing.assert_close(scores[b, i + 1], expected, rtol=1e-8, atol=1e-8)
    assert max(seen_gates) - min(seen_gates) > 0.5


def test_attention_equals_the_loop(dataset):
    model, _ = make(dataset, "attention")
    with torch.no_grad():
        e, t, trained = model.sources()
        vectors = model.project_items()
        for i in range(len(e)):
            rows = [e[i], t[i]] if trained[i] else [t[i]]
            query = model.query.weight @ (4.0 * (e[i] + t[i]) / (e[i] + t[i]).norm())
            keys = [model.key.weight @ (4.0 * r / r.norm()) for r in rows]
            for h in range(2):
                part = slice(8 * h, 8 * h + 8)
                share = torch.stack([query[part] @ k[part] for k in keys]).div(8**0.5).softmax(0) * len(rows)
                expected = sum(s * r[part] for s, r in zip(share, rows))
                torch.testing.assert_close(vectors[i, part], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize(("softmax", "dense_rows"), [("sampled", 25), ("sampled", 0), ("full", 25)])
def test_the_loss_agrees_with_the_scores(dataset, fusion, softmax, dense_rows, monkeypatch):
    """Loss and gradients against a plain softmax over the full sort's scores; the sampled one draws every item."""
    monkeypatch.setitem(sampled_softmax.GATHER_ELEMENTS, "cpu", 400)  # chunks of a few rows
    monkeypatch.setattr(sampled_softmax, "DENSE_ROWS_PER_DRAW", dense_rows)  # 0: rows are gathered
    model, _ = make(dataset, fusion, softmax=softmax, n_negatives=dataset.n_items - 1, train_style="prefix")
    model.eval()
    batch = rows_of(dataset)
    everything = torch.arange(1, dataset.n_items).repeat(len(batch), 1)
    monkeypatch.setattr(torch, "randint", lambda *a, **k: everything)
    loss = model.calculate_loss(batch)
    plain = F.cross_entropy(model.full_sort_predict(batch)[:, 1:] / model.temperature, batch["item_id"] - 1)
    torch.testing.assert_close(loss, plain, rtol=1e-4, atol=1e-5)
    weights = [p for p in model.parameters() if p.requires_grad]
    for a, b in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(plain, weights)):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_predict_equals_the_full_sort(dataset, fusion):
    model, _ = make(dataset, fusion)
    batch = rows_of(dataset)
    with torch.inference_mode():
        scores = model.eval().full_sort_predict(batch)
        assert scores.shape == (8, dataset.n_items)
        torch.testing.assert_close(model.predict(batch), scores.gather(1, batch["item_id"][:, None]).squeeze(1))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_an_item_without_a_trained_id_is_its_text_alone(dataset, fusion):
    model, _ = make(dataset, fusion)
    new = int(dataset.token2id("item_id", ["new"])[0])
    assert not model.trained_id[new - 1]
    assert model.trained_id.sum() == dataset.n_items - 2
    batch = rows_of(dataset)
    with torch.inference_mode():
        before = model.eval().full_sort_predict(batch)
        alone = model.project_text(dataset.text_features[new - 1 : new])
        torch.testing.assert_close(model.project_items(torch.tensor([new])), alone)
        expected = model.user_vectors(batch) @ F.normalize(alone, dim=1).squeeze(0)
        torch.testing.assert_close(before[:, new], expected, rtol=1e-4, atol=1e-5)
        model.id_embedding.weight[new - 1] = 100.0
        assert torch.equal(model.full_sort_predict(batch), before)
        model.id_embedding.weight[0] += 1.0  # while a trained id counts
        assert not torch.equal(model.full_sort_predict(batch), before)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_weight_learns_but_untrained_ids(dataset, fusion):
    model, _ = make(dataset, fusion)
    model.train()
    model.calculate_loss(next(iter(SequenceLoader(dataset, 40)))).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None and weight.grad.abs().sum() > 0, name
    new = int(dataset.token2id("item_id", ["new"])[0])
    assert (model.id_embedding.weight.grad[new - 1] == 0).all()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_evaluator_ranks_by_the_models_scores(dataset, fusion):
    """A gate is no dot product: the evaluator must take the model's own full sort."""
    model, config = make(dataset, fusion, max_score_elements=60)
    loader = build_loaders(find_model("HSTUBlair"), config, dataset)["valid"]
    rank = Evaluator(loader, config, torch.device("cpu"), torch.inference_mode).ranks(model)
    with torch.inference_mode():
        for batch in loader:
            scores = model.full_sort_predict(batch)[:, 1:]
            own = scores.gather(1, batch["item_id"][:, None] - 1)
            expected = ((scores > own).sum(1) + 1).numpy()
            np.testing.assert_array_equal(rank[batch["row"].numpy()], expected)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("train_style", ["sequence", "prefix"])
def test_a_run_from_files_learns(tmp_path, fusion, train_style):
    build = write_build(tmp_path / "data", sequences())
    write_features(build)
    result = run(
        "HSTUBlair", "tiny", **SMALL, data_path=str(build.parent), output_dir=str(tmp_path / "run"), epochs=12,
        plm="someone/test-encoder", fusion=fusion, train_style=train_style, learning_rate=0.01, dropout_prob=0.1,
        train_batch_size=32, n_negatives=32, time_bias="history",
    )  # fmt: skip
    assert result["best_valid"]["ndcg@10"] > 0.6  # items follow a ring; by chance about .2
    assert result["epochs"] <= 12


def test_the_betas_reach_the_optimiser(dataset, tmp_path):
    from recbole_blair.train.trainer import BlairTrainer

    model, config = make(dataset)
    loaders = build_loaders(find_model("HSTUBlair"), config, dataset)
    trainer = BlairTrainer(config, model, loaders, tmp_path, None)
    assert isinstance(trainer.optimiser, torch.optim.AdamW)
    assert trainer.optimiser.defaults["betas"] == (0.9, 0.98)
    with pytest.raises(InputError, match=r"adam_betas=\[0.9\] must be two numbers"):
        BlairTrainer(config.replace(adam_betas=[0.9]), model, loaders, tmp_path, None)
    sgd = BlairTrainer(config.replace(learner="sgd"), model, loaders, tmp_path, None)
    assert isinstance(sgd.optimiser, torch.optim.SGD)


# Bad input.


def test_a_missing_text_row_is_refused(tmp_path):
    build = write_build(tmp_path, sequences())
    array = write_features(build)
    array[:-1].tofile(build / "tiny.someone--test-encoder.feature")
    with pytest.raises(InputError, match=r"tiny\.someone--test-encoder\.feature"):
        run(
            "HSTUBlair",
            "tiny",
            **SMALL,
            data_path=str(tmp_path),
            output_dir=str(tmp_path / "r"),
            plm="someone/test-encoder",
        )


def test_a_text_row_for_each_item_is_expected(dataset):
    with pytest.raises(InputError, match=f"{dataset.n_items - 2} feature rows for {dataset.n_items - 1} items"):
        dataset.set_text_features(text_of(dataset)[:-1])


def test_a_row_that_is_no_number_is_named(tmp_path):
    data = BlairDataset(write_build(tmp_path, sequences()))
    features = text_of(data)
    features[4, 2] = float("nan")
    data.set_text_features(features)
    with pytest.raises(InputError, match=r"hold no finite numbers for item '\w+' \(row 4\); encode again"):
        make(data)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fusion": "sum"}, "fusion='sum' in .* is not one of add, gate, attention"),
        ({"fusion": "attention", "hidden_size": 15}, "hidden_size=15 is not a multiple of n_heads=2, which fusion="),
        ({"fusion": "gate", "gate_size": 0}, "gate_size=0 in .* is out of range; expected int, 1 to 65,536"),
    ],
)
def test_settings_no_fusion_can_have_are_refused(dataset, settings, message):
    with pytest.raises(InputError, match=message):
        make(dataset, **settings)

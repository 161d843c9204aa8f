"""What every registered model must do, ours, plugins' and RecBole's alike."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from builds import random_sequences, write_build

from recbole_blair.config import resolve_config
from recbole_blair.data.dataset import BlairDataset
from recbole_blair.data.loader import RowLoader
from recbole_blair.quick_start import TRIMMABLE, build_loaders, build_model, runtime_config, seed_everything
from recbole_blair.registry import find_model, list_models

MODELS = list_models()
OURS = [name for name, info in MODELS.items() if not info.from_recbole]
BASELINES = ["SASRec", "GRU4Rec"]
SMALL = {"hidden_size": 16, "n_heads": 2, "inner_size": 32, "adaptor_hidden_sizes": [24], "n_exps": 3}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    data = BlairDataset(write_build(tmp_path_factory.mktemp("contract"), random_sequences(n_users=30, n_items=20)))
    data.set_text_features(torch.randn(data.n_items - 1, 12, generator=torch.Generator().manual_seed(1)))
    return data


def make(name, dataset, **overrides):
    """Build a small model and its configuration."""
    info = find_model(name)
    known = info.load_defaults()
    small = {k: v for k, v in SMALL.items() if k in known}
    base = {"device": "cpu", "precision": "fp32", "train_batch_size": 16, **small}
    config = runtime_config(resolve_config(info, "tiny", overrides={**base, **overrides}))
    seed_everything(7)
    return info, config, build_model(info, config, dataset)


def first_batch(info, dataset, size=8):
    """The first train rows, padded as the model needs."""
    trim = not info.from_recbole or info.name in TRIMMABLE
    loader = RowLoader(dataset, "train", size, max_length=50, trim=trim, bucket=False)
    return next(iter(loader))


def trainable(name):
    return getattr(find_model(name).load_class(), "trains", True)


@pytest.mark.parametrize("name", [m for m in OURS + BASELINES if trainable(m)])
def test_loss_is_a_finite_scalar_and_reaches_every_parameter(name, dataset):
    info, _, model = make(name, dataset)
    model.train()
    loss = model.calculate_loss(first_batch(info, dataset))
    assert loss.ndim == 0 and torch.isfinite(loss)
    loss.backward()
    idle = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle


@pytest.mark.parametrize("name", OURS + BASELINES)
def test_scores_are_rows_by_items_and_predict_agrees(name, dataset):
    info, _, model = make(name, dataset)
    model.eval()
    batch = first_batch(info, dataset)
    with torch.inference_mode():
        scores = model.full_sort_predict(batch).view(len(batch), -1)
        assert scores.shape == (len(batch), dataset.n_items)
        own = scores.gather(1, batch["item_id"][:, None]).squeeze(1)
        torch.testing.assert_close(model.predict(batch), own, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OURS + BASELINES)
def test_padding_and_batch_company_change_nothing(name, dataset):
    info, _, model = make(name, dataset)
    model.eval()
    batch = first_batch(info, dataset)
    wide = next(iter(RowLoader(dataset, "train", 8, max_length=50, trim=False, bucket=False)))
    with torch.inference_mode():
        together = model.full_sort_predict(batch).view(len(batch), -1)
        padded = model.full_sort_predict(wide).view(len(batch), -1)
        alone = [
            model.full_sort_predict(type(batch)({k: batch[k][i : i + 1] for k in batch})).view(-1) for i in range(8)
        ]
    torch.testing.assert_close(padded, together, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.stack(alone), together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OURS + BASELINES)
def test_weights_survive_a_round_trip(name, dataset, tmp_path):
    from safetensors.torch import load_file

    from recbole_blair.train.checkpoint import save_weights

    info, _, model = make(name, dataset)
    save_weights(tmp_path / "w.safetensors", model)
    _, _, other = make(name, dataset, seed=1)
    other.load_state_dict(load_file(tmp_path / "w.safetensors"))
    batch = first_batch(info, dataset)
    with torch.inference_mode():
        assert torch.equal(
            model.eval().full_sort_predict(batch).view(-1), other.eval().full_sort_predict(batch).view(-1)
        )


@pytest.mark.parametrize("name", [m for m in OURS + BASELINES if trainable(m)])
def test_eight_users_can_be_memorised(name, dataset):
    info, config, model = make(
        name, dataset, learning_rate=0.01,
        **{k: 0.0 for k in ("hidden_dropout_prob", "attn_dropout_prob", "adaptor_dropout_prob", "dropout_prob")
           if k in find_model(name).load_defaults()},
    )  # fmt: skip
    batch = first_batch(info, dataset)
    optimiser = torch.optim.Adam(model.parameters(), lr=config["learning_rate"])
    model.train()
    losses = []
    for _ in range(150):
        optimiser.zero_grad()
        loss = model.calculate_loss(batch)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0], losses[::30]
    model.eval()
    with torch.inference_mode():
        scores = model.full_sort_predict(batch).view(len(batch), -1)
    assert (scores[:, 1:].argmax(1) + 1 == batch["item_id"]).float().mean() >= 0.85


@pytest.mark.parametrize("name", [m for m in OURS if getattr(find_model(m).load_class(), "uses_text", False)])
def test_text_models_project_each_item_alike_alone_and_together(name, dataset):
    _, _, model = make(name, dataset)
    model.eval()
    some = torch.tensor([2, 5, 11])
    with torch.inference_mode():
        torch.testing.assert_close(model.project_items(some), model.project_items()[some - 1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [m for m in OURS if getattr(find_model(m).load_class(), "uses_text", False)])
def test_text_models_refuse_to_start_without_features(name, tmp_path):
    from recbole_blair.errors import InputError

    bare = BlairDataset(write_build(tmp_path, random_sequences(n_users=10)))
    with pytest.raises(InputError, match="no text features are loaded"):
        make(name, bare)


def test_loaders_cover_every_split(dataset):
    info, config, _ = make("SASRec", dataset)
    loaders = build_loaders(info, config, dataset)
    for split, loader in loaders.items():
        seen = torch.cat([batch["row"] for batch in loader])
        assert sorted(seen.tolist()) == list(range(len(dataset.rows[split])))

"""AlphaRec against a naive double loop, loss and gradient; who its users are; what the batch decides."""

import math

import numpy as np
import pytest
import torch
from builds import random_pairs, write_pair_build

from recbole_blair.config import resolve_config
from recbole_blair.data.dataset import BlairDataset
from recbole_blair.data.pair_loader import PairLoader
from recbole_blair.registry import find_model
from recbole_blair.registry.build_model import build_model
from recbole_blair.schema import ITEM_ID, ITEM_SEQ, USER_ID
from recbole_blair.train.runtime import runtime_config, seed_everything

TAU = 0.15


@pytest.fixture
def dataset(tmp_path):
    data = BlairDataset(write_pair_build(tmp_path, random_pairs(n_users=20, n_items=15)), use_cache=False)
    data.set_text_features(torch.randn(data.n_items - 1, 6, generator=torch.Generator().manual_seed(1)))
    return data


def make(dataset, **keys):
    info = find_model("AlphaRec")
    given = {"protocol": "random", "embedding_size": 4, "device": "cpu", **keys}
    seed_everything(3)
    return build_model(info, runtime_config(resolve_config(info, "pairs", (), given)), dataset)


def items_by_user(dataset, split="train"):
    owned = {}
    for user, target in zip(dataset.rows[split].user, dataset.rows[split].target):
        owned.setdefault(int(user), []).append(int(dataset.seq_items[target]))
    return owned


def cosine(a, b):
    return (a * b).sum() / (a.norm() * b.norm())


def naive_loss(weight, features, owned, users, items, masked):
    """The definition: user = the map of the mean text of the user's train items; one softmax per pair."""
    total = 0.0
    for a, (user, item) in enumerate(zip(users, items)):
        mean = sum(features[i - 1] for i in owned[user]) / len(owned[user])
        logits = []
        for b, other in enumerate(items):
            if masked and b != a and other == item:
                continue
            logits.append((b, cosine(weight @ mean, weight @ features[other - 1]) / TAU))
        own = next(value for b, value in logits if b == a)
        total = total + torch.logsumexp(torch.stack([value for _, value in logits]), 0) - own
    return total / len(users)


@pytest.mark.parametrize("masked", [False, True])
def test_loss_and_gradient_equal_a_double_loop(dataset, masked):
    model = make(dataset, mask_same_item=masked).double()
    batch = next(iter(PairLoader(dataset, "train", 24, shuffle=True, seed=5)))
    items = batch[ITEM_ID].tolist()
    assert len(set(items)) < len(items)  # some item occurs twice, which the mask is about
    loss = model.calculate_loss(batch)
    loss.backward()
    weight = model.map.weight.detach().clone().requires_grad_()
    features = model.text_features.double()
    expected = naive_loss(weight, features, items_by_user(dataset), batch[USER_ID].tolist(), items, masked)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(model.map.weight.grad, weight.grad, rtol=0, atol=1e-6)


def test_scores_are_cosines_with_the_mean_of_the_train_items(dataset):
    model = make(dataset).double().eval()
    batch = next(iter(PairLoader(dataset, "test", 9)))
    scores, owned = model.full_sort_predict(batch), items_by_user(dataset)
    weight, features = model.map.weight, model.text_features
    for row, user in enumerate(batch[USER_ID].tolist()):
        mean = features[torch.tensor(owned[user]) - 1].mean(0)  # of train alone: neither valid nor test
        for item in (1, 7, dataset.n_items - 1):
            assert scores[row, item].item() == pytest.approx(cosine(weight @ mean, weight @ features[item - 1]).item())
    torch.testing.assert_close(model.predict(batch), scores.gather(1, batch[ITEM_ID][:, None]).squeeze(1))


def test_a_user_without_train_items_scores_nothing(tmp_path):
    pairs = random_pairs(n_users=6, n_items=8, longest=6)
    pairs["test"].append(("stranger", "i000"))
    data = BlairDataset(write_pair_build(tmp_path, pairs), use_cache=False)
    data.set_text_features(torch.randn(data.n_items - 1, 6))
    batch = PairLoader(data, "test", 1).build(np.array([len(data.rows["test"]) - 1]))
    with torch.inference_mode():
        assert not make(data).full_sort_predict(batch).any()


def test_a_history_takes_the_place_of_the_user(dataset):
    model = make(dataset).eval()
    owned = items_by_user(dataset)[1]
    batch = PairLoader(dataset, "train", 1).build(np.flatnonzero(np.asarray(dataset.rows["train"].user) == 1)[:1])
    given = type(batch)({ITEM_SEQ: torch.tensor([[*owned, 0, 0]])})
    with torch.inference_mode():
        torch.testing.assert_close(model.full_sort_predict(given), model.full_sort_predict(batch))


def test_the_map_is_the_only_weight_and_has_no_bias(dataset):
    model = make(dataset)
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == {"map.weight": (4, 6)}
    assert list(model.state_dict()) == ["map.weight"]  # text and pairs are read from the build again
    assert model.temperature == TAU and math.isclose(find_model("AlphaRec").load_defaults()["temperature"], TAU)

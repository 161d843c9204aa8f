"""Feature transforms: hand-worked values, training items alone, new items as the catalogue's."""

import numpy as np
import pytest

from recbole_blair.data.feature_transforms import chosen_transform, fit_transform
from recbole_blair.errors import InputError

# Rows 0 and 1 are training items, row 2 is not. Mean of the first two (2, 1); they lie along (1, 0).
ROWS = np.array([[3.0, 1.0], [1.0, 1.0], [7.0, 5.0]], np.float32)
TRAIN = np.array([0, 1])
RANDOM = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32) @ np.diag(
    np.arange(1, 9, dtype=np.float32)
)
KINDS = ["none", "rms", "l2", "standardise", "pca:3", "whiten:3", "zca"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", ROWS),
        ("rms", ROWS / np.sqrt(3)),  # mean square of 3 1 1 1 is 3
        ("l2", ROWS / np.sqrt([[10], [2], [74]])),
        ("standardise", [[1, 0], [-1, 0], [5, 0]]),  # the second column is constant: it tells nothing
        ("pca:1", [[1], [-1], [5]]),
        ("whiten:1", [[1], [-1], [5]]),  # variance 1 along (1, 0) already
        ("zca", [[1, 0], [-1, 0], [5, 4 / np.sqrt(1e-5)]]),  # no variance along (0, 1): the floor divides
    ],
)
def test_hand_worked_values(name, expected):
    np.testing.assert_allclose(fit_transform(name, ROWS, TRAIN).apply(ROWS), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_what_is_not_in_training_changes_nothing(name):
    other = RANDOM.copy()
    other[200:] += 5
    found = [fit_transform(name, rows, np.arange(200)) for rows in (RANDOM, other)]
    for key in ("shift", "factor", "matrix"):
        assert np.array_equal(getattr(found[0], key), getattr(found[1], key))
    np.testing.assert_array_equal(found[0].apply(RANDOM[:200]), found[1].apply(other[:200]))


@pytest.mark.parametrize("name", KINDS)
def test_a_new_item_is_transformed_as_in_the_catalogue(name):
    found = fit_transform(name, RANDOM, np.arange(200))
    np.testing.assert_allclose(found.apply(RANDOM[7:8]), found.apply(RANDOM)[7:8], atol=1e-6)


def test_covariances():
    rows = np.arange(len(RANDOM))
    for name, width in (("whiten:5", 5), ("zca", 8)):
        covariance = np.cov(fit_transform(name, RANDOM, rows).apply(RANDOM), rowvar=False, bias=True)
        np.testing.assert_allclose(covariance, np.eye(width), atol=1e-4)
    pca = np.cov(fit_transform("pca:8", RANDOM, rows).apply(RANDOM), rowvar=False, bias=True)
    np.testing.assert_allclose(
        np.diag(pca), np.linalg.eigvalsh(np.cov(RANDOM, rowvar=False, bias=True))[::-1], rtol=1e-3
    )


def test_a_catalogue_larger_than_a_chunk(monkeypatch):
    whole = {name: fit_transform(name, RANDOM, np.arange(200)).apply(RANDOM) for name in KINDS}
    monkeypatch.setattr("recbole_blair.data.feature_transforms.CHUNK", 64)
    for name, expected in whole.items():
        np.testing.assert_allclose(fit_transform(name, RANDOM, np.arange(200)).apply(RANDOM), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pca", "feature_transform=pca is not one of none, rms, l2, standardise, pca:<width>.* a width: pca:128"),
        ("pca:0", "is not one of"), ("rms:3", "is not one of"), ("pca:²", "is not one of"),
        ("white:3", "mean 'whiten'"),
        ("pca:9", "feature_transform=pca:9, but the features have width 8; give pca:8 or less"),
    ],
)  # fmt: skip
def test_what_is_no_transform(name, message):
    with pytest.raises(InputError, match=message):
        fit_transform(name, RANDOM, np.arange(200))


def test_nothing_to_fit_on():
    with pytest.raises(InputError, match="is fitted on the items of training rows, and there are 1"):
        fit_transform("rms", RANDOM, np.arange(1))


def test_keys():
    assert chosen_transform({"feature_transform": "none", "feature_scale": "rms"}) == "rms"
    assert chosen_transform({"feature_transform": "pca:8", "feature_scale": "raw"}) == "pca:8"
    assert chosen_transform({}) == "none"
    with pytest.raises(InputError, match="feature_scale=rms and feature_transform=l2 ask for two transforms"):
        chosen_transform({"feature_transform": "l2", "feature_scale": "rms"})

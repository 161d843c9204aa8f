"""tfidf-svd: deterministic, right scale, same words near, tiny and odd catalogues."""

import numpy as np
import pytest
from tiny_encoders import some_texts

from recbole_blair.errors import InputError
from recbole_blair.text.encoders import load_encoder
from recbole_blair.text.lexical import LexicalEncoder

TEXTS = ["red cotton shirt", "blue cotton shirt", "steel kettle", "big steel kettle", "phone case", "phone cable"]


def test_deterministic():
    texts = some_texts(400)
    a, b = (load_encoder("tfidf-svd").encode(texts, progress=False) for _ in range(2))
    assert a.tobytes() == b.tobytes()


def test_rows_have_unit_root_mean_square_and_keep_the_order():
    encoder = LexicalEncoder(width=4)
    rows = encoder.encode(TEXTS, progress=False)
    assert rows.dtype == np.float32
    assert rows.shape == (6, 4) and encoder.width == 4
    assert np.allclose(np.sqrt((rows**2).mean(axis=1)), 1, atol=1e-5)
    near = rows @ rows.T - 99 * np.eye(6)
    assert near.argmax(axis=1).tolist() == [1, 0, 3, 2, 5, 4]


def test_a_text_without_a_word_is_a_counted_zero_row():
    encoder = LexicalEncoder(width=4)
    rows = encoder.encode([*TEXTS, "", "?"], progress=False)
    assert not rows[6:].any() and rows[:6].any(axis=1).all()
    assert encoder.description()["zero_rows"] == 2


def test_new_texts_are_projected_with_the_same_fit():
    encoder = LexicalEncoder(width=4)
    rows = encoder.encode(TEXTS, progress=False)
    again = LexicalEncoder(width=4).fit(TEXTS).transform([TEXTS[3], "unknownword"])
    assert np.allclose(again[0], rows[3], atol=1e-4)
    assert not again[1].any()


def test_two_directions_by_hand():
    """Two groups that share no word: each text lies wholly on its group's direction, at length sqrt(2)."""
    rows = LexicalEncoder(width=2).encode(["lamp", "desk", "lamp", "lamp", "desk", "game"], progress=False)
    root = np.sqrt(2)
    assert np.allclose(rows, [[root, 0], [0, root], [root, 0], [root, 0], [0, root], [0, 0]], atol=1e-4)


@pytest.mark.parametrize("texts", [["lamp"], ["lamp", "lamp"], ["lamp", "desk"], ["red lamp"] * 5])
def test_tiny_and_equal_catalogues(texts):
    rows = LexicalEncoder().encode(texts, progress=False)
    assert rows.shape[0] == len(texts) and rows.shape[1] >= 1
    assert np.isfinite(rows).all()


def test_no_word_at_all():
    with pytest.raises(InputError, match=r"tfidf-svd found no usable word in 2 item texts .*text column"):
        LexicalEncoder().encode(["", "?"], progress=False)


def test_normalise():
    rows = LexicalEncoder(width=4).encode(TEXTS, progress=False, normalise=True)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)

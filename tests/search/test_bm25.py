"""BM25 against naive loops over a small pool; ties, empty documents and the released variant."""

import math
import random

import numpy as np
import pytest

from recbole_blair.errors import InputError
from recbole_blair.search.bm25 import Analyser, BM25Index, _load_stopwords
from recbole_blair.search.index_dir import load_bm25, save_bm25

VOCABULARY = "lamp red blue warm the and usb cable long short Lamp I . , wood oak table chair"
WORDS = VOCABULARY.split()


def make_texts(n=60, seed=0):
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, weights=range(len(WORDS), 0, -1), k=rng.randint(1, 25))) for _ in range(n)]
    return [*texts, "", "the and", texts[0], texts[0]]


def naive_lucene(texts, query, k1, b):
    """Textbook BM25, Lucene's IDF, term by term."""
    analyse = Analyser()
    docs = [analyse(t) for t in texts]
    average = sum(map(len, docs)) / len(docs)
    scores = []
    for doc in docs:
        score = 0.0
        for term in analyse(query):
            df = sum(term in d for d in docs)
            tf = doc.count(term)
            if tf:
                idf = math.log(1 + (len(docs) - df + 0.5) / (df + 0.5))
                score += idf * tf / (tf + k1 * (1 - b + b * len(doc) / average))
        scores.append(score)
    return np.array(scores)


def naive_released(texts, query, k1=1.5, b=0.75, eps=0.25):
    """The released script's loop, with our tokens."""
    analyse = Analyser("released")
    docs = [analyse(t) for t in texts]
    average = sum(map(len, docs)) / len(docs)
    df = {}
    for doc in docs:
        for term in set(doc):
            df[term] = df.get(term, 0) + 1
    idf = {t: math.log(len(docs) - n + 0.5) - math.log(n + 0.5) for t, n in df.items()}
    mean_idf = sum(idf.values()) / len(idf)
    scores = []
    for doc in docs:
        score = 0.0
        for term in analyse(query):
            if term in doc:
                weight = idf[term] if idf[term] >= 0 else eps * mean_idf
                tf = doc.count(term)
                score += weight * tf * (k1 + 1) / (tf + k1 * (1 - b + b * len(docs) / average))
        scores.append(score)
    return np.array(scores)


def reference_ranking(scores, k):
    """Positive scores, highest first, pool order between equal fp32 scores."""
    order = sorted(range(len(scores)), key=lambda i: (-np.float32(scores[i]), i))
    return [i for i in order if scores[i] > 0][:k]


@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.9, 0.4), (2.0, 0.0)])
def test_equals_textbook_bm25(k1, b):
    texts = make_texts()
    index = BM25Index(k1=k1, b=b).build(texts, progress=False)
    for query in ("red lamp", "RED Lamp lamp usb", "oak table and the chair", "cable"):
        expected = naive_lucene(texts, query, k1, b)
        np.testing.assert_allclose(index.scores(query), expected, rtol=2e-5, atol=1e-6)
        _positions, scores = index.search([query], 10, progress=False)
        np.testing.assert_allclose(scores[0], np.sort(expected)[::-1][:10], rtol=2e-5)


def test_equals_the_released_loop():
    texts = make_texts()
    index = BM25Index("released").build(texts, progress=False)
    for query in ("red lamp", "I want a Lamp . the", "usb usb cable", "The oak"):
        np.testing.assert_allclose(index.scores(query), naive_released(texts, query), rtol=2e-5, atol=1e-6)


def test_released_keeps_case_and_ignores_length():
    texts = ["Lamp", "lamp", "lamp " + "oak table chair " * 30, *["wood"] * 6]
    index = BM25Index("released").build(texts, progress=False)
    scores = index.scores("lamp")
    assert scores[0] == 0
    assert scores[1] == scores[2] > 0
    assert BM25Index().build(texts, progress=False).scores("lamp")[1] > 0


def test_ties_rank_in_pool_order_and_strangers_are_not_ranked():
    index = BM25Index().build(["oak", "lamp oak", "oak lamp", "pine", "lamp oak", "lamp oak"], progress=False)
    positions, scores = index.search(["lamp"], 6, progress=False)
    assert positions[0].tolist() == [1, 2, 4, 5, -1, -1]
    assert len(set(scores[0, :4].tolist())) == 1
    assert (scores[0, 4:] == -np.inf).all()
    assert index.search(["lamp"], 2, progress=False)[0][0].tolist() == [1, 2]
    assert index.search(["zebra"], 2, progress=False)[0][0].tolist() == [-1, -1]


@pytest.mark.parametrize("k", [1, 3, 17, 200])
def test_depth_cuts_the_same_ranking(k):
    texts = make_texts()
    index = BM25Index().build(texts, progress=False)
    for query in ("red lamp", "usb cable long", "warm"):
        positions, _ = index.search([query], k, progress=False)
        found = [p for p in positions[0].tolist() if p >= 0]
        assert found == reference_ranking(index.scores(query), k)


def test_saved_index_searches_the_same(tmp_path):
    texts = make_texts()
    index = BM25Index().build(texts, progress=False)
    save_bm25(index, tmp_path / "bm25")
    again = load_bm25(BM25Index(), tmp_path / "bm25", len(texts))
    before, after = (i.search(["red lamp", "oak"], 20, progress=False) for i in (index, again))
    np.testing.assert_array_equal(before[0], after[0])
    np.testing.assert_array_equal(before[1], after[1])
    with pytest.raises(InputError, match="another pool or other settings"):
        load_bm25(BM25Index(k1=1.2), tmp_path / "bm25", len(texts))
    (tmp_path / "bm25" / "data.npy").write_bytes(b"torn")
    with pytest.raises(InputError, match="not a whole BM25 index"):
        load_bm25(BM25Index(), tmp_path / "bm25", len(texts))


def test_stemming_joins_word_forms():
    pytest.importorskip("Stemmer")
    plain = BM25Index().build(["running shoes", "lamp"], progress=False)
    stemmed = BM25Index(stemmer="english").build(["running shoes", "lamp"], progress=False)
    assert plain.scores("run shoe").max() == 0
    assert stemmed.scores("run shoe").argmax() == 0


def test_refusals():
    with pytest.raises(InputError, match=r"bm25_variant='lucen'.*Did you mean 'lucene'"):
        BM25Index("lucen")
    with pytest.raises(InputError, match="k1=-1"):
        BM25Index(k1=-1)
    with pytest.raises(InputError, match="nothing to search"):
        BM25Index().build(["", "a ."], progress=False)
    assert "the" in _load_stopwords("lucene", "english")
    assert not _load_stopwords("lucene", "none")

"""The sample dataset: deterministic, cut 8:1:1, with cold items, and with texts that carry the taste."""

import gzip
import hashlib
import json

import numpy as np
import pytest

from dataset_tools.builds.statistics_file import load_stats
from dataset_tools.prepare import prepare
from dataset_tools.raw import sample
from dataset_tools.raw.domains import DEFAULT_ITEMS, DEFAULT_USERS
from recbole_blair.errors import InputError
from recbole_blair.schema import SPLITS


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("sample")
    folder = prepare("sample", root / "dataset", root, progress=False)
    return root, folder


def digest(path):
    return hashlib.sha256(gzip.open(path).read()).hexdigest()[:16]


def test_frozen_bytes(built):
    """Change these together with `sample.VERSION`."""
    raw = built[0] / "raw"
    assert digest(raw / "review_categories/sample.jsonl.gz") == REVIEWS
    assert digest(raw / "meta_categories/meta_sample.jsonl.gz") == METADATA


REVIEWS, METADATA = "b0b821e90907d1a1", "5378cd598ecd3d33"


def test_size_and_cut(built):
    stats = load_stats(built[1])
    assert 9_000 < stats["rows"] < 12_000 and 1_300 < stats["items"] < 1_500 and 1_500 < stats["users"] < 2_000
    shares = [stats["splits"][split]["rows"] / stats["rows"] for split in SPLITS]
    assert np.allclose(shares, [0.8, 0.1, 0.1], atol=0.01)
    assert stats["cleaning"]["reviews"]["repeated_user_item"] > 0
    assert stats["cleaning"]["reviews"]["item_without_metadata"] > 0
    assert stats["catalogue"]["without_text"] == 0


def load(folder):
    items = [line.split("\t") for line in (folder / "sample.item").read_text().splitlines()[1:]]
    rows = {
        split: [line.split("\t") for line in (folder / f"sample.{split}.inter").read_text().splitlines()[1:]]
        for split in SPLITS
    }
    return items, rows


def test_a_fifth_of_the_targets_is_new_after_the_train_cut(built):
    _, rows = load(built[1])
    seen = {item for row in rows["train"] for item in (row[2], *row[1].split())}
    cold = np.mean([row[2] not in seen for row in rows["test"]])
    assert 0.2 < cold < 0.45


def test_text_finds_the_next_item_where_chance_does_not(built):
    """The mean of the history's tf-idf vectors, ranks cold targets far above chance; shuffled texts don't."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    items, rows = load(built[1])
    index = {item[0]: n for n, item in enumerate(items)}
    seen = {item for row in rows["train"] for item in (row[2], *row[1].split())}
    cold = [row for row in rows["test"] if row[2] not in seen]
    vectors = TfidfVectorizer(sublinear_tf=True).fit_transform([item[2] for item in items])
    cosine = (vectors @ vectors.T).toarray()

    def recall_at_20(similarity):
        hits = 0
        for row in cold:
            history = [index[item] for item in row[1].split()]
            scores = similarity[:, history].mean(1)
            scores[history] = -1
            hits += (scores > scores[index[row[2]]]).sum() < 20
        return hits / len(cold)

    shuffled = np.random.default_rng(0).permutation(len(items))
    assert recall_at_20(cosine) > 0.2
    assert recall_at_20(cosine[np.ix_(shuffled, shuffled)]) < 0.05


def test_no_single_word_gives_a_theme_away(built):
    """Each topic word serves several themes: knowing one word leaves most themes' items outside."""
    world = sample.build_world(DEFAULT_USERS, DEFAULT_ITEMS)
    words = sample.sample_text.build_words(int(world.niche[-1]) + 1, sample.NICHES_PER_THEME, sample.SEED)
    uses = {}
    for theme in words.theme:
        for word in theme:
            uses[word] = uses.get(word, 0) + 1
    assert np.mean([count > 1 for count in uses.values()]) > 0.7


def test_events_are_possible(built):
    world = sample.build_world(500, 300)
    assert (np.diff(world.niche) >= 0).all() and world.item.min() >= 0 and world.item.max() < 300
    start, end = sample.PERIOD_MS
    assert world.time_ms.min() >= start and world.time_ms.max() <= end
    owners = np.repeat(np.arange(500), world.user_events)
    same = owners[1:] == owners[:-1]
    assert (np.diff(world.time_ms)[same] >= 0).all()
    assert set(np.unique(world.rating)) <= {1, 2, 3, 4, 5}


def test_ids_are_distinct_and_shaped_like_amazons():
    ids = sample.item_ids(20_000)
    assert len(set(ids)) == 20_000 and {len(i) for i in ids} == {10}
    users = list(sample.user_ids(0, 1000))
    assert len(set(users)) == 1000 and {len(u) for u in users} == {28}


def test_another_size_has_its_own_name(tmp_path):
    folder = prepare("sample", tmp_path / "d", tmp_path, progress=False, sample_users=300, sample_items=200)
    assert folder.name == "sample-u300-i200"
    assert prepare("sample-u300-i200", tmp_path / "d", tmp_path, progress=False) == folder
    assert (tmp_path / "raw/review_categories/sample-u300-i200.jsonl.gz").is_file()


def test_files_of_an_older_version_are_made_again(tmp_path):
    review, meta = sample.write_sample(tmp_path, "sample", 100, 100, progress=False)
    whole = review.read_bytes(), meta.read_bytes()
    again = review.stat().st_mtime_ns
    sample.write_sample(tmp_path, "sample", 100, 100, progress=False)
    assert review.stat().st_mtime_ns == again
    with gzip.open(meta, "wt") as file:
        file.write(json.dumps({"main_category": "Sample 0"}) + "\n")
    sample.write_sample(tmp_path, "sample", 100, 100, progress=False)
    assert (review.read_bytes(), meta.read_bytes()) == whole


def test_too_small_a_size_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"sample_users=10, sample_items=200 is too small"):
        prepare("sample", tmp_path, tmp_path, sample_users=10, sample_items=200)
    with pytest.raises(InputError, match=r"need dataset=sample, not 'Video_Games'"):
        prepare("Games", tmp_path, tmp_path, sample_users=100)
    with pytest.raises(InputError, match=r"sample-u100-i100 contradicts sample_users=200"):
        prepare("sample-u100-i100", tmp_path, tmp_path, sample_users=200)

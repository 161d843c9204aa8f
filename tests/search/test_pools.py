"""Candidate pools: drawn by seed, in domain, without replacement, from streamed metadata; and the review sample."""

import gzip
import json
from collections import Counter

import numpy as np
import pytest
from shop_data import DOMAINS, write_raw

from dataset_tools.pools import __main__ as command
from dataset_tools.pools import candidate_pools as pools
from dataset_tools.pools import pool_parts
from dataset_tools.pools.candidate_pools import PoolRequest
from dataset_tools.pools.five_star_reviews import Draw, sample_reviews
from dataset_tools.storage.resources import Resources
from recbole_blair.errors import InputError
from recbole_blair.schema import TEST_START_MS

QUIET = Resources(progress=False)


def draw_pool(raw_dir, output, item_ids, domains=None, **options):
    return pools.build_pool(PoolRequest(item_ids, **options), raw_dir, output, domains, QUIET)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return write_raw(tmp_path_factory.mktemp("raw"))


def read_pool(path):
    opener = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_pool_holds_wanted_items_and_their_candidates(raw, tmp_path):
    wanted = ["I00003", "I10007", "I00003", "NOWHERE"]
    out = tmp_path / "item_pool.jsonl.gz"
    report = draw_pool(raw, out, wanted, n_candidates=10, seed=1)
    rows = read_pool(out)
    ids = [r["item_id"] for r in rows]
    assert len(set(ids)) == len(ids) == report["items"]
    assert {"I00003", "I10007"} <= set(ids)
    by = Counter(r["category"] for r in rows)
    assert by == report["items_by_domain"]
    assert by["All_Beauty"] == 11  # one pair: ten candidates and the item itself
    assert 12 <= by["Appliances"] <= 21  # two draws that may overlap
    assert report["wanted_items_without_metadata"] == ["NOWHERE"]
    assert rows[0]["metadata"].startswith("Quietmax Dishwasher Cleaner Tablets")
    assert json.loads((tmp_path / "item_pool.jsonl.gz.json").read_text()) == report
    assert not list(tmp_path.glob("*.parts"))


def test_draws_depend_on_seed_item_and_occurrence_only(raw, tmp_path):
    def ids(wanted, seed):
        draw_pool(raw, tmp_path / "p.jsonl", wanted, n_candidates=5, seed=seed)
        return {r["item_id"] for r in read_pool(tmp_path / "p.jsonl")}

    alone = ids(["I00003"], 1)
    assert alone == ids(["I00003"], 1)
    assert alone != ids(["I00003"], 2)
    assert alone < ids(["I10007", "I00003"], 1)
    assert len(ids(["I00003", "I00003"], 1)) > len(alone)


def test_same_bytes_again(raw, tmp_path):
    for name in ("a", "b"):
        draw_pool(raw, tmp_path / f"{name}.jsonl.gz", ["I00003", "I10001"], seed=4)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_draws_are_uniform_without_replacement_and_never_the_wanted_item():
    known = {"X": np.array([f"i{n}" for n in range(12)], dtype=bytes)}
    counts = Counter()
    for seed in range(3000):
        chosen, small = pools.draw(["i5"], {"i5": "X"}, known, 4, seed)
        assert len(chosen["X"]) == 5
        assert small == 0
        counts.update(chosen["X"] - {b"i5"})
    share = np.array(list(counts.values())) / 3000
    assert len(counts) == 11
    np.testing.assert_allclose(share, 4 / 11, atol=0.04)


def test_small_domain_gives_all_it_has_and_is_counted():
    known = {"X": np.array([b"a", b"b", b"c"])}
    chosen, small = pools.draw(["a"], {"a": "X"}, known, 50, 0)
    assert chosen == {"X": {b"a", b"b", b"c"}}
    assert small == 1


def test_item_of_two_domains_goes_where_the_mapping_says():
    known = {"X": np.array([b"a", b"b"]), "Y": np.array([b"a", b"c"])}
    assert pools.find_homes(["a"], known) == {"a": "X"}
    assert pools.find_homes(["a"], known, {"a": "Y"}) == {"a": "Y"}
    chosen, _ = pools.draw(["a", "b"], {"a": "Y", "b": "X"}, known, 1, 0)
    assert chosen == {"X": {b"b"}, "Y": {b"a", b"c"}}


def test_refusals(raw, tmp_path):
    with pytest.raises(InputError, match="none of the 1 wanted items"):
        draw_pool(raw, tmp_path / "p.jsonl", ["ZZ"])
    with pytest.raises(InputError, match=r"meta_Video_Games\.jsonl\[\.gz\] is missing; fetch it with .*Video_Games"):
        draw_pool(raw, tmp_path / "p.jsonl", ["I00003"], domains=["Games"])
    (tmp_path / "q.csv").write_text("qid,query\n1,a\n")
    with pytest.raises(InputError, match="expected item_id among them"):
        pools.read_item_ids(tmp_path / "q.csv")


def test_broken_metadata_is_named(raw, tmp_path):
    folder = tmp_path / "raw" / "meta_categories"
    folder.mkdir(parents=True)
    lines = (raw / "raw/meta_categories/meta_Appliances.jsonl").read_text().splitlines()
    lines[4] = '{"parent_asin": "I0'
    (folder / "meta_Appliances.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"meta_Appliances.jsonl line 5: not JSON"):
        draw_pool(tmp_path, tmp_path / "p.jsonl", ["I00009"])


def test_an_interrupted_build_goes_on(raw, tmp_path, monkeypatch):
    out = tmp_path / "p.jsonl.gz"
    whole = tmp_path / "whole.jsonl.gz"
    draw_pool(raw, whole, ["I00003", "I10001"])

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(pool_parts, "join_parts", stop)
    with pytest.raises(KeyboardInterrupt):
        draw_pool(raw, out, ["I00003", "I10001"])
    assert not out.exists()
    monkeypatch.undo()
    monkeypatch.setattr(pool_parts, "_read_meta", stop)  # everything that is read was read before
    draw_pool(raw, out, ["I00003", "I10001"])
    assert out.read_bytes() == whole.read_bytes()


def test_command_line(raw, tmp_path, capsys):
    (tmp_path / "test.csv").write_text("qid,query,item_id\n1,a,I00003\n")
    args = [f"--queries={tmp_path / 'test.csv'}", f"--raw_dir={raw}", f"--output={tmp_path / 'p.jsonl'}"]
    assert command.main([*args, "--candidates=3"]) == 0
    assert len(read_pool(tmp_path / "p.jsonl")) == 4
    assert command.main([*args, "--domains=Gamez"]) == 2
    assert "Did you mean" in capsys.readouterr().err


def test_sample_is_eligible_uniform_and_seeded(raw):
    reviews, counts = sample_reviews(raw, DOMAINS, Draw(40, seed=3), QUIET)
    assert counts["eligible"] == {"Appliances": 61, "All_Beauty": 61}
    assert len(reviews) + counts["item_without_metadata"] == 40
    assert all(r.rating == 5 and r.timestamp >= TEST_START_MS and len(r.text) >= 100 for r in reviews)
    assert {r.user_id[0] for r in reviews} == {"U"}
    assert [r.key for r in reviews] == sorted(r.key for r in reviews)
    assert reviews == sample_reviews(raw, DOMAINS, Draw(40, seed=3), QUIET)[0]
    assert reviews == sample_reviews(raw, DOMAINS[::-1], Draw(40, seed=3), QUIET)[0]
    assert reviews != sample_reviews(raw, DOMAINS, Draw(40, seed=4), QUIET)[0]
    assert reviews[:10] == sample_reviews(raw, DOMAINS, Draw(10, seed=3), QUIET)[0][:10]
    drawn = Counter(r.domain for seed in range(8) for r in sample_reviews(raw, DOMAINS, Draw(40, seed=seed), QUIET)[0])
    assert 0.35 < drawn["Appliances"] / sum(drawn.values()) < 0.65


def test_sample_reads_titles_and_counts_lost_items(raw):
    reviews, counts = sample_reviews(raw, DOMAINS, Draw(1000), QUIET)
    assert len(reviews) == 120
    assert counts["item_without_metadata"] == 2
    assert reviews[0].title.startswith("Quietmax")
    assert reviews[0].store == "Zorblax"


def test_no_eligible_review(raw):
    with pytest.raises(InputError, match="no five-star review of 100000 or more characters"):
        sample_reviews(raw, DOMAINS, Draw(5, min_chars=100_000), QUIET)

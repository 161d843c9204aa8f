"""Pairs from raw reviews and the contamination report, on a table of ten reviews."""

import gzip
import json

import pyarrow.parquet as pq
import pytest

from dataset_tools.pretraining.contamination import report_contamination
from dataset_tools.pretraining.review_pairs import PairSettings, make_pair_files
from dataset_tools.storage.resources import Resources
from recbole_blair.cli.main import main
from recbole_blair.errors import InputError
from recbole_blair.schema import TEST_START_MS, VALID_START_MS

EARLY = 1_600_000_000_000
WORDS = "the handle broke after three weeks of daily use in our kitchen and the seller never answered any mail"
OTHER = "Plays every record I own without a single scratch, and the small speaker fills the whole room with sound"


def review(user, item, time, text=WORDS, title="My view"):
    return {
        **{"user_id": user, "parent_asin": item, "asin": item, "timestamp": time, "title": title, "text": text},
        **{"rating": 5.0, "verified_purchase": True, "helpful_vote": 0, "images": []},
    }


REVIEWS = [
    review("u1", "A", EARLY),
    review("u1", "A", EARLY),  # repeated
    review("u2", "B", EARLY + 1, f"<b>Loud</b> &amp; clear<br/>{OTHER}"),
    review("u3", "NOMETA", EARLY + 2),
    review("u4", "A", EARLY + 3, "short", "t"),
    review("u5", "TINY", EARLY + 4),
    review("u6", "A", VALID_START_MS),  # equal text, from the first instant on
    review("u2", "B", VALID_START_MS + 5, f"Loud &amp; clear! {OTHER.upper()} indeed"),  # near-equal
    review("u9", "C", TEST_START_MS, "Nothing like the other reviews at all, this one speaks about a garden hose"),
    review("", "A", EARLY + 6),
]
META = [
    {"parent_asin": "A", "title": "Steel pan", "features": ["28 cm", "oven proof"], "description": ["A heavy pan."]},
    {"parent_asin": "B", "title": "Record player with speaker", "features": [], "description": ["Plays it all"]},
    {"parent_asin": "TINY", "title": "Cup", "features": [], "description": []},
    {"parent_asin": "A", "title": "A later line", "features": [], "description": []},
]


def write_raw(raw, reviews=REVIEWS, name="Shop"):
    for folder, rows in (("review_categories", reviews), ("meta_categories", META)):
        path = raw / "raw" / folder / f"{'meta_' if 'meta' in folder else ''}{name}.jsonl.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return raw


def make(raw, out, **options):
    return make_pair_files("Shop", raw, out, PairSettings(**{"share": 1.0, **options}), Resources(progress=False))


def read(folder):
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_rules_and_texts(tmp_path):
    out = make(write_raw(tmp_path), tmp_path / "pairs")
    rows = {row["user_id"]: row for row in read(out)}
    assert set(rows) == {"u1", "u2"}
    assert rows["u1"] == {
        **{"context": f"My view {WORDS}", "metadata": "Steel pan. 28 cm, oven proof. A heavy pan.", "item_id": "A"},
        **{"timestamp": EARLY, "user_id": "u1", "domain": "Shop"},
    }
    assert rows["u2"]["context"] == f"My view Loud & clear {OTHER}"
    assert rows["u2"]["metadata"] == "Record player with speaker. Plays it all."
    counts = json.loads((out / "manifest.json").read_text())["domains"]["Shop"]
    wanted = {"reviews": 10, "empty_ids": 1, "from_the_first_instant_on": 3, "repeated_review": 1, "pairs": 2}
    wanted |= {"item_without_metadata": 1, "context_too_short": 1, "metadata_too_short": 1, "not_sampled": 0}
    assert {key: counts[key] for key in wanted} == wanted
    assert counts["reviews"] == sum(v for k, v in counts.items() if k != "reviews")
    assert not (out / ".unfinished").exists()


def test_sampling_depends_on_the_review_alone(tmp_path):
    many = [review(f"u{i}", "A", EARLY + i, f"{WORDS} {i}") for i in range(400)]
    one = make(write_raw(tmp_path / "one", many), tmp_path / "a", share=0.25, seed=3)
    two = make(write_raw(tmp_path / "two", many[::-1] + many[:7]), tmp_path / "b", share=0.25, seed=3)
    assert read(one) == read(two)
    assert 70 <= len(read(one)) <= 130  # 100 expected, sd 8.7
    users = {row["user_id"] for row in read(one)}
    more = make(tmp_path / "one", tmp_path / "c", share=0.5, seed=3)
    assert users < {row["user_id"] for row in read(more)}  # a larger share holds the smaller
    other = make(tmp_path / "one", tmp_path / "d", share=0.25, seed=4)
    assert users != {row["user_id"] for row in read(other)}


def test_contamination_and_exclusion(tmp_path):
    raw = write_raw(tmp_path)
    out = make(raw, tmp_path / "pairs")
    found = report_contamination(out, "Shop", raw, Resources(progress=False))
    assert found["valid"] == {
        **{"reviews": 2, "users": 2, "items": 2, "reviews_in_pairs": 0, "users_in_pairs": 1, "items_in_pairs": 2},
        **{"reviews_of_items_in_pairs": 2, "reviews_with_equal_text": 1, "reviews_with_near_equal_text": 2},
    }
    assert found["test"]["reviews"] == 1 and not any(v for k, v in found["test"].items() if "_" in k)
    matched = [json.loads(line) for line in (out / "contaminated_reviews.jsonl").read_text().splitlines()]
    assert matched == [
        {"user_id": "u1", "item_id": "A", "timestamp": EARLY},
        {"user_id": "u2", "item_id": "B", "timestamp": EARLY + 1},
    ]
    assert (out / "evaluation_items.txt").read_text() == "A\nB\nC\n"
    only = tmp_path / "only.jsonl"
    only.write_text(json.dumps(matched[0]) + "\n")
    left = make(raw, tmp_path / "left", exclude_reviews=only)
    assert [row["user_id"] for row in read(left)] == ["u2"]
    counts = json.loads((left / "manifest.json").read_text())["domains"]["Shop"]
    assert counts["excluded_review"] == 2  # u1's line and its repetition
    items = tmp_path / "items.txt"
    items.write_text("B\n")
    assert [row["user_id"] for row in read(make(raw, tmp_path / "no_b", exclude_items=items))] == ["u1"]


def test_a_finished_domain_is_not_made_again_and_other_settings_are_refused(tmp_path):
    raw = write_raw(tmp_path)
    out = make(raw, tmp_path / "pairs")
    before = (out / "Shop-00000.parquet").stat().st_mtime_ns
    make(raw, out)
    assert (out / "Shop-00000.parquet").stat().st_mtime_ns == before
    with pytest.raises(InputError, match=r"made with share=1\.0, asked is 0\.5"):
        make(raw, out, share=0.5)


def test_an_interrupted_domain_is_made_again(tmp_path, capsys):
    raw = write_raw(tmp_path)
    out = make(raw, tmp_path / "pairs")
    expected = read(out)
    (out / "Shop.json").unlink()  # as if it was stopped before the report, which comes last
    (out / ".unfinished").touch()
    (out / "Shop-00001.parquet").write_bytes(b"half")
    assert main(["pretrain", f"--pairs={out}", "--output_dir", str(tmp_path / "run"), "--plm=nowhere/none"]) == 2
    assert "is not finished" in capsys.readouterr().err
    assert read(make(raw, out)) == expected


def test_nothing_left_is_an_error_with_the_counts(tmp_path):
    with pytest.raises(InputError, match=r"no pairs left.*context_too_short"):
        make(write_raw(tmp_path), tmp_path / "pairs", min_chars=10_000)


def test_damaged_raw_file_is_named(tmp_path):
    raw = write_raw(tmp_path)
    path = raw / "raw" / "review_categories" / "Shop.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"Shop\.jsonl\.gz is not a whole gzip file"):
        make(raw, tmp_path / "pairs")


def test_prepare_only_prints_the_folder(tmp_path, capsys):
    raw = write_raw(tmp_path)
    command = ["pretrain", "--dataset=Shop", f"--raw_dir={raw}", f"--pairs_path={tmp_path / 'p'}", "--sample_share=1.0"]
    assert main([*command, "--prepare_only", "--show_progress=False"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "p")

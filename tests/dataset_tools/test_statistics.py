"""Counts of raw files against a plain count in Python, over unions, and beside the published figures."""

import contextlib
import gzip
import json
import random
import re
from pathlib import Path

import pytest
from builds import change_json
from raw_data import T, V, meta, review, table, write_raw

from dataset_tools.counts import raw_counts
from dataset_tools.counts.published import compare, load_published, month, parse_figure, rounds_to
from dataset_tools.counts.raw_counts import COUNTS, count_domain, count_domains
from dataset_tools.prepare import prepare
from dataset_tools.storage.resources import Resources
from recbole_blair.cli.main import main
from recbole_blair.errors import InputError
from recbole_blair.schema import DOMAINS, UNKNOWN_DOMAIN

SHARED = {  # reviews, users, items, items with metadata, metadata items; then Table 3 as ../shared/data says
    "Electronics": (131_154, 15_266, 9_671, 9_671, 9_671, (9_671, 129_868, 6.7892)),
    "Appliances": (3_836, 607, 3_016, 2_594, 2_594, (2_594, 3_403, 3.5873)),
    "All_Beauty": (3_534, 675, 3_208, 762, 762, (649, 729, 2.4644)),
}


def words(text):
    return len(re.findall(r"[^ \t\n\f\r]+", text))


def item_words(record):
    values = [record.get(field) for field in ("title", "features", "categories", "description")]
    parts = [part for value in values for part in (value if isinstance(value, list) else [value])]
    return sum(words(str(part)) for part in parts if part is not None)


def naive(reviews, metadata):
    """Count the plain way: everything in memory, a dict an item."""
    described = {}
    for record in metadata:
        described.setdefault(record["parent_asin"], item_words(record))
    items = {r["parent_asin"] for r in reviews if r["parent_asin"]}
    times = [r["timestamp"] for r in reviews if 10**11 <= r["timestamp"] < 10**13]
    return {
        "reviews": len(reviews),
        "users": len({r["user_id"] for r in reviews if r["user_id"]}),
        "items": len(items),
        "items_with_metadata": len(items & set(described)),
        "metadata_items": len(described),
        "review_tokens": sum(words(r["title"] or "") + words(r["text"] or "") for r in reviews),
        "metadata_tokens": sum(described.values()),
        "first_ms": min(times),
        "last_ms": max(times),
    }


def counts(found):
    return {name: found[name] for name in (*COUNTS, "first_ms", "last_ms")}


def texts(rng):
    """Text with runs of white space at both ends and inside, and characters that are no ASCII white space."""
    return "".join(rng.choice(["a", "word", "é", " ", "  ", "\t", "\n", "\r", "\f", "\u00a0", "\u3000", "\v"])
                   for _ in range(rng.randrange(12)))  # fmt: skip


def random_raw(seed, users=range(20), items=range(15)):
    rng = random.Random(seed)
    reviews = [
        review(f"u{rng.choice(users)}", f"i{rng.choice(items)}", V + rng.randrange(-(10**9), T - V + 10**9),
               title=rng.choice([None, texts(rng)]), text=texts(rng))
        for _ in range(200)
    ]  # fmt: skip
    metadata = [
        meta(f"i{n}", title=rng.choice([None, texts(rng)]), features=[texts(rng) for _ in range(rng.randrange(3))],
             categories=rng.choice([None, [], ["A b", "c"]]), description=rng.choice([[texts(rng)], texts(rng), None]))
        for n in items if rng.random() < 0.7
    ]  # fmt: skip
    again = [{**record, "title": "a second line of an item, longer than its first one"} for record in metadata[:2]]
    return reviews, metadata + again


@pytest.mark.parametrize("seed", range(3))
def test_counts_equal_the_plain_ones(tmp_path, seed):
    reviews, metadata = random_raw(seed)
    write_raw(tmp_path, "Appliances", reviews, metadata, ".jsonl.gz" if seed else ".jsonl")
    found = count_domain(tmp_path, "Appliances", table3=False)
    assert counts(found) == naive(reviews, metadata)
    assert found["table3"] is None and found["domain"] == "Appliances"


def test_a_worked_example(tmp_path):
    reviews, metadata = table()
    reviews += [review("", "i1", 5), review("u9", "", V // 1000, text=None)]
    metadata[1]["features"] = ["two words", "three more words"]
    write_raw(tmp_path, "Appliances", reviews, metadata)
    found = count_domain(tmp_path, "Appliances", data_path=tmp_path / "dataset")
    assert [found[name] for name in COUNTS] == [13, 5, 6, 5, 5, 13 + 12, 5 * 3 + 5]
    assert (found["first_ms"], found["last_ms"], found["reviews_without_time"]) == (V - 500, T + 7, 2)
    # rows: u1 i2, u1 i3, u2 i2, u2 i4, u4 i1, of which three have a history of one item
    assert found["table3"]["inters"] == 5 + 3 and found["table3"]["items"] == 4
    assert found["table3"]["source"] == "computed" and not (tmp_path / "dataset").exists()


def test_a_build_gives_table_3_and_one_that_contradicts_is_refused(tmp_path):
    write_raw(tmp_path, "Appliances", *table())
    computed = count_domain(tmp_path, "Appliances", data_path=tmp_path / "dataset")["table3"]
    folder = prepare("Appliances", tmp_path / "dataset", tmp_path, progress=False)
    stats = folder / "Appliances.stats.json"
    built = count_domain(tmp_path, "Appliances", data_path=tmp_path / "dataset")["table3"]
    assert built == {**computed, "source": "build"}
    change_json(stats, '"avg_history_length": 1.4', '"avg_history_length": 7.0')
    changed = count_domain(tmp_path, "Appliances", data_path=tmp_path / "dataset")["table3"]
    assert changed["avg_history_length"] == 7.0  # it is read, not computed
    change_json(stats, '"max_history": 50', '"max_history": 20')
    with pytest.raises(InputError, match="built with max_history=20, asked is max_history=50"):
        count_domain(tmp_path, "Appliances", data_path=tmp_path / "dataset")


def test_a_user_and_an_item_of_two_domains_count_once(tmp_path):
    one, two = random_raw(5), random_raw(6, users=range(10, 40), items=range(10, 30))
    write_raw(tmp_path, "Appliances", *one)
    write_raw(tmp_path, "All_Beauty", *two)
    found = count_domains(tmp_path, ["Appliances", "All_Beauty"], table3=False)
    total = naive(one[0] + two[0], one[1] + two[1])
    total["metadata_tokens"] = sum(naive(*raw)["metadata_tokens"] for raw in (one, two))  # texts of both domains
    assert counts(found["total"]) == total
    assert found["total"]["users"] < sum(one["users"] for one in found["domains"])
    assert found["total"]["items"] < sum(one["items"] for one in found["domains"])
    assert count_domains(tmp_path, ["Appliances"], table3=False)["total"] is None


def test_a_count_that_was_interrupted_goes_on(tmp_path, monkeypatch, capsys):
    write_raw(tmp_path, "Appliances", *random_raw(5))
    write_raw(tmp_path, "All_Beauty", *random_raw(6, users=range(10, 40), items=range(10, 30)))
    whole = count_domains(tmp_path, ["Appliances", "All_Beauty"], table3=False)
    output = tmp_path / "stats.json"
    arguments = [
        "stats",
        "Appliances",
        "Beauty",
        f"--raw_dir={tmp_path}",
        "--no_table3",
        f"--output={output}",
        "--quiet",
    ]
    counted, count = [], raw_counts._count

    def interrupt(duck, *paths):
        counted.append(Path(paths[0]).stem)
        if counted == ["Appliances", "All_Beauty"]:
            raise KeyboardInterrupt
        return count(duck, *paths)

    monkeypatch.setattr(raw_counts, "_count", interrupt)
    with contextlib.suppress(KeyboardInterrupt):
        assert main(arguments) != 0
    assert not output.exists()
    assert main(arguments) == 0
    assert counted == ["Appliances", "All_Beauty", "All_Beauty"]
    found = json.loads(output.read_text())
    assert {name: found[name] for name in ("domains", "total")} == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "stats.json"]


def test_what_was_kept_of_other_files_is_counted_again(tmp_path):
    kept = tmp_path / "kept"
    write_raw(tmp_path, "Appliances", *random_raw(5))
    write_raw(tmp_path, "All_Beauty", *random_raw(6))
    count_domains(tmp_path, ["Appliances", "All_Beauty"], table3=False, keep_dir=kept)
    write_raw(tmp_path, "All_Beauty", *random_raw(7, users=range(10, 40)))
    again = count_domains(tmp_path, ["Appliances", "All_Beauty"], table3=False, keep_dir=kept)
    assert again == count_domains(tmp_path, ["Appliances", "All_Beauty"], table3=False)
    (kept / "Appliances.json").write_text("{")
    with pytest.raises(InputError, match=r"Appliances\.json is not JSON.*delete it to count"):
        count_domains(tmp_path, ["Appliances", "All_Beauty"], table3=False, keep_dir=kept)


def test_memory_limit_and_threads_change_nothing(tmp_path):
    write_raw(tmp_path, "Appliances", *random_raw(1))
    some = count_domain(tmp_path, "Appliances", table3=False, resources=Resources("200MB", 1, False))
    assert some == count_domain(tmp_path, "Appliances", table3=False, resources=Resources(threads=2, progress=False))


def test_broken_lines_are_counted_and_too_many_are_refused(tmp_path):
    reviews = [review(f"u{n}", "i1", V + n) for n in range(2000)]
    write_raw(tmp_path, "Appliances", [*reviews, "{broken"], [meta("i1")])
    found = count_domain(tmp_path, "Appliances", table3=False)
    assert (found["reviews"], found["broken_reviews"]) == (2000, 1)
    write_raw(tmp_path, "Appliances", [*reviews[:9], "{broken"], [meta("i1")])
    with pytest.raises(InputError, match=r"Appliances\.jsonl line 10: not JSON"):
        count_domain(tmp_path, "Appliances", table3=False)


def test_table_3_that_cannot_be_had_says_why(tmp_path, capsys):
    write_raw(tmp_path, "Appliances", [review("u1", "i1", V), review("u1", "i2", V + 1)], [meta("i1"), meta("i2")])
    arguments = ["stats", "Appliances", f"--raw_dir={tmp_path}", f"--data_path={tmp_path / 'x'}", "--quiet"]
    assert main(arguments) == 0
    assert "Appliances: the split leaves train and test without a row" in capsys.readouterr().out


def test_the_command_prints_and_writes(tmp_path, capsys):
    reviews, metadata = table()
    write_raw(tmp_path, "All_Beauty", reviews, metadata)
    write_raw(tmp_path, "Baby_Products", reviews, metadata)
    output = tmp_path / "stats.json"
    arguments = [f"--raw_dir={tmp_path}", f"--data_path={tmp_path / 'x'}", f"--output={output}"]
    assert main(["stats", "Beauty", "Baby", *arguments]) == 0
    printed = capsys.readouterr()
    saved = json.loads(output.read_text())
    assert [one["domain"] for one in saved["domains"]] == ["All_Beauty", "Baby_Products"]
    assert saved["total"]["users"] == 4 and saved["total"]["reviews"] == 22
    assert re.search(r"^total +22 +4 +6 +5 +5 +44 +30 +2021-08-11 +2022-07-16$", printed.out, re.MULTILINE)
    assert re.search(r"^Baby_Products +3 +inters +8 +3,599,935 +2\.\d+e-06$", printed.out, re.MULTILINE)
    assert "says Office where its tables say Baby" in printed.out and "rows with a one-item history" in printed.out
    assert "domains" in printed.err  # the progress bar
    assert main(["stats", "Beauty", *arguments, "--no_table3", "--quiet"]) == 0
    printed = capsys.readouterr()
    assert "Table 3:" not in printed.out and not printed.err and "says Office" not in printed.out


MISTAKES = {
    ("Gamez",): "unknown dataset 'Gamez'",
    ("shop",): "unknown dataset 'shop' and no raw files of that name",
    ("Appliances", "--memory_limit=abc"): "--memory_limit=abc is no size of memory; expected a size above 0",
    ("Appliances", "--threads=-1"): "--threads=-1 is out of range; expected int, 1 to",
    ("Appliances", "--output=there/none/x.json"): "expected the name of a JSON file in a folder that exists",
    ("Magazine_Subscriptions",): "meta_Magazine_Subscriptions.jsonl[.gz] in place by hand",
    ("Digital_Music",): "Digital_Music.jsonl.gz is not a whole gzip file: it ends too early",
    ("Gift_Cards",): "Gift_Cards.jsonl holds no line",
}


@pytest.mark.parametrize("argv", MISTAKES)
def test_bad_input_is_one_line(argv, tmp_path, monkeypatch, capsys):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    write_raw(tmp_path, "Appliances", *table())
    write_raw(tmp_path, "Gift_Cards", [], [meta("i1")])
    path, _ = write_raw(tmp_path, "Digital_Music", *table(), suffix=".jsonl.gz")
    path.write_bytes(path.read_bytes()[:-20])
    assert main(["stats", *argv, f"--raw_dir={tmp_path}", f"--data_path={tmp_path / 'x'}", "--quiet"]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and MISTAKES[argv] in printed.err and not printed.out


def test_published_figures_are_whole():
    published = load_published()
    assert set(published["domains"]) == {*DOMAINS, UNKNOWN_DOMAIN}
    sums = [sum(parse_figure(row[i])[0] for row in published["domains"].values()) for i in (0, 2)]
    # the rounded figures of the 34 files add up to the totals within their rounding: Unknown is part of the totals
    assert sums[0] == pytest.approx(571_544_897, rel=5e-3) and sums[1] == pytest.approx(48_185_153, rel=5e-3)
    assert published["table3"]["Baby_Products"] == ["179133", "3599935", "4.32", "518.74"]


@pytest.mark.parametrize(
    ("ours", "text", "equal"),
    [(701_528, "701.5K", True), (701_551, "701.5K", False), (2.976, "2.98", True), (43_982, "43982", True),
     (43_983, "43982", False), (571_544_897, "571544897", True), (30_144_999_999, "30.14B", True)],
)  # fmt: skip
def test_rounding(ours, text, equal):
    assert rounds_to(ours, text) is equal


def test_all_domains_are_compared_with_the_published_total():
    one = dict.fromkeys(COUNTS, 10) | {"first_ms": 835_000_000_000, "last_ms": T, "table3": None}
    found = {"domains": [{**one, "domain": name} for name in DOMAINS], "total": {**one, "domain": "total"}}
    differences, notes = compare(found)
    total = {row.column: row for row in differences if row.where == "total"}
    assert total["first"].equal and total["first"].ours == month(835_000_000_000) == "Jun 1996"
    assert not total["last"].equal and not total["users"].equal and len(total) == 8
    assert any("stats all Unknown" in note for note in notes)
    found["domains"].append({**one, "domain": UNKNOWN_DOMAIN})
    assert not any("stats all Unknown" in note for note in compare(found)[1])
    found["domains"].pop(0)
    assert not [row for row in compare(found)[0] if row.where == "total"]


def test_the_real_slices(shared_data, tmp_path):
    found = count_domains(shared_data / "amazon_reviews_2023", list(SHARED), data_path=tmp_path)
    for one, expected in zip(found["domains"], SHARED.values()):
        assert tuple(one[name] for name in COUNTS[:5]) == expected[:-1]
        assert tuple(one["table3"][name] for name in ("items", "inters", "avg_history_length")) == expected[-1]
    users = set()
    for name in SHARED:
        path = shared_data / f"amazon_reviews_2023/raw/review_categories/{name}.jsonl.gz"
        with gzip.open(path, "rt", encoding="utf-8") as file:
            users.update(json.loads(line)["user_id"] for line in file)
    assert found["total"]["users"] == len(users)


def test_kept_ids_that_are_damaged_are_counted_again(tmp_path):
    write_raw(tmp_path, "Appliances", *random_raw(5))
    (tmp_path / "kept").mkdir()
    count_domain(tmp_path, "Appliances", table3=False, keep_dir=tmp_path / "kept")
    ids = tmp_path / "kept/Appliances.users.parquet"
    whole = ids.read_bytes()
    damaged = whole[:40] + bytes([whole[40] ^ 1]) + whole[41:]
    ids.write_bytes(damaged)
    count_domain(tmp_path, "Appliances", table3=False, keep_dir=tmp_path / "kept")
    assert ids.read_bytes() != damaged

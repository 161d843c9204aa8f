"""Conversion: a table worked by hand, every cleaning rule, bad input, and equality with the plain converter."""

import gzip
import json

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from naive_convert import naive_convert
from raw_data import T, V, meta, read_rows, review, table, write_raw

from dataset_tools.builds.statistics_file import load_stats
from dataset_tools.prepare import prepare
from recbole_blair.errors import InputError
from recbole_blair.schema import SPLITS
from recbole_blair.text.item_text import ids_hash, text_hash


def build(tmp_path, reviews, metadata, suffix=".jsonl", **options):
    write_raw(tmp_path, "Appliances", reviews, metadata, suffix)
    return prepare("Appliances", tmp_path / "dataset", tmp_path, progress=False, threads=2, **options)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_table_by_hand(tmp_path, suffix):
    folder = build(tmp_path, *table(), suffix)
    # Users by first event: u3 (lone), u1 (V-100), u2 (V-50), u4 (V+2).
    assert read_rows(folder, "train") == [("u1", ["i1"], "i2", [V - 100], V - 1)]
    assert read_rows(folder, "valid") == [
        ("u1", ["i1", "i2"], "i3", [V - 100, V - 1], T - 1),
        ("u2", ["i1"], "i2", [V - 50], V),
        ("u4", ["i3"], "i1", [V + 2], V + 2),
    ]
    assert read_rows(folder, "test") == [("u2", ["i1", "i2"], "i4", [V - 50, V], T)]
    items = (folder / "Appliances.item").read_text().splitlines()
    assert [line.split("\t")[0] for line in items[1:]] == ["i1", "i2", "i3", "i4"]  # i5 has no row
    stats = load_stats(folder)
    assert stats["cleaning"]["reviews"]["repeated_user_item"] == 1
    assert stats["cleaning"]["reviews"]["item_without_metadata"] == 1
    assert stats["counts"] == {"reviews": 11, "metadata_lines": 5, "after_dedup": 10, "interactions": 9}
    assert {k: v["rows"] for k, v in stats["splits"].items()} == {"train": 1, "valid": 3, "test": 1}
    assert {k: v["users"] for k, v in stats["splits"].items()} == {"train": 1, "valid": 3, "test": 1}
    # rows 5, three of them with a one-item history: 8 interactions; histories 1+2+1+1+2 = 7
    assert stats["table3"] == {
        "items": 4,
        "inters": 8,
        "avg_history_length": 1.4,
        "avg_item_chars": float(len("Title of i1.")),
    }


def test_boundaries_are_half_open(tmp_path):
    """train: t < valid instant; valid: valid instant <= t < test instant; test: test instant <= t."""
    times = [V - 1, V, V + 1, T - 1, T, T + 1]
    reviews = [review("u", "i0", 10**12)] + [review("u", f"i{n}", t) for n, t in enumerate(times, 1)]
    folder = build(tmp_path, reviews, [meta(f"i{n}") for n in range(7)])
    found = {split: [row[4] for row in read_rows(folder, split)] for split in SPLITS}
    assert found == {"train": [V - 1], "valid": [V, V + 1, T - 1], "test": [T, T + 1]}


def test_history_keeps_the_latest_items_and_reaches_back_over_the_cut(tmp_path):
    reviews = [review("u", f"i{n}", V - 60 + n) for n in range(60)]
    reviews += [review("u", "i60", V + 1), review("u", "i61", T + 1)]
    folder = build(tmp_path, reviews, [meta(f"i{n}") for n in range(62)])
    (valid,), (test,) = read_rows(folder, "valid"), read_rows(folder, "test")
    assert valid[1] == [f"i{n}" for n in range(10, 60)]
    assert test[1] == [f"i{n}" for n in range(11, 61)]
    short = build(tmp_path, reviews, [meta(f"i{n}") for n in range(62)], max_history=3)
    assert short.name != folder.name
    assert read_rows(short, "test")[0][1] == ["i58", "i59", "i60"]
    assert load_stats(short)["users"] == 1


DIRTY = {
    "broken_json": ['{"rating": 5.0, "user_id": "u', "[1, 2]", "{}"],
    "empty_ids": [review("", "i1", V), review("u", None, V)],
    "rating_outside_1_5": [review("u", "i1", V, rating=r) for r in (0, 5.5, -1, None, "many")],
    "time_missing_or_not_positive": [review("u", "i1", t) for t in (0, -5, None)],
    "time_in_seconds": [review("u", "i1", V // 1000)],
    "time_in_microseconds": [review("u", "i1", V * 1000)],
    "unusable_ids": [review(x, "i1", V) for x in ("a b", 'a"b', "NA", "[PAD]", "tab\t")] + [review("u", "i 1", V)],
}


@pytest.mark.parametrize("rule", DIRTY)
def test_each_rule_drops_and_counts_its_lines(tmp_path, rule):
    reviews, metadata = table()
    filler = [review(f"f{n}", "i1", V - 10**6) for n in range(4000)]  # keeps broken lines below 0.1 %
    clean = build(tmp_path / "clean", reviews + filler, metadata)
    dirty = build(tmp_path / "dirty", reviews[:5] + DIRTY[rule] + reviews[5:] + filler, metadata)
    counts = load_stats(dirty)["cleaning"]["reviews"]
    assert counts.pop(rule) == len(DIRTY[rule])
    assert {k: v for k, v in counts.items() if v} == {"repeated_user_item": 1, "item_without_metadata": 1}
    for name in (*(f"Appliances.{split}.inter" for split in SPLITS), "Appliances.item"):
        assert (dirty / name).read_bytes() == (clean / name).read_bytes()


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_more_than_a_thousandth_broken_stops_and_names_the_line(tmp_path, suffix):
    reviews, metadata = table()
    with pytest.raises(InputError, match=r"Appliances\.jsonl.* line 4: not JSON.*1 of 12 lines are broken.*0\.1%"):
        build(tmp_path, [*reviews[:2], "", '{"rating"', *reviews[2:]], metadata, suffix)  # line 3 is blank
    assert not (tmp_path / "dataset").exists()


def test_broken_metadata_line_is_named_too(tmp_path):
    reviews, metadata = table()
    with pytest.raises(InputError, match=r"meta_Appliances\.jsonl line 6: not JSON"):
        build(tmp_path, reviews, [*metadata, "oops"])


def test_first_metadata_line_of_an_item_counts(tmp_path):
    reviews, metadata = table()
    folder = build(tmp_path, reviews, [meta("i1", "First"), *metadata, meta("i2", "Last"), meta("", "No id")])
    titles = dict(line.split("\t")[:2] for line in (folder / "Appliances.item").read_text().splitlines()[1:])
    assert titles["i1"] == "First" and titles["i2"] == "Title of i2"
    found = load_stats(folder)["cleaning"]["metadata"]
    assert found == {"broken_json": 0, "empty_or_unusable_ids": 1, "repeated_item": 2, "price_not_a_number": 0}


@pytest.mark.parametrize("cut", [0, 1, 10, -3])
def test_truncated_gzip_is_named_with_the_fix(tmp_path, cut):
    path, _ = write_raw(tmp_path, "Appliances", *table(), ".jsonl.gz")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"Appliances\.jsonl\.gz is not a whole gzip file: .*Fetch it again"):
        prepare("Appliances", tmp_path / "dataset", tmp_path, progress=False)


def test_damaged_gzip_is_noticed(tmp_path):
    reviews = [review(f"u{n % 999}", f"i{n % 5 + 1}", V - n) for n in range(20_000)]
    path, _ = write_raw(tmp_path, "Appliances", reviews, table()[1], ".jsonl.gz")
    data = bytearray(path.read_bytes())
    data[-6] ^= 1  # the stored check sum: every line still reads well
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"Appliances\.jsonl\.gz is not a whole gzip file: it is damaged"):
        prepare("Appliances", tmp_path / "dataset", tmp_path, progress=False)


def test_empty_split_names_split_instants_and_fix(tmp_path):
    reviews = [review("u", f"i{n}", V + n) for n in range(1, 6)]
    told = rf"leaves train and test without a row.*{V}\) <= valid < .*{T}\).*valid_start_ms"
    with pytest.raises(InputError, match=told):
        build(tmp_path, reviews, table()[1])


def test_all_items_without_metadata(tmp_path):
    with pytest.raises(InputError, match=r"none of the 10 interactions has an item with metadata"):
        build(tmp_path, table()[0], [meta("other")])


def test_no_usable_review(tmp_path):
    reviews = [review("u", "i1", V // 1000)] * 3
    with pytest.raises(InputError, match=r"none of the 3 reviews is usable \(time_in_seconds 3\)"):
        build(tmp_path, reviews, table()[1])


def test_empty_file(tmp_path):
    with pytest.raises(InputError, match=r"Appliances\.jsonl holds no line"):
        build(tmp_path, [], table()[1])


HARD = [
    meta("i1", 'A 15" <b>screen</b>\twith\nlines', description=['He said "wow" &amp; left', "抹茶"], price="$1,299.50"),
    meta("i2", '"', features=['"quoted"', "x\u2028y"], store='O"Neil', price=3),
    meta("i3", "NA", categories=["Parts & More", "Tea\tPots", ""], price="from 12.99", store="Crème"),
    meta("i4", None),
    meta("i5", ["odd", "list"], features="plain"),
]


def test_text_columns_survive_plain_pandas(tmp_path):
    folder = build(tmp_path, table()[0], HARD)
    frame = pd.read_csv(folder / "Appliances.item", sep="\t", keep_default_na=False)
    assert frame["item_id:token"].tolist() == ["i1", "i2", "i3", "i4"]
    assert frame["title:token"].tolist() == ["A 15'' screen with lines", "''", "NA", ""]
    assert frame["text:token"].tolist() == [
        "A 15'' screen with lines. He said ''wow'' & left, 抹茶.",
        "''. ''quoted'', x y.",
        "NA. Parts & More, Tea Pots.",
        "",
    ]
    assert frame["categories:token_seq"].tolist() == ["", "", "Parts_&_More Tea_Pots", ""]
    assert frame["store:token"].tolist() == ["", "O''Neil", "Crème", ""]
    assert frame["price:float"].tolist() == ["1299.5", "3.0", "", ""]
    stats = load_stats(folder)
    assert stats["cleaning"]["metadata"]["price_not_a_number"] == 1
    assert stats["catalogue"]["without_text"] == 1
    assert stats["catalogue"]["ids_hash"] == ids_hash(frame["item_id:token"])
    assert stats["catalogue"]["text_hash"] == text_hash(frame["text:token"])
    ascii_build = build(tmp_path, table()[0], HARD, ascii_text=True)
    assert (ascii_build / f"{ascii_build.name}.item").read_text().isascii()


def test_catalogue_all_adds_the_rest_in_metadata_order(tmp_path):
    reviews, metadata = table()
    folder = build(tmp_path, reviews, [meta("z9"), *metadata], catalogue="all")
    items = [line.split("\t")[0] for line in (folder / f"{folder.name}.item").read_text().splitlines()[1:]]
    assert items == ["i1", "i2", "i3", "i4", "z9", "i5"]
    assert load_stats(folder)["table3"]["items"] == 4
    assert load_stats(folder)["catalogue"]["items"] == 6


def test_last_out_by_hand(tmp_path):
    """Five users and five items, all pairs: a 5-core; a sixth item and user fall out of it."""
    reviews = [review(f"u{u}", f"i{i}", 10**12 + 100 * u + i) for u in range(1, 6) for i in range(1, 6)]
    reviews += [review("u1", "rare", 10**12 + 9), review("u6", "i1", 10**12)]
    folder = build(tmp_path, reviews, [meta(f"i{i}") for i in range(1, 6)] + [meta("rare")], protocol="last_out")
    assert folder.name == "Appliances-last_out"
    for user, row in zip(range(1, 6), read_rows(folder, "test"), strict=True):
        assert row[:3] == (f"u{user}", ["i1", "i2", "i3", "i4"], "i5")
    assert [row[2] for row in read_rows(folder, "valid")] == ["i4"] * 5
    assert [row[2] for row in read_rows(folder, "train")] == ["i2", "i3"] * 5
    counts = load_stats(folder)["cleaning"]["reviews"]
    assert (counts["outside_5_core"], counts["few_after_metadata"], counts["item_without_metadata"]) == (2, 0, 0)


def test_last_out_filters_once_after_items_without_metadata_are_gone(tmp_path):
    """i6 has no metadata. u6 then has four left and goes; items keep their counts from before that."""
    reviews = [review(f"u{u}", f"i{i}", 10**12 + 100 * u + i) for u in range(1, 6) for i in range(1, 7)]
    reviews += [review("u6", f"i{i}", 10**12 + 700 + i) for i in (1, 2, 3, 4, 6)]
    folder = build(tmp_path, reviews, [meta(f"i{i}") for i in range(1, 6)], protocol="last_out")
    counts = load_stats(folder)["cleaning"]["reviews"]
    assert (counts["outside_5_core"], counts["item_without_metadata"], counts["few_after_metadata"]) == (0, 6, 4)
    assert {row[0] for row in read_rows(folder, "test")} == {f"u{u}" for u in range(1, 6)}


def users_core():
    """u1 has five events of three items; u2 five of five; u3 four; u4 four with metadata. Item e occurs once."""
    bought = {"u1": "abaca", "u2": "abcde", "u3": "abcd", "u4": "abcdx"}
    reviews = [
        review(u, i, 10**12 + 100 * n + k) for n, (u, items) in enumerate(bought.items()) for k, i in enumerate(items)
    ]
    return reviews, [meta(i) for i in "abcde"]


def test_a_core_of_users_counts_events_and_no_items(tmp_path):
    folder = build(tmp_path, *users_core(), protocol="last_out", core="users", keep_repeats=True)
    assert folder.name.startswith("Appliances-last_out-")
    rows = {split: [row[:3] for row in read_rows(folder, split)] for split in SPLITS}
    assert rows["train"] == [
        ("u1", ["a"], "b"), ("u1", ["a", "b"], "a"), ("u2", ["a"], "b"), ("u2", ["a", "b"], "c"),
    ]  # fmt: skip
    assert rows["valid"] == [("u1", ["a", "b", "a"], "c"), ("u2", ["a", "b", "c"], "d")]
    assert rows["test"] == [("u1", ["a", "b", "a", "c"], "a"), ("u2", ["a", "b", "c", "d"], "e")]
    counts = load_stats(folder)["cleaning"]["reviews"]
    assert [counts[rule] for rule in ("repeated_user_item", "outside_5_core", "item_without_metadata",
            "few_after_metadata")] == [0, 0, 1, 8]  # fmt: skip


def test_a_core_of_users_without_repeats(tmp_path):
    folder = build(tmp_path, *users_core(), protocol="last_out", core="users")
    assert [row[:3] for row in read_rows(folder, "test")] == [("u2", ["a", "b", "c", "d"], "e")]
    counts = load_stats(folder)["cleaning"]["reviews"]
    assert (counts["repeated_user_item"], counts["few_after_metadata"]) == (2, 11)


def test_repeats_are_kept_by_time_too(tmp_path):
    reviews = [review("u1", i, t) for i, t in zip("abaab", (10**12, 10**12 + 1, V, V + 1, T))]
    reviews += [review("u2", i, t) for i, t in zip("ab", (10**12, 10**12 + 1))]
    folder = build(tmp_path, reviews, [meta("a"), meta("b")], keep_repeats=True)
    assert [row[1:3] for row in read_rows(folder, "valid")] == [(["a", "b"], "a"), (["a", "b", "a"], "a")]
    assert [row[1:3] for row in read_rows(folder, "test")] == [(["a", "b", "a", "a"], "b")]
    assert load_stats(folder)["cleaning"]["reviews"]["repeated_user_item"] == 0


def test_a_core_is_of_last_out(tmp_path):
    with pytest.raises(InputError, match="core=users is of protocol=last_out; protocol=timestamp has no core"):
        build(tmp_path, *users_core(), core="users")


def test_own_data_is_cut_8_1_1_by_time(tmp_path):
    reviews = [review(f"u{n % 7}", f"i{n}", 10**12 + n) for n in range(200)]
    write_raw(tmp_path, "my-shop", reviews, [meta(f"i{n}") for n in range(200)])
    folder = prepare("my-shop", tmp_path / "dataset", tmp_path, progress=False)
    stats = load_stats(folder)
    assert stats["instants"] == {"valid_start_ms": 10**12 + 159, "test_start_ms": 10**12 + 179}
    assert [stats["splits"][s]["rows"] for s in SPLITS] == [159 - 7, 20, 21]


def test_own_data_with_repeats_are_cut_by_all_events(tmp_path):
    """Ten events of one user, b three times: 8:1:1 of ten is the eighth and the ninth; of eight pairs the seventh."""
    reviews = [review("u1", item, 10**12 + n) for n, item in enumerate("abbcdefgbh")]
    write_raw(tmp_path, "my-shop", reviews, [meta(item) for item in "abcdefgh"])
    folder = prepare("my-shop", tmp_path / "dataset", tmp_path, progress=False, keep_repeats=True)
    assert load_stats(folder)["instants"] == {"valid_start_ms": 10**12 + 7, "test_start_ms": 10**12 + 8}
    assert [row[1:3] for row in read_rows(folder, "valid")] == [(list("abbcdef"), "g")]
    assert [row[1:3] for row in read_rows(folder, "test")] == [(list("abbcdefg"), "b"), (list("abbcdefgb"), "h")]
    assert folder.name.startswith("my-shop-")


TIMES = st.one_of(
    st.sampled_from([V - 1, V, V + 1, T - 1, T, T + 1, 10**12]),
    st.integers(10**12, 2 * 10**12),
    st.sampled_from([0, -1, None, 10**9, 10**16]),
)
REVIEWS = st.lists(
    st.tuples(st.sampled_from(["u1", "u2", "u3", "u4", ""]), st.sampled_from("abcdefgh"), TIMES, st.integers(0, 6)),
    min_size=30,
    max_size=120,
)


@given(REVIEWS, st.sets(st.sampled_from("abcdefgh"), min_size=5), st.integers(1, 6))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_equals_the_plain_converter_and_keeps_the_properties(tmp_path_factory, drawn, known, max_history):
    tmp_path = tmp_path_factory.mktemp("drawn")
    anchors = [review("a", item, time) for item, time in zip("abcd", (10**12, V - 1, V, T))]  # no split is empty
    reviews = [review(u, i, t, rating=r) for u, i, t, r in drawn] + anchors
    paths = write_raw(tmp_path, "Appliances", reviews, [meta(i) for i in sorted(known | set("abcd"))])
    folder = prepare("Appliances", tmp_path / "d", tmp_path, progress=False, max_history=max_history, threads=1)
    plain = tmp_path / "plain"
    plain.mkdir()
    counts = naive_convert(*paths, plain, folder.name, V, T, max_history)
    for name in (*(f"{folder.name}.{split}.inter" for split in SPLITS), f"{folder.name}.item"):
        assert (folder / name).read_bytes() == (plain / name).read_bytes()
    stats = load_stats(folder)
    assert {"reviews": stats["counts"]["reviews"], **stats["cleaning"]["reviews"]} == counts
    check_properties(folder, stats, max_history)


def check_properties(folder, stats, max_history):
    """No row lost or doubled; history strictly before its target in the user's order; instants half-open."""
    rows = {split: read_rows(folder, split) for split in SPLITS}
    everything = [row for split in SPLITS for row in rows[split]]
    assert len({(row[0], row[2]) for row in everything}) == len(everything) == stats["rows"]
    events = {}
    for user, history, item, times, time in everything:
        assert item not in history and 1 <= len(history) == len(times) <= max_history
        assert times == sorted(times) and times[-1] <= time
        events.setdefault(user, set()).update(zip(history, times), [(item, time)])
    assert sum(len(e) for e in events.values()) == stats["rows"] + stats["users"]
    assert all(row[4] < V for row in rows["train"])
    assert all(V <= row[4] < T for row in rows["valid"])
    assert all(row[4] >= T for row in rows["test"])
    first = {user: min(time for _, time in seen) for user, seen in events.items()}
    for split in SPLITS:
        users = list(dict.fromkeys(row[0] for row in rows[split]))
        assert [row[0] for row in rows[split]] == sorted((r[0] for r in rows[split]), key=users.index)  # together
        assert [first[u] for u in users] == sorted(first[u] for u in users)


@pytest.mark.parametrize(
    "threads", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)]
)
def test_same_bytes_whatever_the_threads_and_memory(tmp_path, threads):
    reviews = [review(f"u{n * 7 % 501}", f"i{n * 13 % 97}", 10**12 + n % 17 * 5 * 10**10) for n in range(40_000)]
    paths = write_raw(tmp_path, "Appliances", reviews, [meta(f"i{n}") for n in range(97)])
    limit = "4GB" if threads == 1 else "200MB"
    folder = prepare("Appliances", tmp_path / "d", tmp_path, progress=False, threads=threads, memory_limit=limit)
    plain = tmp_path / "plain"
    plain.mkdir()
    naive_convert(*paths, plain, "Appliances", V, T)
    for path in plain.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()


def test_bad_memory_limit_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"memory_limit='much' is no size; write it as 2GB"):
        build(tmp_path, *table(), memory_limit="much")


def test_stats_hold_what_the_build_was_made_from(tmp_path):
    folder = build(tmp_path, *table(), ".jsonl.gz")
    stats = json.loads((folder / "Appliances.stats.json").read_text())
    assert stats["raw_files"][0]["name"] == "Appliances.jsonl.gz"
    assert stats["instants"] == {"valid_start_ms": V, "test_start_ms": T}
    assert stats["settings"]["protocol"] == "timestamp"
    assert stats["tool_version"]
    assert str(tmp_path) not in json.dumps(stats)
    with gzip.open(tmp_path / "raw/review_categories/Appliances.jsonl.gz") as file:
        assert sum(1 for _ in file) == stats["counts"]["reviews"]

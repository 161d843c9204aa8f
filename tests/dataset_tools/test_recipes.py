"""Recipes: the publishers' files give the counts made by other means; small files hold each of their traps."""

import itertools
import re
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import own_raw
import recipe_raw
from test_own_data import inter_rows, items_of, naive_rows, read_rows

from dataset_tools.builds.settings import OWN_KEYS
from dataset_tools.builds.statistics_file import load_stats
from dataset_tools.recipes import find_recipe, load_recipe, prepare_recipe, recipe_names
from recbole_blair.cli.main import build_parser, main
from recbole_blair.errors import InputError
from recbole_blair.schema import SPLITS

PLATFORMS = Path(__file__).resolve().parents[2] / "../shared/data/platforms"
QUIET = {"progress": False, "threads": 1}
# As their README counts them: rows, pairs, users, items, with text; kept users (>= 5), items, events, median, longest,
# share of equal neighbouring times.
README = {
    "movielens_latest_small": (100_836, 100_836, 610, 9_724, 100_836, 610, 610, 9_724, 100_836, 70.5, 2_698, 0.16),
    "movietweetings": (141_695, 141_695, 21_081, 12_611, 141_695, 9_041, 6_354, 12_036, 126_769, 7, 442, 0.0),
    "xwines_slim": (150_000, 150_000, 10_561, 1_007, 150_000, 10_304, 10_254, 1_002, 149_733, 12, 67, 0.0),
    "uci_online_retail": (541_909, 267_615, 4_372, 3_684, 267_615, 4_205, 4_089, 3_684, 267_383, 37, 1_794, 0.95),
    "hetrec2011_lastfm_2k": (186_479, 71_064, 1_892, 12_523, 70_297, 1_483, 1_221, 12_002, 69_733, 13, 1_186, 0.88),
    "steam_australia": (59_161, 48_362, 22_825, 2_897, 43_940, 5_316, 1_950, 1_947, 23_395, 4, 16, 0.06),
    "amazon2014_digital_music_part": (6_908, 6_908, 2_490, 382, 6_908, 765, 329, 381, 4_619, 4, 90, 0.15),
    "amazon2018_gift_cards": (2_972, 2_965, 458, 148, 2_965, 458, 455, 148, 2_965, 6, 31, 0.69),
}
# A pair whose only tags are dated before 1973: in pairs, pairs with text, kept events.
DIFFERENCES = {"hetrec2011_lastfm_2k": {1: 1, 4: 1, 8: 1}}
LEFT_OUT = {  # rows that make no pair, by rule, of those the README names
    "uci_online_retail": {"empty_ids": 135_080},
    "steam_australia": {"time_missing_or_not_positive": 10_091},
    "hetrec2011_lastfm_2k": {"time_missing_or_not_positive": 4},
}


def histories(folder):
    """The times (ms) of each user, in the order of the build."""
    times = {}
    for split in SPLITS:
        for user, _, _, past, last in (row.split("\t") for row in inter_rows(folder, split)):
            found = times.setdefault(user, {})
            found[len(found)] = (int(past.split(" ")[0]), int(last))
    return {
        user: sorted([min(first for first, _ in rows.values()), *(last for _, last in rows.values())])
        for user, rows in times.items()
    }


@pytest.mark.skipif(not PLATFORMS.is_dir(), reason="../shared/data/platforms is absent")
@pytest.mark.parametrize("name", README)
def test_a_published_set_gives_the_counts_of_its_readme(name, tmp_path):
    folder = prepare_recipe(name, PLATFORMS / name, data_path=tmp_path, max_history=3000, **QUIET)
    stats, times = load_stats(folder), histories(folder)
    log, lengths = stats["counts"]["log"], np.array([len(of_user) for of_user in times.values()])
    ties = np.concatenate([np.diff(of_user) == 0 for of_user in times.values()]).mean()
    found = (
        stats["counts"]["reviews"], log["pairs"], log["users"], log["items"], log["with_title"],
        stats["users"], int((lengths >= 5).sum()), stats["items"], int(lengths.sum()), float(np.median(lengths)),
        int(lengths.max()), float(ties),
    )  # fmt: skip
    differs = DIFFERENCES.get(name, {})
    expected = [count - differs.get(at, 0) for at, count in enumerate(README[name])]
    assert found == (*expected[:-1], pytest.approx(expected[-1], abs=0.011))  # ties are rounded there
    assert stats["table3"]["inters"] == lengths.sum() == stats["counts"]["interactions"]
    rules = stats["cleaning"]["interactions"]
    assert {rule: rules[rule] for rule in LEFT_OUT.get(name, {})} == LEFT_OUT.get(name, {})
    assert rules["broken_line"] == stats["cleaning"]["metadata"]["broken_json"] == 0
    left_out = sum(rules.values())
    assert stats["counts"]["reviews"] == left_out + stats["counts"]["interactions"]  # every row is accounted for


def last_number(token):
    return int(re.findall(r"\d+", token.replace("%20", " "))[-1])


@pytest.fixture(params=recipe_raw.WRITERS)
def built(request, tmp_path):
    recipe_raw.WRITERS[request.param](tmp_path)
    return request.param, prepare_recipe(request.param, tmp_path, data_path=tmp_path / "dataset", **QUIET)


def test_small_files_in_the_publishers_format_give_the_same_rows(built):
    _, folder = built
    assert read_rows(folder, last_number) == naive_rows()
    assert {last_number(item) for item in items_of(folder)} == set(range(1, own_raw.ITEMS + 1))


TEXTS = {  # id: (title, text), where each trap shows
    "movielens_latest_small": {
        "1": ("Thing 0", "Thing 0."),
        "2": ("Thing 1, ''The'' é", "Thing 1, ''The'' é. Action, Children's."),
    },
    "movietweetings": {
        "0000002": ("Thing 1 à: ''x'' (1995)", "Thing 1 à: ''x'' (1995)."),
        "0000001": ("Thing 0 à: ''x'' (1995)", "Thing 0 à: ''x'' (1995). Drama."),
    },
    "xwines_slim": {
        "3": ("Thing 1, Winery 3", "Thing 1, Winery 3. Muscat, Full, High. Red, Chile, Maipo. Beef, Shepherd's pie.")
    },
    "uci_online_retail": {"003A": ("Thing 2", "Thing 2.")},
    "hetrec2011_lastfm_2k": {"3": ("''Thing 2 é", "''Thing 2 é.")},
    "steam_australia": {"1": ("Thing 0", "Thing 0. Fun, Dev. Action."), "2": ("Thing 1", "Thing 1. Fun, Dev. Action.")},
    "amazon2014_digital_music_part": {
        "B001": ("Thing 0", "Thing 0. CDs, Pop, It's. d."), "B002": ("Thing 1", "Thing 1. CDs, Pop, It's."),
    },
    "amazon2018_gift_cards": {"B002": ("Thing 1", "Thing 1. a. Gift & Card. one, two.")},
}  # fmt: skip
COUNTS = {  # what the cleaning rules counted, where it is not zero: of interactions, of metadata
    "movielens_latest_small": ({}, {}),
    "movietweetings": ({}, {}),
    "xwines_slim": ({}, {}),
    "uci_online_retail": ({"empty_ids": 48}, {"repeated_item": 276}),
    "hetrec2011_lastfm_2k": (
        {"time_missing_or_not_positive": 1, "repeated_user_item": 240, "item_without_metadata": 1}, {},
    ),
    "steam_australia": (
        {"time_missing_or_not_positive": 1, "repeated_user_item": 1, "item_without_metadata": 1},
        {"empty_or_unusable_ids": 1, "repeated_item": 1, "price_not_a_number": 12},
    ),
    "amazon2014_digital_music_part": ({}, {"item_without_title": 1}),
    "amazon2018_gift_cards": ({"repeated_user_item": 1}, {}),
}  # fmt: skip


def test_each_trap_is_read_right_and_counted(built):
    name, folder = built
    items = items_of(folder)
    for item, expected in TEXTS[name].items():
        assert (items[item]["title"], items[item]["text"]) == expected
    cleaning = load_stats(folder)["cleaning"]
    for table, expected in zip(("interactions", "metadata"), COUNTS[name]):
        found = {rule: count for rule, count in cleaning[table].items() if count}
        assert found == expected, table


def test_books_without_times_are_dealt_out_at_random(tmp_path):
    recipe_raw.write_book_crossing(tmp_path)
    folder = prepare_recipe("book-crossing", tmp_path, data_path=tmp_path / "dataset", **QUIET)
    assert folder.name == "book-crossing-random"
    rows = {split: [row.split("\t") for row in inter_rows(folder, split)] for split in SPLITS}
    pairs = [(user, item) for part in rows.values() for user, item, _ in part]
    assert sorted(pairs) == sorted((str(u), f"00{i}X") for u, i, _ in own_raw.events())
    assert [len(rows[split]) for split in SPLITS] == [96, 72, 72]  # 4:3:3 of 240
    assert items_of(folder)["002X"]["title"] == "Thing 1; ''é''"


@pytest.fixture
def ten(tmp_path, monkeypatch):
    """Eleven events of three users, one a day, and a recipe for them, in the working folder."""
    monkeypatch.chdir(tmp_path)
    days = [f"2019-01-{day:02}" for day in range(1, 12)]
    lines = [f"u{n % 3},{'ab'[n % 2]}{n // 4},{day}" for n, day in enumerate(days)]
    own_raw.write(tmp_path / "log.csv", ["u,i,t", *lines])
    own_raw.write(tmp_path / "items.csv", ["i,name", "a0,A", "b0,B", "a1,", "b1,D", "a2,E", "b2,F"])
    keys = ["interactions: log.csv", "items: items.csv", "columns: user_id=u,item_id=i,timestamp=t",
            "item_columns: item_id=i,title=name", "timestamp_unit: iso"]  # fmt: skip
    own_raw.write(tmp_path / "ten.yaml", keys)
    return keys


def run_ten(*options):
    return main(["prepare", "--recipe=ten.yaml", "--source_dir=.", "--quiet", "--threads=1", *options])


def test_limits_leave_out_what_they_say(ten, tmp_path):
    events = [(n % 3, "ab"[n % 2] + str(n // 4)) for n in range(11)]
    instants = ("--valid_start_ms=1546732800000", "--test_start_ms=1546992000000")  # the 6th and the 9th
    assert run_ten("--titled_only", "--min_events=3", "--events_until=2019-01-11", *instants) == 0
    stats = load_stats(tmp_path / "dataset/ten")
    kept = [(u, i) for u, i in events[:10] if i != "a1"]
    users = {u for u in range(3) if len({i for v, i in kept if v == u}) >= 3}
    few = sum(u not in users for u, _ in kept)
    rules = stats["cleaning"]["interactions"]
    assert (rules["outside_window"], rules["item_without_title"], rules["few_events"]) == (1, 2, few) and few
    assert stats["counts"]["interactions"] == len(kept) - few and stats["users"] == len(users)
    assert stats["counts"]["log"]["pairs"] == 11 and stats["counts"]["log"]["with_title"] == 9
    assert "a1" not in items_of(tmp_path / "dataset/ten")


def test_items_with_few_users_go_after_the_users_with_few_items(ten, tmp_path):
    """u2 has three items and goes; so a0, b1 and a2, which it had, have one user left, as b2 has."""
    assert run_ten("--min_events=4", "--min_item_events=2", "--protocol=random", "--split_shares=1,1,1") == 0
    rules = load_stats(tmp_path / "dataset/ten-random")["cleaning"]["interactions"]
    events = [(n % 3, "ab"[n % 2] + str(n // 4)) for n in range(11)]
    users = {u for u in range(3) if len({i for v, i in events if v == u}) >= 4}
    kept = [(u, i) for u, i in events if u in users]
    few = sum(len({u for u, j in kept if j == i}) < 2 for _, i in kept)
    assert (rules["few_events"], rules["few_events_of_item"]) == (len(events) - len(kept), few) and few


def test_the_command_line_outranks_a_recipe_even_with_a_default(ten, tmp_path):
    own_raw.write(tmp_path / "ten.yaml", [*ten, "max_history: 2"])
    assert run_ten() == 0 and load_stats(tmp_path / "dataset/ten")["settings"]["max_history"] == 2
    assert run_ten("--max_history=50", "--dataset=other") == 0
    assert load_stats(tmp_path / "dataset/other")["settings"]["max_history"] == 50


MISTAKES = {
    "an unknown key": ("min_event: 3", r"ten\.yaml: unknown option 'min_event'. Did you mean 'min_events'\?"),
    "a value of another type": ("min_events: many", r"ten\.yaml: min_events is 'many'; expected a value of type int"),
    "a path": ("items: ../items.csv", r"a recipe's file is a name in --source_dir, not '../items.csv'"),
    "no such file": ("items: gone.csv", r"\. holds no gone\.csv \(or gone\.csv\.gz\)"),
    "a date that is none": ("events_from: soon", "events_from='soon' is no date; expected one such as 2019-01-01"),
    "an empty window": ("{events_from: 2019-02-01, events_until: 2019-01-01}", "events_from=2019-02-01 is not before"),
    "another quoting": ("quoting: single", "unknown quoting 'single'; known: double, backslash, none"),
    "too few names": ("header: a,b", r"header=a,b names 2 columns; the first row of .*log\.csv has 3"),
    "no mapping": ("- x", r"ten\.yaml.*(not valid YAML|holds a list)"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_recipe_gets_one_clear_line(mistake, ten, tmp_path, capsys):
    line, message = MISTAKES[mistake]
    keys = [key for key in ten if key.split(":")[0] != line.split(":")[0]]
    lines = line.strip("{}").split(", ") if line.startswith("{") else [line]
    own_raw.write(tmp_path / "ten.yaml", [*keys, *lines] if mistake != "no mapping" else [line])
    assert run_ten() == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.search(message, error), error


def test_recipes_are_found_by_name(capsys, tmp_path):
    assert {*README, "ml-1m", "yelp-2019", "book-crossing", "steam"} <= set(recipe_names())
    for name in recipe_names():
        with pytest.raises(InputError, match=r"holds no|source_dir"):
            load_recipe(name, tmp_path)
    with pytest.raises(InputError, match=r"unknown recipe 'xwins'.*Did you mean 'xwines_slim'"):
        find_recipe("xwins")
    assert main(["prepare", "--recipe=ml-1m"]) == 2
    assert (
        "--recipe=ml-1m needs --source_dir=<folder of its files>: ratings.dat and movies.dat" in capsys.readouterr().err
    )
    assert main(["prepare", "--source_dir=x", "--dataset=shop"]) == 2
    assert "--source_dir is the folder of a recipe's files or of RecBole's; add --recipe" in capsys.readouterr().err


def test_every_key_of_a_recipe_is_an_option_of_prepare():
    command = build_parser(["prepare"])._subparsers._group_actions[0].choices["prepare"]
    options = {action.dest for action in command._actions}
    assert {*OWN_KEYS, "interactions", "items"} <= options


def prepare_lines(tmp_path, name, lines, **options):
    from dataset_tools.own_data import prepare_own

    path = own_raw.write(tmp_path / name, lines)
    return prepare_own("log", path, data_path=tmp_path, columns="user_id=u,item_id=i,timestamp=t", **options, **QUIET)


def test_a_byte_order_mark_hides_no_row(tmp_path):
    for number, name in enumerate(("log.csv", "log.jsonl")):
        events = list(own_raw.events())
        lines = [f"{u},{i},{t * 1000}" for u, i, t in events]
        if name == "log.csv":
            lines = ["u,i,t", *lines]
        else:
            lines = [f'{{"u": {u}, "i": {i}, "t": {t * 1000}}}' for u, i, t in events]
        lines[0] = f"\ufeff{lines[0]}"
        folder = prepare_lines(tmp_path / str(number), name, lines)
        assert read_rows(folder, int) == naive_rows()
        assert load_stats(folder)["cleaning"]["interactions"]["broken_line"] == 0


def test_literals_are_bounded_and_never_run(tmp_path, monkeypatch):
    monkeypatch.setattr("dataset_tools.raw.own_formats.MAX_LITERAL", 200)
    bad = ["{'u': 1, 'i': __import__('os').getcwd(), 't': 1}", f"{{'u': '{'x' * 300}', 'i': 1, 't': 1500000000000}}",
           "[" * 150, "{'u': 1"]  # fmt: skip
    for number, line in enumerate(bad):
        lines = [repr({"u": u, "i": i, "t": t * 1000}) for u, i, t in own_raw.events()]
        with pytest.raises(InputError, match=r"log\.json line 241: .*1 of 241 lines are broken"):
            prepare_lines(tmp_path / str(number), "log.json", [*lines, line], source="python")


def test_floats_that_are_whole_numbers_are_ids_without_a_fraction(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    events = [*own_raw.events()]
    columns = [[float(u) for u, _, _ in events] + [None], [i + 0.5 for _, i, _ in events] + [1.0],
               [t * 1000 for _, _, t in events] + [10**12]]  # fmt: skip
    pq.write_table(pa.table([pa.array(column) for column in columns], ["u", "i", "t"]), tmp_path / "log.parquet")
    from dataset_tools.own_data import prepare_own

    folder = prepare_own("log", tmp_path / "log.parquet", data_path=tmp_path, columns="user_id=u,item_id=i,timestamp=t",
                         **QUIET)  # fmt: skip
    users = {row.split("\t")[0] for row in itertools.chain(*(inter_rows(folder, split) for split in SPLITS))}
    assert users == {str(u) for u, _, _ in events}
    assert set(items_of(folder)) == {f"{i}.5" for i in range(1, own_raw.ITEMS + 1)}

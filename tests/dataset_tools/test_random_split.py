"""The random protocol: distinct pairs, exact shares, one fixed shuffle; from raw files and from a log of one's own."""

import json
from collections import Counter

import numpy as np
import pytest
from raw_data import V, meta, review, write_raw

from dataset_tools.conversion.random_split import RandomSplit, count_shares
from dataset_tools.own_data import prepare_own
from dataset_tools.prepare import prepare
from recbole_blair.cli.main import main
from recbole_blair.errors import InputError
from recbole_blair.schema import SPLITS

QUIET = {"progress": False, "threads": 1, "protocol": "random"}
# In the order of the conversion: u1's pairs, then u2's, then u3's. u4 has one item only and makes no row.
PAIRS = [("u1", "i1"), ("u1", "i2"), ("u1", "i3"), ("u2", "i2"), ("u2", "i1"), ("u3", "i5"), ("u3", "i4"), ("u3", "i2"),
         ("u3", "i1"), ("u3", "i3")]  # fmt: skip
TIMES = [V + 10, V + 20, V + 30, V + 11, V + 12, V + 40, V + 41, V + 42, V + 42, V + 50]
# np.random.default_rng(101).shuffle of [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
DEALT = [1, 2, 0, 0, 1, 2, 2, 0, 1, 0]


def read_pairs(folder):
    """Return the rows of each split as (user, item, time)."""
    rows = {}
    for split in SPLITS:
        lines = (folder / f"{folder.name}.{split}.inter").read_text().splitlines()
        assert lines[0] == "user_id:token\titem_id:token\ttimestamp:float"
        rows[split] = [(user, item, int(time)) for user, item, time in (line.split("\t") for line in lines[1:])]
    return rows


def raw(folder):
    """Write the table as raw reviews, with a repeated pair, a lone user and an item without metadata."""
    reviews = [review(user, item, time) for (user, item), time in zip(PAIRS, TIMES)]
    reviews += [review("u1", "i1", V + 99), review("u4", "i1", V), review("u4", "i1", V + 1), review("u2", "i9", V + 5)]
    write_raw(folder, "Appliances", reviews, [meta(f"i{n}") for n in range(1, 6)])
    return folder


def test_a_small_table_by_hand(tmp_path):
    folder = prepare("Appliances", tmp_path / "data", raw(tmp_path), **QUIET)
    rows = read_pairs(folder)
    for number, split in enumerate(SPLITS):
        assert rows[split] == [(*pair, time) for pair, time, own in zip(PAIRS, TIMES, DEALT) if own == number]
    stats = json.loads((folder / f"{folder.name}.stats.json").read_text())
    assert (folder.name, stats["rows"], stats["users"], stats["items"]) == ("Appliances-random", 10, 3, 5)
    assert (stats["settings"]["split_seed"], stats["settings"]["split_shares"]) == (101, [4, 3, 3])
    assert [stats["splits"][split]["rows"] for split in SPLITS] == [4, 3, 3]
    assert stats["table3"]["inters"] == 10  # a user's first event is a row, too
    assert stats["cleaning"]["reviews"]["repeated_user_item"] == 2


def test_a_log_of_ones_own_gives_the_same_rows(tmp_path):
    log = tmp_path / "log.csv"
    lines = [f"{user},{item},{time}" for (user, item), time in zip(PAIRS, TIMES)]
    log.write_text("\n".join(["user_id,item_id,timestamp", *lines, f"u4,i1,{V}", f"u1,i1,{V + 99}"]) + "\n")
    own = prepare_own("shop", log, data_path=tmp_path / "data", columns="timestamp=timestamp", **QUIET)
    made = prepare("Appliances", tmp_path / "data", raw(tmp_path), **QUIET)
    assert own.name == "shop-random"
    assert read_pairs(own) == read_pairs(made)
    untimed = prepare_own("untimed", log, data_path=tmp_path / "data", **QUIET)  # then the order is that of the lines
    assert {row[2] for rows in read_pairs(untimed).values() for row in rows} == {0}


@pytest.mark.parametrize("shares", [(4, 3, 3), (8, 1, 1), (1, 1, 1)])
def test_pairs_are_distinct_and_shares_exact(tmp_path, shares):
    rng = np.random.default_rng(0)
    reviews = [review(f"u{rng.integers(40)}", f"i{rng.integers(60)}", V + n) for n in range(900)]
    distinct = {(r["user_id"], r["parent_asin"]) for r in reviews}
    per_user = Counter(user for user, _ in distinct)
    distinct = {pair for pair in distinct if per_user[pair[0]] > 1}
    write_raw(tmp_path, "Appliances", reviews, [meta(f"i{n}") for n in range(60)])
    made = [prepare("Appliances", tmp_path / f"data{t}", tmp_path, split_shares=shares, **{**QUIET, "threads": t})
            for t in (1, 2)]  # fmt: skip
    rows = read_pairs(made[0])
    assert rows == read_pairs(made[1])  # whatever the number of threads
    every = [row[:2] for split in SPLITS for row in rows[split]]
    assert len(every) == len(set(every)) and set(every) == distinct
    n = len(distinct)
    counts = [n * shares[0] // sum(shares), n * shares[1] // sum(shares)]
    assert [len(rows[split]) for split in SPLITS] == [*counts, n - sum(counts)]


def test_another_seed_is_another_split_with_another_name(tmp_path):
    folders = [prepare("Appliances", tmp_path / "data", raw(tmp_path), split_seed=seed, **QUIET) for seed in (101, 102)]
    first, other = map(read_pairs, folders)
    assert first != other
    assert folders[0].name == "Appliances-random" and folders[1].name.startswith("Appliances-random-")


def test_the_split_goes_on_from_batch_to_batch():
    whole = RandomSplit(7, (4, 3, 3), 5)(np.array([0, 0, 0, 1, 2, 2, 3, 3]), None)
    split = RandomSplit(7, (4, 3, 3), 5)
    parts = [split(np.array([0, 0, 0]), None), split(np.array([1, 2, 2]), None), split(np.array([3, 3]), None)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    assert whole[3] == 0 and sorted(np.delete(whole, 3)) == [0, 0, 1, 1, 2, 2, 2]
    assert count_shares(7, (4, 3, 3)) == [2, 2, 3]


def test_too_few_pairs_for_three_splits_are_named(tmp_path):
    write_raw(tmp_path, "Appliances", [review("u1", "i1", V), review("u1", "i2", V + 1)], [meta("i1"), meta("i2")])
    with pytest.raises(InputError, match=r"the split leaves train and valid without a row .*use other split_shares"):
        prepare("Appliances", tmp_path / "data", tmp_path, **QUIET)


@pytest.mark.parametrize(("items", "model"), [(False, "LightGCN"), (True, "AlphaRec")])
def test_prepare_names_a_model_for_the_pairs(tmp_path, capsys, items, model):
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id", *(f"{u},{i}" for u, i in PAIRS)]) + "\n")
    (tmp_path / "items.csv").write_text("item_id,title\n" + "".join(f"i{n},title {n}\n" for n in range(1, 6)))
    argv = [
        "prepare",
        "--dataset=shop",
        f"--interactions={tmp_path / 'log.csv'}",
        "--protocol=random",
        "--split_seed=7",
    ]
    more = [f"--items={tmp_path / 'items.csv'}"] if items else []
    assert main([*argv, *more, f"--data_path={tmp_path / 'data'}", "--quiet"]) == 0
    shown = capsys.readouterr().err
    assert f"train --model={model} --dataset=shop" in shown
    assert "--protocol=random" in shown and "--split_seed=7" in shown

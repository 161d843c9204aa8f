"""Which items are recommended: lists, conditions, unknown ids, and users without a history."""

import json
import logging

import numpy as np
import pytest

import recbole_blair
from recbole_blair.cli.main import main
from recbole_blair.errors import InputError
from recbole_blair.recommend.catalogue import Catalogue
from recbole_blair.recommend.selection import Filters

from builds import random_sequences  # isort: skip

SEQUENCES = random_sequences(n_users=30, n_items=40)


@pytest.fixture(scope="module")
def loaded(make_run):
    return recbole_blair.load(make_run("UniSRecBlair"), device="cpu", show_progress=False)


def ids(frame, user="u3"):
    return frame[frame["user_id"] == user]["item_id"].tolist()


def test_allowed_and_blocked_items_change_no_score(loaded, tmp_path):
    whole = loaded.recommend("u3,u0", top=40, exclude_history=False)
    file = tmp_path / "allow.txt"
    file.write_text("i001\n\ni030\ni007\n")
    some = loaded.recommend("u3,u0", top=40, allow=file, block=["i030"], exclude_history=False)
    for user in ("u3", "u0"):
        assert ids(some, user) == [item for item in ids(whole, user) if item in ("i001", "i007")]
    merged = some.merge(whole, on=["user_id", "item_id"])
    np.testing.assert_array_equal(merged["score_x"], merged["score_y"])
    assert len(loaded.recommend("u3", top=40, block=str(file), exclude_history=False)) == 37


def test_a_condition_knows_new_items_too(make_run):
    loaded = recbole_blair.load(make_run("SASRecText"), device="cpu", show_progress=False)
    loaded.add_items([{"item_id": "N1", "title": "red lamp", "price": "$3.50", "categories": ["Table Lamps"]}])
    assert ids(loaded.recommend("u3", where="category='Table Lamps' and price<4", exclude_history=False)) == ["N1"]
    assert len(loaded.recommend("u3", top=99, where="price=1 or price<4", exclude_history=False)) == 41
    assert ids(loaded.recommend("u3", where="title contains 'of i003'", exclude_history=False)) == ["i003"]


def test_what_leaves_nothing_or_is_unknown_is_refused(loaded):
    with pytest.raises(InputError, match=r"allow=… and where='price>9' leave none of 40 items"):
        loaded.recommend("u3", allow=["i001"], where="price>9", exclude_history=False)
    with pytest.raises(InputError, match=r"block: unknown item 'B9' \(2 of 3 ids\)"):
        loaded.recommend("u3", block=["i001", "B9", "B8"], exclude_history=False)
    catalogue = Catalogue(loaded.scorer.dataset)
    assert Filters(block=["B9", "i001"], skip_unknown=True).mask(catalogue).sum() == 39
    assert Filters().mask(catalogue) is None


def test_without_a_history_popular_items_are_recommended_and_it_is_said(loaded, caplog):
    counts = loaded.scorer.dataset.item_counts("train")[1:]
    order = [loaded.item_ids[i] for i in np.argsort(-counts, kind="stable")]
    users = ["u3", {"user_id": "empty", "item_id_list": []}, "u0"]
    best = loaded.recommend(users, top=5, exclude_history=False)
    assert ids(best, "empty") == order[:5]
    assert best["source"].tolist() == ["model"] * 5 + ["popularity"] * 5 + ["model"] * 5
    np.testing.assert_array_equal(best["score"][5:10], np.sort(counts)[::-1][:5])
    alone = loaded.recommend(["u3", "u0"], top=5, exclude_history=False)
    assert ids(best) + ids(best, "u0") == alone["item_id"].tolist()
    with pytest.raises(InputError, match="the history of 'empty' is empty"):
        loaded.score(users)
    with pytest.raises(InputError, match="unknown user 'nobody'"):
        loaded.recommend(["nobody"])
    with caplog.at_level(logging.WARNING):
        assert ids(loaded.recommend(["nobody"], top=2, skip_unknown=True), "nobody") == order[:2]
    assert "unknown users, who get the most popular items: 1" in caplog.text


def test_unknown_items_are_left_out_when_asked_for(loaded, caplog):
    known = {"user_id": "a", "item_id_list": ["i001", "i002"]}
    mixed = {"user_id": "a", "item_id_list": ["B9", "i001", "i002", "B8"]}
    with pytest.raises(InputError, match=r"unknown item 'B9' \(2 of 4 items of this history\)"):
        loaded.recommend([mixed])
    with caplog.at_level(logging.WARNING):
        got = loaded.recommend(
            [mixed, {"user_id": "b", "item_id_list": "B7"}], top=3, skip_unknown=True, exclude_history=False
        )
    assert ids(got, "a") == ids(loaded.recommend([known], top=3, exclude_history=False), "a")
    assert got["source"].tolist() == ["model"] * 3 + ["popularity"] * 3
    assert "left out: 3 unknown items of 2 histories" in caplog.text


@pytest.mark.parametrize("model", ["HSTU", "FPMC"])
def test_users_without_a_history_stand_beside_those_with_times_and_ids(make_run, model):
    loaded = recbole_blair.load(make_run(model), device="cpu", show_progress=False)
    users = ["u3", {"user_id": "empty", "item_id_list": []}]
    best = loaded.recommend(users, top=4, exclude_history=False)
    assert best["source"].tolist() == ["model"] * 4 + ["popularity"] * 4
    assert ids(best) == ids(loaded.recommend(["u3"], top=4, exclude_history=False))


def test_the_command_says_where_recommendations_come_from(make_run, tmp_path, capsys):
    users, allow = tmp_path / "users.jsonl", tmp_path / "allow.txt"
    users.write_text('{"user_id": "empty", "item_id_list": []}\n{"user_id": "u3"}\n')
    allow.write_text("i001\ni002\nB9\n")
    argv = ["recommend", f"--checkpoint={make_run('SASRecText')}", f"--users={users}", "--device=cpu", "--quiet"]
    argv += [f"--allow={allow}", "--skip_unknown", "--where=price<2", "--include_history"]
    assert main(argv) == 0
    assert "empty  (no history: the most popular items)\n" in capsys.readouterr().out
    assert main([*argv, "--format=jsonl"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["source"], len(line["items"])) for line in lines] == [("popularity", 2), ("model", 2)]

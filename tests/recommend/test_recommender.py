"""The Python API gives what the model itself gives, user by user."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import recbole_blair
from recbole_blair.errors import InputError
from recbole_blair.recommend import selection
from recbole_blair.recommend.scorer import FEW_USERS
from recbole_blair.runs.open_run import open_run

from builds import TEST_MS, VALID_MS, random_sequences  # isort: skip

SEQUENCES = random_sequences(n_users=30, n_items=40)
USERS = ["u3", "u0", "u17", "u29", "u8"]
END_MS = max(time for events in SEQUENCES.values() for _, time in events)
HSTU_SMALL = {"hidden_size": 16, "n_heads": 2, "n_layers": 2}
MODELS = [
    ("UniSRecBlair", {}),
    ("UniSRecBlair", {"train_stage": "transductive_ft"}),
    ("UniSRecBlair", {"feature_scale": "rms"}),
    ("SASRecText", {}),
    ("LRURecText", {}),
    ("HSTU", {}),
    ("HSTUBlair", {}),
    ("HSTUBlair", {"fusion": "gate"}),
    ("HSTUBlair", {"fusion": "attention", "time_bias": "history"}),
    ("SeqPop", {}),
    ("SASRec", {}),
    ("GRU4Rec", {}),
]
NAMES = ["-".join([model, *map(str, keys.values())]) for model, keys in MODELS]


def naive_scores(run_dir, events, request_ms, longest=50):
    """Scores (N,) of one history from the model's own full sort, times and all, padded to full width."""
    from recbole.data.interaction import Interaction

    run = open_run(run_dir)
    model, dataset = run.model, run.dataset
    events = events[-longest:]
    items = dataset.token2id("item_id", [item for item, _ in events])
    pad = longest - len(events)
    fields = {
        "item_id_list": np.pad(items, (0, pad)), "timestamp_list": np.pad([t for _, t in events], (0, pad)),
        "item_length": len(events), "timestamp": request_ms,
    }  # fmt: skip
    batch = Interaction({k: torch.from_numpy(np.asarray(v, np.int64))[None] for k, v in fields.items()})
    with torch.inference_mode():
        return model.full_sort_predict(batch).view(-1).numpy()


@pytest.mark.parametrize(("model", "keys"), MODELS, ids=NAMES)
def test_scores_and_recommendations_are_the_models_own(make_run, model, keys):
    run = make_run(model, **keys)
    loaded = recbole_blair.load(run, device="cpu", show_progress=False)
    scores = loaded.score(USERS)
    assert scores.shape == (5, len(loaded.item_ids)) and scores.dtype == np.float32
    own = np.stack([naive_scores(run, SEQUENCES[user], END_MS)[1:] for user in USERS])
    np.testing.assert_allclose(scores, own, rtol=1e-4, atol=1e-5)
    best = loaded.recommend(USERS, top=4, exclude_history=False)
    assert best.columns.tolist() == ["user_id", "rank", "item_id", "title", "score", "source"] and len(best) == 20
    assert best["user_id"].tolist() == np.repeat(USERS, 4).tolist() and best["rank"].tolist() == [1, 2, 3, 4] * 5
    for number, user in enumerate(USERS):
        order = np.argsort(-scores[number], kind="stable")[:4]
        rows = best[best["user_id"] == user]
        assert rows["item_id"].tolist() == [loaded.item_ids[i] for i in order]
        np.testing.assert_allclose(rows["score"], scores[number][order], rtol=1e-5, atol=1e-6)
    assert best["title"].tolist() == [f"title of {item}" for item in best["item_id"]]


@pytest.mark.parametrize("model", ["UniSRecBlair", "HSTUBlair", "SASRec"])
def test_an_unseen_users_history_scores_like_the_same_known_user(make_run, model):
    loaded = recbole_blair.load(make_run(model), device="cpu", show_progress=False)
    items, times = map(list, zip(*SEQUENCES["u3"]))
    stranger = {"user_id": "nobody", "item_id_list": items, "timestamp_list": times}
    np.testing.assert_allclose(loaded.score([stranger]), loaded.score("u3"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("model", "keys"), [MODELS[0], MODELS[7], MODELS[10]], ids=["dot", "gate", "RecBole"])
def test_chunks_change_nothing_and_stay_within_the_budget(make_run, monkeypatch, model, keys):
    users = list(SEQUENCES)
    whole = recbole_blair.load(make_run(model, **keys), device="cpu", show_progress=False).recommend(
        users, 5, exclude_history=False
    )
    seen, budget = [], 41 * 7
    best_items = selection.best_items
    monkeypatch.setattr(selection, "best_items", lambda s, k: seen.append(s.numel()) or best_items(s, k))
    chunked = recbole_blair.load(make_run(model, **keys, max_score_elements=budget), device="cpu", show_progress=False)
    again = chunked.recommend(users, 5, exclude_history=False)
    assert len(seen) >= 5 and max(seen) <= budget
    assert again["item_id"].tolist() == whole["item_id"].tolist()
    np.testing.assert_allclose(again["score"], whole["score"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("top", [3, 40])
def test_exclude_history_leaves_out_every_item_of_it(make_run, top):
    loaded = recbole_blair.load(make_run("UniSRecBlair"), device="cpu", show_progress=False)
    best = loaded.recommend(USERS, top, exclude_history=True)
    for user in USERS:
        past = {item for item, _ in SEQUENCES[user]}
        rows = best[best["user_id"] == user]
        assert not past & set(rows["item_id"]) and len(rows) == min(top, len(loaded.item_ids) - len(past))
        scores = dict(zip(loaded.item_ids, loaded.score(user)[0]))
        left = sorted(set(loaded.item_ids) - past, key=lambda item: -scores[item])
        assert rows["item_id"].tolist() == left[:top]


def test_what_a_user_has_is_left_out_unless_repeats_are_kept(make_run, monkeypatch):
    loaded = recbole_blair.load(make_run("UniSRecBlair"), device="cpu", show_progress=False)
    without, whole = (loaded.recommend(USERS, 100, exclude_history=x)["item_id"].tolist() for x in (True, False))
    assert loaded.recommend(USERS, 100)["item_id"].tolist() == without != whole
    monkeypatch.setattr(type(loaded.scorer.run.dataset), "keeps_repeats", lambda self: True)
    loaded = recbole_blair.load(make_run("UniSRecBlair"), device="cpu", show_progress=False)
    assert loaded.recommend(USERS, 100)["item_id"].tolist() == whole
    assert loaded.recommend(USERS, 100, exclude_history=True)["item_id"].tolist() == without


def test_items_beyond_the_latest_fifty_are_left_out_too(make_run):
    loaded = recbole_blair.load(make_run("SASRecText"), device="cpu", show_progress=False)
    items = [f"i{n % 20:03d}" for n in range(60)]
    first = {"user_id": "a", "item_id_list": ["i030", *items]}
    best = loaded.recommend([first], 100, exclude_history=True)
    assert "i030" not in set(best["item_id"]) and "i031" in set(best["item_id"])
    without = {"user_id": "a", "item_id_list": items}
    np.testing.assert_array_equal(loaded.score([first]), loaded.score([without]))  # the model sees fifty


@pytest.mark.parametrize(("model", "keys"), [MODELS[0], *MODELS[3:7]], ids=[NAMES[0], *NAMES[3:7]])
def test_inner_products_of_vectors_are_the_scores(make_run, model, keys):
    loaded = recbole_blair.load(make_run(model, **keys), device="cpu", show_progress=False)
    users, items = loaded.encode(users=USERS), loaded.encode(items="all")
    assert users.dtype == items.dtype == np.float32 and len(items) == len(loaded.item_ids)
    np.testing.assert_allclose(users @ items.T, loaded.score(USERS), rtol=1e-4, atol=1e-5)
    some = ["i005", "i001"]
    np.testing.assert_array_equal(loaded.encode(items=some), items[[loaded.item_ids.index(i) for i in some]])
    np.testing.assert_allclose(loaded.score(USERS, some), users @ loaded.encode(items=some).T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", ["UniSRecBlair", "GRU4Rec"])
def test_a_few_users_are_computed_in_one_thread(make_run, monkeypatch, model):
    loaded, seen = recbole_blair.load(make_run(model), device="cpu", show_progress=False), []
    name = "user_vectors" if model == "UniSRecBlair" else "full_sort_predict"
    own = getattr(loaded.scorer.model, name)
    monkeypatch.setattr(loaded.scorer.model, name, lambda *x: seen.append(torch.get_num_threads()) or own(*x))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        loaded.recommend([f"u{n}" for n in range(FEW_USERS)])
        loaded.recommend([f"u{n}" for n in range(FEW_USERS + 1)])
        assert seen == [1, 3] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_the_item_table_lies_by_column_also_when_it_grows(make_run):
    scorer = recbole_blair.load(make_run("UniSRecBlair"), device="cpu", show_progress=False).scorer
    for n_items in (40, 42):
        table = scorer.tables()[1]
        assert table.shape == (n_items + 1, 16) and table.T.is_contiguous()
        scorer.add_items(np.ones((2, 32), np.float32), [f"N{n_items}", f"M{n_items}"], [{"title": ""}] * 2)


def test_request_time_reaches_hstu_and_its_default_is_the_end_of_the_data(make_run):
    loaded = recbole_blair.load(make_run("HSTU"), device="cpu", show_progress=False)
    default, later = loaded.score(USERS), loaded.score(USERS, request_time="2024-06-01")
    np.testing.assert_array_equal(default, loaded.score(USERS, request_time=str(END_MS)))
    assert np.abs(default - later).max() > 1e-4
    record = {"user_id": "u3", "timestamp": 1717200000000}
    np.testing.assert_allclose(loaded.score([record]), later[:1], rtol=1e-5, atol=1e-6)


def test_hstu_without_times_is_refused_but_not_a_model_that_reads_none(make_run):
    history = [{"user_id": "a", "item_id_list": ["i001", "i002"]}]
    for model, keys in (("HSTU", {}), ("HSTUBlair", {"fusion": "attention", "time_bias": "history"})):
        loaded = recbole_blair.load(make_run(model, **keys), device="cpu", show_progress=False)
        with pytest.raises(InputError, match="reads the times of events, but user 'a' has none; give timestamp_list"):
            loaded.recommend(history)
    free = recbole_blair.load(make_run("HSTU", time_bias="none"), device="cpu", show_progress=False)
    assert len(free.recommend(history, 3)) == 3


def test_what_the_api_refuses(make_run):
    loaded = recbole_blair.load(make_run("SASRecText"), device="cpu", show_progress=False)
    with pytest.raises(InputError, match=r"unknown item 'B7'.* add others by their text"):
        loaded.score("u1", ["i001", "B7"])
    with pytest.raises(InputError, match="top=0"):
        loaded.recommend("u1", top=0)
    with pytest.raises(InputError, match="one of them"):
        loaded.encode(users="u1", items="all")
    gate = recbole_blair.load(make_run("HSTUBlair", fusion="gate"), device="cpu", show_progress=False)
    with pytest.raises(InputError, match="HSTUBlair does not score by an inner product"):
        gate.encode(users="u1")


def test_a_model_that_reads_user_ids_says_so(make_run):
    loaded = recbole_blair.load(make_run("FPMC"), device="cpu", show_progress=False)
    assert len(loaded.recommend("u1,u2", 3)) == 6
    with pytest.raises(InputError, match="FPMC reads user ids: it knows only the users it was trained on"):
        loaded.recommend([{"user_id": "a", "item_id_list": ["i001"], "timestamp_list": [VALID_MS]}])


def test_the_import_stays_light():
    heavy = ("torch", "pandas", "numpy", "pyarrow", "transformers", "recbole", "ray")
    code = f"import sys, recbole_blair; recbole_blair.load; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert TEST_MS < END_MS


def test_the_api_is_small_and_shows_what_it_is(make_run):
    run = make_run("SASRecText")
    loaded = recbole_blair.load(run, device="cpu", show_progress=False)
    names = [name for name in dir(loaded) if not name.startswith("_")]
    assert len(names) <= 10 and {"recommend", "score", "encode", "add_items", "item_ids", "titles"} <= set(names)
    encoder = loaded.scorer.run.encoder
    assert repr(loaded) == f"Recommender(SASRecText on tiny, 40 items, encoder {encoder}, cpu, {str(run)!r})"
    loaded.add_items([{"item_id": "N1", "title": "red lamp"}])
    assert "41 items (1 added)" in repr(loaded)

"""Answers of the server are those of the commands, bit for bit, whoever asks at the same time."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi", reason="the serve extra is not installed")

import recbole_blair
from recbole_blair.serve.requests import MAX_TOP, MAX_USERS

from running_server import RunningServer  # isort: skip

NEW = [{"item_id": "N1", "title": "red lamp"}, {"item_id": "N2", "title": "blue phone", "features": ["small", "case"]}]


def load(run, **keys):
    return recbole_blair.load(run, device="cpu", show_progress=False, **keys)


def requests_of(rng, n, items, with_times):
    """Requests of one to three users, of known users, of empty histories, with and without filters."""
    made = []
    for number in range(n):
        users = []
        for _ in range(int(rng.integers(1, 4))):
            length = int(rng.integers(0, 12))
            user = {"user_id": f"v{number}", "item_id_list": rng.choice(items, length).tolist()}
            if with_times:
                user["timestamp_list"] = [1_600_000_000_000 + 1000 * i for i in range(length)]
            users.append(user if rng.random() < 0.8 else f"u{int(rng.integers(30))}")
        body = {"users": users, "top": int(rng.integers(1, 45)), "exclude_history": bool(rng.random() < 0.5)}
        if rng.random() < 0.3:
            body |= {"where": "title contains '1'", "block": ["i011"]}
        made.append(body)
    return made


def flat(answer):
    """Rows (user, item, title, score, source) of an answer."""
    return [(user["user_id"], item["item_id"], item["title"], item["score"], user["source"])
            for user in answer["users"] for item in user["items"]]  # fmt: skip


def expected(loaded, body):
    """The same rows from the Python API; scores as the float32 numbers they are."""
    frame = loaded.recommend(**{key: value for key, value in body.items() if key != "run"})
    columns = ["user_id", "item_id", "title", "score", "source"]
    return [(user, item, title, float(score), source) for user, item, title, score, source in
            frame[columns].itertuples(index=False)]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "with_times", "threads"),
    [("UniSRecBlair", False, 1), ("UniSRecBlair", False, 2), ("HSTUBlair", True, 1), ("GRU4Rec", False, 1)],
)
def test_answers_equal_recommend_bit_for_bit_whoever_asks_beside(make_run, monkeypatch, model, with_times, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))  # of the server
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        compare_answers(make_run(model), with_times)
    finally:
        torch.set_num_threads(before)


def compare_answers(run, with_times):
    loaded = load(run)
    bodies = requests_of(np.random.default_rng(7), 60, loaded.item_ids, with_times)
    with RunningServer(run) as server, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda body: server.ask("/recommend", body), bodies))
        health = server.ask("/health")[1]
    assert health["requests"] == 60 and health["batches"] < 60  # some were computed together
    for body, (status, answer) in zip(bodies, answers):
        assert status == 200 and flat(answer) == expected(loaded, body)


def test_items_added_by_text_equal_those_of_the_command(make_run):
    run = make_run("UniSRecBlair")
    loaded = load(run, new_items=NEW)
    body = {"users": [{"user_id": "v", "item_id_list": ["i001", "N2"]}, "u3"], "top": 42, "exclude_history": False}
    with RunningServer(run) as server:
        assert server.ask("/recommend", body)[0] == 400
        assert server.ask("/items", {"items": NEW})[1] == {"added": ["N1", "N2"], "runs": ["checkpoint"], "refused": {}}
        answer = server.ask("/recommend", body)[1]
        assert flat(answer) == expected(loaded, body)
        cold = {item["item_id"] for item in answer["users"][0]["items"] if item["cold"]}
        assert {"N1", "N2"} <= cold and len(cold) < 10
        assert [item["item_id"] for item in server.ask("/search?q=red%20lamp")[1]["items"]].count("N1") == 1
        status, error = server.ask("/items", {"items": NEW[:1]})
        assert status == 400 and "'N1' is in the catalogue already" in error["error"]


def test_neighbours_scores_and_search(server, make_run):
    loaded = load(make_run("UniSRecBlair"))
    for by in ("model", "text"):
        body = {"items": ["i004", "i001"], "top": 3, "by": by, "where": "price<2"}
        frame = loaded.similar(["i004", "i001"], 3, by, where="price<2")
        rows = [(own["item_id"], item["item_id"], item["score"]) for own in server.ask("/similar", body)[1]["items"]
                for item in own["similar"]]  # fmt: skip
        columns = ["item_id", "similar_id", "score"]
        assert rows == [(a, b, float(score)) for a, b, score in frame[columns].itertuples(index=False)]
    body = {"users": ["u3", {"item_id_list": ["i001"]}], "items": ["i004", "i009"]}
    scores = server.ask("/score", body)[1]["scores"]
    own = loaded.score(["u3", {"user_id": "visitor", "item_id_list": ["i001"]}], ["i004", "i009"])
    np.testing.assert_array_equal(np.array(scores, np.float32), own)
    words = loaded.scorer.catalogue.column("text").values.to_pylist()
    first, second = words[5].rstrip(".").split()[:2]
    found = server.ask(f"/search?q={first}%20{second[:3]}&top=40")[1]["items"]
    assert found and all(first in words[loaded.item_ids.index(item["item_id"])] or second in
                         words[loaded.item_ids.index(item["item_id"])] for item in found)  # fmt: skip
    assert server.ask("/search?q=i007")[1]["items"][0]["item_id"] == "i007"
    assert server.ask("/search?q=zzzz")[1]["items"] == []


def test_two_runs_stand_side_by_side(server, make_run):
    body = {"users": ["u3"], "top": 4}
    for name, model in (("checkpoint", "UniSRecBlair"), ("compare", "SASRec")):
        status, answer = server.ask("/recommend", {**body, "run": name})
        assert status == 200 and answer["run"] == name and flat(answer) == expected(load(make_run(model)), body)
    health = server.ask("/health")[1]
    assert [(run["run"], run["model"], run["items"]) for run in health["runs"]] == [
        ("checkpoint", "UniSRecBlair", 40), ("compare", "SASRec", 40),
    ]  # fmt: skip


def history(**changes):
    return {"users": [{"user_id": "v", "item_id_list": ["i001"], **changes}]}


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/recommend", history(item_id_list=["B9"]), 400, "unknown item 'B9'"),
        ("/recommend", {"users": ["nobody"]}, 400, "unknown user 'nobody'"),
        ("/recommend", {"users": []}, 422, "users: List should have at least 1 item"),
        ("/recommend", {"users": ["u1"] * (MAX_USERS + 1)}, 422, "users: List should have at most 100 items"),
        ("/recommend", {**history(), "top": 0}, 422, "top: "),
        ("/recommend", {**history(), "top": MAX_TOP + 1}, 422, "top: "),
        ("/recommend", {**history(), "topp": 3}, 422, "topp: Extra inputs are not permitted"),
        ("/recommend", {**history(), "run": "other"}, 422, "run: "),
        ("/recommend", {**history(), "where": "price<cheap"}, 400, "expected a number behind <"),
        ("/recommend", {**history(), "where": "price>9"}, 400, "leaves none of 40 items"),
        ("/recommend", {**history(), "allow": "/etc/passwd"}, 422, "allow: "),  # a list, never a file
        ("/recommend", {"users": "/etc/passwd"}, 422, "users: "),
        ("/recommend", history(timestamp_list=[10**30]), 422, "users.0"),
        ("/recommend", history(timestamp_list=[5]), 400, "expected Unix milliseconds"),
        ("/recommend", {**history(), "request_time": "soon"}, 400, "request_time=soon"),
        ("/recommend", [], 422, ""), ("/similar", {"items": ["B9"]}, 400, "unknown item 'B9'"),
        ("/similar", {"items": ["i001"], "run": "compare"}, 400, "does not score by an inner product"),
        ("/score", {**history(), "items": ["B9"]}, 400, "unknown item 'B9'"),
        ("/score", {"users": ["u1"] * 100, "items": ["i001"] * 1001}, 400, "at most 100,000 scores"),
        ("/items", {"items": [{"item_id": "i001", "title": "x"}]}, 400, "in the catalogue already"),
        ("/items", {"items": [{"item_id": "N9"}]}, 400, "has no text"), ("/nothing", {}, 404, "Not Found"),
        ("/search?q=", None, 200, ""), ("/search", None, 422, "q: Field required"),
        ("/search?q=a&top=x", None, 422, "top: "), ("/search?q=a&wherre=x", None, 422, "wherre"),
        ("/recommend", None, 405, "Method Not Allowed"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_with_their_status(server, path, body, status, words):
    got, answer = server.ask(path, body)
    assert got == status, answer
    if status != 200:
        assert list(answer) == ["error"] and words in answer["error"] and "\n" not in answer["error"]


def test_what_is_refused_before_it_is_read(server):
    kind = {"Content-Type": "application/json"}
    assert server.raw("POST", "/recommend", b" " * (2 << 20), kind)[0] == 413
    chunks = iter([b" " * (1 << 20)] * 2)
    assert server.raw("POST", "/recommend", chunks, kind)[0] == 413  # no length is said
    assert server.raw("POST", "/recommend", b"{}", {**kind, "Host": "elsewhere.example"})[0] == 421
    assert server.raw("GET", "/health", headers={"Host": f"localhost:{server.port}"})[0] == 200
    status, body = server.raw("POST", "/recommend", b"[" * 100_000, kind)
    assert status in (400, 422) and "error" in json.loads(body)
    assert server.raw("POST", "/recommend", b'{"users": ["\\ud800"], "\\ud800": 1}', kind)[0] == 422


def test_the_description_names_every_route_and_nothing_elsewhere(server):
    described = server.ask("/openapi.json")[1]
    assert set(described["paths"]) == {"/recommend", "/similar", "/score", "/search", "/items", "/health"}
    assert server.ask("/docs")[0] == 404
    for path in ("/", "/page.js", "/page.css"):
        status, content = server.raw("GET", path)
        assert status == 200 and b"//" not in content.replace(b"// ", b"").replace(b"https://www.w3.org", b"")


def test_the_extra_is_named(monkeypatch, capsys):
    import importlib.util

    from recbole_blair.cli.main import main

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "fastapi" else find(name))
    assert main(["serve", "--checkpoint=gone"]) == 2
    assert "serve needs fastapi" in (line := capsys.readouterr().err) and "pip install 'recbole-blair[serve]'" in line

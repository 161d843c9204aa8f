"""A server's life: newer runs, SIGTERM, and ten thousand malformed requests."""

import gc
import http.client
import json
import os
import shutil
import signal
import socket
import threading
import time
import weakref

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")

import recbole_blair
from recbole_blair.serve.server import freeze_objects

from running_server import RunningServer  # isort: skip
from recommend_runs import save_run  # isort: skip

BODY = {"users": ["u3"], "top": 5}
KIND = {"Content-Type": "application/json"}


def best(run):
    loaded = recbole_blair.load(run, device="cpu", show_progress=False)
    return loaded.recommend(["u3"], 5)["item_id"].tolist()


def items(answer):
    return [item["item_id"] for item in answer["users"][0]["items"]]


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_newer_run_takes_over_without_a_failed_request(make_run, build, plm, tmp_path):
    older, newer = make_run("UniSRecBlair"), save_run(tmp_path / "newer", "UniSRecBlair", build, seed=2, plm=plm)
    first, second = best(older), best(newer)
    assert first != second
    link = tmp_path / "current"
    link.symlink_to(older)
    seen, statuses, stop = [], [], threading.Event()

    def ask(server):
        while not stop.is_set():
            status, answer = server.ask("/recommend", BODY)
            statuses.append(status)
            seen.append(items(answer))

    with RunningServer(link, "--reload_s=0.2") as server:
        threads = [threading.Thread(target=ask, args=(server,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: len(seen) > 5)
        assert server.ask("/items", {"items": [{"item_id": "N1", "title": "red lamp"}]})[1].get("added") == ["N1"]
        (tmp_path / "next").symlink_to(newer)
        os.replace(tmp_path / "next", link)
        until(lambda: seen[-1] == second or "N1" in seen[-1])
        until(lambda: server.ask("/health")[1]["runs"][0]["name"] == "newer")
        stop.set()
        for thread in threads:
            thread.join()
        assert set(statuses) == {200} and server.ask("/health")[1]["runs"][0]["added"] == 1
        broken = shutil.copytree(newer, tmp_path / "broken")
        (broken / "config.yaml").write_text("model: [")
        (tmp_path / "next").symlink_to(broken)
        os.replace(tmp_path / "next", link)
        until(lambda: server.ask("/health")[1]["reload_error"])
        assert "config.yaml" in server.ask("/health")[1]["reload_error"]
        assert server.ask("/recommend", BODY)[0] == 200 and server.ask("/health")[1]["runs"][0]["name"] == "newer"


def test_sighup_loads_the_run_again(make_run, build, plm, tmp_path):
    run = shutil.copytree(make_run("UniSRecBlair"), tmp_path / "run")
    with RunningServer(run, "--reload_s=0") as server:
        shutil.copytree(save_run(tmp_path / "newer", "UniSRecBlair", build, seed=2, plm=plm), run, dirs_exist_ok=True)
        second = best(run)
        server.process.send_signal(signal.SIGHUP)
        until(lambda: items(server.ask("/recommend", BODY)[1]) == second)


def test_sigterm_answers_what_is_in_flight(make_run):
    body = json.dumps({"users": [f"u{n % 30}" for n in range(100)], "top": 40}).encode()
    with RunningServer(make_run("UniSRecBlair")) as server:
        connections = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=60) for _ in range(12)]
        idle = socket.create_connection(("127.0.0.1", server.port))  # asks nothing, and holds nothing up
        for connection in connections:
            connection.request("POST", "/recommend", body, KIND)
        time.sleep(0.02)
        before = server.ask("/health")[1]["requests"]
        server.process.send_signal(signal.SIGTERM)
        answers = [connection.getresponse() for connection in connections]
        assert [answer.status for answer in answers] == [200] * 12 and before < 12  # some were still to be answered
        assert all(len(json.loads(answer.read())["users"]) == 100 for answer in answers)
        assert server.process.wait(30) == 0
        idle.close()
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", server.port))


def test_frozen_objects_are_not_visited_again_and_freed_when_a_newer_run_is_there():
    class Run:
        def __init__(self):
            self.itself = self

    run = Run()
    gone, before = weakref.ref(run), gc.get_freeze_count()
    try:
        freeze_objects()
        assert gc.get_freeze_count() > before and len(gc.get_objects()) < gc.get_freeze_count()
        del run
        gc.collect()
        assert gone() is not None
        freeze_objects()
        assert gone() is None
    finally:
        gc.unfreeze()


def test_a_body_that_never_ends_is_given_up(make_run):
    with RunningServer(make_run("SASRec")) as server:
        slow = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        slow.sendall(b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        assert server.ask("/health")[0] == 200
        assert server.stop() == 0  # within its 60 s, by the limit of ten
        assert b"408" in slow.recv(100)


PIECES = [
    "[", "]", "{", "}", ",", ":", '"', "null", "true", "NaN", "-Infinity", "1e999", "-1", "9" * 400, '"\\ud800"',
    '"\\u0000"', '"users"', '"u3"', '"item_id_list"', '"i001"', '"top"', '"where"', '"price<2"', '"items"', '"allow"',
    '"timestamp_list"', "1600000000000", '"request_time"', '"1:30"', '"²"', '"by"', '"text"', '"title"', "\x00", "é",
    "\ud83d",
]  # fmt: skip
NEARLY = {
    "users": ["u3", {"user_id": "v", "item_id_list": ["i001"], "timestamp_list": [1_600_000_000_000]}], "top": 3,
    "allow": ["i001"], "block": [], "where": "price<2", "skip_unknown": True, "request_time": "now", "items": ["i001"],
}  # fmt: skip
VALUES = [
    None, True, -1, 0, 10**30, 1.5, float("nan"), "", "x" * 600, "\ud800", "\0", [], [[]], {}, {"a": 1}, ["\ud800"],
    ["i001"], "now", "9999-12-31", "0001-01-01", "9" * 39, "price<", "a=b", "price=nan", "price<1e999", "not " * 99,
    [{"item_id": "N"}],
]  # fmt: skip
PATHS = ["/recommend", "/similar", "/score", "/items", "/search", "/health", "/", "/nothing", "/search?q=%ff%00&top=9"]


def malformed(rng):
    """A path, a method and a body: pieces of JSON, or a right body with wrong values."""
    path, method = PATHS[rng.integers(len(PATHS))], ["POST", "POST", "POST", "GET", "PUT"][rng.integers(5)]
    if rng.random() < 0.4:
        body = "".join(PIECES[i] for i in rng.integers(len(PIECES), size=rng.integers(0, 30)))
        return path, method, body.encode("utf-8", "surrogatepass")
    kept = {key: value for key, value in NEARLY.items() if rng.random() < 0.6}
    key = list(NEARLY)[rng.integers(len(NEARLY))]
    kept[key if rng.random() < 0.9 else "\ud800"] = VALUES[rng.integers(len(VALUES))]
    return path, method, json.dumps(kept).encode()


def ask_nonsense(server, n, seed):
    """Send n malformed requests over kept connections; every answer is below 500."""
    rng, connection = np.random.default_rng(seed), http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    for _ in range(n):
        path, method, body = malformed(rng)
        connection.request(method, path, body, KIND)
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status < 500, (path, method, body, content)
        assert answer.status == 200 or list(json.loads(content)) == ["error"]


def test_malformed_requests(make_run):
    with RunningServer(make_run("UniSRecBlair"), f"--compare={make_run('HSTU')}") as server:
        ask_nonsense(server, 400, 1)
        assert items(server.ask("/recommend", BODY)[1]) == best(make_run("UniSRecBlair"))


@pytest.mark.slow
def test_ten_thousand_malformed_requests_leave_no_memory_behind(make_run):
    with RunningServer(make_run("UniSRecBlair"), f"--compare={make_run('HSTU')}") as server:
        ask_nonsense(server, 2000, 0)
        before = server.memory()
        ask_nonsense(server, 10_000, 1)
        assert server.memory() - before < 16 << 20
        assert items(server.ask("/recommend", BODY)[1]) == best(make_run("UniSRecBlair"))

"""build-c4 against a real HTTP server on loopback that throttles, hangs, refuses and returns rubbish."""

import json
import os
import re
import signal
import subprocess
import sys

import pandas as pd
import pytest

pytest.importorskip("openai")

from shop_data import GOOD, ChatServer, reply, review_text, wait_for

from dataset_tools.pools.five_star_reviews import Review
from recbole_blair.errors import InputError
from recbole_blair.search.c4.build import COLUMNS, build_requests, estimate, load_prompt
from recbole_blair.text.api_client import Backoff

PROMPT = {"system": "Be brief.", "user": "Rewrite: {review}"}


def make_reviews(n):
    return [
        Review(f"{i:032x}", f"U{i}", f"I{i}", 5.0, review_text(i).strip(), i, "Appliances", "Zorblax WX900", "Zorblax")
        for i in range(n)
    ]


def number_in(prompt):
    return int(re.search(r"Review number (\d+)", prompt).group(1))


def good(_, prompt):
    return reply(GOOD.format(number_in(prompt)))


def build(tmp_path, server, n=6, reviews=20, **options):
    options = {"concurrency": 3, "progress": False, "backoff": Backoff(base_s=0.01), "timeout_s": 5.0} | options
    return build_requests(
        make_reviews(reviews), n, tmp_path / "out", "m", PROMPT, base_url=server.url, api_key="secret-key-1", **options
    )


def rows_of(tmp_path):
    return pd.read_csv(tmp_path / "out" / "test.csv", dtype=str)


def test_good_server_gives_the_published_format(tmp_path):
    with ChatServer(good) as server:
        report = build(tmp_path, server)
    table = rows_of(tmp_path)
    assert tuple(table.columns) == COLUMNS
    assert table["item_id"].tolist() == [f"I{i}" for i in range(6)]
    assert table["query"].tolist() == [GOOD.format(i) for i in range(6)]
    assert table["ori_review"][3] == review_text(3).strip()
    assert server.calls == report["calls"] == 6
    assert report["tokens"] == 6 * 120
    assert server.most_at_once <= 3


def test_throttling_is_waited_out_and_honours_retry_after(tmp_path):
    def behave(number, prompt):
        if number < 3:
            return 429, {"error": {"message": "slow down"}}, {"Retry-After": "0.3"}
        return good(number, prompt)

    backoff = Backoff(base_s=0.01)
    held = []
    hold = backoff.hold
    backoff.hold = lambda failures, retry_after_s=None: (held.append(retry_after_s), hold(failures, retry_after_s))
    with ChatServer(behave) as server:
        report = build(tmp_path, server, backoff=backoff)
    assert held == [0.3] * 3
    assert report["failed_calls"] == {"throttled": 3}
    assert report["calls"] == server.calls == 9
    assert len(rows_of(tmp_path)) == 6


def test_hanging_calls_time_out_and_are_made_again(tmp_path):
    with ChatServer(lambda n, p: "hang" if n == 1 else good(n, p)) as server:
        report = build(tmp_path, server, timeout_s=0.5)
    assert report["failed_calls"] == {"timeout": 1}
    assert rows_of(tmp_path)["item_id"].tolist() == [f"I{i}" for i in range(6)]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ((500, {"error": {"message": "oops"}}), "http_500"),
        ((503, "not json"), "http_503"),
        ((200, "<html>rubbish</html>"), "bad_answer"),
        ((200, {"id": "x", "choices": []}), "bad_answer"),
    ],
)
def test_broken_answers_are_tried_again(tmp_path, bad, reason):
    with ChatServer(lambda n, p: bad if n < 2 else good(n, p)) as server:
        report = build(tmp_path, server)
    assert report["failed_calls"] == {reason: 2}
    assert len(rows_of(tmp_path)) == 6


def test_unusable_replies_are_asked_again_then_given_up(tmp_path):
    bad = {
        1: "I'm sorry, but I can't help with that request as an AI.",
        2: "I want a Zorblax for my kitchen because it is so quiet when we cook.",
        4: "Short.",
    }

    def behave(number, prompt):
        who = number_in(prompt)
        return reply(bad[who]) if who in bad else good(number, prompt)

    with ChatServer(behave) as server:
        report = build(tmp_path, server, attempts=2)
    assert rows_of(tmp_path)["item_id"].tolist() == ["I0", "I3", "I5", "I6", "I7", "I8"]
    assert report["rejected"] == {"refusal": 2, "brand": 2, "too_short": 2}
    assert report["given_up"] == 3
    assert report["calls"] == 12


def test_the_result_does_not_depend_on_who_finishes_first(tmp_path):
    import time

    def slow_first(number, prompt):
        time.sleep(0.3 if number == 0 else 0)
        return good(number, prompt)

    for name, concurrency, behave in (("a", 1, good), ("b", 8, slow_first)):
        with ChatServer(behave) as server:
            build(tmp_path / name, server, concurrency=concurrency)
    assert (tmp_path / "a/out/test.csv").read_bytes() == (tmp_path / "b/out/test.csv").read_bytes()


def test_budget_stops_and_a_larger_one_goes_on(tmp_path):
    with ChatServer(good) as server:
        with pytest.raises(InputError, match=r"budget is spent: 4 of 4 calls; 4 of 6 requests.*--max_calls"):
            build(tmp_path, server, max_calls=4)
        assert server.calls == 4
        assert not (tmp_path / "out" / "test.csv").exists()
        build(tmp_path, server, max_calls=10)
        assert server.calls == 6
    assert len(rows_of(tmp_path)) == 6


def test_token_cap_is_never_passed(tmp_path):
    with ChatServer(good) as server, pytest.raises(InputError, match=r"of 500 tokens.*--max_tokens"):
        build(tmp_path, server, max_tokens=500, concurrency=1)
    assert 1 <= server.calls * 120 <= 500


def test_server_that_stays_down(tmp_path):
    with ChatServer(lambda n, p: (500, {"error": {}})) as server:
        with pytest.raises(InputError, match=r"does not answer: 3 failures in a row, the last: http_500; 0 of 6"):
            build(tmp_path, server, retries=2, concurrency=1)
        assert server.calls == 3


@pytest.mark.parametrize(("status", "fix"), [(401, "check the key in OPENAI_API_KEY"), (404, "check --model=m")])
def test_final_refusals_stop_at_once_and_hide_the_key(tmp_path, status, fix):
    body = {"error": {"message": "Incorrect API key provided: secret-key-1"}}
    with ChatServer(lambda n, p: (status, body)) as server:
        with pytest.raises(InputError, match=fix) as caught:
            build(tmp_path, server, concurrency=1)
        assert server.calls == 1
    assert "secret-key-1" not in str(caught.value)
    assert all(b"secret-key-1" not in f.read_bytes() for f in (tmp_path / "out").iterdir())


def test_a_model_that_never_complies_is_stopped_early(tmp_path):
    with ChatServer(lambda n, p: reply("Non.")) as server:
        with pytest.raises(InputError, match=r"none of the first 2\d reviews gave a usable request \(too_short"):
            build(tmp_path, server, n=60, reviews=100, attempts=1)
        assert server.calls < 30


def test_too_few_reviews_pass(tmp_path):
    def behave(number, prompt):
        return good(number, prompt) if number_in(prompt) < 4 else reply("No.")

    with ChatServer(behave) as server, pytest.raises(InputError, match=r"4 of 6 requests.*all 10 sampled reviews"):
        build(tmp_path, server, reviews=10, attempts=1)


def test_servers_without_usage_are_counted_by_estimate(tmp_path):
    with ChatServer(lambda n, p: reply(GOOD.format(1), usage=False)) as server:
        report = build(tmp_path, server)
    assert report["calls_with_estimated_tokens"] == 6
    assert report["tokens"] > 6 * 40


def test_other_settings_are_refused_and_torn_lines_dropped(tmp_path):
    with ChatServer(good) as server:
        build(tmp_path, server)
        journal = tmp_path / "out" / "journal.jsonl"
        with open(journal, "ab") as file:
            file.write(b'{"key": "torn')
        report = build(tmp_path, server)
        assert (server.calls, report["torn_journal_lines"]) == (6, 1)
        with pytest.raises(InputError, match=r"other settings \(temperature changed\)"):
            build(tmp_path, server, temperature=0.1)
        journal.write_bytes(b"broken\n" + journal.read_bytes())
        with pytest.raises(InputError, match="line 1: damaged"):
            build(tmp_path, server)


SCRIPT = """
import sys
sys.path[:0] = {paths!r}
from pathlib import Path
from test_build_c4 import PROMPT, make_reviews
from recbole_blair.search.c4.build import build_requests
build_requests(make_reviews(30), 12, Path({out!r}), "m", PROMPT, base_url={url!r}, api_key="k", concurrency=3,
               progress=False)
"""


def test_killed_it_loses_the_calls_in_flight_and_no_other(tmp_path):
    """SIGKILL with three calls hanging: what was answered is not asked again."""
    held = {"on": True}

    def behave(number, prompt):
        return "hang" if held["on"] and number >= 5 else good(number, prompt)

    here = os.path.dirname(os.path.abspath(__file__))
    paths = [here, os.path.dirname(os.path.dirname(here))]
    with ChatServer(behave) as server:
        code = SCRIPT.format(paths=paths, out=str(tmp_path / "out"), url=server.url)
        process = subprocess.Popen([sys.executable, "-c", code])
        try:
            wait_for(lambda: server.calls == 8)
            journal = (tmp_path / "out" / "journal.jsonl").read_text().splitlines()
            assert len(journal) == 1 + 5
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        held["on"] = False
        subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
        assert server.calls == 8 + 12 - 5
        asked = [number_in(p) for p in server.prompts]
        assert sorted(set(asked)) == list(range(12))
        assert len(asked) - len(set(asked)) == 3
    assert rows_of(tmp_path)["item_id"].tolist() == [f"I{i}" for i in range(12)]


def test_a_second_process_is_kept_out(tmp_path):
    from recbole_blair.search.c4.journal import Journal

    with Journal(tmp_path / "j", {"a": 1}), pytest.raises(InputError, match="another process is writing"):
        Journal(tmp_path / "j", {"a": 1})


def test_estimate_counts_prompt_and_reply():
    prompt = {"system": "a" * 40, "user": "b" * 32 + "{review}"}
    reviews = [r._replace(text="c" * 400) for r in make_reviews(3)]
    found = estimate(reviews, 2, prompt, price_in=1.0, price_out=10.0)
    assert found["calls"] == 2
    assert 2 * (10 + 8 + 100) <= found["prompt_tokens"] <= 2 * (10 + 8 + 100 + 16)
    assert found["cost"] == pytest.approx((found["prompt_tokens"] + 10 * found["completion_tokens"]) / 1e6)


def test_prompt_files(tmp_path):
    assert "{review}" in load_prompt()["user"]
    path = tmp_path / "p.yaml"
    path.write_text("system: a\nuser: no place\n")
    with pytest.raises(InputError, match=r"lacks \{review\}"):
        load_prompt(path)
    path.write_text(json.dumps({"user": "{review}"}))
    with pytest.raises(InputError, match="expected YAML with the texts"):
        load_prompt(path)


def test_no_key_and_no_server(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(InputError, match="no API key: set the environment variable OPENAI_API_KEY"):
        build_requests(make_reviews(2), 1, tmp_path / "out", "m", PROMPT, progress=False)

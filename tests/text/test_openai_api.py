"""Encoders by API against a real HTTP server on loopback that fails, throttles, hangs and lies on purpose."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("openai")

from embedding_server import WIDTH, EmbeddingServer, good, refused, vector_of
from tiny_encoders import write_items

from recbole_blair.cli.main import main
from recbole_blair.errors import InputError
from recbole_blair.text import api_client
from recbole_blair.text.encode import encode_build
from recbole_blair.text.encoders import encoder_name, load_encoder
from recbole_blair.text.features import load_features
from recbole_blair.text.openai_api import OpenAIEncoder

KEY = "sk-very-secret-key-4711"
PLM = "openai:shop-embedder"
NAME = f"openai-shop-embedder-{WIDTH}"
TEXTS = [f"Item number {i} with a lamp" for i in range(20)]


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def build(tmp_path):
    return write_items(tmp_path / "shop", TEXTS)


def encoder(server, **options):
    options = {"dimensions": WIDTH, "base_url": server.url, "backoff_s": 0.01, "timeout_s": 20.0} | options
    return OpenAIEncoder("shop-embedder", **options)


def encode(build, server, **options):
    """encode_build with requests of about four texts (a text is 27 characters: 9 estimated tokens)."""
    options = {"dimensions": WIDTH, "base_url": server.url, "batch_tokens": 40, "progress": False} | options
    return encode_build(build, PLM, **options)


def test_good_server(build, capsys):
    with EmbeddingServer() as server:
        path = encode(build, server)
    assert path.name == f"shop.{NAME}.feature"
    features, header = load_features(build, NAME)
    np.testing.assert_array_equal(features, np.stack([vector_of(text) for text in TEXTS]))
    assert sorted(server.texts) == sorted(TEXTS) and len(server.requests) == 5
    assert server.most_at_once <= 4
    assert set(server.keys) == {f"Bearer {KEY}"} and set(server.paths) == {"/v1/embeddings"}
    assert {r["dimensions"] for r in server.requests} == {WIDTH}
    assert (header["kind"], header["source"], header["max_length"]) == ("api", "shop-embedder", 512)
    assert header["endpoint"] == server.url.split("/")[2] and header["tokeniser"].startswith("estimate")
    said = capsys.readouterr().err
    assert "20 texts of at most 512 tokens in 5 requests, 180 tokens: price unknown; tokens are estimated" in said
    assert said.count("estimated") == 1
    assert KEY not in said + json.dumps(header)


def test_a_whole_file_is_left_alone_and_other_settings_have_their_own(build):
    with EmbeddingServer() as server:
        encode(build, server)
        asked = len(server.requests)
        encode(build, server)
        assert len(server.requests) == asked
        other = encode_build(build, "openai:other/shop-embedder", dimensions=WIDTH, base_url=server.url, progress=False)
        assert other.name == f"{build.name}.openai-other--shop-embedder-{WIDTH}.feature"
        assert len(server.requests) > asked
        assert encode(build, server, max_length=100) != encode(build, server)


def test_prompts_stand_before_items_and_queries(build):
    with EmbeddingServer() as server:
        encoder = load_encoder(
            "openai:shop-embedder", dimensions=WIDTH, base_url=server.url, prompt="item: ", query_prompt="query: "
        )
        items, queries = encoder.encode(TEXTS[:2], progress=False), encoder.encode_queries(TEXTS[:2], progress=False)
    np.testing.assert_array_equal(items, np.stack([vector_of("item: " + text) for text in TEXTS[:2]]))
    np.testing.assert_array_equal(queries, np.stack([vector_of("query: " + text) for text in TEXTS[:2]]))


@pytest.mark.parametrize("status", [500, 503, 408, 409, 429])
def test_failures_that_pass(build, status):
    def behave(number, request):
        return refused(status, "not now") if number in (0, 3, 4) else None

    with EmbeddingServer(behave) as server:
        vectors = encoder(server).encode(TEXTS, batch_tokens=40, progress=False)
    np.testing.assert_array_equal(vectors, np.stack([vector_of(text) for text in TEXTS]))
    assert len(server.requests) == 8


def test_retry_after_holds_every_thread_back():
    def behave(number, request):
        return refused(429, "slow down", headers={"Retry-After": "1"}) if number == 0 else None

    with EmbeddingServer(behave) as server:
        encoder(server, concurrency=1).encode(TEXTS[:4], progress=False)
    assert server.times[1] - server.times[0] >= 1.0


def test_a_server_that_asks_for_too_long_a_wait_stops_the_run():
    with (
        EmbeddingServer(lambda n, r: refused(429, "later", headers={"Retry-After": "86400"})) as server,
        pytest.raises(InputError, match=r"throttled and asks to wait 86400 s; what is done is kept"),
    ):
        encoder(server).encode(TEXTS[:4], progress=False)
    assert len(server.requests) == 1


def test_retry_after_forms():
    class Error:
        def __init__(self, **headers):
            self.response = type("Response", (), {"headers": {k.replace("_", "-"): v for k, v in headers.items()}})

    assert api_client.retry_after_s(Error(retry_after="2.5")) == 2.5
    assert api_client.retry_after_s(Error(retry_after_ms="250")) == 0.25
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 60))
    assert 50 < api_client.retry_after_s(Error(retry_after=date)) <= 60
    assert api_client.retry_after_s(Error(retry_after="soon")) is None
    assert api_client.retry_after_s(ConnectionError()) is None


def test_timeouts_are_tried_again():
    with EmbeddingServer(lambda n, r: "hang" if n == 0 else None) as server:
        encoder(server, timeout_s=0.5).encode(TEXTS[:4], progress=False)
    assert len(server.requests) == 2


def test_a_server_that_stays_down(build, capsys):
    with (
        EmbeddingServer(lambda n, r: refused(500, f"down, {KEY}")) as server,
        pytest.raises(InputError, match=r"failed 3 times in a row .* the last: status 500") as raised,
    ):
        encoder(server, retries=2, concurrency=1).encode(TEXTS, batch_tokens=40, progress=False)
    assert len(server.requests) == 3
    assert KEY not in str(raised.value) + capsys.readouterr().err


def test_fewer_vectors_than_texts_are_never_taken():
    def once(number, request):
        body = good(request)
        return {**body, "data": body["data"][:-1]} if number == 0 else None

    with EmbeddingServer(once) as server:
        vectors = encoder(server).encode(TEXTS, progress=False)
    np.testing.assert_array_equal(vectors, np.stack([vector_of(text) for text in TEXTS]))

    with (
        EmbeddingServer(lambda n, r: {**good(r), "data": good(r)["data"][:-1]}) as server,
        pytest.raises(InputError, match="the last: 19 vectors for 20 texts"),
    ):
        encoder(server).encode(TEXTS, progress=False)
    assert len(server.requests) == 3


@pytest.mark.parametrize("body", ["not json", "{}", {"data": []}, {"data": [{"index": 0}]}])
def test_answers_that_are_none(body):
    with EmbeddingServer(lambda n, r: (200, body, {}) if n == 0 else None) as server:
        vectors = encoder(server).encode(TEXTS[:1], progress=False)
    np.testing.assert_array_equal(vectors[0], vector_of(TEXTS[0]))
    assert len(server.requests) == 2


def test_twice_the_same_number_is_no_answer():
    def behave(number, request):
        body = good(request)
        return {**body, "data": [{**entry, "index": 0} for entry in body["data"]]}

    with EmbeddingServer(behave) as server, pytest.raises(InputError, match="vectors without one number per text"):
        encoder(server).encode(TEXTS[:3], progress=False)


def test_another_width_stops_the_run_with_its_item(build):
    with (
        EmbeddingServer(lambda n, r: good({**r, "dimensions": 12})) as server,
        pytest.raises(InputError, match=r"item 'B00\d\d' .*width 12 for it, expected 8; set --plm_dimensions=12"),
    ):
        encode(build, server)


@pytest.mark.parametrize(("value", "kind"), [(0.0, "a zero vector"), (float("nan"), "numbers that are not finite")])
def test_no_zero_vectors(build, value, kind):
    def behave(number, request):
        body = good(request)
        for entry in body["data"]:
            if request["input"][entry["index"]] == TEXTS[13]:
                entry["embedding"] = [value] * WIDTH
        return body

    with (
        EmbeddingServer(behave) as server,
        pytest.raises(InputError, match=rf"item 'B0013' \(row 14 of the .item file\): .* gave {kind} for it"),
    ):
        encode(build, server)
    assert not (build / f"shop.{NAME}.feature").exists()


def test_a_text_the_server_refuses_is_named_and_the_others_are_kept(build):
    def behave(number, request):
        return refused(400, f"bad input, said to {KEY}") if TEXTS[6] in request["input"] else None

    with (
        EmbeddingServer(behave) as server,
        pytest.raises(InputError, match=r"item 'B0006' .* refuses it .*: bad input, said to \*\*\*"),
    ):
        encode(build, server, concurrency=1)
    with EmbeddingServer() as server:
        encode(build, server, base_url=server.url)
    assert TEXTS[6] in server.texts


def test_an_empty_text_is_refused_before_anything_is_paid(tmp_path):
    build = write_items(tmp_path / "shop", ["a lamp", "", "a case"])
    with EmbeddingServer() as server, pytest.raises(InputError, match=r"item 'B0001' .* its text is empty"):
        encode(build, server)
    assert server.requests == []


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (401, None, "answered 401 for shop-embedder: check the key in OPENAI_API_KEY"),
        (403, None, "the key may not use this model"),
        (404, None, "check the model's name and --plm_base_url"),
        (429, "insufficient_quota", "the account's quota is used up"),
    ],
)
def test_refusals_are_not_tried_again(status, code, message):
    with (
        EmbeddingServer(lambda n, r: refused(status, f"no: {KEY}", code)) as server,
        pytest.raises(InputError, match=re.escape(message)) as raised,
    ):
        encoder(server, concurrency=1).encode(TEXTS, progress=False)
    assert len(server.requests) == 1
    assert KEY not in str(raised.value)


def test_what_was_paid_for_is_kept_when_another_request_fails():
    def behave(number, request):
        if TEXTS[0] in request["input"]:
            while len(server.requests) < 3:  # the others are in flight by then
                time.sleep(0.01)
            return refused(404, "no")
        time.sleep(0.3)

    with EmbeddingServer(behave) as server:
        got, chunks = [], encoder(server, concurrency=3).encode_chunks(TEXTS, batch_tokens=40)
        with pytest.raises(InputError, match="answered 404"):
            for number, _, _ in chunks:
                got.append(number)
    assert sorted(got) == [1, 2]
    assert len(server.requests) == 3


def test_killed_and_run_again_it_asks_for_what_is_missing_alone(tmp_path, monkeypatch):
    build = write_items(tmp_path / "shop", TEXTS)
    args = ["encode", f"--build={build}", f"--plm={PLM}", f"--plm_dimensions={WIDTH}", "--batch_tokens=40"]
    args += ["--plm_concurrency=1", "--quiet"]
    progress = build / f"shop.{NAME}.feature.partial.json"
    with EmbeddingServer(lambda n, r: "hang" if n == 3 else None) as server:
        port = server.http.server_port
        command = [sys.executable, "-m", "recbole_blair", *args, f"--plm_base_url={server.url}"]
        process = subprocess.Popen(command, env=os.environ, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while len(server.requests) < 4 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        said = process.communicate()[1].decode()
    assert process.returncode == -signal.SIGKILL and len(server.requests) == 4, said
    state = progress.read_text()
    assert json.loads(state)["done"] == [[0, 2]] and KEY not in state + said

    class SamePort(EmbeddingServer):  # the address is part of what a resumed run must share
        def __init__(self):
            super().__init__()
            self.http.server_close()
            self.http = type(self.http)(("127.0.0.1", port), self.http.RequestHandlerClass)
            self.url = f"http://127.0.0.1:{port}/v1"

    with SamePort() as server:
        assert main([*args, f"--plm_base_url={server.url}"]) == 0
    assert server.texts == TEXTS[12:]
    features, _ = load_features(build, NAME)
    np.testing.assert_array_equal(features, np.stack([vector_of(text) for text in TEXTS]))
    assert not progress.exists()


def test_a_width_the_server_is_not_told_of(build):
    with EmbeddingServer() as server:
        encode(build, server, send_dimensions=False)
    assert all("dimensions" not in request for request in server.requests)


def test_names_and_widths():
    assert encoder_name("openai:text-embedding-3-large", dimensions=768) == "openai-text-embedding-3-large-768"
    assert encoder_name("openai:text-embedding-3-large") == "openai-text-embedding-3-large-3072"
    assert encoder_name("openai:BAAI/bge-m3", dimensions=1024) == "openai-BAAI--bge-m3-1024"
    for plm, dimensions, message in [
        ("openai:text-embedding-3-large", 4000, "--plm_dimensions=4000 is not a width of text-embedding-3-large"),
        ("openai:text-embedding-ada-002", 768, "is not a width of text-embedding-ada-002; it has 1536"),
        ("openai:bge-m3", None, "its width is not known; give --plm_dimensions"),
        ("openai:", 8, "needs a model's name"),
        ("tfidf-svd", 8, "--plm_dimensions=8 belongs to a pretrained encoder, but --plm=tfidf-svd"),
    ]:
        with pytest.raises(InputError, match=re.escape(message)):
            encoder_name(plm, dimensions=dimensions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "localhost:8000"}, "--plm_base_url is no http or https address"),
        ({"base_url": "http://me:pw@localhost/v1"}, "carries a name, password or query"),
        ({"base_url": "http://x/v1", "pooling": "mean"}, "--plm_pooling=mean belongs to a model of one's own"),
        ({"base_url": "http://x/v1", "concurrency": 0}, "--plm_concurrency=0 must be above 0"),
        ({"base_url": "http://x/v1", "max_length": 9000}, "exceeds the 8191 tokens that text-embedding-3-small takes"),
    ],
)
def test_wrong_use(options, message):
    with pytest.raises(InputError, match=re.escape(message)) as raised:
        load_encoder("openai:text-embedding-3-small", **options)
    assert "pw@" not in str(raised.value)


def test_no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(InputError, match="no API key: set the environment variable OPENAI_API_KEY"):
        OpenAIEncoder("text-embedding-3-small")


def test_the_environment_names_the_server(monkeypatch):
    with EmbeddingServer() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        encoder(server, base_url=None).encode(TEXTS[:2], progress=False)
    assert len(server.requests) == 1

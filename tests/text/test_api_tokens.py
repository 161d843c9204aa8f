"""Counting and cutting texts for models behind an API, with a vocabulary and without one; prices."""

import pytest

from recbole_blair.text import api_tokens
from recbole_blair.text.api_models import find_api_model
from recbole_blair.text.api_tokens import Estimate, Vocabulary, cost_text, load_counter

tiktoken = pytest.importorskip("tiktoken")


def byte_pairs():
    """A real tiktoken vocabulary of bytes and three merges, which needs no download."""
    ranks = {bytes([i]): i for i in range(256)} | {b"la": 256, b"mp": 257, b"lamp": 258}
    return tiktoken.Encoding("tiny", pat_str=r"\w+|\s+", mergeable_ranks=ranks, special_tokens={})


def test_a_vocabulary_cuts_at_its_tokens():
    counter = Vocabulary(byte_pairs())
    assert counter.cut("lamp lamp", 10) == ("lamp lamp", 3)
    assert counter.cut("lamp lamp", 2) == ("lamp ", 2)
    assert counter.cut("lamp <|endoftext|>", 100)[0] == "lamp <|endoftext|>"
    assert counter.cut("é" * 5, 3) == ("é", 3)  # two bytes each: half a letter is dropped
    assert counter.note is None


def test_the_estimate_counts_too_high():
    counter = Estimate("no vocabulary")
    assert counter.cut("abcdef", 10) == ("abcdef", 2)
    assert counter.cut("abcdefg", 10) == ("abcdefg", 3)
    assert counter.cut("abcdefg", 2) == ("abcdef", 2)
    assert counter.cut("aé漢😀", 100) == ("aé漢😀", 10)  # a third, 2, 3 and 4 tokens
    assert counter.cut("é漢😀", 5) == ("é漢", 5)
    assert counter.cut("漢", 2) == ("", 0)
    assert "no vocabulary" in counter.note


def test_without_the_vocabulary_the_reason_is_said(monkeypatch):
    def offline(name):
        raise ConnectionError("no network")

    monkeypatch.setattr(tiktoken, "get_encoding", offline)
    counter = load_counter("cl100k_base")
    assert isinstance(counter, Estimate) and "tiktoken cannot get cl100k_base: ConnectionError" in counter.note
    assert "unknown" in load_counter(None).note


def test_a_download_that_never_ends_is_given_up(monkeypatch):
    import threading

    monkeypatch.setattr(api_tokens, "FETCH_TIMEOUT_S", 0.05)
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: threading.Event().wait(5))
    assert "no answer in 0 s" in load_counter("cl100k_base").note


def test_with_the_vocabulary(monkeypatch):
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: byte_pairs())
    assert load_counter("cl100k_base").name == "tiny"


def test_prices():
    large = find_api_model("text-embedding-3-large")
    assert (large.width, large.max_tokens, large.shortens) == (3072, 8191, True)
    assert cost_text(2_000_000, large.usd_per_million_tokens) == "about $0.26 at $0.13 per million tokens"
    assert find_api_model("shop-embedder").usd_per_million_tokens is None
    assert cost_text(5, None) == "price unknown"

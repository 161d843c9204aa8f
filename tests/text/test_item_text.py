"""Item text: cleaning worked by hand, recipes, hashes, speed-independent properties."""

import hashlib
import html
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_blair.errors import InputError
from recbole_blair.text.item_text import (
    RECIPES,
    atomic_text,
    clean_list,
    clean_text,
    ids_hash,
    item_text,
    released_text,
    text_hash,
)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (None, ""),
        ("", ""),
        (4.5, "4.5"),
        ("  a\t b\r\n c ", "a b c"),
        ("a<br>b<br/>c", "a b c"),
        ("<p class='x'>Bold <b>move</b></p>", "Bold move"),
        ("keep 3 < 5 and 7 > 2", "keep 3 < 5 and 7 > 2"),
        ("x <script>alert('1 < 2')</script> y", "x y"),
        ("x <!-- hidden <b> --> y", "x y"),
        ("Salt &amp; Pepper", "Salt & Pepper"),
        ("Salt &amp;amp; Pepper", "Salt & Pepper"),
        ("&lt;b&gt;bold&lt;/b&gt;", "bold"),
        ("a\x00b\x07c\x9fd", "a b c d"),
        ("line\u2028break\u2029here\x85now", "line break here now"),
        ("zero\u200bwidth\ufeff so\u00adft", "zerowidth soft"),
        ("non\u00a0breaking", "non breaking"),
        ("Crème brûlée 抹茶", "Crème brûlée 抹茶"),
        ("lone \ud800 surrogate", "lone surrogate"),
        ('15" screen', '15" screen'),
    ],
)
def test_clean_text_by_hand(raw, expected):
    assert clean_text(raw) == expected


def test_ascii_only_replaces_each_foreign_character_by_a_space():
    assert clean_text("Crème brûlée", ascii_only=True) == "Cr me br l e"
    assert clean_text("抹茶", ascii_only=True) == ""


@given(st.text())
def test_clean_text_is_one_safe_line_and_settles(raw):
    text = clean_text(raw)
    text.encode("utf-8")
    assert not any(ord(c) < 32 or c in "\x7f\x85\u2028\u2029" for c in text)
    assert text == " ".join(text.split())
    assert clean_text(raw, ascii_only=True).isascii()


META = {
    "title": "Green <b>tea</b>",
    "features": ["Organic", "", "20 bags!"],
    "categories": ["Grocery", "Tea & Coffee"],
    "description": ["From Uji.", "Stone ground."],
    "store": "not part of any recipe",
}


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (
            "recommendation",
            "Green tea. Organic, 20 bags! Grocery, Tea & Coffee. From Uji., Stone ground.",
        ),
        ("pretraining", "Green tea. Organic, 20 bags! From Uji., Stone ground."),
        ("search", "Green tea. From Uji., Stone ground."),
    ],
)
def test_recipes_by_hand(recipe, expected):
    assert item_text(META, recipe) == expected


def test_absent_null_and_empty_fields_leave_no_trace():
    assert item_text({"title": "A", "features": None, "description": ["", " "]}) == "A."
    assert item_text({}) == ""
    assert item_text({"title": None, "description": "plain string"}) == "plain string."


def test_unknown_recipe_names_the_nearest():
    with pytest.raises(InputError, match=r"recipe 'recomendation'.*Did you mean 'recommendation'"):
        item_text(META, "recomendation")
    assert set(RECIPES) == {"recommendation", "pretraining", "search"}


def test_clean_list_takes_a_list_a_value_or_none():
    assert clean_list(["a", None, " b "]) == ["a", "b"]
    assert clean_list("a") == ["a"]
    assert clean_list(None) == []


def test_atomic_text_holds_no_double_quote():
    assert atomic_text('15" x 10"') == "15'' x 10''"


def test_hashes_are_sha256_of_joined_lines():
    ids = ["B1", "B2", "Ü3"]
    expected = hashlib.sha256("B1\nB2\nÜ3".encode()).hexdigest()
    assert ids_hash(iter(ids)) == expected
    assert text_hash(ids) == expected
    assert text_hash([]) == hashlib.sha256(b"").hexdigest()
    assert text_hash(["a", "b"]) != text_hash(["ab"])


def naive_released(meta, fields=("title", "features", "categories", "description")):
    """The released cleaning, a character at a time: written from its description, not from the code under test."""

    def clean(value):
        text = value
        while isinstance(text, list):
            text = ", ".join(text)
        text = html.unescape(text)
        start, end = 0, len(text)
        while start < end and text[start].isspace():
            start += 1
        while end > start and text[end - 1].isspace():
            end -= 1
        text, kept, i = text[start:end], [], 0
        while i < len(text):  # a tag: from < to the next >, with something between
            close = text.find(">", i + 1) if text[i] == "<" else -1
            if close > i + 1:
                i = close + 1
                continue
            kept.append(text[i])
            i += 1
        text, out = "".join(" " if c in "\n\t" else c for c in kept), []
        for c in text:
            if not (c == " " and out and out[-1] == " "):
                out.append(c)
        return "".join(c if ord(c) < 128 else " " for c in out)

    result = ""
    for field in fields:
        value = meta.get(field)
        if isinstance(value, float):
            result += f"{value}."
        elif isinstance(value, list) and value:
            result += ", ".join(clean(part) for part in value) + "."
        elif value:
            result += clean(value)
        result += " "
    return result


ODD = [
    "", " ", "a", "A  b", "<b>x</b>", "a<br>b", "<>", "< b", "1 < 2 > 0", "&amp;lt;b&amp;gt;", "&lt;i&gt;it&lt;/i&gt;",
    "é", "a é b", "15\" × 3'", "x\ny\tz", "\r", "\x0b", " ", "end.", "end!", "…",
    "&nbsp;x", "&#8212;", "<a href='x>y'>", "日本", "a\u2028b",
]  # fmt: skip


def test_released_texts_by_hand():
    meta = {
        "title": "Caf&eacute; <b>lamp</b>",
        "features": ["2 m", "red."],
        "categories": [],
        "description": ["A", "B"],
    }
    assert released_text(meta) == "Caf  lamp 2 m, red..  A, B. "
    assert released_text(meta, "title") == "Caf  lamp "
    assert released_text({"title": None}) == "    "
    assert released_text({"title": 4.5}, "title") == "4.5. "
    assert released_text({"features": [["a", "b"], "c"]}, "features") == "a, b, c. "


def test_released_texts_of_every_odd_shape():
    rng = random.Random(0)
    for _ in range(3000):
        pieces = ["".join(rng.choices(ODD, k=rng.randint(0, 4))) for _ in range(6)]
        meta = {
            "title": pieces[0], "features": pieces[1 : 1 + rng.randint(0, 3)],
            "categories": rng.choice([[], pieces[4:5]]),
            "description": rng.choice([pieces[3:], [pieces[2:4]], pieces[5], 3.5]),
        }  # fmt: skip
        assert released_text(meta) == naive_released(meta)

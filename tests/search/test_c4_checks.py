"""The checks of replies, rule by rule, and that ordinary requests pass."""

import pytest

from recbole_blair.search.c4.checks import check_reply, clean_reply

TITLE = "Zorblax Pro Cordless Stick Vacuum Cleaner for Pet Hair, ZX900B, 2200mah Battery"
STORE = "Zorblax"
REVIEW = (
    "We have two dogs and it picks up all the hair from our rugs without getting tangled like the last one did, and"
    " the battery lasts for the whole flat."
)
GOOD = "I have two dogs and need something light to get their hair off my rugs without it tangling all the time."


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "Could you recommend a cordless vacuum that is good with pet hair? We live in a small flat.",
        "I'm sorry to ask twice, but I need a cleaner that my mother can lift with one hand and that lasts for years.",
    ],
)
def test_ordinary_requests_pass(text):
    assert check_reply(text, REVIEW, TITLE, STORE) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("...", "rubbish"),
        ('{"query": "I want a vacuum that is good for my two dogs and the rugs"}', "rubbish"),
        ("```I want a vacuum that is good for my two dogs and the rugs```", "rubbish"),
        ("As an AI language model, I do not have pets and I cannot buy a vacuum for you.", "refusal"),
        ("I'm sorry, but I can't help with rewriting that review into a request for you.", "refusal"),
        ("I can’t assist with this because it is a review of a product that I like.", "refusal"),
        ("I need a vacuum.", "too_short"),
        ("I need a vacuum " * 60, "too_long"),
        ("Ich suche einen leichten Staubsauger für meine zwei Hunde, der auch Teppiche schafft.", "language"),
        ("Busco una aspiradora ligera para mis dos perros que no se enrede con el pelo largo.", "language"),
        ("The best choice for two dogs is the one that is light and that has a good battery.", "first_person"),
        ("I want the Zorblax because it is light and my two dogs are afraid of loud things.", "brand"),
        ("I want the one called zx900b because it is light and my dogs are not afraid of it.", "model_number"),
        ("I need a cordless stick vacuum for my flat, with two dogs and a lot of rugs to do.", "title"),
        ("I want one that picks up all the hair from our rugs without getting tangled like before.", "copied"),
    ],
)
def test_each_rule(text, reason):
    assert check_reply(text, REVIEW, TITLE, STORE) == reason


def test_measures_and_short_store_names_are_no_leaks():
    text = "I need a kettle of 2200w or more for the office, and it has to be light enough for me to lift."
    assert check_reply(text, REVIEW, "Kettle 2200w", "LG") is None


def test_any_language_leaves_language_rules_out():
    text = "Ich suche einen leichten Staubsauger für meine zwei Hunde, der auch Teppiche schafft."
    assert check_reply(text, REVIEW, TITLE, STORE, language="any") is None


def test_reply_is_put_on_one_line_without_its_quotes():
    assert clean_reply('  "I need\n a lamp." ') == "I need a lamp."
    assert clean_reply('"Quiet" is what I need, "light" too') == '"Quiet" is what I need, "light" too'
    assert clean_reply(None) == ""

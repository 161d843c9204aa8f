"""Is a reply usable as a request? Each rule has a name, and the report counts by it."""

from __future__ import annotations

import re

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
REFUSAL = re.compile(
    r"\b(?:as an ai\b|(?:as a|large) language model|"
    r"(?:i(?:'|’)?m sorry|i am sorry|i apologi[sz]e)[,.;]? (?:but )?"
    r"(?:i (?:can|am unable|won)|i(?:'|’)m unable|as an|this)|"
    r"i (?:can(?:no|'|’)t|can ?not|am unable to|won(?:'|’)t) (?:help|assist|fulfil|comply|create|write|generate|"
    r"rewrite|provide|process)|unable to (?:help|assist|comply|fulfil))",
    re.IGNORECASE,
)
RUBBISH = re.compile(r"^\s*[{\[<#]|```|</?\w+>|https?://|\ufffd|\{review\}")
FIRST_PERSON = re.compile(r"\b(?:i|i(?:'|’)\w+|me|my|mine|we|we(?:'|’)\w+|us|our)\b", re.IGNORECASE)
# Words that stand in any English request of some length; used to tell English from other languages.
ENGLISH_WORDS = """
a an and are as at be but by can could do for from has have i i'm if in is it it's like looking me my need not
of on or please so some something that the them they this to use want was we what when which will with without
would you your
"""
ENGLISH = frozenset(ENGLISH_WORDS.split())
MIN_ENGLISH = 0.2  # of the words; English prose has about .4 of these, other languages under .1
COPIED_WORDS = 12  # this many words in a row from the review are a quotation
TITLE_RUN = 3  # this many title words in a row name the product
TITLE_FILL = "a an and for in of on or the to with by from pack set inch new"
TITLE_STOP = frozenset(TITLE_FILL.split())

LANGUAGES = ("en", "any")
REASONS = (
    "empty", "rubbish", "refusal", "too_short", "too_long", "language", "first_person", "title", "brand",
    "model_number", "copied",
)  # fmt: skip


def clean_reply(text: str) -> str:
    """Return a reply on one line, without the quotation marks some models put around it."""
    text = " ".join((text or "").split())
    for left, right in (('"', '"'), ("“", "”"), ("'", "'")):
        if len(text) > 1 and text[0] == left and text[-1] == right and left not in text[1:-1]:
            text = text[1:-1].strip()
    return text


def check_reply(
    text: str, review: str, title: str = "", store: str = "", language: str = "en", min_words: int = 8,
    max_words: int = 150,
) -> str | None:  # fmt: skip
    """Return the first rule a cleaned reply breaks, or None.

    Args:
        text: the reply. review: the review it was made from. title, store: of the item.
        language: `en`, or `any` to leave the language and first-person rules out.
        min_words, max_words: length allowed.

    Returns:
        str or None: of REASONS. `title`: 3 words in a row of the title; `brand`: the store's name; `model_number`: a
        title word of letters and digits; `copied`: 12 words in a row of the review.
    """
    words = [w.lower().replace("’", "'") for w in WORD.findall(text)]
    if not words:
        return "empty" if not text else "rubbish"
    if RUBBISH.search(text):
        return "rubbish"
    if REFUSAL.search(text):
        return "refusal"
    if len(words) < min_words:
        return "too_short"
    if len(words) > max_words:
        return "too_long"
    if language == "en" and sum(w in ENGLISH for w in words) < MIN_ENGLISH * len(words):
        return "language"
    if language == "en" and not FIRST_PERSON.search(text):
        return "first_person"
    return _leak(words, title, store) or ("copied" if _shares_run(words, review, COPIED_WORDS) else None)


def _leak(words: list[str], title: str, store: str) -> str | None:
    """Return how the reply names the product, or None."""
    said = set(words)
    titled = [w.lower() for w in WORD.findall(title)]
    if any(_is_model_number(w) for w in set(titled) & said):
        return "model_number"
    brand = [w.lower() for w in WORD.findall(store)]
    if brand and (len(brand) > 1 or len(brand[0]) > 2) and _has_run(words, brand):
        return "brand"
    runs = (titled[i : i + TITLE_RUN] for i in range(len(titled) - TITLE_RUN + 1))
    if any(_has_run(words, run) for run in runs if not TITLE_STOP.issuperset(run[:1] + run[-1:])):
        return "title"
    return None


def _is_model_number(word: str) -> bool:
    """True for a title word that mixes letters and digits in four or more characters (not a plain measure)."""
    mixed = any(c.isdigit() for c in word) and any(c.isalpha() for c in word)
    return mixed and len(word) > 3 and not re.fullmatch(r"\d+[a-z]{1,4}", word)


def _has_run(words: list[str], run: list[str]) -> bool:
    """True if `run` occurs in `words` as it stands."""
    n = len(run)
    return any(words[i : i + n] == run for i in range(len(words) - n + 1))


def _shares_run(words: list[str], other: str, n: int) -> bool:
    """True if `words` and the text `other` share `n` words in a row."""
    theirs = [w.lower().replace("’", "'") for w in WORD.findall(other)]
    grams = {tuple(theirs[i : i + n]) for i in range(len(theirs) - n + 1)}
    return any(tuple(words[i : i + n]) in grams for i in range(len(words) - n + 1))

"""Words and product texts of the sample dataset: made up, but built and punctuated like a shop's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

THEME_WORDS, NICHE_WORDS = 14, 6  # words a theme and a niche may use
WORD_THEMES = 3  # a topic word serves about so many themes
REVIEWS_PER_ITEM = 4  # different texts


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ONSETS = _words("b c d f g h k l m n p r s t v w br cr dr fl gr pl pr sh st tr")
_NUCLEI = _words("a e i o u ai ea oo ou")
_CODAS = ("", "", "", "n", "r", "s", "l", "t", "m", "ck", "nd", "st")
_SHARED = _words(
    "premium portable compact classic durable lightweight original adjustable universal professional everyday soft "
    "strong quick smart deluxe mini large small double single reusable modern vintage natural clear bright quiet "
    "value travel home office outdoor family gift"
)
_MATERIALS = _words("steel cotton bamboo silicone glass leather wood aluminium nylon ceramic paper wool")
_COLOURS = _words("black white blue green red grey rosé crème silver brown")
_FEATURES = (
    "Made of {material} that lasts for years",
    "Fits every {a} and most {b} sets",
    "Easy to clean & store",
    "Comes with {b} and {c}, ready to use",
    '{size}" across, {colour} finish',
    "Designed for {a} and {d} at home or on the road",
    "No tools needed",
)
_DESCRIPTIONS = (
    "The {a} {b} brings {c} to your day. Whether you need {d} or {e}, this {f} does it well.",
    "<p>Our {shared} {a} is made for people who care about {b}. It goes with any {c}, {d} or {f}.</p>",
    "Looking for {e}? This {shared} {c} has {a} &amp; {b} built in, and a {colour} look.",
    "A {shared} set of {a}, {b} and {d}.<br />Keep it with your {e} and you will not miss the {f} again.",
)
_TITLES = (
    "{brand} {shared} {a} {b}, {colour}",
    "{brand} {a} with {b} - {shared} {c}",
    "{shared} {a} {b} for {c} ({size} Pack)",
)
_REVIEW_TITLES = ("Great {a}", "Does what it says", "Good {b}, fair price", "Not bad", "Love this {a}!")
_REVIEWS = (
    "I bought this {a} for my {b} and it works fine. The {c} could be better, but for the price I am happy with it. "
    "It came quickly and was well packed.",
    "We use it every day with our {b}. The {a} is just right and the {d} is a nice extra. Would buy again.",
    "Second one I own. My old {c} broke after three years, this {a} feels stronger and the {b} is easier to use. "
    "My family likes the {d} most, and so do I. Recommended to anybody who likes {e}.",
    "It is ok. {a} as described, {b} a little small.",
    "Perfect {a}! I had been looking for {b} with {c} for a long time.",
)


class Words(NamedTuple):
    """The vocabularies: topic words by theme and niche, and brands."""

    theme: list[list[str]]  # (themes,)
    niche: list[list[str]]  # (niches,)
    theme_of: np.ndarray  # (niches,) theme of each niche
    brands: list[str]


class Product(NamedTuple):
    """One item's metadata and the topic words its reviews use."""

    title: str
    features: list[str]
    description: list[str]
    categories: list[str]
    store: str
    price: float | None
    topic: list[str]

    def metadata(self) -> dict[str, Any]:
        """Return the fields of the raw format."""
        return {
            "title": self.title,
            "average_rating": None,
            "rating_number": None,
            "features": self.features,
            "description": self.description,
            "price": self.price,
            "images": [],
            "videos": [],
            "store": self.store,
            "categories": self.categories,
            "details": {},
            "bought_together": None,
        }


class Draw:
    """Draws from lists by `Generator.random` alone, in blocks."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._block: list[float] = []

    def number(self) -> float:
        """Return a float in [0, 1)."""
        if not self._block:
            self._block = self._rng.random(65_536).tolist()
        return self._block.pop()

    def one(self, values: Sequence[str]) -> str:
        """Return one of `values`."""
        return values[int(self.number() * len(values))]

    def some(self, values: Iterable[str], n: int) -> list[str]:
        """Return `n` different ones of `values` (all of them if there are no more)."""
        left = list(values)
        return [left.pop(int(self.number() * len(left))) for _ in range(min(n, len(left)))]

    def few(self, values: Sequence[str], n: int) -> list[str]:
        """Return `n` different ones of a long list, without copying it."""
        chosen: dict[int, None] = {}
        while len(chosen) < n:
            chosen.setdefault(int(self.number() * len(values)))
        return [values[index] for index in chosen]


def make_vocabulary(draw: Draw, n: int) -> list[str]:
    """Return `n` different made-up words of two or three syllables."""
    words: dict[str, None] = {}
    while len(words) < n:
        syllables = 2 if draw.number() < 0.7 else 3
        word = "".join(draw.one(_ONSETS) + draw.one(_NUCLEI) for _ in range(syllables)) + draw.one(_CODAS)
        words.setdefault(word)
    return list(words)


def build_words(n_niches: int, niches_per_theme: int, seed: int) -> Words:
    """Build the vocabularies: every topic word is shared by several themes."""
    draw = Draw(np.random.default_rng([seed, 1]))
    n_themes = -(-n_niches // niches_per_theme)
    pool = make_vocabulary(draw, max(120, n_themes * THEME_WORDS // WORD_THEMES))
    return Words(
        [draw.few(pool, THEME_WORDS) for _ in range(n_themes)],
        [draw.few(pool, NICHE_WORDS) for _ in range(n_niches)],
        np.arange(n_niches) // niches_per_theme,
        [word.capitalize() for word in make_vocabulary(draw, max(40, n_niches // 4))],
    )


def build_products(words: Words, niche: np.ndarray, seed: int) -> list[Product]:
    """Write the texts of all items.

    Args:
        words: vocabularies.
        niche: (items,) niche of each item.
        seed: same seed, same texts.

    Returns:
        One product per item.
    """
    draw = Draw(np.random.default_rng([seed, 2]))
    return [build_product(draw, words, number) for number in niche.tolist()]


def build_product(draw: Draw, words: Words, niche: int) -> Product:
    """Write one item's texts: words of its niche and theme among shared ones."""
    theme = int(words.theme_of[niche])
    topic = draw.some(words.niche[niche], 4) + draw.some(words.theme[theme], 4)
    fill = _filler(draw, topic)
    brand = draw.one(words.brands)
    title = draw.one(_TITLES).format(brand=brand, **fill)
    features = [text.format(**_filler(draw, topic)) for text in draw.some(_FEATURES, int(draw.number() * 5))]
    n_descriptions = int(draw.number() * 3)
    description = [text.format(**_filler(draw, topic)) for text in draw.some(_DESCRIPTIONS, n_descriptions)]
    branch = words.theme[theme][0].capitalize()
    categories = ["Sample Shop", f"{branch} & {words.theme[theme][1].capitalize()}"] if draw.number() < 0.5 else []
    price = round(4 + 90 * draw.number() ** 2, 2) if draw.number() < 0.7 else None
    return Product(title[0].upper() + title[1:], features, description, categories, brand, price, topic)


def _filler(draw: Draw, topic: list[str]) -> dict[str, Any]:
    """Return the words for the gaps of a template: six topic words in random order, and shared ones."""
    chosen = draw.some(topic, 6)
    return {
        **dict(zip("abcdef", chosen)),
        "shared": draw.one(_SHARED),
        "material": draw.one(_MATERIALS),
        "colour": draw.one(_COLOURS),
        "size": 2 + int(draw.number() * 30),
    }


def review_fragments(products: Sequence[Product]) -> list[list[str]]:
    """Return, for each item, the title and text of its few different reviews, as JSON fragments."""
    fragments = []
    for number, product in enumerate(products):
        mine = []
        for turn in range(REVIEWS_PER_ITEM):
            topic = product.topic[turn:] + product.topic[:turn]
            fill = dict(zip("abcdef", topic))
            title = _REVIEW_TITLES[(number + turn) % len(_REVIEW_TITLES)].format(**fill)
            text = _REVIEWS[(number + turn) % len(_REVIEWS)].format(**fill)
            mine.append(f'"title": {json.dumps(title)}, "text": {json.dumps(text)}')
        fragments.append(mine)
    return fragments

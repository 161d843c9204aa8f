"""Tokens of texts for an embedding model behind an API: counted, cut, and what they cost.

tiktoken fetches its vocabulary from the web when it is first used. Where that cannot be had, a stated estimate that
counts ordinary text too high stands in: texts are then cut earlier than the limit, not later.
"""

from __future__ import annotations

import threading
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from recbole_blair.errors import how_to_install

if TYPE_CHECKING:
    from tiktoken import Encoding

# English product text has four to five characters per token; a byte of any other letter counts as one token.
ASCII_PER_TOKEN = 3
MOST_CHARS_PER_TOKEN = 64  # a text is cut to this many characters per token before it is tokenised
FETCH_TIMEOUT_S = 30.0
ESTIMATE = f"estimate: a token a {ASCII_PER_TOKEN} ASCII characters, a token a byte of other characters"


class Vocabulary:
    """Counts and cuts by the model's own vocabulary.

    Args:
        encoding: of tiktoken.
    """

    note: str | None = None

    def __init__(self, encoding: Encoding) -> None:
        self.encoding, self.name = encoding, encoding.name

    def cut(self, text: str, max_tokens: int) -> tuple[str, int]:
        """Return the text's first `max_tokens` tokens as text, and their number; half a character is dropped."""
        tokens = self.encoding.encode_ordinary(text[: max_tokens * MOST_CHARS_PER_TOKEN])
        if len(tokens) <= max_tokens:
            return text, len(tokens)
        kept = self.encoding.decode_bytes(tokens[:max_tokens])
        return kept.decode("utf-8", errors="ignore"), max_tokens


class Estimate:
    """Counts and cuts by `ESTIMATE`.

    Args:
        reason: why there is no vocabulary.
    """

    name = ESTIMATE

    def __init__(self, reason: str) -> None:
        self.note = f"tokens are estimated ({reason}): {ASCII_PER_TOKEN} ASCII characters a token, too many on purpose"

    def cut(self, text: str, max_tokens: int) -> tuple[str, int]:
        """Return the longest start of the text of at most `max_tokens` estimated tokens, and their number."""
        units = text_units(text)  # thirds of a token
        ends = np.cumsum(units)
        kept = int(np.searchsorted(ends, max_tokens * ASCII_PER_TOKEN, side="right"))
        used = int(ends[kept - 1]) if kept else 0
        return text[:kept], -(-used // ASCII_PER_TOKEN)


def text_units(text: str) -> np.ndarray:
    """Return what each character costs, (n,) int64, in units of 1 / ASCII_PER_TOKEN tokens."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    size = 1 + (codes > 0x7F).astype(np.int64) + (codes > 0x7FF) + (codes > 0xFFFF)  # bytes in UTF-8
    return np.where(codes > 0x7F, size * ASCII_PER_TOKEN, 1)


def load_counter(tokeniser: str | None) -> Vocabulary | Estimate:
    """Return a Vocabulary, or an Estimate whose `note` says why.

    Args:
        tokeniser: tiktoken's name; None: the model's is unknown.
    """
    if tokeniser is None:
        return Estimate("the model's vocabulary is unknown")
    try:
        import tiktoken  # heavy, an extra
    except ImportError:
        return Estimate(f"tiktoken is not installed: {how_to_install('tiktoken')}")
    found: list[Encoding | Exception] = []
    fetch = threading.Thread(target=_fetch, args=(tiktoken, tokeniser, found), daemon=True)
    fetch.start()
    fetch.join(FETCH_TIMEOUT_S)
    if found and not isinstance(found[0], Exception):
        return Vocabulary(found[0])
    why = type(found[0]).__name__ if found else f"no answer in {FETCH_TIMEOUT_S:.0f} s"
    return Estimate(f"tiktoken cannot get {tokeniser}: {why}")


def _fetch(tiktoken: ModuleType, tokeniser: str, found: list[Encoding | Exception]) -> None:
    """Load a vocabulary, from tiktoken's cache or the web, into `found`; or what kept it from that."""
    try:
        found.append(tiktoken.get_encoding(tokeniser))
    except Exception as error:  # whatever the library's downloader raises; the cost line reports it
        found.append(error)


def cost_text(tokens: int, usd_per_million: float | None) -> str:
    """Say what tokens cost."""
    if usd_per_million is None:
        return "price unknown"
    return f"about ${tokens * usd_per_million / 1e6:,.2f} at ${usd_per_million:g} per million tokens"

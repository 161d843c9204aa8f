"""Talking to an OpenAI-compatible server: back-off, what a failure means, addresses; nothing here knows a key."""

from __future__ import annotations

import email.utils
import random
import threading
import time
from types import ModuleType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from recbole_blair.errors import InputError, require

if TYPE_CHECKING:
    from openai import APIStatusError

API_KEY_ENV = "OPENAI_API_KEY"
BASE_URL_ENV = "OPENAI_BASE_URL"
OFFICIAL_URL = "https://api.openai.com/v1"
LONGEST_WAIT_S = 600.0  # a server that asks for more is down, as far as this run goes


class RowError(InputError):
    """A text that cannot be embedded: `row` is its position among the texts."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row

    def __reduce__(self) -> tuple[type, tuple[int, str]]:
        """Keep the row when the error travels between processes."""
        return type(self), (self.row, self.args[0])


class BadAnswer(Exception):
    """An answer with status 200 that does not hold what was asked for; the message says how."""


class Stopped(Exception):
    """Another request failed for good."""


class Backoff:
    """Waiting times after failures, shared by all threads: one request's 429 holds all of them back.

    Args:
        base_s: first wait; doubled at each failure in a row, plus up to a quarter at random.
        longest_s: of a wait, also of one that the server asks for.
    """

    def __init__(self, base_s: float = 1.0, longest_s: float = LONGEST_WAIT_S) -> None:
        self.base_s, self.longest_s = base_s, longest_s
        self.until, self.stop, self.mutex = 0.0, threading.Event(), threading.Lock()

    def hold(self, failures: int, asked_s: float | None = None) -> None:
        """Set the earliest time of the next call: at least what the server asked for."""
        wait = min(self.longest_s, self.base_s * 2 ** (failures - 1)) * (1 + random.random() / 4)
        with self.mutex:
            self.until = max(self.until, time.monotonic() + max(wait, min(self.longest_s, asked_s or 0.0)))

    def wait(self) -> None:
        """Sleep until calls are allowed.

        Raises:
            Stopped: another request failed for good.
        """
        while (left := self.until - time.monotonic()) > 0 and not self.stop.wait(left):
            pass
        if self.stop.is_set():
            raise Stopped


class Throttled(Exception):
    """Status 429 or 408; `response` carries the server's headers."""

    def __init__(self, error: APIStatusError) -> None:
        super().__init__("timeout" if error.status_code == 408 else "throttled")
        self.response = error.response


def check_url(url: str) -> str:
    """Return a base URL's host and port.

    Raises:
        InputError: no http(s) URL, or one that carries credentials, which would end up in files.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError("--plm_base_url is no http or https address, like http://localhost:8000/v1")
    if parts.username or parts.password or parts.query:
        raise InputError(
            f"--plm_base_url carries a name, password or query; give the bare address and the key in {API_KEY_ENV}"
        )
    return parts.netloc


def import_client(user: str = "--plm=openai:…") -> ModuleType:
    """Import the client library or say how to get it; `user` is what needs it."""
    require(user, "openai")
    import openai  # heavy, an extra

    return openai


def retry_after_s(error: Exception) -> float | None:
    """Return the seconds the server asks to wait (a number, milliseconds, or a date), or None."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers.get(name, "")) / unit)
        except ValueError:
            continue
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, date.timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def reason_of(openai: ModuleType, error: Exception) -> str:
    """Name a failure that may pass."""
    if isinstance(error, openai.APITimeoutError):
        return "timeout"
    if isinstance(error, openai.APIConnectionError):
        return "no connection"
    if isinstance(error, openai.APIStatusError):
        return f"status {error.status_code}"
    return str(error)

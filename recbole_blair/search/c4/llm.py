"""Calls to an OpenAI-compatible server: back-off shared by all threads, a budget, plain errors.

The client retries nothing itself, so that each call is counted and waits are ours.
"""

import os
import random
import threading
import time
from typing import NamedTuple

from recbole_blair.errors import InputError

CHARS_PER_TOKEN = 4  # usual for English; for estimates, and for servers that report no usage
MAX_WAIT_S = 120.0  # a longer Retry-After is cut to this
API_KEY_ENV = "OPENAI_API_KEY"


class BudgetSpent(Exception):
    """No further call is allowed."""


class ServerDown(Exception):
    """The server failed too often in a row; the message says how."""


class Reply(NamedTuple):
    """One finished call: `text`, and its tokens as the server counts them (`estimated`: as we do)."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    estimated: bool


class Budget:
    """Calls and tokens allowed, counted over all runs of a build.

    Args:
        max_calls, max_tokens (int or None): None = no cap. calls, tokens (int): used by earlier runs.

    A call in flight is booked with `reserve_tokens` until its true size is known, so the token cap holds up to the
    estimate's error of the calls in flight.
    """

    def __init__(self, max_calls=None, max_tokens=None, calls=0, tokens=0, reserve_tokens=0):
        self.max_calls, self.max_tokens, self.reserve_tokens = max_calls, max_tokens, reserve_tokens
        self.calls, self.tokens, self.mutex = calls, tokens, threading.Lock()

    def take(self):
        """Book one call.

        Raises:
            BudgetSpent: the next call would pass a cap.
        """
        with self.mutex:
            if self.max_calls is not None and self.calls + 1 > self.max_calls:
                raise BudgetSpent(f"{self.calls} of {self.max_calls} calls")
            if self.max_tokens is not None and self.tokens + self.reserve_tokens > self.max_tokens:
                raise BudgetSpent(f"{self.tokens} of {self.max_tokens} tokens")
            self.calls += 1
            self.tokens += self.reserve_tokens

    def settle(self, tokens):
        """Replace a booked call's estimate by its true tokens."""
        with self.mutex:
            self.tokens += tokens - self.reserve_tokens


class Backoff:
    """Waiting times after failures, shared: one thread's 429 holds all of them back.

    Args:
        base_s, factor, jitter: base_s · factor^(failures - 1), plus up to `jitter` of it at random.
        clock, sleep: changed by tests only.
    """

    def __init__(self, base_s=1.0, factor=2.0, jitter=0.25, clock=time.monotonic, sleep=time.sleep):
        self.base_s, self.factor, self.jitter = base_s, factor, jitter
        self.clock, self.sleep, self.until, self.mutex = clock, sleep, 0.0, threading.Lock()

    def hold(self, failures, retry_after_s=None):
        """Set the earliest time of the next call, after the given number of failures in a row."""
        wait = min(MAX_WAIT_S, self.base_s * self.factor ** (failures - 1)) * (1 + self.jitter * random.random())
        if retry_after_s is not None:
            wait = max(wait, min(MAX_WAIT_S, retry_after_s))
        with self.mutex:
            self.until = max(self.until, self.clock() + wait)

    def wait(self, stop):
        """Sleep until calls are allowed again or `stop` (Event) is set."""
        while not stop.is_set() and (left := self.until - self.clock()) > 0:
            self.sleep(min(left, 0.2))


class Rewriter:
    """Turns a review into a reply.

    Args:
        model (str). prompt (dict): `system` and `user` with `{review}`. base_url (str or None): any compatible
        server. api_key (str or None): None reads the environment variable OPENAI_API_KEY; a server given by
        `base_url` may need none. budget (Budget). backoff (Backoff). on_failure (callable): told (reason) of each
        failed call. timeout_s (float): of one call. retries (int): failures in a row that a call survives.

    Raises:
        InputError: no client library, no key.
    """

    def __init__(
        self, model, prompt, budget, backoff=None, on_failure=None, base_url=None, api_key=None, temperature=0.7,
        max_reply_tokens=300, timeout_s=60.0, retries=6,
    ):  # fmt: skip
        openai = _openai()
        key = api_key or os.environ.get(API_KEY_ENV)
        if not key and not base_url:
            raise InputError(f"no API key: set the environment variable {API_KEY_ENV}, or --base_url=<your own server>")
        self.openai, self.model, self.prompt, self.budget = openai, model, prompt, budget
        self.backoff, self.on_failure = backoff or Backoff(), on_failure or (lambda reason: None)
        self.temperature, self.max_reply_tokens, self.retries = temperature, max_reply_tokens, retries
        self.stop = threading.Event()
        self.client = openai.OpenAI(api_key=key or "none", base_url=base_url, timeout=timeout_s, max_retries=0)

    def messages(self, review):
        """Return the chat messages for a review."""
        user = self.prompt["user"].replace("{review}", review)
        return [{"role": "system", "content": self.prompt["system"]}, {"role": "user", "content": user}]

    def __call__(self, review):
        """Return a Reply, trying again after throttling, time-outs and server errors.

        Raises:
            BudgetSpent: the budget does not allow the next call, or another thread stopped the work.
            ServerDown: `retries` failures in a row.
            InputError: the server refuses for a reason that trying again does not mend (key, model, request).
        """
        for failures in range(1, self.retries + 2):
            self.backoff.wait(self.stop)
            if self.stop.is_set():
                raise BudgetSpent("stopped")
            self.budget.take()
            try:
                return self._call(review)
            except self._passing as error:
                self.budget.settle(0)
                reason = _reason(self.openai, error)
                self.on_failure(reason)
                if failures > self.retries:
                    raise ServerDown(f"{failures} failures in a row, the last: {reason}") from error
                self.backoff.hold(failures, _retry_after(error))
        raise AssertionError("unreachable")

    @property
    def _passing(self):
        """Errors that may pass: no connection, time-out, 429, 5xx, 408, 409, and answers that are no answers."""
        o = self.openai
        return (
            o.APIConnectionError, o.RateLimitError, o.InternalServerError, o.ConflictError,
            o.APIResponseValidationError, _BadAnswer, _RequestTimeout,
        )  # fmt: skip

    def _call(self, review):
        """Make one call."""
        o = self.openai
        try:
            answer = self.client.chat.completions.create(
                model=self.model,
                messages=self.messages(review),
                temperature=self.temperature,
                max_tokens=self.max_reply_tokens,
            )
        except (o.RateLimitError, o.InternalServerError, o.ConflictError, o.APIConnectionError):
            raise
        except o.APIStatusError as error:
            if error.status_code == 408:
                raise _RequestTimeout from error
            self.budget.settle(0)
            raise InputError(_refused(self.model, self.client.base_url, error)) from None
        except o.APIError:
            raise
        except ValueError as error:  # a body that is not JSON
            raise _BadAnswer(type(error).__name__) from error
        return self._reply(answer, review)

    def _reply(self, answer, review):
        """Read a reply and its usage; settle the budget."""
        try:
            text = answer.choices[0].message.content or ""
        except (AttributeError, IndexError, TypeError) as error:
            raise _BadAnswer("no choices") from error
        usage = getattr(answer, "usage", None)
        if usage is not None and usage.prompt_tokens is not None and usage.completion_tokens is not None:
            sizes, estimated = (int(usage.prompt_tokens), int(usage.completion_tokens)), False
        else:
            sizes, estimated = (estimate_tokens(self.messages(review)), len(text) // CHARS_PER_TOKEN + 1), True
        self.budget.settle(sum(sizes))
        return Reply(text, *sizes, estimated)


class _BadAnswer(Exception):
    """An answer with status 200 that is not a chat completion."""


class _RequestTimeout(Exception):
    """Status 408."""


def _openai():
    """Import the client library or say how to get it."""
    try:
        import openai
    except ImportError:
        raise InputError("build-c4 needs the OpenAI client: pip install 'recbole_blair[api]'") from None
    return openai


def estimate_tokens(messages):
    """Estimate the tokens of chat messages: a token per 4 characters, 4 a message for its frame."""
    return sum(len(m["content"]) // CHARS_PER_TOKEN + 1 + 4 for m in messages)


def _retry_after(error):
    """Return the seconds the server asks to wait, or None."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    try:
        return max(0.0, float(headers.get("retry-after", "")))
    except ValueError:
        return None


def _reason(openai, error):
    """Name a passing failure for the report."""
    if isinstance(error, openai.APITimeoutError | _RequestTimeout):
        return "timeout"
    if isinstance(error, openai.RateLimitError):
        return "throttled"
    if isinstance(error, openai.APIConnectionError):
        return "no_connection"
    if isinstance(error, openai.APIStatusError) and not isinstance(error, openai.APIResponseValidationError):
        return f"http_{error.status_code}"
    return "bad_answer"


def _refused(model, base_url, error):
    """Say what to change after an answer that trying again does not mend; the key never shows."""
    fix = {
        401: f"check the key in {API_KEY_ENV}",
        403: "the key may not use this model",
        404: f"check --model={model} and --base_url",
        400: "the server does not take this request; check --model and its limits",
    }.get(error.status_code, "see the server's documentation")
    return f"{base_url} answered {error.status_code} for model {model!r}: {fix}"

"""Reviews rewritten by a model behind an OpenAI-compatible server, within a budget of calls and tokens.

The client retries nothing itself, so that each call is counted and the waits are those of `text.api_client`.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, NamedTuple

from recbole_blair.errors import InputError
from recbole_blair.text.api_client import (
    API_KEY_ENV,
    Backoff,
    BadAnswer,
    Stopped,
    Throttled,
    import_client,
    reason_of,
    retry_after_s,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from openai import APIStatusError
    from openai.types.chat import ChatCompletion

CHARS_PER_TOKEN = 4  # usual for English; for estimates, and for servers that report no usage
LONGEST_WAIT_S = 120.0  # a longer Retry-After is cut to this: the budget of calls ends the build before long


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
        max_calls: None for no cap.
        max_tokens: None for no cap.
        calls: used by earlier runs.
        tokens: used by earlier runs.
        reserve_tokens: booked for a call in flight until its true size is known, so that the token cap holds up to
            the estimate's error of the calls in flight.
    """

    def __init__(
        self, max_calls: int | None = None, max_tokens: int | None = None, calls: int = 0, tokens: int = 0,
        reserve_tokens: int = 0,
    ) -> None:  # fmt: skip
        self.max_calls, self.max_tokens, self.reserve_tokens = max_calls, max_tokens, reserve_tokens
        self.calls, self.tokens, self.mutex = calls, tokens, threading.Lock()

    def take(self) -> None:
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

    def settle(self, tokens: int) -> None:
        """Replace a booked call's estimate by its true tokens."""
        with self.mutex:
            self.tokens += tokens - self.reserve_tokens


class Rewriter:
    """Turns a review into a reply.

    Args:
        model: the server's name of the model.
        prompt: `system`, and `user` with `{review}`.
        budget: of calls and tokens.
        backoff: shared by all threads; its `stop` ends them.
        on_failure: told the reason of each failed call.
        base_url: any compatible server; None: the client's own.
        api_key: None reads the environment variable OPENAI_API_KEY; a server of `base_url` may need none.
        temperature: of the model.
        max_reply_tokens: cap of one reply.
        timeout_s: of one call.
        retries: failures in a row that a call survives.

    Raises:
        InputError: no client library, no key.
    """

    def __init__(
        self, model: str, prompt: dict[str, str], budget: Budget, backoff: Backoff | None = None,
        on_failure: Callable[[str], object] | None = None, base_url: str | None = None, api_key: str | None = None,
        temperature: float = 0.7, max_reply_tokens: int = 300, timeout_s: float = 60.0, retries: int = 6,
    ) -> None:  # fmt: skip
        openai = import_client("build-c4")
        key = api_key or os.environ.get(API_KEY_ENV)
        if not key and not base_url:
            raise InputError(f"no API key: set the environment variable {API_KEY_ENV}, or --base_url=<your own server>")
        self.openai, self.model, self.prompt, self.budget = openai, model, prompt, budget
        self.backoff = backoff or Backoff(longest_s=LONGEST_WAIT_S)
        self.on_failure = on_failure or (lambda reason: None)
        self.temperature, self.max_reply_tokens, self.retries = temperature, max_reply_tokens, retries
        self.client = openai.OpenAI(api_key=key or "none", base_url=base_url, timeout=timeout_s, max_retries=0)

    def messages(self, review: str) -> list[dict[str, str]]:
        """Return the chat messages for a review."""
        user = self.prompt["user"].replace("{review}", review)
        return [{"role": "system", "content": self.prompt["system"]}, {"role": "user", "content": user}]

    def __call__(self, review: str) -> Reply:
        """Return a reply, trying again after throttling, time-outs and server errors.

        Raises:
            BudgetSpent: the budget does not allow the next call, or another thread stopped the work.
            ServerDown: `retries` failures in a row.
            InputError: the server refuses for a reason that trying again does not mend (key, model, request).
        """
        for failures in range(1, self.retries + 2):
            try:
                self.backoff.wait()
            except Stopped:
                raise BudgetSpent("stopped") from None
            self.budget.take()
            try:
                return self._call(review)
            except self._passing as error:
                self.budget.settle(0)
                reason = self._reason(error)
                self.on_failure(reason)
                if failures > self.retries:
                    raise ServerDown(f"{failures} failures in a row, the last: {reason}") from error
                self.backoff.hold(failures, retry_after_s(error))
        raise AssertionError("unreachable")

    @property
    def _passing(self) -> tuple[type[Exception], ...]:
        """Errors that may pass: no connection, time-out, 429, 5xx, 408, 409, and answers that are no answers."""
        o = self.openai
        return (
            o.APIConnectionError, o.InternalServerError, o.ConflictError, o.APIResponseValidationError, BadAnswer,
            Throttled,
        )  # fmt: skip

    def _call(self, review: str) -> Reply:
        """Make one call."""
        o = self.openai
        try:
            answer = self.client.chat.completions.create(
                model=self.model,
                messages=self.messages(review),
                temperature=self.temperature,
                max_tokens=self.max_reply_tokens,
            )
        except (o.InternalServerError, o.ConflictError, o.APIConnectionError, o.APIResponseValidationError):
            raise
        except o.APIStatusError as error:
            if error.status_code == 408 or (error.status_code == 429 and error.code != "insufficient_quota"):
                raise Throttled(error) from None
            self.budget.settle(0)
            raise InputError(_refused(self.model, self.client.base_url, error)) from None
        except ValueError as error:  # a body that is not JSON
            raise BadAnswer(type(error).__name__) from error
        return self._reply(answer, review)

    def _reply(self, answer: ChatCompletion, review: str) -> Reply:
        """Read a reply and its usage; settle the budget."""
        try:
            text = answer.choices[0].message.content or ""
        except (AttributeError, IndexError, TypeError) as error:
            raise BadAnswer("no choices") from error
        usage = getattr(answer, "usage", None)
        if usage is not None and usage.prompt_tokens is not None and usage.completion_tokens is not None:
            sizes, estimated = (int(usage.prompt_tokens), int(usage.completion_tokens)), False
        else:
            sizes, estimated = (estimate_tokens(self.messages(review)), len(text) // CHARS_PER_TOKEN + 1), True
        self.budget.settle(sum(sizes))
        return Reply(text, *sizes, estimated)

    def _reason(self, error: Exception) -> str:
        """Name a passing failure as the report counts it: timeout, throttled, no_connection, http_503, bad_answer."""
        if isinstance(error, (BadAnswer, self.openai.APIResponseValidationError)):
            return "bad_answer"
        return reason_of(self.openai, error).replace("status ", "http_").replace(" ", "_")


def estimate_tokens(messages: Sequence[dict[str, str]]) -> int:
    """Estimate the tokens of chat messages: one per 4 characters, and 4 per message for its frame."""
    return sum(len(message["content"]) // CHARS_PER_TOKEN + 1 + 4 for message in messages)


def _refused(model: str, base_url: object, error: APIStatusError) -> str:
    """Say what to change after an answer that trying again does not mend; the key never shows."""
    fix = {
        401: f"check the key in {API_KEY_ENV}",
        403: "the key may not use this model",
        404: f"check --model={model} and --base_url",
        400: "the server does not take this request; check --model and its limits",
        429: "the account has no credit left",
    }.get(error.status_code, "see the server's documentation")
    return f"{base_url} answered {error.status_code} for model {model!r}: {fix}"

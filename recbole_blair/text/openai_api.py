"""Embeddings from an OpenAI-compatible API, in requests that are each written down before they can be lost.

The official client is used without its own retries, so that each call is counted and waits are ours. The key is read
from the environment, by name, and shows nowhere.
"""

from __future__ import annotations

import concurrent.futures as futures
import copy
import os
import sys
from collections.abc import Container, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from tqdm import tqdm

from recbole_blair.errors import InputError
from recbole_blair.text.api_client import (
    API_KEY_ENV,
    BASE_URL_ENV,
    LONGEST_WAIT_S,
    OFFICIAL_URL,
    Backoff,
    BadAnswer,
    RowError,
    Stopped,
    Throttled,
    check_url,
    import_client,
    reason_of,
    retry_after_s,
)
from recbole_blair.text.api_models import api_encoder_name, find_api_model, width_of
from recbole_blair.text.api_tokens import cost_text, load_counter
from recbole_blair.text.prompts import named_prompt

if TYPE_CHECKING:
    from openai import APIStatusError
    from openai.types import CreateEmbeddingResponse

REQUEST_TOKENS = 32_768  # default budget; the official server takes 300,000 per request
REQUEST_TEXTS = 256  # a kill costs the requests in flight, so they are kept small; the official limit is 2,048


class OpenAIEncoder:
    """An encoder behind an OpenAI-compatible API.

    Args:
        model: the server's name of it.
        dimensions: width; None: the model's own, where props/encoders/openai.yaml knows it.
        base_url: the server; None: the environment's OPENAI_BASE_URL, else api.openai.com.
        name: the encoder's part in file names; None: by model and width.
        max_length: tokens kept of a text, its prompt included.
        prompts: put before each item text, and before each search query.
        send_dimensions: False for a server that does not take `dimensions`: its model has that width anyway.
        concurrency: requests in flight.
        timeout_s: of one call. retries (int): failures in a row that a request survives.
        backoff_s: first wait.

    Raises:
        InputError: no client library, no key, a width or length the model does not have.
    """

    pooling = "server"
    precision = "server"
    device_type = "api"
    batch_tokens = REQUEST_TOKENS

    def __init__(
        self,
        model: str,
        *,
        name: str | None = None,
        dimensions: int | None = None,
        base_url: str | None = None,
        max_length: int = 512,
        prompts: tuple[str, str] = ("", ""),
        send_dimensions: bool = True,
        concurrency: int = 4,
        timeout_s: float = 120.0,
        retries: int = 8,
        backoff_s: float = 1.0,
    ) -> None:
        self.model, self.about = model, find_api_model(model)
        self.width = width_of(model, dimensions)
        self.name = name or api_encoder_name(model, dimensions)
        self.prompt = named_prompt(prompts[0], {"": ""}, "plm_prompt")
        self.query_prompt = named_prompt(prompts[1], {"": ""}, "plm_query_prompt")
        self.max_length = max_length
        if self.about.max_tokens and max_length > self.about.max_tokens:
            raise InputError(
                f"--plm_max_length={max_length} exceeds the {self.about.max_tokens} tokens that {model} takes"
            )
        if concurrency < 1:
            raise InputError(f"--plm_concurrency={concurrency} must be above 0")
        self.asks_width = send_dimensions and (self.about.width != self.width)
        self.concurrency, self.retries, self.backoff_s = concurrency, retries, backoff_s
        url = base_url or os.environ.get(BASE_URL_ENV) or OFFICIAL_URL
        self.endpoint = check_url(url)
        self.key = os.environ.get(API_KEY_ENV) or ""
        if not self.key and self.endpoint == urlsplit(OFFICIAL_URL).netloc:
            raise InputError(f"no API key: set the environment variable {API_KEY_ENV}, or --plm_base_url=<your server>")
        self.openai = import_client()
        self.client = self.openai.OpenAI(api_key=self.key or "none", base_url=url, timeout=timeout_s, max_retries=0)
        self.counter = load_counter(self.about.tokeniser)
        self.libraries = ("openai",) if self.counter.note else ("openai", "tiktoken")
        self.billed = 0
        self._cut: tuple[Sequence[str] | None, list[str], np.ndarray] = (None, [], np.zeros(0, np.int64))

    def description(self) -> dict[str, Any]:
        """Header fields that tell this encoder from others."""
        return {
            "encoder": self.name,
            "kind": "api",
            "source": self.model,
            "endpoint": self.endpoint,
            "width": self.width,
            "pooling": self.pooling,
            "prompt": self.prompt,
            "max_length": self.max_length,
            "tokeniser": self.counter.name,
            "precision": self.precision,
        }

    def cut_texts(self, texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
        """Return the texts cut to `max_length` tokens and their tokens, (n,) int64; remembered for the last list.

        Raises:
            RowError: a text without a visible character, which no server embeds.
        """
        if self._cut[0] is not texts:
            for row, text in enumerate(texts):
                if not text.strip():
                    raise RowError(row, "its text is empty, and an empty text has no embedding; give it one")
            pairs = [self.counter.cut(self.prompt + text, self.max_length) for text in texts]
            self._cut = texts, [p[0] for p in pairs], np.array([p[1] for p in pairs], np.int64)
        return self._cut[1:]

    def plan(self, texts: Sequence[str], batch_tokens: int | None = None) -> list[np.ndarray]:
        """Cut the texts, in their order, into requests of at most `batch_tokens` tokens; a list of row numbers."""
        counts = self.cut_texts(texts)[1]
        budget, chunks, start, used = batch_tokens or self.batch_tokens, [], 0, 0
        for row, count in enumerate(counts.tolist()):
            if row > start and (used + count > budget or row - start == REQUEST_TEXTS):
                chunks.append(np.arange(start, row))
                start, used = row, 0
            used += count
        return [*chunks, np.arange(start, len(counts))] if len(counts) else []

    def cost_line(self, texts: Sequence[str], chunks: Sequence[np.ndarray]) -> str:
        """Say what the requests `chunks` of a plan will cost."""
        rows = np.concatenate([np.zeros(0, np.int64), *chunks])
        tokens = int(self.cut_texts(texts)[1][rows].sum())
        official = self.endpoint == urlsplit(OFFICIAL_URL).netloc
        price = cost_text(tokens, self.about.usd_per_million_tokens if official else None)
        note = f"; {self.counter.note}" if self.counter.note else ""
        return (
            f"{self.model} at {self.endpoint}, width {self.width}: {len(rows):,} texts of at most {self.max_length} "
            f"tokens in {len(chunks):,} requests, {tokens:,} tokens: {price}{note}"
        )

    def encode(
        self, texts: Sequence[str], *, batch_tokens: int | None = None, progress: bool = True, normalise: bool = False
    ) -> np.ndarray:
        """Encode texts; see `TransformerEncoder.encode`."""
        out = np.zeros((len(texts), self.width), np.float32)
        with tqdm(total=len(texts), desc=self.name, unit=" texts", disable=not progress) as bar:
            for _, rows, vectors in self.encode_chunks(texts, batch_tokens=batch_tokens):
                out[rows] = vectors
                bar.update(len(rows))
        return out / np.linalg.norm(out, axis=1, keepdims=True) if normalise else out

    def encode_queries(self, texts: Sequence[str], progress: bool = True) -> np.ndarray:
        """Encode search queries with their own prompt."""
        side = copy.copy(self)
        side.prompt, side._cut = self.query_prompt, (None, [], np.zeros(0, np.int64))
        return side.encode(texts, progress=progress)

    def encode_chunks(
        self, texts: Sequence[str], *, batch_tokens: int | None = None, done: Container[int] = ()
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Encode request by request, `concurrency` at a time, in any order; prints what it will cost first.

        When one fails for good the others in flight are finished and handed out before the error comes: they are paid.

        Args:
            texts: n texts. batch_tokens (int | None): tokens a request. done (container of int): requests
                to leave out.

        Yields:
            request number, its rows (m,) int64, their vectors (m, width) float32.

        Raises:
            RowError: a text that the server does not embed.
            InputError: the server refuses (key, model, width), or failed too often in a row.
        """
        todo = [(i, rows) for i, rows in enumerate(self.plan(texts, batch_tokens)) if i not in done]
        if not todo:
            return
        tqdm.write(self.cost_line(texts, [rows for _, rows in todo]), file=sys.stderr)
        backoff, cut = Backoff(self.backoff_s), self.cut_texts(texts)[0]
        pool = futures.ThreadPoolExecutor(self.concurrency)
        running: dict[futures.Future, tuple[int, np.ndarray]] = {}
        waiting, failure = iter(todo), None
        try:
            while True:
                while failure is None and len(running) < self.concurrency and (item := next(waiting, None)):
                    running[pool.submit(self.request, cut, item[1], backoff)] = item
                if not running:
                    break
                for future in futures.wait(running, return_when=futures.FIRST_COMPLETED).done:
                    number, rows = running.pop(future)
                    error = future.exception()
                    if error is None:
                        yield number, rows, future.result()
                    elif failure is None or isinstance(failure, Stopped):
                        failure = error
                        backoff.stop.set()
        finally:
            backoff.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
        if failure is not None:
            raise failure

    def request(self, texts: Sequence[str], rows: np.ndarray, backoff: Backoff) -> np.ndarray:
        """Return the vectors (m, width) of texts[rows]; tries again after failures that may pass."""
        wait_failures, bad_answers = 0, 0
        while True:
            backoff.wait()
            try:
                return self.call(texts, rows)
            except self.passing as error:
                wait_failures += 1
                bad_answers += isinstance(error, BadAnswer)
                asked_s = retry_after_s(error)
                reason = self.redact(reason_of(self.openai, error))
                if wait_failures > self.retries or bad_answers > 2 or (asked_s or 0) > LONGEST_WAIT_S:
                    asked = f" and asks to wait {asked_s:.0f} s" if asked_s else ""
                    raise InputError(
                        f"{self.endpoint} failed {wait_failures} times in a row for the {len(rows)} texts from row "
                        f"{rows[0]} on, the last: {reason}{asked}; what is done is kept: run the same command again"
                    ) from None
                backoff.hold(wait_failures, asked_s)
            except self.openai.APIStatusError as error:
                if error.status_code in (400, 413, 422) and len(rows) > 1:
                    break  # one of the texts, or all of them together: smaller requests tell
                raise self.refusal(error, rows) from None
        half = len(rows) // 2
        return np.concatenate([self.request(texts, part, backoff) for part in (rows[:half], rows[half:])])

    @property
    def passing(self) -> tuple[type[Exception], ...]:
        """Return the errors that may pass: no connection, 408, 409, 429 but no empty account, 5xx, broken answers."""
        o = self.openai
        return (
            o.APIConnectionError, o.InternalServerError, o.ConflictError, o.APIResponseValidationError, BadAnswer,
            Throttled,
        )  # fmt: skip

    def call(self, texts: Sequence[str], rows: np.ndarray) -> np.ndarray:
        """Make one call and check what comes back."""
        o = self.openai
        options = {"dimensions": self.width} if self.asks_width else {}
        try:
            answer = self.client.embeddings.create(model=self.model, input=[texts[row] for row in rows], **options)
        except o.APIStatusError as error:
            if error.status_code == 408 or (error.status_code == 429 and error.code != "insufficient_quota"):
                raise Throttled(error) from None
            raise
        except o.APIError:
            raise
        except ValueError as error:  # no JSON, no vectors in it, broken base64
            raise BadAnswer(f"an answer that is none ({type(error).__name__})") from None
        vectors = self.read_answer(answer, rows)
        self.billed += getattr(getattr(answer, "usage", None), "prompt_tokens", None) or 0
        return vectors

    def read_answer(self, answer: CreateEmbeddingResponse, rows: np.ndarray) -> np.ndarray:
        """Return an answer's vectors (m, width) float32 in the order asked for.

        Raises:
            BadAnswer: not one vector per text. InputError: another width. RowError: a zero or non-finite vector.
        """
        data = getattr(answer, "data", None) or []
        if len(data) != len(rows):
            raise BadAnswer(f"{len(data)} vectors for {len(rows)} texts")
        try:
            numbered = {entry.index: np.asarray(entry.embedding, np.float32) for entry in data}
        except (AttributeError, TypeError, ValueError) as error:
            raise BadAnswer(f"vectors that are none ({type(error).__name__})") from None
        if set(numbered) != set(range(len(rows))) or any(v.ndim != 1 for v in numbered.values()):
            raise BadAnswer("vectors without one number per text")
        vectors = [numbered[i] for i in range(len(rows))]
        wrong = next((i for i, v in enumerate(vectors) if v.shape != (self.width,)), None)
        if wrong is not None:
            raise RowError(
                int(rows[wrong]),
                f"{self.endpoint} gave a vector of width {vectors[wrong].size} for it, expected {self.width}; set "
                f"--plm_dimensions={vectors[wrong].size}, or take a model that can be shortened",
            )
        for row, vector in zip(rows, vectors):
            if not np.isfinite(vector).all() or not vector.any():
                kind = "a zero vector" if np.isfinite(vector).all() else "numbers that are not finite"
                raise RowError(int(row), f"{self.endpoint} gave {kind} for it; nothing is put in its place")
        return np.stack(vectors)

    def refusal(self, error: APIStatusError, rows: np.ndarray) -> InputError:
        """Build the error of a refusal that trying again does not mend; the key never shows."""
        code = error.status_code
        if code in (400, 413, 422):
            return RowError(int(rows[0]), f"{self.endpoint} refuses it for {self.model}: {self.server_words(error)}")
        fix = {
            401: f"check the key in {API_KEY_ENV}",
            403: "the key may not use this model",
            404: "check the model's name and --plm_base_url",
            429: "the account's quota is used up",
        }.get(code, "see the server's documentation")
        return InputError(f"{self.endpoint} answered {code} for {self.model}: {fix}; what is done is kept")

    def server_words(self, error: APIStatusError) -> str:
        """Return the first 200 characters of a server's own explanation, the key taken out."""
        body = error.body if isinstance(error.body, dict) else {}
        words = " ".join(str(body.get("message") or body or error.status_code).split())
        return self.redact(words)[:200]

    def redact(self, text: str) -> str:
        """Return text without the key."""
        return text.replace(self.key, "***") if self.key else text

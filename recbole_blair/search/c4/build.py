"""Sampled reviews in, a test set in the published format out: `test.csv` and a report.

Reviews are taken in the order of the sample. Each gets up to `attempts` replies; one whose replies all fail the checks
is given up and the next review takes its place. So the set is the first `n` reviews that pass, whatever the order the
calls finish in.
"""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from recbole_blair.errors import InputError
from recbole_blair.files.paths import props_dir
from recbole_blair.files.read import read_yaml
from recbole_blair.files.write import whole_file, write_json
from recbole_blair.search.c4.checks import LANGUAGES, check_reply, clean_reply
from recbole_blair.search.c4.journal import Journal
from recbole_blair.search.c4.rewriter import Budget, BudgetSpent, Rewriter, ServerDown, estimate_tokens
from recbole_blair.search.readers import QUERY_FILE, hash_strings

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

    from dataset_tools.pools.five_star_reviews import Review
    from recbole_blair.text.api_client import Backoff

COLUMNS = ("qid", "query", "item_id", "user_id", "ori_rating", "ori_review")
REPLY_TOKENS = 90  # of a usual reply, for the estimate
FIRST_LOOK = 20  # reviews given up with none passed: the model or the prompt is wrong, stop spending
JOURNAL_FILE, REPORT_FILE = "journal.jsonl", "report.json"


def load_prompt(path: Path | str | None = None) -> dict[str, str]:
    """Load a prompt: YAML with `system` and `user`, `{review}` in the latter; None takes the project's own.

    Raises:
        InputError: no such file, or not a prompt.
    """
    if path is None:
        path = props_dir() / "prompts" / "build_c4.yaml"
    prompt = read_yaml(path, "YAML with the texts `system` and `user`")
    if not isinstance(prompt, dict) or not all(isinstance(prompt.get(k), str) for k in ("system", "user")):
        raise InputError(f"{path} is no prompt; expected YAML with the texts `system` and `user`")
    if "{review}" not in prompt["user"]:
        raise InputError(f"{path}: `user` lacks {{review}}, the place of the review's text")
    return {"system": prompt["system"].strip(), "user": prompt["user"].strip()}


def estimate(
    reviews: Sequence[Review], n: int, prompt: dict[str, str], price_in: float | None = None,
    price_out: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Estimate a build's calls, tokens and cost when every first reply passes.

    Args:
        reviews; n: requests wanted. price_in, price_out: per million tokens.

    Returns:
        dict: `calls`, `prompt_tokens`, `completion_tokens`, `cost` (None without prices).
    """
    chosen = reviews[:n]
    frame = [{"content": prompt["system"]}, {"content": prompt["user"]}]
    sent = sum(estimate_tokens([*frame[:1], {"content": frame[1]["content"] + r.text}]) for r in chosen)
    got = REPLY_TOKENS * len(chosen)
    cost = None if price_in is None or price_out is None else (sent * price_in + got * price_out) / 1e6
    return {"calls": len(chosen), "prompt_tokens": sent, "completion_tokens": got, "cost": cost}


def build_requests(
    reviews: Sequence[Review], n: int, output_dir: Path | str, model: str, prompt: dict[str, str],
    max_calls: int | None = None, max_tokens: int | None = None, attempts: int = 3, concurrency: int = 8,
    language: str = "en", temperature: float = 0.7, base_url: str | None = None, api_key: str | None = None,
    timeout_s: float = 60.0, retries: int = 6, backoff: Backoff | None = None, progress: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Rewrite reviews until `n` pass the checks, and write `test.csv` and `report.json`.

    Args:
        reviews: in the order of the sample; more than `n`, since some are given up.
        output_dir: also holds the journal; the same call goes on after a kill or a spent budget.
        max_calls, max_tokens: caps over all runs of this build.
        attempts: replies asked for a review. concurrency: calls at once.

    Returns:
        dict: the report: counts of accepted, given up, each rule, each failure, calls, tokens.

    Raises:
        InputError: the budget is spent, the server is down, it refuses, or too few reviews pass; run again to go on.
    """
    if language not in LANGUAGES:
        raise InputError(f"language {language!r} is unknown; choose from {', '.join(LANGUAGES)}")
    for name, value in (("n", n), ("attempts", attempts), ("concurrency", concurrency)):
        if value < 1:
            raise InputError(f"{name}={value}: must be at least 1")
    output_dir = Path(output_dir)
    about = {
        "model": model,
        "prompt": hash_strings([prompt["system"], prompt["user"]]),
        "sample": hash_strings([r.key for r in reviews], [r.text for r in reviews]),
        "temperature": temperature,
        "language": language,
        "attempts": attempts,
    }
    with Journal(output_dir / JOURNAL_FILE, about) as journal:
        used = [e for e in journal.entries if e["status"] != "given_up"]
        reserve = estimate(reviews, len(reviews), prompt)
        size = (reserve["prompt_tokens"] + reserve["completion_tokens"]) // len(reviews) + 1
        budget = Budget(max_calls, max_tokens, len(used), sum(e.get("tokens", 0) for e in used), size)
        rewriter = Rewriter(
            model, prompt, budget, backoff, base_url=base_url, api_key=api_key,
            temperature=temperature, timeout_s=timeout_s, retries=retries,
        )  # fmt: skip
        work = _Work(reviews, n, journal, rewriter, attempts, language)
        work.run(concurrency, progress)
        rows = work.accepted()[:n]
        _write_csv(output_dir / QUERY_FILE, rows)
        report = work.report() | {"requests": len(rows), "calls": budget.calls, "tokens": budget.tokens, **about}
        written = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        write_json(output_dir / REPORT_FILE, report | {"written": written})
    return report


class _Work:
    """Which review is where: accepted, given up, in flight; fed from the journal and by finished calls."""

    def __init__(
        self, reviews: Sequence[Review], n: int, journal: Journal, rewriter: Rewriter, attempts: int, language: str
    ) -> None:
        self.reviews, self.n, self.journal, self.rewriter = reviews, n, journal, rewriter
        self.attempts, self.language = attempts, language
        self.text: dict[str, str] = {}
        self.rejected: Counter = Counter()  # replies by review
        for entry in journal.entries:
            self._note(entry)

    def _note(self, entry: dict[str, Any]) -> None:
        """Take a journal entry in."""
        if entry["status"] == "accepted":
            self.text[entry["key"]] = entry["text"]
        elif entry["status"] == "rejected":
            self.rejected[entry["key"]] += 1

    def is_given_up(self, review: Review) -> bool:
        """True once all of a review's replies failed the checks."""
        return review.key not in self.text and self.rejected[review.key] >= self.attempts

    def accepted(self) -> list[tuple[Review, str]]:
        """Return [(review, request)] in the order of the sample."""
        return [(r, self.text[r.key]) for r in self.reviews if r.key in self.text]

    def next_reviews(self, busy: Container[str]) -> Iterator[Review]:
        """Yield the reviews to work on now: the first n, and one more for each that was given up."""
        window = self.n + sum(map(self.is_given_up, self.reviews))
        for review in self.reviews[:window]:
            if review.key not in self.text and review.key not in busy and not self.is_given_up(review):
                yield review

    def run(self, concurrency: int, progress: bool) -> None:
        """Work until n are accepted; the first error that ends the build lets the calls in flight finish.

        Raises:
            InputError: see `build_requests`.
        """
        try:
            self._run(concurrency, progress)
        except (BudgetSpent, ServerDown) as error:
            raise self._explain(error) from error
        if len(self.text) < self.n:
            raise InputError(
                f"{len(self.text)} of {self.n} requests passed the checks and all {len(self.reviews)} sampled reviews "
                f"are used ({self._reasons()}); ask for fewer, or name more domains"
            )

    def _run(self, concurrency: int, progress: bool) -> None:
        """Keep `concurrency` calls going."""
        bar = tqdm(total=self.n, initial=len(self.text), desc="requests", unit="request", disable=not progress)
        with bar, ThreadPoolExecutor(concurrency) as pool:
            busy: dict = {}  # future -> review key
            try:
                while True:
                    for review in self.next_reviews(set(busy.values())):
                        if len(busy) >= concurrency:
                            break
                        busy[pool.submit(self._one, review)] = review.key
                    if not busy:
                        return
                    for future in wait(busy, return_when=FIRST_COMPLETED).done:
                        del busy[future]
                        future.result()
                    bar.update(len(self.text) - bar.n)
                    self._check_yield()
            except BaseException:
                self.rewriter.backoff.stop.set()
                raise

    def _one(self, review: Review) -> None:
        """Get one reply for a review, check it and write it down."""
        self.rewriter.on_failure = self._failed
        reply = self.rewriter(review.text)
        text = clean_reply(reply.text)
        reason = check_reply(text, review.text, review.title, review.store, self.language)
        entry = {
            "key": review.key,
            "status": "rejected" if reason else "accepted",
            "tokens": reply.prompt_tokens + reply.completion_tokens,
            "text": text,
        }
        entry |= {"reason": reason} if reason else {}
        entry |= {"tokens_estimated": True} if reply.estimated else {}
        self.journal.add(entry)
        self._note(entry)

    def _failed(self, reason: str) -> None:
        """Write a failed call down: it counts against the budget."""
        self.journal.add({"key": "", "status": "failed", "reason": reason})

    def _check_yield(self) -> None:
        """Stop early when nothing passes."""
        lost = sum(map(self.is_given_up, self.reviews))
        if lost >= FIRST_LOOK and not self.text:
            raise InputError(
                f"none of the first {lost} reviews gave a usable request ({self._reasons()}); check the model and "
                "the prompt before spending more"
            )

    def _reasons(self) -> str:
        """Return the rejections by rule, as text."""
        by = Counter(e["reason"] for e in self.journal.entries if e["status"] == "rejected")
        return ", ".join(f"{reason} {count}" for reason, count in by.most_common()) or "no rejection"

    def _explain(self, error: Exception) -> InputError:
        """Turn an ending into one line that says how to go on."""
        so_far = f"{len(self.text)} of {self.n} requests are written down"
        if isinstance(error, BudgetSpent):
            return InputError(
                f"the budget is spent: {error}; {so_far}. Raise --max_calls or --max_tokens and run the same command"
            )
        return InputError(f"the server does not answer: {error}; {so_far}. Run the same command later to go on")

    def report(self) -> dict[str, Any]:
        """Return the counts."""
        entries = self.journal.entries
        return {
            "accepted": len(self.text),
            "given_up": sum(map(self.is_given_up, self.reviews)),
            "reviews_sampled": len(self.reviews),
            "rejected": dict(Counter(e["reason"] for e in entries if e["status"] == "rejected")),
            "failed_calls": dict(Counter(e["reason"] for e in entries if e["status"] == "failed")),
            "calls_with_estimated_tokens": sum(bool(e.get("tokens_estimated")) for e in entries),
            "torn_journal_lines": self.journal.torn,
        }


def _write_csv(path: Path | str, rows: Sequence[tuple[Review, str]]) -> None:
    """Write the test set in the published columns."""
    import pandas as pd  # heavy

    table = [(i, request, r.item_id, r.user_id, int(r.rating), r.text) for i, (r, request) in enumerate(rows)]
    with whole_file(path) as temporary:
        pd.DataFrame(table, columns=list(COLUMNS)).to_csv(temporary, index=False, lineterminator="\n")

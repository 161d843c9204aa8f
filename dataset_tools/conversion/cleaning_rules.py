"""The cleaning rules of reviews, in the order they are tried: a review counts under the first rule it breaks.

Every count is written to `<build>.stats.json`; nothing is dropped without one. The rules of metadata lines are in
`dataset_tools.items.metadata`, that of ids in `dataset_tools.raw.unusable_ids`, those of the last-out protocol in
`five_core`.
"""

from __future__ import annotations

from typing import NamedTuple

MIN_TIME_MS = 100_000_000_000  # 1973 in milliseconds, the year 5138 in seconds: smaller values are seconds
MAX_TIME_MS = 10_000_000_000_000  # the year 2286 in milliseconds: larger values are micro- or nanoseconds


class Rule(NamedTuple):
    """One cleaning rule: `broken` is SQL over the columns of a raw line, or None if a later step counts it."""

    name: str
    what: str
    broken: str | None = None


REVIEW_RULES = (
    Rule(
        "broken_json",
        "the line is no JSON object, or has none of the four fields that are read",
        "user_id IS NULL AND parent_asin IS NULL AND rating IS NULL AND timestamp IS NULL",
    ),
    Rule(
        "empty_ids",
        "user_id or parent_asin is absent, null or empty",
        "coalesce(user_id, '') = '' OR coalesce(parent_asin, '') = ''",
    ),
    Rule(
        "rating_outside_1_5",
        "the rating is absent, not a number, or outside 1 to 5",
        "rating IS NULL OR NOT (rating >= 1 AND rating <= 5)",
    ),
    Rule(
        "time_missing_or_not_positive",
        "the timestamp is absent, not a number, zero or negative",
        "timestamp IS NULL OR timestamp <= 0",
    ),
    Rule(
        "time_in_seconds",
        f"the timestamp is below {MIN_TIME_MS}: seconds, not milliseconds",
        f"timestamp < {MIN_TIME_MS}",
    ),
    Rule(
        "time_in_microseconds",
        f"the timestamp is {MAX_TIME_MS} or above: finer than milliseconds",
        f"timestamp >= {MAX_TIME_MS}",
    ),
    Rule("unusable_ids", "an id holds white space, control characters or quotes, or reads as missing"),
    Rule("repeated_user_item", "the user reviewed the item before; the earliest is kept, ties by line"),
    Rule("item_without_metadata", "no metadata line has the item's parent_asin"),
)


def rule_number_sql() -> str:
    """Return SQL that is 0 for a clean review, else the 1-based number of the first rule it breaks."""
    cases = " ".join(f"WHEN {rule.broken} THEN {number}" for number, rule in enumerate(REVIEW_RULES, 1) if rule.broken)
    return f"(CASE {cases} ELSE 0 END)::UTINYINT"

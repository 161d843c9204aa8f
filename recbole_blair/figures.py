"""How figures are written for people: the same in the terminal's tables, in reports, sweeps and leaderboards.

A metric is a fraction of 1 and has four decimals without the zero before the point, as papers' tables have it: .0754.
Scores and losses, which may be larger than 1, keep the zero.
"""

from __future__ import annotations


def fraction(value: float | None) -> str:
    """Write a metric: .0754; a dash for None."""
    return "–" if value is None else drop_zero(f"{value:.4f}")


def signed(value: float) -> str:
    """Write a difference of metrics: +.0100, −.0100."""
    return drop_zero(f"{value:+.4f}").replace("-", "−")


def p_text(p: float | None) -> str:
    """Write a p-value: .034, < .001; a dash for None."""
    return "–" if p is None else "< .001" if p < 0.001 else drop_zero(f"{p:.3f}")


def drop_zero(text: str) -> str:
    """Write a number without the zero before its point."""
    sign = text[:1] if text[:1] in "+-" else ""
    digits = text[len(sign) :]
    return sign + (digits[1:] if digits.startswith("0.") else digits)

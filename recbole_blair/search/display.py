"""Tables for people: the scores of a run, its comparison with another, and what a query found."""

from __future__ import annotations

import shutil
import textwrap
from typing import TYPE_CHECKING, Any

from recbole_blair.figures import p_text
from recbole_blair.search.metrics import MEAN_DOMAINS, MEAN_QUERIES

if TYPE_CHECKING:
    from collections.abc import Sequence


def score_table(report: dict[str, Any]) -> str:
    """Return a run's scores as text: per cent, with the 95 % bootstrap interval where there is one."""
    metrics = [m for m in report["table"][0] if "@" in m and not m.endswith(("_low", "_high"))]
    deepest = max(int(m.split("@")[1]) for m in metrics)
    shown = [m for m in metrics if m.endswith(f"@{deepest}")]
    header = ["domain", "queries", *[f"{m.upper()} %" for m in shown]]
    rows = [[r["domain"], str(r["queries"]), *[_cell(r, m) for m in shown]] for r in report["table"]]
    return table(header, rows)


def _cell(row: dict[str, Any], metric: str) -> str:
    """Return `mean [low, high]` in per cent."""
    cell = f"{100 * row[metric]:.2f}"
    if f"{metric}_low" in row:
        cell += f" [{100 * row[f'{metric}_low']:.2f}, {100 * row[f'{metric}_high']:.2f}]"
    return cell


def comparison_table(comparison: dict[str, Any]) -> str:
    """Return a comparison of two runs as text: difference of the means in points, interval, p-values."""
    header = ["metric", "difference", "95 % interval", "p (randomisation)", "p (t-test)", "better/worse/equal"]
    rows = []
    for metric, c in comparison.items():
        if not isinstance(c, dict):
            continue
        interval = f"[{100 * c['low']:+.2f}, {100 * c['high']:+.2f}]"
        counts = f"{c['wins']}/{c['losses']}/{c['ties']}"
        rows.append(
            [metric, f"{100 * c['difference']:+.2f}", interval, p_text(c["p_value"]), p_text(c["p_value_t"]), counts]
        )
    return table(header, rows)


def missing_line(report: dict[str, Any]) -> str:
    """Return the line that names judged items that are not in the pool, or an empty string."""
    missing, left_out = report["missing"], report["left_out"]
    if not missing and not left_out:
        return ""
    named = ", ".join(f"{query} ({item})" for query, item in missing[:5]) or ", ".join(left_out[:5])
    more = ", … (all in missing.tsv)" if len(missing) > 5 else ""
    return f"not scored: {len(left_out)} queries; judged items not in the pool: {len(missing)}: {named}{more}"


def answer_table(found: Sequence[tuple[int, float, str, str, str]]) -> str:
    """Return search results as text, fitted to the terminal."""
    if not found:
        return "nothing found: no item shares a word with the query"
    width = max(shutil.get_terminal_size((120, 24)).columns, 60)
    head = max(len(item_id) for _, _, item_id, _, _ in found) + max(len(c) for _, _, _, c, _ in found) + 20
    rows = [
        [str(rank), f"{score:.4f}", item_id, category, textwrap.shorten(text, max(30, width - head), placeholder=" …")]
        for rank, score, item_id, category, text in found
    ]
    return table(["", "score", "item", "category", "text"], rows, numbers=2)


def table(header: list[str], rows: list[list[str]], numbers: int = 0) -> str:
    """Return rows as aligned text; the first `numbers` columns are right-aligned."""
    widths = [max(len(str(row[c])) for row in [header, *rows]) for c in range(len(header))]
    lines = []
    for row in [header, ["-" * w for w in widths], *rows]:
        cells = [f"{v:>{w}}" if c < numbers else f"{v:<{w}}" for c, (v, w) in enumerate(zip(row, widths))]
        lines.append("  ".join(cells).rstrip())
        if row and row[0] == MEAN_DOMAINS and rows[-1][0] not in (MEAN_DOMAINS, MEAN_QUERIES):
            lines.append("")
    return "\n".join(lines)

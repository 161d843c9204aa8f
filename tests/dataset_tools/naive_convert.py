"""The plain way: a line-by-line converter in pure Python, the standard the fast one is compared with.

Written from the rules of docs/design.md, not from the fast converter: lists and dicts, everything in memory.
"""

import gzip
import json
import math
import re

from recbole_blair.schema import INTER_COLUMNS, ITEM_COLUMNS, SPLITS
from recbole_blair.text.item_text import clean_list, clean_text, item_text

BAD_ID = re.compile(r'[\s\x00-\x1f\x7f"]')
BAD_WORDS = {
    "[PAD]", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A",
    "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
}  # fmt: skip


def read_lines(path):
    """Yield (record number, dict or None) of each non-blank line."""
    opener = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "rb") as file:
        number = 0
        for line in file:
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except ValueError:
                value = None
            yield number, value if isinstance(value, dict) else None
            number += 1


def unusable(identifier):
    return bool(BAD_ID.search(identifier)) or identifier in BAD_WORDS


def read_reviews(path, counts):
    """Return {(user, item): (time, line)} of the earliest clean review of each pair."""
    earliest = {}
    for line, record in read_lines(path):
        counts["reviews"] += 1
        if record is None or all(record.get(k) is None for k in ("user_id", "parent_asin", "rating", "timestamp")):
            counts["broken_json"] += 1
            continue
        user, item = record.get("user_id"), record.get("parent_asin")
        rating, time = record.get("rating"), record.get("timestamp")
        if not user or not item:
            counts["empty_ids"] += 1
        elif rating is None or not 1 <= rating <= 5:
            counts["rating_outside_1_5"] += 1
        elif time is None or time <= 0:
            counts["time_missing_or_not_positive"] += 1
        elif time < 10**11:
            counts["time_in_seconds"] += 1
        elif time >= 10**13:
            counts["time_in_microseconds"] += 1
        elif unusable(user) or unusable(item):
            counts["unusable_ids"] += 1
        else:
            if (user, item) in earliest:
                counts["repeated_user_item"] += 1
            earliest[user, item] = min(earliest.get((user, item), (time, line)), (time, line))
    return earliest


def read_metadata(path):
    """Return {item: record}, the first line of each item."""
    items = {}
    for _, record in read_lines(path):
        item = (record or {}).get("parent_asin")
        if item and not unusable(item):
            items.setdefault(item, record)
    return items


def build_rows(events, cut, max_history):
    """Return {split: rows} and the items in order of first occurrence; `events` is {(user, item): (time, line)}."""
    users = {}
    for (user, item), (time, line) in events.items():
        users.setdefault(user, []).append((time, line, item))
    rows, order = {split: [] for split in SPLITS}, {}
    for user, history in sorted(users.items(), key=lambda pair: min(pair[1])):
        history.sort()
        for position in range(1, len(history)):
            time, _, item = history[position]
            past = history[max(0, position - max_history) : position]
            rows[cut(time, len(history) - position)].append(
                (user, [e[2] for e in past], item, [e[0] for e in past], time)
            )
            for event in history[: position + 1]:
                order.setdefault(event[2])
    return rows, list(order)


def item_line(item, record, ascii_only):
    price = record.get("price")
    try:
        price = "" if price is None else float(str(price).replace("$", "").replace(",", ""))
        price = repr(price) if price != "" and math.isfinite(price) and price >= 0 else ""
    except ValueError:
        price = ""
    title, store = (
        ", ".join(clean_list(record.get(k))) if isinstance(record.get(k), list) else record.get(k)
        for k in ("title", "store")
    )
    categories = " ".join(text.replace(" ", "_") for text in clean_list(record.get("categories"), ascii_only))
    texts = (
        clean_text(title, ascii_only),
        item_text(record, "recommendation", ascii_only),
        categories,
        clean_text(store, ascii_only),
    )
    return "\t".join([item, *(text.replace('"', "''") for text in texts), price])


def naive_convert(reviews, metadata, folder, build, valid_start_ms, test_start_ms, max_history=50, ascii_text=False):
    """Write the four data files of the timestamp protocol and return the counts."""
    counts = dict.fromkeys(
        ("reviews", "broken_json", "empty_ids", "rating_outside_1_5", "time_missing_or_not_positive",
         "time_in_seconds", "time_in_microseconds", "unusable_ids", "repeated_user_item", "item_without_metadata"), 0
    )  # fmt: skip
    pairs = read_reviews(reviews, counts)
    items = read_metadata(metadata)
    events = {pair: when for pair, when in pairs.items() if pair[1] in items}
    counts["item_without_metadata"] = len(pairs) - len(events)

    def cut(time, _):
        return "train" if time < valid_start_ms else "valid" if time < test_start_ms else "test"

    rows, order = build_rows(events, cut, max_history)
    for split in SPLITS:
        with open(folder / f"{build}.{split}.inter", "w", encoding="utf-8", newline="\n") as file:
            file.write("\t".join(INTER_COLUMNS) + "\n")
            for user, past, item, times, time in rows[split]:
                file.write(f"{user}\t{' '.join(past)}\t{item}\t{' '.join(map(str, times))}\t{time}\n")
    with open(folder / f"{build}.item", "w", encoding="utf-8", newline="\n") as file:
        file.write("\t".join(ITEM_COLUMNS) + "\n")
        for item in order:
            file.write(item_line(item, items[item], ascii_text) + "\n")
    return counts

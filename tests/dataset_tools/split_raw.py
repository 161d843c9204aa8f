"""The published split files, made from raw reviews by plain Python as their publisher's scripts make them."""

import collections
import gzip
import json

from recbole_blair.schema import TEST_START_MS, VALID_START_MS

HEADER = "user_id,parent_asin,rating,timestamp"


def read_reviews(path):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            yield row["user_id"], row["parent_asin"], float(row["rating"]), int(row["timestamp"])


def order_users(reviews):
    """User -> rows by time, of an item the earliest; users in the order of the file."""
    rows = collections.defaultdict(list)
    for review in reviews:
        rows[review[0]].append(review)
    for user, mine in rows.items():
        mine.sort(key=lambda review: review[3])
        seen = set()
        rows[user] = [review for review in mine if not (review[1] in seen or seen.add(review[1]))]
    return rows


def keep_five_core(rows):
    """The iterated 5-core of users and items."""
    while True:
        items = collections.Counter(review[1] for mine in rows.values() for review in mine)
        kept = {u: [r for r in mine if items[r[1]] >= 5] for u, mine in rows.items() if len(mine) >= 5}
        kept = {u: mine for u, mine in kept.items() if mine}
        if sum(map(len, kept.values())) == sum(map(len, rows.values())):
            return rows
        rows = kept


def part_of(mine, at, last_out):
    if last_out:
        return "test" if at == len(mine) - 1 else "valid" if at == len(mine) - 2 else "train"
    return "train" if mine[at][3] < VALID_START_MS else "valid" if mine[at][3] < TEST_START_MS else "test"


def write_split(root, domain, review_path, folder):
    """Write a domain's files into `<root>/benchmark/<folder>/`, as the folder's name says; returns their paths."""
    rows = order_users(read_reviews(review_path))
    last_out, history = "last_out" in folder, folder.endswith("w_his")
    rows = keep_five_core(rows) if folder.startswith("5core") else rows
    lines = {part: [HEADER + ",history" * history] for part in ("train", "valid", "test")}
    for mine in rows.values():
        for at, review in enumerate(mine):
            cells = [*map(str, review), " ".join(r[1] for r in mine[:at])]
            lines[part_of(mine, at, last_out)].append(",".join(cells if history else cells[:4]))
    target = root / "benchmark" / folder
    target.mkdir(parents=True, exist_ok=True)
    paths = [target / f"{domain}.{part}.csv" for part in lines]
    for path, text in zip(paths, lines.values()):
        path.write_text("".join(f"{line}\n" for line in text), encoding="utf-8")
    return paths

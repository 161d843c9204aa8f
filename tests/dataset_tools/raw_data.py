"""Small raw files for the tests of this room."""

import gzip
import json

from recbole_blair.schema import TEST_START_MS, VALID_START_MS

V, T = VALID_START_MS, TEST_START_MS


def review(user, item, time, rating=5.0, **fields):
    return {
        "rating": rating,
        "title": "t",
        "text": "x",
        "user_id": user,
        "parent_asin": item,
        "timestamp": time,
        **fields,
    }


def meta(item, title="", **fields):
    record = {
        "title": f"Title of {item}" if title == "" else title,
        "features": [],
        "description": [],
        "categories": [],
    }
    return {**record, "store": None, "price": None, "parent_asin": item, **fields}


def write_raw(raw_dir, name, reviews, metadata, suffix=".jsonl"):
    """Write records (dicts as JSON, strings as they are) in the published layout; returns both paths."""
    paths = []
    for folder, stem, records in (("review_categories", name, reviews), ("meta_categories", f"meta_{name}", metadata)):
        path = raw_dir / "raw" / folder / f"{stem}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join((r if isinstance(r, str) else json.dumps(r, ensure_ascii=False)) + "\n" for r in records)
        data = lines.encode("utf-8", "surrogatepass")
        path.write_bytes(gzip.compress(data, mtime=0) if suffix.endswith(".gz") else data)
        paths.append(path)
    return paths


def table():
    """Ten reviews, four users, five items with metadata, one without; worked by hand in test_convert.py."""
    reviews = [
        review("u2", "i1", V - 50),
        review("u1", "i1", V - 100),
        review("u1", "i2", V - 1),  # last instant of train
        review("u2", "i2", V),  # first instant of valid
        review("u1", "i3", T - 1),  # last instant of valid
        review("u2", "i4", T),  # first instant of test
        review("u1", "i2", T + 5),  # repeated: the earlier one is kept
        review("u3", "i5", V - 500),  # a lone event: no row
        review("u2", "i9", T + 7),  # no metadata
        review("u4", "i3", V + 2),  # same instant as the next: file order decides
        review("u4", "i1", V + 2),
    ]
    return reviews, [meta(f"i{n}") for n in range(1, 6)]


def read_rows(folder, split):
    """Return the rows of a split as tuples (user, history, item, history times, time)."""
    lines = (folder / f"{folder.name}.{split}.inter").read_text(encoding="utf-8").splitlines()
    return [
        (user, history.split(), item, [int(t) for t in times.split()], int(time))
        for user, history, item, times, time in (line.split("\t") for line in lines[1:])
    ]

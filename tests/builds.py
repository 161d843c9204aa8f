"""Small builds for tests: atomic files written from sequences given in the test."""

import json
from pathlib import Path

import numpy as np

from recbole_blair.files.own_json import write_own_json

VALID_MS, TEST_MS = 1628643414042, 1658002729837


def write_build(folder, sequences, name="tiny", max_history=50, cuts=(VALID_MS, TEST_MS), texts=None):
    """Write a build of `{user: [(item, time_ms), …]}` in the layout of DESIGN; returns its folder."""
    folder = Path(folder) / name
    folder.mkdir(parents=True, exist_ok=True)
    rows = {"train": [], "valid": [], "test": []}
    items = {}
    for user, events in sequences.items():
        for item, _ in events:
            items.setdefault(item, texts[item] if texts else f"text of {item}")
        for i in range(1, len(events)):
            history = events[max(0, i - max_history) : i]
            item, time = events[i]
            split = "train" if time < cuts[0] else "valid" if time < cuts[1] else "test"
            seq = " ".join(h[0] for h in history)
            times = " ".join(str(h[1]) for h in history)
            rows[split].append(f"{user}\t{seq}\t{item}\t{times}\t{time}")
    header = "user_id:token\titem_id_list:token_seq\titem_id:token\ttimestamp_list:float_seq\ttimestamp:float"
    for split, lines in rows.items():
        (folder / f"{name}.{split}.inter").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    lines = [f"{item}\ttitle of {item}\t{text}\tc\ts\t1.0" for item, text in items.items()]
    columns = "item_id:token\ttitle:token\ttext:token\tcategories:token_seq\tstore:token\tprice:float"
    (folder / f"{name}.item").write_text("\n".join([columns, *lines]) + "\n", encoding="utf-8")
    return folder


def write_pair_build(folder, pairs, name="pairs", n_items=None):
    """Write a build of `{split: [(user, item), …]}` as protocol=random lays it out; returns its folder."""
    folder = Path(folder) / name
    folder.mkdir(parents=True, exist_ok=True)
    header = "user_id:token\titem_id:token\ttimestamp:float"
    for split, rows in pairs.items():
        lines = [f"{user}\t{item}\t{1_500_000_000_000 + n}" for n, (user, item) in enumerate(rows)]
        (folder / f"{name}.{split}.inter").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    items = sorted({item for rows in pairs.values() for _, item in rows} | {f"i{n:03d}" for n in range(n_items or 0)})
    lines = [f"{item}\ttitle of {item}\ttext of {item}\tc\ts\t1.0" for item in items]
    columns = "item_id:token\ttitle:token\ttext:token\tcategories:token_seq\tstore:token\tprice:float"
    (folder / f"{name}.item").write_text("\n".join([columns, *lines]) + "\n", encoding="utf-8")
    return folder


def random_pairs(n_users=60, n_items=40, seed=0, longest=12):
    """Pairs of users with neighbouring items of a ring, dealt out at random: every user has some in train."""
    rng = np.random.default_rng(seed)
    pairs = {"train": [], "valid": [], "test": []}
    for u in range(n_users):
        start, length = int(rng.integers(n_items)), int(rng.integers(5, longest + 1))
        items = [f"i{(start + step) % n_items:03d}" for step in rng.permutation(length)]
        cuts = max(1, length * 4 // 10), max(2, length * 7 // 10)
        for split, part in zip(pairs, (items[: cuts[0]], items[cuts[0] : cuts[1]], items[cuts[1] :])):
            pairs[split] += [(f"u{u}", item) for item in part]
    return pairs


def random_sequences(n_users=60, n_items=40, seed=0, longest=12):
    """Sequences whose last two events fall into valid and test; items follow a ring, so that they can be learnt."""
    rng = np.random.default_rng(seed)
    sequences = {}
    for u in range(n_users):
        length = int(rng.integers(4, longest + 1))
        start = int(rng.integers(n_items))
        items = [(start + i) % n_items for i in range(length)]
        times = [1_500_000_000_000 + u * 1000 + i for i in range(length - 2)] + [VALID_MS + u, TEST_MS + u]
        sequences[f"u{u}"] = [(f"i{i:03d}", t) for i, t in zip(items, times)]
    return sequences


def change_json(path, old, new):
    """Replace words in a JSON file that the tool wrote, whose checksum then fits again."""
    text = path.read_text()
    assert old in text
    write_own_json(path, json.loads(text.replace(old, new)))


def write_features(folder, width=16, encoder="someone--test-encoder", seed=0):
    """Write random features with a header for a build; returns the array."""
    from recbole_blair.text.item_text import ids_hash, text_hash

    folder = Path(folder)
    lines = (folder / f"{folder.name}.item").read_text(encoding="utf-8").splitlines()[1:]
    ids, texts = [x.split("\t")[0] for x in lines], [x.split("\t")[2] for x in lines]
    array = np.random.default_rng(seed).standard_normal((len(ids), width)).astype(np.float32)
    array.tofile(folder / f"{folder.name}.{encoder}.feature")
    header = {
        "format": 2, "encoder": encoder, "kind": "huggingface", "source": encoder.replace("--", "/"), "width": width,
        "dtype": "float32", "pooling": "mean", "modules": [], "prompt": "", "normalised": False, "max_length": 512,
        "rows": len(ids), "ids_sha256": ids_hash(ids), "text_sha256": text_hash(texts),
    }  # fmt: skip
    (folder / f"{folder.name}.{encoder}.feature.json").write_text(json.dumps(header))
    return array

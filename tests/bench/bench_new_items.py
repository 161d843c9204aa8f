"""Are items that training never saw, added by their text, recommended to the users who bought them?

From a build, `--n_new` items among the test rows' targets are drawn and taken out of everything: the catalogue, the
rows that aim at them and every history. A text model is trained on the rest; then the items come back as
`recommend --new_items` takes them, from their raw metadata, and every test row that bought one is ranked, among all
items and among the new ones alone. Baselines on the same rows: random (exact expectation); popularity (train targets: a
new item has none, so it ties with every item that never was one); popularity of the category (a new item counts as the
mean train targets of the catalogue's items in its category); and text without training (cosine with the mean of the
history's features). Ties count by expectation.
Usage: `python tests/bench/bench_new_items.py --data_path=dataset --raw_dir=raw --plm=<folder>`.
"""

import argparse
import gzip
import json
import statistics
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import measure
import numpy as np

SPLITS = ("train", "valid", "test")
LIST_FIELDS = ("item_id_list", "timestamp_list")


def read_rows(path):
    """Yield an atomic file's header, then its rows as lists of strings."""
    with open(path, encoding="utf-8") as file:
        yield [column.split(":")[0] for column in file.readline().rstrip("\n").split("\t")]
        for line in file:
            yield line.rstrip("\n").split("\t")


def draw_new_items(build, n_new, seed):
    """Draw items among the test rows' targets, uniformly; returns a sorted list of ids."""
    rows = read_rows(build / f"{build.name}.test.inter")
    at = next(rows).index("item_id")
    targets = sorted({row[at] for row in rows})
    return sorted(np.random.default_rng(seed).choice(targets, n_new, replace=False).tolist())


def without_items(row, fields, dropped):
    """Take items out of a row's history; returns the row, or None when no history is left."""
    row, (items, times) = list(row), (fields.index(name) for name in LIST_FIELDS)
    pairs = [p for p in zip(row[items].split(" "), row[times].split(" ")) if p[0] not in dropped]
    row[items], row[times] = (" ".join(part) for part in zip(*pairs)) if pairs else ("", "")
    return row if pairs else None


def write_reduced_build(build, folder, dropped):
    """Write a build without the dropped items; returns the test rows that bought one, histories without them too."""
    folder.mkdir(parents=True, exist_ok=True)
    bought = []
    for split in SPLITS:
        source = build / f"{build.name}.{split}.inter"
        rows = read_rows(source)
        fields = next(rows)
        header = source.open(encoding="utf-8").readline()
        with open(folder / f"{folder.name}.{split}.inter", "w", encoding="utf-8") as file:
            file.write(header)
            for row in rows:
                left, record = without_items(row, fields, dropped), dict(zip(fields, row))
                if left is None:
                    continue
                if record["item_id"] not in dropped:
                    file.write("\t".join(left) + "\n")
                elif split == "test":
                    bought.append(dict(zip(fields, left)))
    lines = (build / f"{build.name}.item").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.split("\t", 1)[0] not in dropped]
    (folder / f"{folder.name}.item").write_text("".join(kept), encoding="utf-8")
    return bought


def read_metadata(raw_dir, dataset, items):
    """Return the raw metadata records of items, in their order."""
    path = next(Path(raw_dir).rglob(f"meta_{dataset}.jsonl*"))
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        found = {record["parent_asin"]: record for record in map(json.loads, file)}
    return [{"item_id": item, **found[item]} for item in items]


def prepare(args, seed):
    """Draw the new items and write the reduced build; returns its folder, the items and the rows that bought one."""
    build = Path(args.data_path) / args.dataset
    items = draw_new_items(build, args.n_new, seed)
    folder = Path(args.work_dir) / f"{args.dataset}-without-{args.n_new}-{seed}"
    return folder, items, write_reduced_build(build, folder, set(items))


def train(args, folder, seed):
    """Train on the reduced build, unless that run is there; returns metrics.json's content."""
    from recbole_blair.quick_start import run

    return run(
        args.model, folder.name, data_path=str(folder.parent), plm=args.plm, epochs=args.epochs, seed=seed,
        feature_scale=args.feature_scale, output_dir=str(folder.parent / f"run-{args.model}-{seed}"),
        show_progress=False,
    )  # fmt: skip


def to_users(rows):
    """Return each row as a user to recommend to: its history, and the time it asks at."""
    return [
        {
            "user_id": str(number),
            "item_id_list": row["item_id_list"],
            "timestamp_list": row["timestamp_list"],
            "timestamp": int(row["timestamp"]),
        }
        for number, row in enumerate(rows)
    ]


def recommended(loaded, users, targets, ks):
    """Share of the users whose target is in the first k of `recommend`, for each k."""
    best = loaded.recommend(users, top=max(ks), exclude_history=False)
    found = best["rank"][best["item_id"].to_numpy() == np.array(targets, object)[best["user_id"].astype(int)]]
    return {k: float((found <= k).sum() / len(users)) for k in ks}


def expected_recall(scores, target, ks):
    """Mean probability that a target is in the first k, ties broken at random.

    Args:
        scores (U, M) or (M,): the same for every user.
        target (U,): columns.
    """
    scores = np.broadcast_to(scores, (len(target), scores.shape[-1]))
    own = np.take_along_axis(scores, target[:, None], 1)
    above, ties = (scores > own).sum(1), (scores == own).sum(1)
    return {k: float(np.clip((k - above) / ties, 0, 1).mean()) for k in ks}


def category_popularity(build, item_ids, counts, new_items):
    """Train targets of every item; a new one gets the mean of its category, or of the next one above that has items.

    Args:
        build (Path): holds the categories of all items. item_ids (list): the catalogue, new items last.
        counts (N - M,): train targets of the catalogue.
    """
    rows = read_rows(build / f"{build.name}.item")
    fields = next(rows)
    at = fields.index("item_id"), fields.index("categories")
    category = {row[at[0]]: tuple(row[at[1]].split()) for row in rows}
    members: dict = {}
    for item, count in zip(item_ids, counts):
        for depth in range(len(category[item]) + 1):
            members.setdefault(category[item][:depth], []).append(count)
    new = [category[item] for item in new_items]
    paths = [next(path[:d] for d in range(len(path), -1, -1) if path[:d] in members) for path in new]
    return np.concatenate([counts, [np.mean(members[path]) for path in paths]])


def text_cosine(loaded, rows):
    """Cosine of every item with the mean of a history's normalised features, (U, N): text without training."""
    features = loaded.scorer.model.item_texts.features.float().numpy()
    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    codes = loaded.scorer.catalogue.codes
    mean = [features[[codes[item] - 1 for item in row["item_id_list"].split()]].mean(0) for row in rows]
    return np.stack(mean) @ features.T


def evaluate(args, folder, items, rows, run_dir):
    """Yield (candidates, method, recall by k) of one seed."""
    import recbole_blair

    build, ks = Path(args.data_path) / args.dataset, [int(k) for k in args.topk.split(",")]
    loaded = recbole_blair.load(run_dir, data_path=folder.parent, show_progress=False)
    counts = loaded.scorer.dataset.item_counts("train")[1:]
    loaded.add_items(read_metadata(args.raw_dir, args.dataset, items))
    users, targets = to_users(rows), [row["item_id"] for row in rows]
    in_all = np.array([loaded.scorer.catalogue.codes[item] - 1 for item in targets])
    first_new = len(loaded.item_ids) - len(items)
    scores = {
        args.model: loaded.score(users),
        "popularity": np.concatenate([counts, np.zeros(len(items))]),
        "popularity of the category": category_popularity(build, loaded.item_ids[:first_new], counts, items),
        "text without training": text_cosine(loaded, rows),
        "random": np.zeros(len(loaded.item_ids)),
    }
    for method, values in scores.items():
        yield "all items", method, expected_recall(values, in_all, ks)
        yield "new items alone", method, expected_recall(values[..., first_new:], in_all - first_new, ks)
    yield "all items", f"{args.model}, as `recommend` lists them", recommended(loaded, users, targets, ks)


def run_seed(args, seed):
    """Prepare, train, evaluate one seed; prints a line a method and returns {(candidates, method): recall by k}."""
    folder, items, rows = prepare(args, seed)
    metrics = train(args, folder, seed)
    size = {"seed": seed, "new_items": len(items), "rows": len(rows), "catalogue": metrics["n_items"] + len(items)}
    found = {}
    for candidates, method, recall in evaluate(args, folder, items, rows, metrics["output_dir"]):
        found[candidates, method] = recall
        values = {f"recall@{k}": value for k, value in recall.items()}
        measure.emit("new_items", **size, candidates=candidates, method=method, **values)
    warm = {name: metrics["test"][name] for name in metrics["test"] if name.startswith("recall")}
    measure.emit("known_items", **size, best_epoch=metrics["best_epoch"], method=args.model, **warm)
    return found


def main():
    """Run every seed, then print mean and deviation of each method."""
    args = parse_args()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    found = [run_seed(args, seed) for seed in seeds]
    for candidates, method in found[0]:
        fields = {}
        for k in found[0][candidates, method]:
            values = [one[candidates, method][k] for one in found]
            fields[f"recall@{k}"] = statistics.mean(values)
            fields[f"recall@{k}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        measure.emit("new_items_mean", seeds=seeds, candidates=candidates, method=method, **fields)


def parse_args():
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--dataset", default="Electronics")
    parser.add_argument("--raw_dir", default="raw", help="the new items' metadata come from here")
    parser.add_argument("--plm", required=True, help="folder or hub id of the text encoder")
    parser.add_argument("--model", default="UniSRecBlair")
    parser.add_argument("--feature_scale", default="rms")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--n_new", type=int, default=500, help="items taken out")
    parser.add_argument("--seeds", default="2020,2021,2022", help="each draws its own items and trains its own model")
    parser.add_argument("--topk", default="10,50")
    parser.add_argument("--work_dir", default="bench_new_items", help="reduced builds and runs; kept, so it goes on")
    return parser.parse_args()


if __name__ == "__main__":
    main()

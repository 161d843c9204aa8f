"""Generated files in the published ESCI format: examples and products in Parquet, asin2category.json."""

import json

import numpy as np
import pandas as pd

KINDS = ("lamp", "cable", "table", "mug", "backpack", "drill")
COLOURS = ("red", "blue", "green", "black")
USES = ("kitchen", "office", "garden", "travel", "kids")
CATEGORIES = {"lamp": "Office_Products", "cable": "Electronics", "table": "Home_and_Kitchen", "mug": "Home_and_Kitchen"}


def write_esci(folder, n_products=300, n_queries=40, seed=0):
    """Write the three files.

    A query is `colour kind for use`. Products of that kind, colour and use are Exact; of that kind and colour
    Substitute; of that kind Complement; some others Irrelevant. Distractor rows carry another locale, split or
    version. Backpacks and drills have no known category.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    facts = [(rng.choice(KINDS), rng.choice(COLOURS), rng.choice(USES)) for _ in range(n_products)]
    ids = [f"B{i:09d}" for i in range(n_products)]
    products = pd.DataFrame(
        {
            "product_id": ids,
            "product_title": [f"{c.title()} {k.title()}" for k, c, _ in facts],
            "product_description": [f"<p>Made for the {u}.</p> Model {rng.integers(999)}" for _, _, u in facts],
            "product_bullet_point": [None] * n_products,
            "product_brand": ["Brand"] * n_products,
            "product_color": [c for _, c, _ in facts],
            "product_locale": "us",
        }
    )
    products.loc[products.index[::7], "product_description"] = None
    foreign = products.head(20).assign(product_locale="es", product_title="Lámpara")
    pd.concat([products, foreign]).to_parquet(folder / "shopping_queries_dataset_products.parquet")
    rows = []
    for query_id, wanted in enumerate(rng.permutation(n_products)[:n_queries]):
        kind, colour, use = facts[wanted]
        for item, (k, c, u) in zip(ids, facts):
            label = (
                "E"
                if (k, c, u) == (kind, colour, use)
                else "S"
                if (k, c) == (kind, colour)
                else "C"
                if k == kind
                else "I"
            )
            if label in "ES" or rng.random() < 0.05:
                rows.append((f"{colour} {kind} for {use}", query_id, item, "us", label, 1, "test"))
    extra = [("lamp", 900, ids[0], "es", "E", 1, "test"), ("lamp", 901, ids[0], "us", "E", 1, "train")]
    extra += [("lamp", 902, ids[0], "us", "E", 0, "test"), ("ghost", 903, "B999999999", "us", "E", 1, "test")]
    columns = ["query", "query_id", "product_id", "product_locale", "esci_label", "small_version", "split"]
    examples = pd.DataFrame(rows + extra, columns=columns).rename_axis("example_id").reset_index()
    examples["large_version"] = 1
    examples.to_parquet(folder / "shopping_queries_dataset_examples.parquet")
    known = {i: CATEGORIES[k] for i, (k, _, _) in zip(ids, facts) if k in CATEGORIES}
    (folder / "asin2category.json").write_text(json.dumps(known))
    return ids, facts

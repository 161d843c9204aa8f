"""What --scale=smoke runs on: generated reviews, the same as Steam's files and as query sets, and a random encoder."""

from __future__ import annotations

import functools
import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dataset_tools.raw.domains import raw_root
from dataset_tools.raw.sample import write_sample
from recbole_blair.files.read import iter_jsonl

if TYPE_CHECKING:
    from transformers import BertModel, PreTrainedTokenizerBase

SEARCH_DOMAINS = ("Video_Games", "Baby_Products", "Office_Products", "Sports_and_Outdoors", "All_Beauty")
SEED = 2020
WORDS_PER_QUERY = 6


class World:
    """The generated files of one smoke run, each made when it is first asked for.

    Args:
        folder: gets raw/, dataset/, steam/, esci/, c4/ and encoder/.
        settings: props/reproduce/smoke.yaml.
    """

    def __init__(self, folder: Path | str, settings: dict[str, Any]) -> None:
        self.folder, self.settings = Path(folder), settings
        self.raw_dir, self.data_path = self.folder / "raw", self.folder / "dataset"
        users, items = settings["world"]["users"], settings["world"]["items"]
        self.domain = f"sample-u{users}-i{items}"

    @functools.cached_property
    def raw(self) -> tuple[Path, Path]:
        """The paths of the raw reviews and metadata."""
        sizes = self.settings["world"]
        return write_sample(raw_root(self.raw_dir), self.domain, sizes["users"], sizes["items"], progress=False)

    @functools.cache  # noqa: B019  one world per run
    def records(self, kind: str) -> list[dict[str, Any]]:
        """Return the raw records, `review` or `meta`."""
        return [record for _, record in iter_jsonl(self.raw[kind == "meta"], "raw records")]

    @functools.cache  # noqa: B019
    def steam(self) -> tuple[str, str]:
        """Return the paths of reviews and games as Steam's are published: Python literals, dates without time."""
        folder = self.folder / "steam"
        reviews, games = folder / "steam_reviews.json.gz", folder / "steam_games.json.gz"
        rows = sorted(self.records("review"), key=lambda r: r["timestamp"])
        day = "datetime64[D]"
        _write_literals(
            reviews,
            [
                {
                    "username": r["user_id"],
                    "product_id": r["parent_asin"],
                    "date": str(np.datetime64(r["timestamp"], "ms").astype(day)),
                    "text": r["text"],
                }
                for r in rows
            ],
        )
        _write_literals(
            games,
            [
                {
                    "id": m["parent_asin"],
                    "app_name": m["title"],
                    "tags": m["features"],
                    "specs": m["description"],
                    "developer": m["store"],
                    "genres": m["categories"],
                    "publisher": m["store"],
                    "price": m["price"],
                }
                for m in self.records("meta")
            ],
        )
        return str(reviews), str(games)

    @functools.cache  # noqa: B019
    def queries(self, kind: str) -> Path:
        """Return the folder of a generated query set in the published format: `c4` or `esci`."""
        folder = self.folder / kind
        folder.mkdir(parents=True, exist_ok=True)
        meta = {m["parent_asin"]: m for m in self.records("meta")}
        category = {item: SEARCH_DOMAINS[n % len(SEARCH_DOMAINS)] for n, item in enumerate(meta)}
        texts: dict[str, str] = {}  # item: query
        for review in self.records("review"):  # one query per item, the words of its first review
            if review["parent_asin"] in meta and len(texts) < self.settings["queries"]:
                texts.setdefault(review["parent_asin"], f"{review['title']} {review['text']}")
        write = _write_c4 if kind == "c4" else _write_esci
        write(folder, meta, category, texts)
        return folder

    @functools.cache  # noqa: B019
    def encoder(self) -> Path:
        """Return the folder of a tiny BERT of random weights, with the tokenizer of the generated texts."""
        return write_encoder(self.folder / "encoder", self.records("meta"), self.settings["encoder"])


def _write_literals(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one Python literal per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(f"{row!r}\n" for row in rows)


def search_text(meta: dict[str, Any]) -> str:
    """Return an item's text: title and description."""
    return " ".join([meta["title"], *meta["features"], *meta["description"]])


def _write_c4(folder: Path, meta: dict[str, dict[str, Any]], category: dict[str, str], queries: dict[str, str]) -> None:
    """Write test.csv and item_pool.jsonl as Amazon-C4's."""
    import pandas as pd  # heavy

    rows = [(n, query, item) for n, (item, query) in enumerate(queries.items())]
    pd.DataFrame(rows, columns=["qid", "query", "item_id"]).to_csv(folder / "test.csv", index=False)
    lines = [{"item_id": i, "category": category[i], "metadata": search_text(m)} for i, m in meta.items()]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "item_pool.jsonl").write_text(text, encoding="utf-8")


def _write_esci(
    folder: Path, meta: dict[str, dict[str, Any]], category: dict[str, str], queries: dict[str, str]
) -> None:
    """Write examples and categories as ESCI's; some rows are not for the test, not from the US, or not Exact."""
    import pandas as pd  # heavy

    rng = np.random.default_rng(SEED)
    items, rows = list(meta), []
    for number, (item, text) in enumerate(queries.items()):
        words = [word.strip(".,!") for word in search_text(meta[item]).split() if len(word) > 4]
        chosen = rng.choice(len(words), min(WORDS_PER_QUERY, len(words)), replace=False)
        query = " ".join(words[n].lower() for n in chosen) or text
        rows.append((query, number, item, "us", "E", 1, "test"))
        other = items[int(rng.integers(len(items)))]
        rows.append((query, number, other, "us", "ISC"[number % 3], 1, "test"))
    first = items[0]
    rows += [("red lamp", 9000, first, "es", "E", 1, "test"), ("lamp", 9001, first, "us", "E", 1, "train")]
    rows += [("lamp", 9002, first, "us", "E", 0, "test"), ("ghost", 9003, "B000000000", "us", "E", 1, "test")]
    columns = ["query", "query_id", "product_id", "product_locale", "esci_label", "small_version", "split"]
    examples = pd.DataFrame(rows, columns=columns).rename_axis("example_id").reset_index()
    examples["large_version"] = 1
    examples.to_parquet(folder / "shopping_queries_dataset_examples.parquet")
    (folder / "asin2category.json").write_text(json.dumps(category), encoding="utf-8")


def spread_states(body: BertModel, tokenizer: PreTrainedTokenizerBase, texts: list[str], positions: int) -> None:
    """Set the positions to 0 and change the last layer norm so that the pooled states have mean 0 and deviation 1.

    Random weights give every text nearly the same state, which depends on its length more than on its words; a few
    epochs would not learn the difference.
    """
    import torch  # heavy

    body.embeddings.position_embeddings.weight.data.zero_()
    batch = tokenizer(texts, padding=True, truncation=True, max_length=positions, return_tensors="pt")
    mask = batch["attention_mask"][..., None]
    with torch.inference_mode():
        states = body(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        pooled = (states * mask).sum(1) / mask.sum(1)  # (B, D)
        norm: Any = body.encoder.layer[-1].output.LayerNorm  # type: ignore[union-attr]
        scale = 1 / (pooled - pooled.mean(0)).std()
        norm.weight.mul_(scale)
        norm.bias.sub_(pooled.mean(0)).mul_(scale)


def write_encoder(folder: Path, records: list[dict[str, Any]], shape: dict[str, Any]) -> Path:
    """Write a BERT of random weights with a masked-language head, pooled by the mean.

    Args:
        folder: is returned.
        records: metadata; the tokenizer is trained on their texts.
        shape: keys of the BERT's configuration, `vocab_size` and `positions`.
    """
    import torch  # heavy, as is transformers
    from transformers import AutoModelForMaskedLM, BertConfig

    from recbole_blair.pretrain.load import save_tokenizer, train_tokenizer

    shape = dict(shape)
    positions = shape.pop("positions")
    tokenizer = train_tokenizer([search_text(m) for m in records], shape.pop("vocab_size"), positions)
    save_tokenizer(tokenizer, folder)
    torch.manual_seed(SEED)
    config = BertConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=positions,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
        **shape,
    )
    model = AutoModelForMaskedLM.from_config(config).eval()
    spread_states(model.bert, tokenizer, [search_text(m) for m in records], positions)
    model.save_pretrained(folder)
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (folder / "1_Pooling").mkdir(exist_ok=True)
    pooling = {"word_embedding_dimension": shape["hidden_size"], "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    return folder

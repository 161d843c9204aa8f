"""A tiny encoder with a tokenizer trained on a few sentences, and pairs in a file."""

import json

import pytest

WORDS = (
    *("red", "blue", "green", "small", "large", "quiet", "loud", "heavy"),
    *("light", "round", "metal", "wooden", "glass", "cotton", "leather", "plastic"),
)
THINGS = (
    *("kettle", "lamp", "chair", "phone", "bottle", "jacket"),
    *("drill", "mirror", "basket", "clock", "pillow", "ladder"),
)


def sentences(n):
    """Return n different sentences of like make."""
    return [
        f"a {WORDS[i % 16]} {WORDS[(3 * i + 1) % 16]} {THINGS[i % 12]} with {WORDS[(5 * i + 2) % 16]} parts number {i}"
        for i in range(n)
    ]


def pair_rows(n, n_items=None):
    """Return n pairs of `n_items` items (as many as pairs unless given)."""
    items = sentences(n_items or n)
    return [
        {
            "context": f"I bought {items[i % len(items)]} and it works well {i}",
            "metadata": items[i % len(items)] + ".",
            "item_id": f"B{i % len(items):03}",
            "timestamp": None if i % 7 == 0 else 1_600_000_000_000 + i,
        }
        for i in range(n)
    ]


@pytest.fixture(scope="session")
def tokenizer():
    """A WordPiece tokenizer that knows the sentences."""
    from recbole_blair.pretrain.load import train_tokenizer

    return train_tokenizer([row[side] for row in pair_rows(60) for side in ("context", "metadata")], 300, 64)


def tiny_config(tokenizer, kind="bert", dropout=0.1, **changes):
    """Return the config of a two-layer encoder of width 16."""
    from transformers import AutoConfig

    common = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 80,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return AutoConfig.for_model(kind, **{**common, **changes})


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory, tokenizer):
    """A tiny BERT with its masked-language head, as save_pretrained writes it."""
    import torch
    from transformers import AutoModelForMaskedLM

    folder = tmp_path_factory.mktemp("encoder") / "tiny-bert"
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(tiny_config(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def pairs_file(tmp_path):
    """Sixty pairs of 30 items in a JSONL file."""
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in pair_rows(60, 30)), encoding="utf-8")
    return path

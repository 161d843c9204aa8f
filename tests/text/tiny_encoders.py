"""Tiny encoders and `.item` files for tests: randomly initialised, width 32, a vocabulary of fifty pieces."""

import json
from pathlib import Path

WORDS = tuple(
    "red blue green big small cotton steel lamp shirt kettle phone case cable game chair desk".split()  # noqa: SIM905
)


def write_tiny_encoder(folder, pooling=None, seed=0, model_type="bert", positions=64, **save):
    """Save a randomly initialised two-layer encoder of width 32 and its word-piece tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, RobertaConfig, RobertaModel

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *WORDS, *"abcdefghijklmnopqrstuvwxyz0123456789", *(f"##{c}" for c in "abcdefghijklmnopqrst")]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"]))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(folder)
    torch.manual_seed(seed)
    config_class, model_class = {"bert": (BertConfig, BertModel), "roberta": (RobertaConfig, RobertaModel)}[model_type]
    config = config_class(
        vocab_size=len(vocab),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=positions,
        pad_token_id=0,
    )
    model_class(config).save_pretrained(folder)
    if pooling:
        write_pooling(folder, {"embedding_dimension": 32, "pooling_mode": pooling})
    return Path(folder)


def write_pooling(folder, config):
    """Declare a pooling the way sentence-transformers does."""
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (Path(folder) / "modules.json").write_text(json.dumps(modules))
    (Path(folder) / "1_Pooling").mkdir(exist_ok=True)
    (Path(folder) / "1_Pooling" / "config.json").write_text(json.dumps(config))


def write_items(folder, texts, ids=None):
    """Write `<build>.item` with these texts; returns the build's folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    ids = ids or [f"B{i:04}" for i in range(len(texts))]
    lines = ["item_id:token\ttitle:token\ttext:token\tstore:token"]
    lines += [f"{item}\ttitle\t{text}\tshop" for item, text in zip(ids, texts)]
    (folder / f"{folder.name}.item").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def some_texts(n, seed=0):
    """n texts of 0 to 40 known words."""
    import random

    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(0, 40))) for _ in range(n)]


SIZES = {  # of tiny models by transformers' name of the family
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 128,
}  # fmt: skip
DECODER = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}
CONFIGS = {
    "bert": SIZES, "roberta": SIZES, "mpnet": SIZES, "qwen3": DECODER, "mistral": DECODER, "llama": DECODER,
    "gemma3_text": DECODER, "modernbert": {**SIZES, "global_attn_every_n_layers": 2, "local_attention": 8},
    "bart": {
        "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 128,
    },
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
}  # fmt: skip


def write_tiny_model(folder, kind, side="right", pad=True, seed=0):
    """Save a randomly initialised model of a family; decoders and T5 end a text with [SEP] and have no [CLS]."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CONFIG_MAPPING, AutoModel, AutoModelForTextEncoding, PreTrainedTokenizerFast

    encoder = kind in ("bert", "roberta", "mpnet", "modernbert")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *"abcdefghijklmnopqrstuvwxyz:"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]" if encoder else "$A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"unk_token": "[UNK]", "eos_token": "[SEP]", **({"pad_token": "[PAD]"} if pad else {})}
    names |= {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"} if encoder else {}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side=side, **names).save_pretrained(folder)
    torch.manual_seed(seed)
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    config = CONFIG_MAPPING[kind](vocab_size=len(vocab), **CONFIGS[kind], **ids)
    auto = AutoModelForTextEncoding if kind == "t5" else AutoModel
    auto.from_config(config).save_pretrained(folder)
    return Path(folder)

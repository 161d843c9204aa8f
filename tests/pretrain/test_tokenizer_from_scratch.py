"""A tokenizer trained on the pairs."""

from recbole_blair.pretrain.load import train_tokenizer


def test_a_tokenizer_from_scratch_is_a_function_of_its_texts():
    """Pairs of characters tie here; the library's trainer alone gives another vocabulary each time."""
    texts = [f"{a}{b} {b}{a}" for a in ("kettle", "lamp", "glass", "metal") for b in ("round", "blue", "loud")]
    first = train_tokenizer(texts, 60, 64)
    assert all(train_tokenizer(texts, 60, 64).get_vocab() == first.get_vocab() for _ in range(8))
    assert set(first.all_special_tokens) == {"[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"}
    assert "##a" not in first.tokenize("##a")  # pieces of the vocabulary, not tokens a text can spell
    assert len(first) <= 60

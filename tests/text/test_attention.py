"""Attention of our own: equal to PyTorch's, left to PyTorch where it must be, and reached from a loaded encoder."""

import copy

import numpy as np
import pytest
import torch
from tiny_encoders import some_texts

from recbole_blair.ops import linear as products
from recbole_blair.text import attention
from recbole_blair.text.attention import attend_text, attention_forward, padding_mask, use_attention
from recbole_blair.text.encoders import load_encoder


class Layer(torch.nn.Module):
    """What transformers hands over as the module that attends."""

    is_causal = False


def drawn(shape, dtype, scale=1.0):
    """Query, key and value as a model hands them over: (B, heads, T, D), a token's heads side by side."""
    torch.manual_seed(0)
    batch, heads, length, width = shape
    return [scale * torch.randn(batch, length, heads, width).to(dtype).transpose(1, 2) for _ in range(3)]


@pytest.mark.parametrize("sign", [1, -1])
def test_sums_out_of_range_are_seen(sign):
    """Scores of 400 overflow, those of -400 vanish; both are left to a softmax, and so is NaN."""
    query, key, value = drawn((2, 2, 5, 16), torch.bfloat16)
    query, key = torch.full_like(query, 5.0), torch.full_like(key, sign * 5.0)
    assert attend_text(query, key, value, None, 1.0) is None
    assert attend_text(query, key, value, None, 0.1) is not None
    assert attend_text(query * float("nan"), key, value, None, 0.1) is None
    with torch.inference_mode():
        got, _ = attention_forward(Layer(), query, key, value, None, scaling=1.0)
    expected = value.mean(2, keepdim=True).expand(value.shape).transpose(1, 2)
    torch.testing.assert_close(got, expected, rtol=2e-2, atol=2e-2)


def test_a_text_without_a_token_is_left_to_pytorch():
    keep = torch.tensor([[True, True, False], [False, False, False]])
    assert attend_text(*drawn((2, 2, 3, 4), torch.bfloat16), keep, 0.5) is None


@pytest.fixture
def calls(monkeypatch):
    """Shapes of the queries that `attend_text` was given."""
    seen, own = [], attention.attend_text
    monkeypatch.setattr(attention, "attend_text", lambda query, *rest: seen.append(query.shape) or own(query, *rest))
    return seen


@pytest.mark.parametrize(
    "change",
    [
        {"dropout": 0.1},
        {"is_causal": True},
        {"layer": torch.nn.Identity()},  # says nothing, and causal is what PyTorch's way then takes it for
        {"position_bias": torch.zeros(1, 2, 6, 6, dtype=torch.bfloat16)},
        {"attention_mask": torch.ones(3, 1, 6, 6, dtype=torch.bool).tril()},
        {"attention_mask": torch.ones(3, 2, 1, 6, dtype=torch.bool).expand(3, 2, 6, 6)},  # by head
        {"attention_mask": torch.zeros(3, 1, 6, 6, dtype=torch.bfloat16)},
        {"dtype": torch.float32},
        {"length": 2100},
        {"grad": True},
    ],
)
def test_what_is_left_to_pytorch(change, calls):
    options = {"attention_mask": None, "scaling": 0.25, **change}
    layer = options.pop("layer", Layer())
    length, dtype, grad = options.pop("length", 6), options.pop("dtype", torch.bfloat16), options.pop("grad", False)
    states = drawn((3, 2, length, 16), dtype)
    with torch.set_grad_enabled(grad):
        got, _ = attention_forward(layer, *states, **options)
    assert not calls and got.shape == (3, length, 2, 16)


def test_fewer_keys_than_queries_are_left_to_pytorch(calls):
    query, key, value = drawn((3, 2, 6, 16), torch.bfloat16)
    with torch.inference_mode():
        attention_forward(Layer(), query, key[:, :, :4], value[:, :, :4], None, scaling=0.25)
    assert not calls


def models():
    """Two bidirectional models that transformers lets plug in, and three that keep theirs."""
    import transformers as t

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    shape["vocab_size"] = 50
    return {
        "bert": lambda: t.BertModel(t.BertConfig(**shape)),
        "distil": lambda: t.DistilBertModel(
            t.DistilBertConfig(vocab_size=50, dim=32, n_layers=2, n_heads=2, hidden_dim=64)
        ),
        "t5": lambda: t.T5EncoderModel(
            t.T5Config(vocab_size=50, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2)
        ),
        "qwen3": lambda: t.Qwen3Model(t.Qwen3Config(**shape, num_key_value_heads=1, head_dim=16)),
        "mpnet": lambda: t.MPNetModel(t.MPNetConfig(**shape)),
        "modernbert": lambda: t.ModernBertModel(
            t.ModernBertConfig(**shape, local_attention=6, pad_token_id=0, bos_token_id=1, eos_token_id=1)
        ),
    }


@pytest.mark.parametrize(
    "kind,layers", [("bert", 2), ("distil", 2), ("t5", 0), ("qwen3", 0), ("mpnet", 0), ("modernbert", 1)]
)
@pytest.mark.parametrize("padded", [True, False])
def test_a_model_gives_the_same_states(kind, layers, padded, calls, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr(attention, "prefers_onednn", lambda: True)
    monkeypatch.setattr(attention, "takes_onednn", lambda *tensors: True)
    torch.manual_seed(0)
    plain = models()[kind]().bfloat16().eval()
    ours, ids, mask = copy.deepcopy(plain), torch.randint(3, 50, (4, 9)), torch.ones(4, 9, dtype=torch.long)
    mask[1, 5:], mask[3, 1:] = 0, 0
    use_attention(ours)
    asked = {"input_ids": ids, "attention_mask": mask if padded else None}
    with torch.inference_mode():
        expected, got = (model(**asked).last_hidden_state for model in (plain, ours))
    own = mask.bool() if padded else torch.ones(4, 9, dtype=torch.bool)
    torch.testing.assert_close(got[own], expected[own], rtol=5e-2, atol=5e-2)
    assert len(calls) == layers
    if not layers:
        assert ours.config._attn_implementation == plain.config._attn_implementation


@pytest.mark.parametrize(
    "name,dtype", [("prefers_onednn", torch.bfloat16), ("takes_onednn", torch.bfloat16), (None, torch.float32)]
)
def test_on_other_processors_and_in_float32_a_model_keeps_its_own(name, dtype, monkeypatch):
    pytest.importorskip("transformers")
    for each in ("prefers_onednn", "takes_onednn"):
        monkeypatch.setattr(attention, each, lambda *tensors, each=each: each != name)
    model = models()["bert"]().to(dtype)
    use_attention(model)
    assert model.config._attn_implementation == "sdpa"


def test_a_mask_that_differs_by_query_is_no_padding_mask():
    from transformers.masking_utils import bidirectional_mask_function, causal_mask_function

    keep = torch.tensor([[True, True, False], [True, True, True]])
    options = {"batch_size": 2, "q_length": 3, "kv_length": 3, "attention_mask": keep}
    plain = padding_mask(**options, mask_function=bidirectional_mask_function)
    causal = padding_mask(**options, mask_function=causal_mask_function, allow_is_causal_skip=False)
    assert plain.stride(2) == 0 and torch.equal(plain, keep[:, None, None].expand(2, 1, 3, 3))
    assert causal.stride(2) != 0 and torch.equal(causal[0, 0, 1], torch.tensor([True, True, False]))


def test_an_encoder_takes_it(tiny_bert, calls, monkeypatch):
    monkeypatch.setattr(attention, "prefers_onednn", lambda: True)
    monkeypatch.setattr(attention, "takes_onednn", lambda *tensors: True)
    texts = some_texts(40)
    ours = load_encoder(tiny_bert, precision="bf16", device="cpu", pooling="mean").encode(texts, progress=False)
    assert len(calls) >= 2
    monkeypatch.setattr(attention, "prefers_onednn", lambda: False)
    plain = load_encoder(tiny_bert, precision="bf16", device="cpu", pooling="mean").encode(texts, progress=False)
    same = (ours * plain).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(plain, axis=1)
    assert same.min() > 0.9995


@pytest.mark.skipif(not products.has_onednn(), reason="this build of PyTorch has no oneDNN")
def test_an_encoders_weights_are_held_once(tiny_bert, monkeypatch):
    monkeypatch.setattr(products, "prefers_onednn", lambda: True)
    model = load_encoder(tiny_bert, precision="fp32", device="cpu").replicas[0][1]
    packed = [module for module in model.modules() if isinstance(module, products.PackedLinear)]
    assert len(packed) == 13  # six a layer and the pooler
    assert not any(name.endswith("dense.weight") for name, _ in model.named_parameters())

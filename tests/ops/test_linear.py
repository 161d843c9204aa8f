"""Products by another library than PyTorch's default: equal to float64's, gradients too, and only where it pays."""

import copy
import itertools

import pytest
import torch
from torch import nn

from recbole_blair.ops import linear as products
from recbole_blair.ops.linear import (
    FEW_ROWS,
    Linear,
    PackedLinear,
    add_product,
    linear_with,
    pack,
    pack_encoder,
    product,
    takes_onednn,
)


@pytest.fixture(autouse=True)
def everywhere(monkeypatch):
    """oneDNN is in every x86 build; which processor this is does not matter."""
    if not products.has_onednn():
        pytest.skip("this build of PyTorch has no oneDNN")
    monkeypatch.setattr(products, "prefers_onednn", lambda: True)


SHAPES = [(5, 7, 3), (1, 300, 1), (0, 8, 4), (4, 8, 0), (6, 0, 2), (300, 2, 200), (3, 400, 250), (250, 400, 3)]


@pytest.mark.parametrize("n,k,m", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_product_in_every_layout(n, k, m, dtype):
    for first, second in itertools.product((False, True), repeat=2):
        a = (torch.randn(k, n).T if first else torch.randn(n, k)).to(dtype)
        b = (torch.randn(m, k).T if second else torch.randn(k, m)).to(dtype)
        exact, tolerance = a.double() @ b.double(), 2e-2 if dtype == torch.bfloat16 else 1e-4
        torch.testing.assert_close(product(a, b).double(), exact, rtol=tolerance, atol=tolerance)
        out = torch.empty(n, m, dtype=dtype)
        assert product(a, b, out) is out and torch.equal(out, product(a, b))
        total = torch.ones(n, m, dtype=torch.promote_types(dtype, torch.float32))
        add_product(total, a, b)
        torch.testing.assert_close(total.double(), exact + 1, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("n,k,m", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_linear_with_a_packed_weight(n, k, m, dtype):
    x, weight, bias = torch.randn(n, k).to(dtype), torch.randn(m, k).to(dtype), torch.randn(m).to(dtype)
    exact, tolerance = x.double() @ weight.double().T + bias.double(), 2e-2 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(linear_with(weight, bias)(x).double(), exact, rtol=tolerance, atol=tolerance)


def test_slices_and_repeated_rows():
    a, b = torch.randn(100, 64)[10:20, 5:37], torch.randn(64, 90)[3:35, 7:20]
    torch.testing.assert_close(product(a, b), a @ b, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(product(a[:1].expand(4, 32), b), (a @ b)[:1].expand(4, 13), rtol=1e-4, atol=1e-5)


def test_parts_of_a_product_have_the_bits_of_the_whole():
    """What the ranks in blocks live on; where it does not hold they are slower, not wrong."""
    a, b = torch.randn(300, 304), torch.randn(2000, 304)
    whole = product(a, b.T)
    assert torch.equal(product(a, b[700:1100].T), whole[:, 700:1100])
    rows = torch.randint(0, 2000, (300,))
    own = torch.cat([product(a[i : i + 128], b[rows[i : i + 128]].T).diagonal() for i in range(0, 300, 128)])
    assert torch.equal(own, whole[torch.arange(300), rows])


@pytest.mark.parametrize("shape", [(9, 6), (2, 5, 6), (1, 6)])
def test_linear_equals_pytorchs(shape):
    ours, theirs = Linear(6, 4), nn.Linear(6, 4)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(shape)
    xs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [layer(x) for layer, x in zip((ours, theirs), xs)]
    assert type(outputs[0].grad_fn.next_functions[0][0]).__name__ == "LinearProductBackward"
    torch.testing.assert_close(*outputs)
    for output in outputs:
        output.square().sum().backward()
    for pair in [[x.grad for x in xs], *zip(*([p.grad for p in layer.parameters()] for layer in (ours, theirs)))]:
        torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_rows,mkl", [(FEW_ROWS, True), (FEW_ROWS + 1, False)])
def test_few_rows_without_gradients_are_pytorchs(n_rows, mkl, monkeypatch):
    layer, x, seen = Linear(6, 4), torch.randn(n_rows, 6), []
    monkeypatch.setattr(products, "onednn_linear", lambda *given: seen.append(given) or nn.functional.linear(*given))
    with torch.no_grad():
        assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
    assert len(seen) == (0 if mkl else 1)


def test_linear_in_a_bf16_run_is_pytorchs():
    layer, x = Linear(6, 4), torch.randn(3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


def test_what_goes_to_onednn(monkeypatch):
    x, half = torch.randn(2, 2), torch.randn(2, 2).bfloat16()
    assert takes_onednn(x, x) and not takes_onednn(x, x.double()) and not takes_onednn(x, half)
    monkeypatch.setattr(products, "prefers_onednn", lambda: False)
    assert not takes_onednn(x) and takes_onednn(half) == torch.ops.mkldnn._is_mkldnn_bf16_supported()
    with torch.device("meta"):
        assert not takes_onednn(torch.empty(2, 2, dtype=torch.bfloat16))


@pytest.mark.parametrize("vendor,expected", [("AuthenticAMD", True), ("GenuineIntel", False), (None, False)])
def test_the_processor_decides(vendor, expected, monkeypatch, tmp_path):
    monkeypatch.undo()
    if vendor:
        (tmp_path / "cpuinfo").write_text(f"processor : 0\nvendor_id\t: {vendor}\n")
    monkeypatch.setattr(products, "CPU_INFO", tmp_path / "cpuinfo")
    assert products.prefers_onednn.__wrapped__() is (expected and torch.backends.mkl.is_available())


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "Distil", "T5"])
@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_an_encoder_gives_the_same_states(kind, dtype, tolerance):
    transformers = pytest.importorskip("transformers")
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    models = {
        "Bert": lambda: transformers.BertModel(transformers.BertConfig(vocab_size=50, **shape)),
        "Roberta": lambda: transformers.RobertaModel(transformers.RobertaConfig(vocab_size=50, **shape)),
        "Distil": lambda: transformers.DistilBertModel(
            transformers.DistilBertConfig(vocab_size=50, dim=32, n_layers=2, n_heads=2, hidden_dim=64)
        ),
        "T5": lambda: transformers.T5EncoderModel(
            transformers.T5Config(vocab_size=50, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2)
        ),
    }
    torch.manual_seed(0)
    plain = models[kind]().to(dtype).eval()
    ours, ids = copy.deepcopy(plain), torch.randint(3, 50, (4, 9))
    pack_encoder(ours)
    fused = [module for module in ours.modules() if getattr(module, "activation", None) == "gelu"]
    assert len(fused) == (2 if kind in ("Bert", "Roberta") else 0)
    assert not any(type(module) is nn.Linear for module in ours.modules())
    with torch.inference_mode():
        expected, got = (model(input_ids=ids).last_hidden_state for model in (plain, ours))
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 5, 6), (7, 6), (1, 6)])
def test_a_packed_layer(dtype, tolerance, bias, shape):
    layer, x = nn.Linear(6, 4, bias=bias, dtype=dtype), torch.randn(shape).to(dtype) * 3
    weight = layer.weight.detach().clone()
    with torch.inference_mode():
        expected = layer(x)
        assert pack(layer) and type(layer) is PackedLinear and not pack(layer)
        torch.testing.assert_close(layer(x), expected, rtol=tolerance, atol=tolerance)
        layer.activation = "gelu"
        torch.testing.assert_close(layer(x), nn.functional.gelu(expected), rtol=tolerance, atol=tolerance)
    assert torch.equal(layer.weight, weight)
    assert [name for name, _ in layer.named_parameters()] == ["bias"] * bias  # the weight is held once


def test_what_is_not_packed(monkeypatch):
    """Other dtypes, kinds of linear layer, empty ones and other processors keep PyTorch's way."""
    assert not any(
        map(pack, (nn.Linear(6, 4, dtype=torch.float64), Linear(6, 4), nn.Linear(0, 4), nn.Identity(), None))
    )
    monkeypatch.setattr(products, "prefers_onednn", lambda: False)
    assert not pack(nn.Linear(6, 4))


def test_without_onednn_an_encoder_is_left_alone(monkeypatch):
    transformers = pytest.importorskip("transformers")
    monkeypatch.setattr(products, "takes_onednn", lambda *tensors: False)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model = transformers.BertModel(transformers.BertConfig(vocab_size=50, **shape))
    kinds = [type(module) for module in model.modules()]
    pack_encoder(model)
    assert [type(module) for module in model.modules()] == kinds


def test_linear_without_gradients_leaves_no_trace():
    layer, x = Linear(6, 4), torch.randn(2, 5, 6)
    with torch.no_grad():
        got = layer(x)
    assert not got.requires_grad
    torch.testing.assert_close(got, nn.functional.linear(x, layer.weight, layer.bias), rtol=1e-5, atol=1e-6)

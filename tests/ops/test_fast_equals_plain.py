"""Every operation's fast form equals its plain form, in value and gradient, at sizes that divide nothing."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from recbole_blair import ops
from recbole_blair.ops import (
    HeadSizes,
    HistoryPairs,
    PackedHistories,
    attention,
    dropout,
    linear,
    mixture,
    normalise,
    plain,
    ragged,
    softmax,
)
from recbole_blair.ops import sampled_softmax as sampled
from recbole_blair.ops.switch import FORMS, use_ops

# Largest distance from the plain form in float64, as a share of its length. bfloat16 has eight bits: one rounding is
# 2e-3 at most, but the exponential of a logit of 14, which is rounded to 2^-5, is 3e-2 off.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 5e-2}


def drawn(*shape, layout="contiguous"):
    """Normal numbers; `transposed` and `sliced` ones do not lie side by side."""
    if layout == "transposed":
        return torch.randn(*shape[::-1]).permute(*reversed(range(len(shape))))
    if layout == "sliced":
        return torch.randn(*shape[:-1], 2 * shape[-1] + 3)[..., 1 : 1 + shape[-1]]
    return torch.randn(*shape)


def softmax_case(n, m, width, bound, layout):
    items = F.normalize(drawn(m, width, layout=layout), dim=1)
    users = F.normalize(drawn(n, width, layout=layout), dim=1) * 14.0
    return (users, items, torch.randint(0, m, (n,)), bound), 2


def linear_case(shape, m, bias, layout):
    return (drawn(*shape, layout=layout), drawn(m, shape[-1]), drawn(m) if bias else None), 3


def pointwise_case(lengths, heads, d_qk, d_v, timed, layout):
    length, width = torch.tensor(lengths), max(lengths)
    times = torch.rand(len(lengths), width).mul(22).exp().long().cumsum(1)
    sizes = HeadSizes(heads, d_qk, d_v, 7)
    pairs = HistoryPairs(PackedHistories(length, width), sizes, *([times, times + 1000] if timed else []))
    vqk = drawn(sum(lengths), heads * (d_v + 2 * d_qk), layout=layout)
    return (vqk, drawn(width + 3), drawn(129) if timed else None, pairs), 3


def candidates_of(n, k, m):
    """Each row's target and its draws, some of them its target."""
    candidates = torch.randint(0, m, (n, 1 + k))
    candidates[::2, 1:3] = candidates[::2, :1]
    return candidates


def gated_case(n, m, width, k, layout):
    users, e, t = (drawn(rows, width, layout=layout) for rows in (n, m, m))
    args = (F.normalize(users, dim=1), drawn(n, 3), e, t, drawn(m, 3), torch.rand(m, 1) < 0.7)
    return (args if k is None else (*args, candidates_of(n, k, m), 0.5)), 5


def mixture_case(n, width, n_experts, hidden, layout):
    gates = drawn(n, n_experts, layout=layout).softmax(1)
    weight = drawn(n_experts, hidden, width, layout=layout)
    return (drawn(n, width, layout=layout), weight, drawn(n_experts, hidden), gates), 4


def attention_case(rows, heads, queries, keys, width, layout):
    """Every query of a history of `keys` items, causal, or one query of histories of 1 to `keys`."""
    q, k, v = (drawn(rows, heads, n, width, layout=layout) for n in (queries, keys, keys))
    lengths = torch.randint(1, keys + 1, (rows, 1))
    seen = None if queries == keys else (torch.arange(keys) < lengths)[:, None, None]
    return (q, k, v, 0.5, seen), 3


def text_case(batch, heads, length, width, masked, layout):
    """Nothing to differentiate: encoders are frozen."""
    states = [drawn(batch, heads, length, width, layout=layout) for _ in range(3)]
    keep = torch.arange(length) < torch.randint(1, length + 1, (batch, 1)) if masked else None
    return (*states, keep, 0.7 * width**-0.5), 0


LAYOUTS = ("contiguous", "transposed", "sliced")
# Arguments of each operation, and how many of the first are differentiated.
CASES = {
    "full_softmax_loss": [
        softmax_case(n, m, width, bound, layout)
        for (n, m, width), bound, layout in itertools.product(
            [(7, 11, 4), (1, 1, 3), (33, 301, 17), (5, 700, 8)], [None, 14.0, 60.0], LAYOUTS
        )
    ],
    "apply_linear": [
        linear_case(shape, m, bias, layout)
        for shape, m, bias, layout in itertools.product(
            [(9, 6), (2, 5, 6), (1, 1), (0, 4), (3, 0)], [1, 7], [True, False], LAYOUTS
        )
    ],
    "hstu_attention": [
        pointwise_case(lengths, heads, d_qk, d_v, timed, layout)
        for (lengths, heads, d_qk, d_v), timed, layout in itertools.product(
            [([1], 1, 4, 4), ([5, 3, 1, 9], 2, 3, 5), ([6, 6], 3, 2, 2), ([37, 2, 20, 3, 40], 2, 4, 6)], [True, False],
            LAYOUTS,
        )
    ],
    "sampled_cross_entropy": [
        ((drawn(n, width, layout=layout), drawn(m, width, layout=layout), candidates_of(n, k, m), *options(m)), 2)
        for (n, m, width, k), layout, options in itertools.product(
            [(7, 11, 4, 8), (1, 2, 3, 1), (33, 301, 17, 5)], LAYOUTS,
            [lambda m: (), lambda m: (drawn(m), 0.0), lambda m: (drawn(m), 0.1), lambda m: (None, 0.4)],
        )
    ],
    "sampled_binary_cross_entropy": [
        ((drawn(n, width, layout=layout), drawn(m, width, layout=layout), candidates_of(n, k, m), 0.3), 2)
        for (n, m, width, k), layout in itertools.product([(7, 11, 4, 8), (1, 2, 3, 1), (33, 301, 17, 5)], LAYOUTS)
    ],
    "gated_scores": [gated_case(n, m, 6, None, layout) for n, m in [(7, 11), (1, 1)] for layout in LAYOUTS],
    "gated_cross_entropy": [
        gated_case(n, m, 6, k, layout)
        for (n, m, k), layout in itertools.product([(7, 11, 8), (33, 301, 5), (9, 20, 0)], LAYOUTS)
    ],
    "mix_experts": [
        mixture_case(*sizes, layout)
        for sizes, layout in itertools.product([(13, 6, 4, 5), (1, 1, 1, 1), (3, 9, 8, 2), (0, 4, 2, 3)], LAYOUTS)
    ],
    "normalise_rows": [
        ((drawn(*shape, layout=layout), torch.float32), 1)
        for shape, layout in itertools.product([(7, 5), (1, 1), (0, 3)], LAYOUTS)
    ],
    "attend": [
        attention_case(*sizes, layout)
        for sizes, layout in itertools.product([(3, 2, 4, 4, 5), (4, 2, 1, 7, 5), (1, 1, 1, 1, 1)], LAYOUTS)
    ],
    "attend_text": [
        text_case(*sizes, masked, layout)
        for sizes, masked, layout in itertools.product(
            [(5, 2, 7, 16), (3, 12, 109, 32), (1, 1, 1, 8), (4, 3, 33, 5)], [True, False], LAYOUTS
        )
    ],
}  # fmt: skip
# Random: below; no gradient: test_ranking.py; computes in a dtype of its own: test_ragged.py.
APART = {"apply_dropout", "rank_targets", "gather_rows"}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks at these sizes, and oneDNN wherever PyTorch has it."""
    if linear.has_onednn():
        monkeypatch.setattr(linear, "prefers_onednn", lambda: True)
    monkeypatch.setitem(ragged.GROUP_SCORES, "cpu", 200)
    monkeypatch.setitem(sampled.GATHER_ELEMENTS, "cpu", 200)
    monkeypatch.setattr(sampled, "GATE_ROWS", 3)
    monkeypatch.setattr(softmax, "CACHE_BYTES", 4000)
    monkeypatch.setattr(softmax, "LOGITS_AT_A_TIME", {"cpu": 2500})
    monkeypatch.setattr(dropout, "DROPOUT_CHUNK", 1000)
    monkeypatch.setattr(mixture, "ROWS_AT_A_TIME", {"cpu": 3})
    monkeypatch.setattr(normalise, "ROWS_AT_A_TIME", {"cpu": 3})
    monkeypatch.setattr(attention, "SCORE_BYTES", 4000)


@pytest.fixture
def nothing_dropped(monkeypatch):
    """Attention with a dropout that keeps all, of a rate that takes the fast form."""
    monkeypatch.setattr(attention, "apply_dropout", lambda x, p, training: x)
    own = plain.attend
    keep_all = lambda q, k, v, p, seen=None: own(q, k, v, 0.0, seen)  # noqa: E731
    monkeypatch.setitem(FORMS, "attend", (keep_all, FORMS["attend"][1]))
    monkeypatch.setattr(plain, "attend", keep_all)


def cast(args, dtype):
    """Arguments in `dtype`: tensors of floats, and the name of a dtype itself."""
    args = [x.to(dtype) if torch.is_tensor(x) and x.is_floating_point() else x for x in args]
    return [dtype if isinstance(x, torch.dtype) else x for x in args]


def evaluate(form, args, n_leaves, dtype):
    """Value and gradients, in float64, of a form whose floating arguments are cast to `dtype`."""
    args = cast(args, dtype)
    leaves = [x.detach().requires_grad_() for x in args[:n_leaves] if x is not None]
    given = [*(None if x is None else leaves.pop(0) for x in args[:n_leaves]), *args[n_leaves:]]
    value = form(*given)
    leaves = [x for x in given[:n_leaves] if x is not None]
    torch.manual_seed(1)
    weight = torch.randn(value.shape, dtype=torch.float64)
    grads = torch.autograd.grad((value.double() * weight).sum(), leaves) if leaves else ()
    return [x.double() for x in (value.detach(), *grads)]


def test_every_operation_has_a_case():
    for name in ops.__all__:
        getattr(ops, name)  # loads every file
    assert set(FORMS) == set(CASES) | APART


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("name", list(CASES))
def test_fast_equals_plain(name, dtype, nothing_dropped):
    plain_form, fast_form = FORMS[name]
    for args, n_leaves in CASES[name]:
        exact = evaluate(plain_form, cast(args, dtype), n_leaves, torch.float64)
        for form in (fast_form, plain_form):
            found = evaluate(form, args, n_leaves, dtype)
            for got, wanted in zip(found, exact, strict=True):
                assert got.shape == wanted.shape
                assert (got - wanted).norm() <= TOLERANCE[dtype] * (1 + wanted.norm()), (name, form, got.shape)


@pytest.mark.parametrize("name", list(CASES))
def test_the_switch_takes_the_plain_form(name):
    args, _ = CASES[name][0]
    with use_ops("plain"):
        torch.manual_seed(0)
        got = getattr(ops, name)(*args)
        assert ops.plain_ops()
    torch.manual_seed(0)
    assert torch.equal(got, getattr(plain, name)(*args)) and not ops.plain_ops()


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("shape", [(401, 257), (3, 5, 7), (0, 4), (1,)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dropout_equals_plain_with_its_mask(shape, layout, dtype):
    """A rate of whole 1/256, so that nothing is rounded."""
    x = (drawn(*shape, layout=layout).abs() + 1).to(dtype).requires_grad_()
    got, weight = ops.apply_dropout(x, 0.25, True), torch.randn(shape).to(dtype)
    keep = got.detach() != 0
    (grad,) = torch.autograd.grad(got, x, weight)
    rtol = 1e-2 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(got.detach(), x.detach() * keep / 0.75, rtol=rtol, atol=0)
    torch.testing.assert_close(grad, weight * keep / 0.75, rtol=rtol, atol=0)
    assert torch.equal(ops.apply_dropout(x, 0.25, False), x)


@pytest.mark.parametrize("temperature", [0.07, 1 / 30, 0.025])
def test_bounded_softmax_at_its_bound(temperature):
    """Cosines of 1 and -1 over the temperature, float32 and bfloat16, against float64."""
    items = F.normalize(torch.randn(5000, 16), dim=1)
    users, target = torch.cat([items[:20], -items[:20]]) / temperature, torch.arange(40) % 20
    exact = evaluate(plain.full_softmax_loss, (users, items, target), 2, torch.float64)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 5e-2)):
        found = evaluate(ops.full_softmax_loss, (users, items, target, 1.0 / temperature), 2, dtype)
        for got, wanted in zip(found, exact, strict=True):
            assert (got - wanted).norm() < tolerance * wanted.norm()


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="ops='quick' is not one of fast, plain"):
        use_ops("quick")

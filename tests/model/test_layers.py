"""Our layers against naive forms and against RecBole's, forward and gradient."""

import pytest
import torch
import torch.nn.functional as F

from recbole_blair import compat

compat.apply()

from recbole.model.layers import TransformerEncoder

from recbole_blair.model.layers import HistoryEncoder, LiGRLayer, TransformerLayer
from recbole_blair.model.softmax import Softmax
from recbole_blair.ops import PackedHistories, apply_dropout, attend

torch.set_default_dtype(torch.float32)


def copy_recbole_layer(ours, theirs):
    """Load a RecBole transformer layer's weights into ours."""
    attention, feed = theirs.multi_head_attention, theirs.feed_forward
    with torch.no_grad():
        parts = (attention.query, attention.key, attention.value)
        ours.qkv.weight.copy_(torch.cat([p.weight for p in parts]))
        ours.qkv.bias.copy_(torch.cat([p.bias for p in parts]))
    for own, other in (
        (ours.attn_out, attention.dense), (ours.attn_norm, attention.LayerNorm), (ours.ff_in, feed.dense_1),
        (ours.ff_out, feed.dense_2), (ours.ff_norm, feed.LayerNorm),
    ):  # fmt: skip
        own.load_state_dict(other.state_dict())


def test_attention_drops_shares_of_items_as_often_as_asked():
    q, k, v = torch.randn(400, 2, 1, 5), torch.randn(400, 2, 8, 5), torch.eye(8).expand(400, 2, 8, 8)
    whole, dropped = (attend(q, k, v, p, torch.ones(1, 1, 1, 8).bool()) for p in (0.0, 0.25))
    gone = dropped == 0
    assert 0.22 < gone.float().mean() < 0.28
    torch.testing.assert_close(dropped[~gone] * 0.75, whole[~gone])


@pytest.mark.parametrize("act", ["gelu", "relu", "swish", "tanh", "sigmoid"])
def test_transformer_layer_gives_recbole_output(act):
    theirs = TransformerEncoder(1, 2, 8, 16, 0.0, 0.0, act, 1e-12).double()
    ours = TransformerLayer(2, 8, 16, 0.0, 0.0, act, 1e-12).double()
    copy_recbole_layer(ours, theirs.layer[0])
    item_seq = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]])
    x = torch.randn(2, 4, 8, dtype=torch.double)
    mask = torch.tril((item_seq != 0)[:, None, None, :].expand(-1, -1, 4, -1))
    expected = theirs(x, torch.where(mask, 0.0, -10000.0))[-1]
    histories = PackedHistories(torch.tensor([4, 2]), 4)
    rows = histories.order[histories.row], histories.step
    torch.testing.assert_close(ours(x[rows], histories), expected[rows], rtol=1e-9, atol=1e-9)
    last = expected[histories.order, torch.tensor([1, 3])]
    torch.testing.assert_close(ours(x[rows], histories, last=True), last, rtol=1e-9, atol=1e-9)


def naive_ligr(layer, x):
    """A LiGR layer on one history x (L, H), position by position and head by head."""
    (length, hidden), heads = x.shape, layer.n_heads
    width = hidden // heads
    normed = F.layer_norm(x, (hidden,), layer.attn_norm.weight, layer.attn_norm.bias, 1e-5)
    q, k, v = (normed @ layer.qkv.weight.T + layer.qkv.bias).split(hidden, 1)
    mixed = torch.zeros_like(x)
    for i in range(length):
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            scores = torch.stack([(q[i, part] * k[j, part]).sum() / width**0.5 for j in range(i + 1)])
            share = scores.exp() / scores.exp().sum()
            mixed[i, part] = sum(share[j] * v[j, part] for j in range(i + 1))
    attended = mixed @ layer.attn_out.weight.T + layer.attn_out.bias
    x = x + attended / (1 + (-(x @ layer.attn_gate.weight.T + layer.attn_gate.bias)).exp())
    normed = F.layer_norm(x, (hidden,), layer.ff_norm.weight, layer.ff_norm.bias, 1e-5)
    w1, w2 = layer.ff_in.weight.chunk(2)
    a = normed @ w1.T
    fed = (a / (1 + (-a).exp()) * (normed @ w2.T)) @ layer.ff_out.weight.T
    return x + fed / (1 + (-(x @ layer.ff_gate.weight.T + layer.ff_gate.bias)).exp())


def test_ligr_layer_equals_a_naive_one_in_value_and_gradient():
    torch.manual_seed(2)
    layer = LiGRLayer(2, 8, 12, 0.0, 0.0, "gelu", 1e-5).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    x, lengths = torch.randn(2, 4, 8, dtype=torch.double, requires_grad=True), [4, 2]
    histories = PackedHistories(torch.tensor(lengths), 4)
    rows = histories.order[histories.row], histories.step
    found = layer(x[rows], histories)
    wanted = torch.stack([F.pad(naive_ligr(layer, x[b, :n]), (0, 0, 0, 4 - n)) for b, n in enumerate(lengths)])[rows]
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    weight, leaves = torch.randn_like(found), [x, *layer.parameters()]
    for got, want in zip(*(torch.autograd.grad((out * weight).sum(), leaves) for out in (found, wanted)), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    last = torch.stack([naive_ligr(layer, x[b, :n])[-1] for b, n in enumerate(lengths)])[histories.order]
    torch.testing.assert_close(layer(x[rows], histories, last=True), last, rtol=1e-12, atol=1e-12)


def plain_history(encoder, vectors, row, length):
    """One row after another, nothing padded, every layer on every position."""
    states = []
    for r, n in zip(row, length):
        x = encoder.norm(vectors[r[:n]] + encoder.position_embedding.weight[:n])
        alone = PackedHistories(n[None], int(n))
        for layer in encoder.layers:
            x = layer(x, alone)
        states.append(x[-1])
    return torch.stack(states)


def test_history_encoder_equals_row_by_row_in_value_and_gradient():
    encoder = HistoryEncoder(9, 2, 2, 8, 16, 0.0, 0.0, "gelu", 1e-12, 0.5).double()
    vectors = torch.randn(12, 8, dtype=torch.double, requires_grad=True)
    length = torch.tensor([1, 9, 3, 2, 5, 1, 4])
    row = torch.randint(0, 12, (7, 9))
    weight = torch.randn(7, 8, dtype=torch.double)
    inputs = [vectors, *encoder.parameters()]
    ours, naive = encoder(vectors, row, length), plain_history(encoder, vectors, row, length)
    torch.testing.assert_close(ours, naive)
    grads = [torch.autograd.grad((out * weight).sum(), inputs) for out in (ours, naive)]
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b)


def test_history_encoder_ignores_what_padding_holds_and_the_width_it_is_padded_to():
    encoder = HistoryEncoder(6, 2, 2, 8, 16, 0.5, 0.5, "gelu", 1e-12, 0.02).double().eval()
    vectors, row = torch.randn(5, 8, dtype=torch.double), torch.randint(0, 5, (3, 6))
    length = torch.tensor([1, 4, 3])
    base = encoder(vectors, row, length)
    noisy = row.clone()
    for r, n in enumerate(length):
        noisy[r, n:] = -1 - noisy[r, n:]
    torch.testing.assert_close(encoder(vectors, noisy, length), base)
    torch.testing.assert_close(encoder(vectors, row[:, :4], length), base)


@pytest.mark.parametrize("p", [0.2, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_apply_dropout_drops_the_share_and_keeps_the_mean(p, dtype):
    x = torch.ones(401, 257, dtype=dtype)  # odd sizes: the last word is not used whole
    y = apply_dropout(x, p, training=True).float()
    assert abs((y == 0).float().mean().item() - p) < 0.01
    assert abs(y.mean().item() - 1.0) < 0.02
    columns = (y == 0).float().mean(0)
    assert columns.std() < 3 * (p * (1 - p) / 401) ** 0.5  # no column is dropped more often than another
    assert torch.equal(apply_dropout(x, p, training=False), x)


def test_apply_dropout_follows_pytorchs_seed():
    x, masks = torch.ones(50, 40), []
    for _ in range(2):
        torch.manual_seed(5)
        masks += [apply_dropout(x, 0.5, training=True) for _ in range(2)]
    assert torch.equal(masks[0], masks[2]) and torch.equal(masks[1], masks[3])
    assert not torch.equal(masks[0], masks[1])


def test_sampled_softmax_with_many_draws_estimates_the_full_one():
    torch.manual_seed(3)
    counts = torch.tensor([0, 50, 1, 1, 30, 5, 1, 1, 2, 9]).numpy()
    users, vectors = torch.randn(6, 4), torch.randn(9, 4)
    target = torch.tensor([1, 2, 3, 4, 5, 9])
    for kind in ("uniform", "popularity"):
        softmax = Softmax("sampled", 200_000, kind, counts)
        negatives = softmax.draw(target)
        full = F.cross_entropy(users @ vectors.T, target - 1)
        sampled = softmax.loss(users, vectors, target, None, negatives)
        assert abs(sampled.item() - full.item()) < 0.02, kind

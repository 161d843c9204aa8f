"""The training losses of models of ids against formulas written out row by row in float64."""

import itertools
import math

import pytest
import torch

from recbole_blair.model.softmax import LossOptions, Softmax

COUNTS = torch.tensor([0, 50, 1, 1, 30, 5, 1, 1, 2, 9]).numpy()  # of the padding item and items 1 to 9
TARGET = torch.tensor([1, 2, 3, 4, 5, 9])


def naive_loss(users, vectors, negatives, options, kind, negatives_by):
    """The mean loss of the rows; negatives are lists of ids, repeats counted, hits on the target left out."""
    total, n_items = 0.0, len(vectors)
    weights = [1.0] * n_items if negatives_by == "uniform" else [float(c) + 1 for c in COUNTS[1:]]
    for b, target in enumerate(TARGET.tolist()):
        scores = [sum(users[b, h] * v[h] for h in range(len(v))) for v in vectors]  # of items 1 to 9
        if kind == "full":
            others = [j for j in range(1, n_items + 1) if j != target]
            logits = [scores[target - 1]] + [scores[j - 1] for j in others]
        else:
            others = [j for j in negatives[b] if j != target]
            k = len(negatives[b])
            lowered = [math.log(k * weights[j - 1] / sum(weights)) if options.logq else 0.0 for j in others]
            logits = [scores[target - 1]] + [scores[j - 1] - lower for j, lower in zip(others, lowered)]
        if options.loss == "gbce":
            k = len(negatives[b])
            alpha = k / (n_items - 1)
            beta = alpha * (options.gbce_t * (1 - 1 / alpha) + 1 / alpha)
            own = beta * torch.log(1 / (1 + torch.exp(-scores[target - 1])))
            rest = sum((torch.log(1 - 1 / (1 + torch.exp(-scores[j - 1]))) for j in others), torch.tensor(0.0))
            total = total - (own + rest) / (1 + k)
            continue
        norm = sum(torch.exp(x) for x in logits)
        share = options.label_smoothing / len(logits)
        wanted = [1 - options.label_smoothing + share] + [share] * (len(logits) - 1)
        total = total - sum(w * torch.log(torch.exp(x) / norm) for w, x in zip(wanted, logits))
    return total / len(TARGET)


CASES = [("full", "uniform", LossOptions(label_smoothing=s)) for s in (0.0, 0.2)] + [
    ("sampled", by, LossOptions(loss, of, logq, t, s))
    for by, of in itertools.product(("uniform", "popularity"), ("step", "position"))
    for loss, logq, t, s in [
        ("softmax", True, 0, 0.0), ("softmax", False, 0, 0.0), ("softmax", True, 0, 0.3), ("gbce", True, 0.75, 0.0),
        ("gbce", True, 0.0, 0.0), ("gbce", True, 1.0, 0.0),
    ]
]  # fmt: skip


@pytest.mark.parametrize(("kind", "by", "options"), CASES)
def test_a_loss_is_its_formula_in_value_and_gradient(kind, by, options):
    torch.manual_seed(4)
    users, vectors = (torch.randn(n, 3, dtype=torch.double, requires_grad=True) for n in (6, 9))
    softmax = Softmax(kind, 5, by, COUNTS, options).double()
    negatives = softmax.draw(TARGET) if kind == "sampled" else None
    rows = [] if negatives is None else negatives.expand(len(TARGET), 5).tolist()
    assert any(target in row for target, row in zip(TARGET.tolist(), rows)) or kind == "full"  # a hit is among them
    found = softmax.loss(users, vectors, TARGET, None, negatives)
    wanted = naive_loss(users, vectors, rows, options, kind, by)
    # the shares of items are float32 numbers
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)
    for got, want in zip(*(torch.autograd.grad(loss, (users, vectors)) for loss in (found, wanted))):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)


def test_the_vectors_of_a_few_items_do_for_a_loss():
    """Each negative of a step by its row among the sorted ids gives what the whole table gives."""
    users, vectors = torch.randn(6, 3, dtype=torch.double), torch.randn(9, 3, dtype=torch.double)
    for options in (LossOptions(), LossOptions(negatives_of="position"), LossOptions("gbce", "position")):
        softmax = Softmax("sampled", 3, "popularity", COUNTS, options)
        negatives = softmax.draw(TARGET)
        items = torch.unique(torch.cat([TARGET, negatives.flatten()]))
        few = softmax.loss(users, vectors[items - 1], TARGET, items, negatives)
        torch.testing.assert_close(few, softmax.loss(users, vectors, TARGET, None, negatives))


def test_beta_by_hand():
    """Of 9 items and 2 negatives alpha is 1/4: beta is 1 of t=0, 1/4 of t=1, 7/16 of t=3/4."""
    for t, beta in ((0.0, 1.0), (1.0, 0.25), (0.75, 0.4375)):
        assert Softmax("sampled", 2, "uniform", COUNTS, LossOptions("gbce", gbce_t=t)).beta == pytest.approx(beta)
    assert Softmax("sampled", 100, "uniform", COUNTS, LossOptions("gbce")).beta == 1.0  # no more than all items


def test_draws_of_positions_follow_their_distribution():
    torch.manual_seed(6)
    target = TARGET[:1].expand(1000)
    for by, weights in (("uniform", torch.ones(9)), ("popularity", torch.as_tensor(COUNTS[1:]) + 1.0)):
        softmax = Softmax("sampled", 200, by, COUNTS, LossOptions(negatives_of="position"))
        drawn = softmax.draw(target)
        assert drawn.shape == (1000, 200)
        found = torch.bincount(drawn.flatten(), minlength=10)[1:] / drawn.numel()
        torch.testing.assert_close(found, weights / weights.sum(), rtol=0.05, atol=1e-3)

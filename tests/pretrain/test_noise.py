"""Hidden tokens: shares, determinism, span denoising."""

import numpy as np
import pytest
import torch

from recbole_blair.pretrain.noise import IGNORE, _mix, counter_uniform, drop_spans, mask_tokens, split_randomly


def reference_mix(x):
    m = (1 << 64) - 1
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & m
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & m
    return x ^ (x >> 31)


def test_mix_equals_splitmix64_in_python_integers():
    values = [0, 1, 2**63 - 1, -1, -(2**63), 0x9E3779B97F4A7C15 - 2**64]
    found = _mix(torch.tensor(values)).tolist()
    assert [v % 2**64 for v in found] == [reference_mix(v % 2**64) for v in values]


def test_numbers_depend_on_every_counter_and_nothing_else():
    rows = torch.tensor([4, 9])
    base = counter_uniform(1, 2, rows, 8, 0)
    assert base.shape == (2, 8) and float(base.min()) >= 0 and float(base.max()) < 1
    assert torch.equal(base[1:], counter_uniform(1, 2, rows[1:], 8, 0))  # not on the company in the batch
    assert torch.equal(base[:, :3], counter_uniform(1, 2, rows, 3, 0))  # not on the padding
    for other in (
        counter_uniform(7, 2, rows, 8, 0),
        counter_uniform(1, 3, rows, 8, 0),
        counter_uniform(1, 2, rows, 8, 1),
    ):
        assert not torch.isclose(base, other).any()


def test_masking_shares():
    n, width, vocabulary = 400, 64, 1000
    ids = torch.randint(5, vocabulary, (n, width), generator=torch.Generator().manual_seed(0))
    maskable = torch.ones(n, width, dtype=torch.bool)
    maskable[:, 0] = False

    def draw(stream):
        return counter_uniform(0, 1, torch.arange(n), width, stream)

    noisy, labels = mask_tokens(ids, maskable, draw, 4, vocabulary, 0.15)
    chosen = labels != IGNORE
    assert not chosen[:, 0].any()
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.equal(noisy[~chosen], ids[~chosen])
    count = int(chosen.sum())
    assert count / (n * (width - 1)) == pytest.approx(0.15, abs=0.01)  # sd 0.002
    hidden = noisy[chosen] == 4
    kept = noisy[chosen] == ids[chosen]
    assert float(hidden.double().mean()) == pytest.approx(0.8, abs=0.03)  # sd 0.0065
    assert float(kept.double().mean()) == pytest.approx(0.1, abs=0.02)
    replaced = noisy[chosen][~hidden & ~kept]
    assert len(replaced) / count == pytest.approx(0.1, abs=0.02)
    assert int(replaced.max()) < vocabulary and len(set(replaced.tolist())) > 100


def test_spans_can_be_put_back():
    rng = np.random.default_rng(0)
    for n in (2, 3, 10, 63):
        tokens = list(range(100, 100 + n))
        noisy, target = drop_spans(tokens, range(900, 1000), 1, rng)
        assert noisy[-1] == target[-1] == 1
        spans, current = {}, None
        for token in target[:-1]:
            if token >= 900:
                current = spans.setdefault(token, [])
            else:
                current.append(token)
        rebuilt = []
        for token in noisy[:-1]:
            rebuilt += spans[token] if token >= 900 else [token]
        assert rebuilt == tokens
        assert sum(map(len, spans.values())) == max(1, round(0.15 * n)) and all(spans.values())


def test_random_splits_add_up():
    rng = np.random.default_rng(1)
    lengths = [split_randomly(7, 3, rng) for _ in range(200)]
    assert all(part.sum() == 7 and part.min() >= 1 and len(part) == 3 for part in lengths)
    assert len({tuple(part) for part in lengths}) == 15  # C(6, 2) ways, each seen

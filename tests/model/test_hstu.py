"""HSTU against slow loops from its equations; causality; memorising; bad input."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

from builds import random_sequences, write_build
from hstu_naive import naive_encoder

from recbole_blair.config import resolve_config
from recbole_blair.data.dataset import BlairDataset
from recbole_blair.data.loader import RowLoader, SequenceLoader
from recbole_blair.errors import InputError
from recbole_blair.model.hstu_layers import HSTUEncoder
from recbole_blair.model.softmax import step_items
from recbole_blair.ops import pointwise_attention, ragged, sampled_cross_entropy, sampled_softmax
from recbole_blair.ops.pointwise_attention import time_buckets
from recbole_blair.registry import find_model
from recbole_blair.registry.build_model import build_model
from recbole_blair.train.runtime import runtime_config, seed_everything

DAY_MS = 86_400_000


def make_encoder(mode="request", heads=2, d_qk=3, d_v=5, hidden=8, n_layers=2, longest=40):
    """A float64 encoder whose biases are large enough to matter."""
    encoder = HSTUEncoder(longest, n_layers, heads, hidden, d_qk, d_v, 0.0, 7, mode, 0.3)
    return encoder.double()


def make_batch(lengths, hidden=8, seed=0):
    """Vectors of every slot (B, L, H), times (B, L) with gaps of a second to months, and the next event's time."""
    g = torch.Generator().manual_seed(seed)
    width = max(lengths)
    gaps = torch.exp(torch.rand(len(lengths), width + 1, generator=g) * 22).long()
    times = 1_500_000_000_000 + gaps.cumsum(1)
    length = torch.tensor(lengths)
    request = times.gather(1, length[:, None]).squeeze(1)
    vectors = torch.randn(len(lengths), width, hidden, generator=g, dtype=torch.float64)
    return vectors, length, times[:, :-1].contiguous(), request


def encode(encoder, vectors, length, times, request):
    """States as a list of (length, H), in batch order."""
    pairs = encoder.pack(length, vectors.shape[1], times, request)
    order = pairs.histories.order
    parts = encoder(vectors.flatten(0, 1)[pairs.histories.place], pairs).split(length[order].tolist())
    return [parts[i] for i in torch.argsort(order).tolist()]


@pytest.mark.parametrize("mode", ["request", "history", "none"])
@pytest.mark.parametrize(
    ("lengths", "heads", "d_qk", "d_v"),
    [([1], 1, 4, 4), ([5, 3, 1, 9], 2, 3, 5), ([6, 6], 3, 2, 1)],
)
def test_layers_equal_the_loop_forward_and_gradient(mode, lengths, heads, d_qk, d_v):
    encoder = make_encoder(mode, heads, d_qk, d_v)
    vectors, length, times, request = make_batch(lengths)
    vectors.requires_grad_(True)
    ours = torch.cat(encode(encoder, vectors, length, times, request))
    naive = torch.cat([naive_encoder(encoder, vectors[b, :n], times[b, :n], request[b]) for b, n in enumerate(lengths)])
    torch.testing.assert_close(ours, naive, rtol=1e-10, atol=1e-10)
    direction = torch.randn_like(naive)
    inputs = [vectors, *encoder.parameters()]
    got = torch.autograd.grad((ours * direction).sum(), inputs)
    expected = torch.autograd.grad((naive * direction).sum(), inputs)
    for ours_grad, naive_grad in zip(got, expected):
        torch.testing.assert_close(ours_grad, naive_grad, rtol=1e-9, atol=1e-10)


def test_many_groups_and_query_blocks_equal_the_loop(monkeypatch):
    monkeypatch.setitem(ragged.GROUP_SCORES, "cpu", 64)  # groups of a row or two, blocks of 16 queries
    encoder = make_encoder(n_layers=1)
    lengths = [37, 2, 3, 20]
    vectors, length, times, request = make_batch(lengths)
    vectors.requires_grad_(True)
    groups = encoder.pack(length, 37, times, request).groups
    assert len(groups) >= 3
    assert len(pointwise_attention.query_blocks(groups[-1].group, 2, vectors.device)) == 3
    ours = torch.cat(encode(encoder, vectors, length, times, request))
    naive = torch.cat([naive_encoder(encoder, vectors[b, :n], times[b, :n], request[b]) for b, n in enumerate(lengths)])
    torch.testing.assert_close(ours, naive, rtol=1e-10, atol=1e-10)
    direction = torch.randn_like(naive)
    inputs = [vectors, *encoder.parameters()]
    got = torch.autograd.grad((ours * direction).sum(), inputs)
    expected = torch.autograd.grad((naive * direction).sum(), inputs)
    for ours_grad, naive_grad in zip(got, expected):
        torch.testing.assert_close(ours_grad, naive_grad, rtol=1e-9, atol=1e-10)


def test_bfloat16_stays_near_float32():
    encoder = make_encoder(hidden=16, d_qk=8, d_v=8).float()
    vectors, length, times, request = make_batch([20, 7, 13], hidden=16)
    exact = torch.cat(encode(encoder, vectors.float(), length, times, request))
    with torch.autocast("cpu", torch.bfloat16):
        rough = torch.cat(encode(encoder, vectors.float(), length, times, request))
    assert rough.dtype == torch.float32
    assert ((rough - exact).norm() / exact.norm()).item() < 0.02


@pytest.mark.parametrize(
    ("delta", "expected"),
    [(0, 0), (1, 0), (-1, 0), (2, 2), (-2, 2), (1000, 22), (DAY_MS, 60), (1_600_000_000_000, 93), (2**62, 128)],
)
def test_time_buckets_worked_by_hand(delta, expected):
    # ln 2 / .301 = 2.303, ln 1000 / .301 = 22.95, ln 86,400,000 / .301 = 60.70, ln 1.6e12 / .301 = 93.36
    assert time_buckets(torch.tensor([delta])).tolist() == [expected]


def test_times_a_millisecond_apart_are_told_apart():
    encoder = make_encoder()
    vectors, length, _, _ = make_batch([2])
    times = torch.tensor([[1_600_000_000_000, 1_600_000_000_001]])
    states = encode(encoder, vectors, length, times, torch.tensor([1_600_000_000_001]))
    other = encode(encoder, vectors, length, times, torch.tensor([1_600_000_000_004]))
    assert not torch.equal(states[0][1], other[0][1])  # as float32 both request times would be one


def test_a_later_event_changes_no_earlier_state():
    encoder = make_encoder("request")
    vectors, length, times, request = make_batch([9, 4, 12])
    before = encode(encoder, vectors, length, times, request)
    vectors[0, 6] += 1.0
    times[0, 6:] += DAY_MS
    after = encode(encoder, vectors, length, times, request + DAY_MS)
    # The time of event 6 is the request time of position 5, which alone it may change besides the later ones.
    assert torch.equal(before[0][:5], after[0][:5])
    assert not torch.equal(before[0][5], after[0][5])
    assert not torch.equal(before[0][6], after[0][6])
    for row in (1, 2):
        assert torch.equal(before[row][:-1], after[row][:-1])


def test_another_row_changes_nothing():
    encoder = make_encoder()
    vectors, length, times, request = make_batch([9, 4, 12])
    before = encode(encoder, vectors, length, times, request)
    vectors[2] += 1.0
    times[2] += DAY_MS
    vectors[1, 4:] += 5.0  # padding
    after = encode(encoder, vectors, length, times, request)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    alone = encode(encoder, vectors[:1, :9], length[:1], times[:1, :9], request[:1])
    torch.testing.assert_close(before[0], alone[0], rtol=1e-12, atol=1e-12)


# The model.


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hstu")
    return BlairDataset(write_build(folder, random_sequences(n_users=100, n_items=40, longest=9)))


def make(dataset, name="HSTU", **overrides):
    """A small model and its configuration."""
    info = find_model(name)
    small = {"hidden_size": 16, "n_heads": 2, "d_qk": 8, "d_v": 8, "n_layers": 2}
    base = {"device": "cpu", "precision": "fp32", **small}
    config = runtime_config(resolve_config(info, "tiny", overrides={**base, **overrides}))
    seed_everything(7)
    return build_model(info, config, dataset)


def rows_of(dataset, n=8):
    return next(iter(RowLoader(dataset, "train", n, bucket=False)))


@pytest.mark.parametrize("mode", ["request", "history", "none"])
def test_the_targets_time_counts_in_request_mode_alone(dataset, mode):
    model = make(dataset, time_bias=mode).eval()
    batch = rows_of(dataset)
    with torch.inference_mode():
        before = model.full_sort_predict(batch)
        batch["timestamp"] += 30 * DAY_MS
        after = model.full_sort_predict(batch)
        batch["timestamp_list"] = batch["timestamp_list"] // 2  # gaps halve
        past = model.full_sort_predict(batch)
    assert torch.equal(before, after) == (mode != "request")
    assert torch.equal(after, past) == (mode == "none")


@pytest.mark.parametrize("softmax", ["sampled", "full"])
def test_a_hundred_users_are_memorised(dataset, softmax):
    model = make(dataset, softmax=softmax, dropout_prob=0.0, n_negatives=64)
    batch = next(iter(SequenceLoader(dataset, 100)))
    assert len(batch) == 100
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.9, 0.98), weight_decay=0.0)
    model.train()
    losses = []
    for _ in range(120):
        optimiser.zero_grad()
        loss = model.calculate_loss(batch)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 3.0
    assert losses[-1] < 0.02, losses[::20]


def test_a_sequence_batch_scores_each_position_as_its_row(dataset):
    """One pass over a user's sequence predicts what the rows, one a target, predict."""
    model = make(dataset, softmax="full").eval()
    sequences = next(iter(SequenceLoader(dataset, len(dataset.rows["train"]), shuffle=False)))
    rows = rows_of(dataset, len(dataset.rows["train"]))
    with torch.inference_mode():
        torch.testing.assert_close(model.calculate_loss(sequences), model.calculate_loss(rows))


def test_the_same_seed_gives_the_same_loss(dataset):
    batch = next(iter(SequenceLoader(dataset, 32)))
    losses = []
    for _ in range(2):
        model = make(dataset)
        model.train()
        losses.append(model.calculate_loss(batch).item())
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_a_compiled_step_gives_the_same_loss_and_gradients(dataset):
    model = make(dataset, compile=True, softmax="full", dropout_prob=0.0)
    step = torch.compile(model.calculate_loss)
    for batch in SequenceLoader(dataset, 30):  # four batches, each of its own lengths
        results = []
        for call in (model.calculate_loss, step):
            model.zero_grad()
            loss = call(batch)
            loss.backward()
            results.append([loss.detach(), *(w.grad.clone() for w in model.parameters())])
        for plain, compiled in zip(*results):
            torch.testing.assert_close(compiled, plain, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("rows_per_draw", [0, 25])
def test_sampled_softmax_equals_the_plain_form(monkeypatch, rows_per_draw):
    monkeypatch.setattr(sampled_softmax, "DENSE_ROWS_PER_DRAW", rows_per_draw)  # gathered, or by the whole table
    monkeypatch.setitem(
        sampled_softmax.GATHER_ELEMENTS, "cpu", 108 if rows_per_draw == 0 else 22
    )  # chunks of two positions
    g = torch.Generator().manual_seed(0)
    users = torch.randn(7, 6, generator=g, dtype=torch.float64, requires_grad=True)
    table = torch.randn(11, 6, generator=g, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 11, (7,), generator=g)
    negatives = torch.randint(0, 11, (7, 8), generator=g)
    negatives[0, 3] = target[0]
    negatives[1, :2] = target[1]
    plain = 0.0
    for p in range(7):
        kept = [j for j in negatives[p].tolist() if j != int(target[p])]
        logits = torch.stack([users[p] @ table[j] for j in [int(target[p]), *kept]])
        plain = plain - logits.log_softmax(0)[0] / 7
    ours = sampled_cross_entropy(users, table, torch.cat([target[:, None], negatives], 1))
    torch.testing.assert_close(ours, plain)
    for a, b in zip(torch.autograd.grad(3 * ours, [users, table]), torch.autograd.grad(3 * plain, [users, table])):
        torch.testing.assert_close(a, b)


def test_step_items_lists_each_once():
    items, row = step_items(100, torch.tensor([[5, 0, 9]]), torch.tensor([9, 2]))
    assert items.tolist() == [2, 5, 9]
    assert row[torch.tensor([2, 5, 9])].tolist() == [0, 1, 2]
    items, row = step_items(5, torch.arange(5).repeat(4))
    assert items is None
    assert row[1:].tolist() == [0, 1, 2, 3]


def test_scores_do_not_depend_on_which_items_a_step_lists(dataset):
    model = make(dataset).eval()
    batch = rows_of(dataset)
    with torch.inference_mode():
        torch.testing.assert_close(
            model.user_vectors(batch), model.user_vectors(batch, model.project_items()), rtol=1e-5, atol=1e-6
        )
        assert (model.item_vectors()[0] == 0).all()
        torch.testing.assert_close(model.item_vectors()[1:], F.normalize(model.id_embedding.weight, dim=1))


# Bad input: one clear line.


def without_times(folder):
    """The build as a tool that knows no times writes it."""
    build = write_build(folder, random_sequences(n_users=12, n_items=10))
    for path in build.glob("*.inter"):
        lines = path.read_text(encoding="utf-8").splitlines()
        path.write_text("\n".join("\t".join(line.split("\t")[:3]) for line in lines) + "\n", encoding="utf-8")
    return BlairDataset(build)


@pytest.mark.parametrize("mode", ["request", "history"])
def test_a_build_without_times_is_refused(tmp_path, mode):
    with pytest.raises(InputError, match=f"tiny carries no times .* time_bias={mode} needs; set time_bias: none"):
        make(without_times(tmp_path), time_bias=mode)


def test_a_build_without_times_trains_without_the_bias(tmp_path):
    data = without_times(tmp_path)
    model = make(data, time_bias="none")
    assert torch.isfinite(model.calculate_loss(next(iter(SequenceLoader(data, 4)))))


def test_a_batch_without_times_is_refused(dataset):
    from recbole.data.interaction import Interaction

    model = make(dataset).eval()
    bare = Interaction({k: v for k, v in rows_of(dataset).interaction.items() if not k.startswith("timestamp")})
    with pytest.raises(InputError, match="time_bias=request needs timestamp_list and timestamp with every history"):
        model.full_sort_predict(bare)


def test_a_history_longer_than_the_model_is_refused(dataset):
    model = make(dataset, MAX_ITEM_LIST_LENGTH=3).eval()
    with pytest.raises(InputError, match=r"a history of \d+ items exceeds MAX_ITEM_LIST_LENGTH=3"):
        model.full_sort_predict(rows_of(dataset))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 10, "n_heads": 4, "d_qk": 0}, "hidden_size=10 is not a multiple of n_heads=4, so d_qk has no"),
        ({"hidden_size": 10, "n_heads": 4, "d_v": 0}, "so d_v has no default; set d_v, or an n_heads that divides"),
        ({"d_v": -1}, "d_v=-1 in .* is out of range; expected int, 0 to 65,536"),
        ({"time_bias": "future"}, "time_bias='future' in .* is not one of request, history, none"),
        ({"train_style": "rows"}, "train_style='rows' in .* is not one of sequence, prefix"),
        ({"padded_length": 0}, "padded_length=0 in .* is out of range"),
        ({"dropout_prob": 1.0}, "dropout_prob=1.0 in .* is out of range; expected float, at least 0, below 1"),
        ({"n_negatives": 0}, "n_negatives=0 in .* is out of range"),
    ],
)
def test_settings_no_model_can_have_are_refused(dataset, settings, message):
    with pytest.raises(InputError, match=message):
        make(dataset, **settings)


def test_widths_default_to_a_heads_share(dataset):
    model = make(dataset, hidden_size=12, n_heads=3, d_qk=0, d_v=0)
    assert model.encoder.layers[0].sizes[:3] == (3, 4, 4)

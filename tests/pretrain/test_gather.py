"""Two processes over gloo give the loss and the gradients of one process with the doubled batch."""

import os
import socket

import pytest
import torch
import torch.multiprocessing as mp

from recbole_blair.ops import all_gather_rows
from recbole_blair.parallel.distributed import (
    all_reduce_gradients,
    exit_together,
    gather_values,
    mean_over_devices,
)
from recbole_blair.pretrain.load import read_vocabulary
from recbole_blair.pretrain.step import Objective, Step
from tests.pretrain.test_step import build_batch, build_model

PAIRS = 8


def part_of(batch, numbers, chunk):
    """Return the batch of some of its pairs."""
    numbers = torch.tensor(numbers)
    texts = torch.cat([numbers, numbers + len(batch["row"])])
    part = {name: batch[name][numbers] for name in ("row", "item_key", "metadata_key", "history_key", "context_key")}
    part |= {"ids": batch["ids"][texts], "lengths": batch["lengths"][texts]}
    part["chunks"] = list(torch.arange(len(texts)).split(chunk or len(texts)))
    return part


def one_step(tokenizer, batch, chunk, symmetric, scale="full"):
    model = build_model(tokenizer, dropout=0.0, dense=True).double().train()
    objective = Objective(symmetric=symmetric, mlm_share=0.3, mask_same_history=True, contrastive_scale=scale)
    losses = Step(model, objective, read_vocabulary(tokenizer, model, True), chunk, seed=1).run(batch, 3)
    all_reduce_gradients(model.parameters(), bucket_bytes=4096)
    return losses, [p.grad for p in model.parameters() if p.requires_grad]


def worker(rank, port, tokenizer, chunk, symmetric, out, scale="full"):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    batch = build_batch(tokenizer, PAIRS, 0)
    half = part_of(batch, list(range(rank * 4, rank * 4 + 4)), chunk)
    losses, grads = one_step(tokenizer, half, chunk, symmetric, scale)
    mean = {name: mean_over_devices(value) for name, value in losses.items()}
    rows = torch.full((2, 3), float(rank))
    assert all_gather_rows(rows).tolist() == [[0.0] * 3] * 2 + [[1.0] * 3] * 2
    assert gather_values(torch.tensor([rank, 7])).tolist() == [0, 7, 1, 7]
    torch.save({"losses": mean, "grads": grads}, f"{out}.{rank}")
    exit_together(0)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def check(tokenizer, tmp_path, chunk, symmetric):
    out = str(tmp_path / "out")
    mp.spawn(worker, (free_port(), tokenizer, chunk, symmetric, out), nprocs=2)
    whole = part_of(build_batch(tokenizer, PAIRS, 0), list(range(PAIRS)), 0)
    losses, grads = one_step(tokenizer, whole, 0, symmetric)
    for rank in range(2):
        found = torch.load(f"{out}.{rank}", weights_only=True)
        for name, value in losses.items():
            assert torch.allclose(found["losses"][name].double(), value.double(), atol=1e-10), name
        assert len(found["grads"]) == len(grads) > 20
        for a, b in zip(found["grads"], grads):
            assert torch.allclose(a, b, rtol=1e-8, atol=1e-11)


def test_two_processes_equal_one_with_the_doubled_batch(tokenizer, tmp_path):
    check(tokenizer, tmp_path, chunk=0, symmetric=False)


@pytest.mark.slow
def test_two_processes_with_gradient_caching_and_both_directions(tokenizer, tmp_path):
    check(tokenizer, tmp_path, chunk=3, symmetric=True)


def released_gradients(tokenizer, n_devices):
    """The released code's: every device's gather keeps the gradients of its own rows, the gradients are averaged.

    Of the contrastive loss alone; each device takes the loss over all pairs.
    """
    batch = build_batch(tokenizer, PAIRS, 0)
    model = build_model(tokenizer, dropout=0.0, dense=True).double().train()
    parameters, average = [p for p in model.parameters() if p.requires_grad], None
    for device in range(n_devices):
        vectors = torch.nn.functional.normalize(model.embed(batch["ids"], batch["lengths"]), dim=1)
        sides = []
        for side in vectors.split(PAIRS):  # contexts, metadata: (8, D) each
            parts = [part if n == device else part.detach() for n, part in enumerate(side.split(PAIRS // n_devices))]
            sides.append(torch.cat(parts))
        logits = sides[0] @ sides[1].T / 0.05
        for name in ("item_key", "metadata_key", "history_key", "context_key"):
            same = (batch[name][:, None] == batch[name]) & ~torch.eye(PAIRS, dtype=torch.bool)
            logits = logits.masked_fill(same, float("-inf"))
        loss = -logits.log_softmax(1).diagonal().mean()
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        grads = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads)]
        average = grads if average is None else [a + g for a, g in zip(average, grads)]
    return [a / n_devices for a in average]


def own_gradients(tokenizer):
    """Of the hidden tokens' loss alone, over the whole batch."""
    whole = part_of(build_batch(tokenizer, PAIRS, 0), list(range(PAIRS)), 0)
    model = build_model(tokenizer, dropout=0.0, dense=True).double().train()
    objective = Objective(contrastive=False, mlm_share=0.3)
    Step(model, objective, read_vocabulary(tokenizer, model, True), seed=1).run(whole, 3)
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize("chunk", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_the_released_scale_gives_the_released_gather_s_gradients(tokenizer, tmp_path, chunk):
    """Two devices: half of the whole batch's contrastive gradient beside lambda = .1 of the other: effectively .2."""
    out = str(tmp_path / "out")
    mp.spawn(worker, (free_port(), tokenizer, chunk, False, out, "released"), nprocs=2)
    contrastive, own = released_gradients(tokenizer, 2), own_gradients(tokenizer)
    whole = released_gradients(tokenizer, 1)
    for half, full in zip(contrastive, whole):
        assert torch.allclose(half, full / 2, rtol=1e-9, atol=1e-12)
    found = torch.load(f"{out}.0", weights_only=True)["grads"]
    assert len(found) == len(own) > 20
    for got, c, m in zip(found, contrastive, own):
        assert torch.allclose(got, c + 0.1 * m, rtol=1e-8, atol=1e-11)


def test_one_process_gathers_itself():
    rows = torch.randn(2, 3, requires_grad=True)
    assert all_gather_rows(rows) is rows and float(mean_over_devices(torch.tensor(4.0))) == 4.0

"""On a GPU: the same losses, gradients, ranks and vectors as on the CPU, whole runs, and exact resume.

python -m pytest -n 0 -m gpu tests/test_gpu.py
"""

import contextlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent / "bench")]

from builds import random_sequences, write_build, write_features

from recbole_blair.losses import full_softmax_loss
from recbole_blair.model.layers import HistoryEncoder
from recbole_blair.ops import DotScores, rank_targets, softmax
from recbole_blair.quick_start import run
from recbole_blair.tracking.callback import Callback

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible"),
]
GPU = torch.device("cuda")
KEYS = {
    "epochs": 3, "train_batch_size": 8, "device": "cuda", "show_progress": False, "plm": "someone/test-encoder",
    "hidden_size": 16, "learning_rate": 0.003, "stopping_step": 20,
}  # fmt: skip


def unit(n, width, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, width, generator=g, dtype=torch.double), dim=1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("at_once", [1 << 28, 5000])
def test_bounded_softmax_equals_float64(dtype, tolerance, at_once, monkeypatch):
    monkeypatch.setattr(softmax, "LOGITS_AT_A_TIME", {"cuda": at_once})  # all users at once, or a few
    users, items, target = unit(70, 30) / 0.07, unit(1003, 30, 1), torch.arange(70) * 9
    exact = [x.clone().requires_grad_() for x in (users, items)]
    wanted = torch.nn.functional.cross_entropy(exact[0] @ exact[1].T, target)
    wanted.backward()
    ours = [x.to(GPU, dtype).requires_grad_() for x in (users, items)]
    got = full_softmax_loss(*ours, target.to(GPU), bound=1 / 0.07)
    got.backward()
    assert abs(got.item() - wanted.item()) < tolerance * wanted.item()
    for a, b in zip(ours, exact):
        assert (a.grad.double().cpu() - b.grad).norm() < tolerance * b.grad.norm()


@pytest.mark.parametrize("bound", [None, 20.0])
def test_softmax_of_any_bound(bound):
    users, items, target = unit(70, 32) / 0.05, unit(500, 32, 1), torch.arange(70)
    wanted = torch.nn.functional.cross_entropy(users @ items.T, target)
    got = full_softmax_loss(users.float().to(GPU), items.float().to(GPU), target.to(GPU), bound=bound)
    assert abs(got.item() - wanted.item()) < 1e-5 * wanted.item()


def test_history_encoder_equals_the_cpu():
    torch.manual_seed(0)
    encoder = HistoryEncoder(50, 2, 2, 16, 32, 0.0, 0.0, "gelu", 1e-12, 0.1)
    length = torch.randint(1, 51, (60,))
    row = torch.randint(0, 200, (60, 50))
    vectors = torch.randn(200, 16)
    cpu = encoder(vectors, row, length)
    states, place = encoder.every_position(vectors, row, length)
    wanted = torch.zeros(60 * 50, 16).index_copy_(0, place, states)
    encoder.to(GPU)
    given = [x.to(GPU) for x in (vectors, row, length)]
    torch.testing.assert_close(encoder(*given).cpu(), cpu, rtol=1e-4, atol=1e-5)
    states, place = encoder.every_position(*given)
    got = torch.zeros(60 * 50, 16, device=GPU).index_copy_(0, place, states)
    torch.testing.assert_close(got.cpu(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("coarse", [False, True])
def test_ranks_equal_a_full_sort(coarse):
    users, table, target = unit(80, 30).float(), unit(1501, 30, 1).float(), torch.arange(1, 81)
    if coarse:
        users, table = users.bfloat16().float(), table.bfloat16().float()
    exact = users.double() @ table.double().T
    own = exact.gather(1, target[:, None])
    near = ((exact[:, 1:] - own).abs() < 1e-6).sum(1) > 1
    wanted = (exact[:, 1:] > own).sum(1) + 1.0
    scorer = DotScores(table.to(GPU), coarse)
    scores = scorer.scores_against(users.to(GPU), target.to(GPU))
    assert scores.shape == (80, 1501)
    ranks = torch.from_numpy(rank_targets(scores, target.to(GPU)))
    assert not near.all() and torch.equal(ranks[~near], wanted[~near])
    torch.testing.assert_close(scorer.scores(users.to(GPU)).cpu(), exact.float(), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    folder = write_build(tmp_path_factory.mktemp("data"), random_sequences(n_users=60, n_items=30))
    write_features(folder)
    return str(folder.parent)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", ["UniSRecBlair", "SASRecText", "SASRecID", "HSTU", "HSTUBlair"])
def test_a_run_learns(model, precision, data_path, tmp_path):
    keys = {**KEYS, "precision": precision, "epochs": 8, "data_path": data_path, "output_dir": str(tmp_path / "run")}
    metrics = run(model, "tiny", **{"n_heads": 2, **keys})
    assert metrics["device"].startswith("cuda") and metrics["peak_memory_mb"] > 0
    assert metrics["best_valid"]["ndcg@10"] > 0.3  # 30 items on a ring; by chance .15


def test_fp32_follows_the_cpu(data_path, tmp_path):
    """Without dropout and noise nothing is random but the start, which is drawn on the CPU."""
    quiet = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "adaptor_dropout_prob": 0.0, "noisy_gating": False}
    found = {}
    for device in ("cpu", "cuda"):
        losses_of = []
        keys = {**KEYS, **quiet, "precision": "fp32", "data_path": data_path, "device": device}
        run(
            "UniSRecBlair", "tiny", output_dir=str(tmp_path / device), inner_size=32,
            callbacks=[Callback(on_epoch_end=lambda _, metrics, kept=losses_of: kept.append(metrics["loss"]))], **keys,
        )  # fmt: skip
        found[device] = losses_of
    np.testing.assert_allclose(found["cuda"], found["cpu"], rtol=1e-4)


def test_resume_goes_on_with_the_same_draws(data_path, tmp_path, monkeypatch):
    from recbole_blair.train.trainer import BlairTrainer

    keys = {**KEYS, "precision": "fp32", "data_path": data_path, "epochs": 4}
    whole = run("SASRecText", "tiny", output_dir=str(tmp_path / "whole"), **keys)
    save = BlairTrainer.save

    def stop_after_two(trainer):
        save(trainer)
        if trainer.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(BlairTrainer, "save", stop_after_two)
        run("SASRecText", "tiny", output_dir=str(tmp_path / "stopped"), **keys)
    stopped = run("SASRecText", "tiny", output_dir=str(tmp_path / "stopped"), **keys)
    assert stopped["best_valid"] == pytest.approx(whole["best_valid"], abs=1e-3)
    assert stopped["test"] == pytest.approx(whole["test"], abs=1e-3)


def test_hstu_step_equals_the_padded_form():
    import bench_hstu

    loss_gap, grad_gap = bench_hstu.agreement("cuda")
    assert loss_gap < 1e-5 and grad_gap < 1e-4


def test_unisrec_step_equals_the_released_form():
    import bench_training_step

    loss_gap, grad_gap = bench_training_step.agreement("cuda")
    assert loss_gap < 1e-5 and grad_gap < 1e-4


def test_evaluation_equals_a_full_sort():
    import bench_evaluation

    wrong, gap = bench_evaluation.agreement("cuda", True)
    assert wrong == 0.0 and gap < 0.005


def test_encoding_equals_the_cpu(tmp_path):
    from transformers import BertConfig, BertModel

    from recbole_blair.pretrain.load import train_tokenizer
    from recbole_blair.text.encoders import load_encoder
    from tests.pretrain.conftest import sentences

    texts = [" ".join(sentences(i % 7 + 1)) for i in range(60)]
    tokenizer = train_tokenizer(texts, 300, 64)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    BertModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    cpu = load_encoder(str(tmp_path), device="cpu", precision="fp32").encode(texts, progress=False)
    for precision, least in (("fp32", 0.999999), ("bf16", 0.999), ("fp16", 0.9999)):
        ours = load_encoder(str(tmp_path), device="cuda", precision=precision).encode(texts, progress=False)
        cosine = (ours * cpu).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(cpu, axis=1)
        assert cosine.min() > least


@pytest.mark.parametrize("cache_chunk", [0, 6])
def test_pretraining_runs(tmp_path, cache_chunk):
    from transformers import AutoModelForMaskedLM

    from recbole_blair.cli.main import main
    from recbole_blair.pretrain.load import train_tokenizer
    from tests.pretrain.conftest import pair_rows, tiny_config

    rows = pair_rows(60)
    tokenizer = train_tokenizer([row[side] for row in rows for side in ("context", "metadata")], 300, 64)
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(tiny_config(tokenizer)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["pretrain", f"--pairs={tmp_path / 'pairs.jsonl'}", f"--plm={tmp_path / 'base'}", "--holdout=0.2"]
    command += ["--epochs=6", "--learning_rate=1e-2", "--per_device_batch=12", "--device=cuda", "--show_progress=False"]
    command += ["--logging_steps=4"]
    assert main([*command, f"--output_dir={tmp_path / 'out'}", f"--cache_chunk={cache_chunk}"]) == 0
    metrics = json.loads((tmp_path / "out" / "pretraining" / "metrics.json").read_text())
    assert metrics["device"].startswith("cuda") and metrics["precision"] == "bf16"
    assert metrics["peak_memory"]["device_mb"] > 0
    lines = [json.loads(x) for x in (tmp_path / "out" / "pretraining" / "log.txt").read_text().splitlines()]
    losses_of = [line["contrastive"] for line in lines if "contrastive" in line]
    assert losses_of[-1] < losses_of[0]

"""Whole runs through the command line: exact resume after a kill, export, wrong use."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from recbole_blair.cli.compare import compare
from recbole_blair.cli.main import main
from recbole_blair.errors import InputError
from recbole_blair.figures import fraction
from recbole_blair.files.checksum import write_checksums
from recbole_blair.pretrain.trainer import WHOLE, PairTrainer, last_whole_checkpoint
from tests.pretrain.conftest import THINGS, WORDS, pair_rows, sentences, tiny_config

FAST = ["--device=cpu", "--precision=fp32", "--show_progress=False", "--per_device_batch=8", "--max_length=24"]


def arguments(pairs_file, encoder_folder, out, *more):
    return ["pretrain", f"--pairs={pairs_file}", f"--plm={encoder_folder}", f"--output_dir={out}", *FAST, *more]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, encoder_folder):
    """A finished run of both objectives, and its metrics."""
    folder = tmp_path_factory.mktemp("run")
    pairs = folder / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in pair_rows(60, 30)))
    out = folder / "tiny-blair"
    more = ("--holdout=0.2", "--epochs=3", "--learning_rate=5e-3", "--dense_head=True")
    assert main(arguments(pairs, encoder_folder, out, *more)) == 0
    return (
        out,
        json.loads((out / "pretraining" / "metrics.json").read_text()),
        arguments(pairs, encoder_folder, out, *more),
    )


def test_training_learns_which_words_go_together(tmp_path, tokenizer):
    """Reviews and items share no telling word: chance is all that an untrained encoder has."""
    from transformers import AutoModelForMaskedLM

    torch.manual_seed(0)
    config = tiny_config(tokenizer, dropout=0.0, initializer_range=0.1)
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    rows = [
        {
            "context": f"I use this {THINGS[i % 12]} every day, parts number {i}",
            "metadata": f"a {WORDS[i % 12]} and {WORDS[i % 12]} one with parts",
            "item_id": f"B{i % 12}",
            "timestamp": 1_600_000_000_000 + i,
        }
        for i in range(240)
    ]
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "out"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = ("--holdout=0.2", "--epochs=6", "--learning_rate=1e-2", "--pooling=mean")
    assert main(arguments(pairs, tmp_path / "base", out, *more)) == 0
    metrics = json.loads((out / "pretraining" / "metrics.json").read_text())
    assert metrics["before"]["ndcg@10"] < 0.6 and metrics["after"]["ndcg@10"] > 0.9
    losses = [line["contrastive"] for line in log_lines(out) if "loss" in line]
    assert losses[-1] < 0.5 * losses[0]


def log_lines(out):
    return [json.loads(line) for line in (out / "pretraining" / "log.txt").read_text().splitlines()]


def test_the_log_and_the_metrics_of_a_run(trained):
    out, metrics, _ = trained
    lines = log_lines(out)
    assert all("contrastive" in line and "mlm" in line for line in lines if "loss" in line)
    assert metrics["data"]["train"] + metrics["data"]["held_out"] == 60 and metrics["pairs_per_second"] > 0
    assert list((out / "pretraining" / "tensorboard").iterdir())
    assert not (out / "pretraining" / "checkpoint").exists()


def test_the_tokenizer_keeps_no_cut_of_the_training(trained):
    tokenizer = json.loads((trained[0] / "tokenizer.json").read_text())
    assert tokenizer["truncation"] is None and tokenizer["padding"] is None


def test_a_finished_run_removes_what_a_kill_left_of_its_checkpoints(trained):
    out, metrics, argv = trained
    for name in ("checkpoint", "tables"):
        (out / "pretraining" / name).mkdir()
    assert main(argv) == 0
    assert not {"checkpoint", "tables"} & {path.name for path in (out / "pretraining").iterdir()}
    assert json.loads((out / "pretraining" / "metrics.json").read_text()) == metrics


def test_both_libraries_and_our_encoder_give_the_same_vectors(trained):
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel, AutoTokenizer

    from recbole_blair.text.encoders import load_encoder

    out, _, _ = trained
    texts = sentences(5)
    tokenizer, model = AutoTokenizer.from_pretrained(out), AutoModel.from_pretrained(out).eval()
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        plain = model(**inputs).last_hidden_state[:, 0].numpy()
    sentence = SentenceTransformer(str(out), device="cpu").encode(texts)
    ours = load_encoder(str(out), device="cpu", precision="fp32")
    assert ours.pooling == "cls"
    np.testing.assert_allclose(sentence, plain, atol=1e-5)
    np.testing.assert_allclose(ours.encode(texts, progress=False), plain, atol=1e-5)
    assert np.abs(np.linalg.norm(plain, axis=1) - 1).max() > 0.1  # raw, not normalised


def test_model_card_and_settings(trained):
    out, metrics, _ = trained
    card = (out / "README.md").read_text()
    for wanted in (
        "license: other",
        "objective: contrastive+mlm",
        metrics["data"]["sha256"],
        "pool the last hidden state: cls",
    ):
        assert wanted in card
    assert fraction(metrics["after"]["ndcg@10"]) in card
    assert str(out.parent) not in card


def test_the_trained_head_serves_a_later_stage(trained):
    from recbole_blair.pretrain.load import load_pair_encoder

    out, _, _ = trained
    model, _, fresh = load_pair_encoder(out, mlm=True)
    assert fresh == []
    given = load_file(out / "pretraining" / "heads.safetensors")
    state = model.state_dict()
    assert given and all(torch.equal(state[name], value) for name, value in given.items())
    assert model.pooling == "cls"


def test_a_finished_run_is_not_repeated_and_another_is_refused(trained, capsys):
    out, _, command = trained
    before = (out / "model.safetensors").stat().st_mtime_ns
    assert main(command) == 0
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    capsys.readouterr()
    assert main([*command, "--temperature=0.1"]) == 2
    error = capsys.readouterr().err
    assert "temperature 0.05 -> 0.1" in error and error.count("\n") == 1


def start(command):
    code = "import sys; from recbole_blair.cli.main import main; sys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # other sums have other last bits
    return subprocess.Popen([sys.executable, "-c", code, *command], env=environment, stderr=subprocess.DEVNULL)


def wait_for(condition, process, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end, "the run ended or hung before the kill"
        time.sleep(0.01)


@pytest.mark.slow
def test_resume_after_a_kill_is_bit_equal(tmp_path, encoder_folder):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in pair_rows(400, 200)))
    more = ("--epochs=2", "--save_steps=5", "--eval_steps=20", "--holdout=0.1", "--cache_chunk=6", "--logging_steps=5")
    whole, killed = tmp_path / "a", tmp_path / "b"
    process = start(arguments(pairs, encoder_folder, killed, *more))
    checkpoint = killed / "pretraining" / "checkpoint"
    wait_for(lambda: (checkpoint / "checkpoint-15" / "whole.json").is_file(), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "model.safetensors").exists()
    (checkpoint / "checkpoint-9999").mkdir()  # an interrupted save is not taken
    assert main(arguments(pairs, encoder_folder, killed, *more)) == 0
    assert main(arguments(pairs, encoder_folder, whole, *more)) == 0
    for name in ("model.safetensors", "pretraining/heads.safetensors"):
        a, b = load_file(whole / name), load_file(killed / name)
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a), name
    one, two = (json.loads((f / "pretraining" / "metrics.json").read_text()) for f in (whole, killed))
    assert two["resumed_at"] >= 15 and one["resumed_at"] == 0
    assert one["after"] == two["after"] and one["before"] == two["before"] and one["steps"] == two["steps"]


def test_a_stop_before_the_export_loses_nothing(tmp_path, pairs_file, encoder_folder, monkeypatch):
    from recbole_blair.pretrain import export

    whole, stopped = tmp_path / "a", tmp_path / "b"
    assert main(arguments(pairs_file, encoder_folder, whole, "--holdout=0.2")) == 0
    with monkeypatch.context() as patch:
        patch.setattr(export, "export_encoder", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(arguments(pairs_file, encoder_folder, stopped, "--holdout=0.2")) == 130
    assert main(arguments(pairs_file, encoder_folder, stopped, "--holdout=0.2")) == 0
    a, b = load_file(whole / "model.safetensors"), load_file(stopped / "model.safetensors")
    assert all(torch.equal(a[name], b[name]) for name in a)
    one, two = (json.loads((f / "pretraining" / "metrics.json").read_text()) for f in (whole, stopped))
    assert one["after"] == two["after"]


def test_the_error_of_a_training_stands_on_a_line_of_its_own(tmp_path, pairs_file, encoder_folder, monkeypatch, capfd):
    def full(*_):
        raise InputError("cannot write x")

    monkeypatch.setattr(PairTrainer, "_save_checkpoint", full)
    argv = arguments(pairs_file, encoder_folder, tmp_path / "out", "--holdout=0.2")
    assert main([word for word in argv if "progress" not in word]) == 2
    shown = capfd.readouterr().err
    assert "it/s]" in shown and shown.endswith("\nerror: cannot write x\n")


@pytest.mark.slow
def test_two_processes_under_torchrun(tmp_path, pairs_file, encoder_folder):
    """Both processes train, one writes; the result is whole and both agree on the gradients by construction."""
    command = arguments(pairs_file, encoder_folder, tmp_path / "out", "--holdout=0.2", "--cache_chunk=4")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone"]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [*launch, "-m", "recbole_blair", *command], env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads((tmp_path / "out" / "pretraining" / "metrics.json").read_text())
    assert metrics["processes"] == 2 and metrics["steps"] == -(-metrics["data"]["train"] // 16)
    assert done.stdout.count("held-out contexts") == 1
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_from_scratch_starts_with_a_tokenizer_of_its_own(tmp_path, pairs_file, tokenizer):
    from transformers import AutoModel, AutoTokenizer

    tiny_config(tokenizer).save_pretrained(tmp_path / "config")
    out = tmp_path / "scratch"
    command = ["pretrain", f"--pairs={pairs_file}", f"--scratch={tmp_path / 'config'}", f"--output_dir={out}", *FAST]
    assert main([*command, "--vocab_size=200", "--objective=mlm", "--holdout=0.2"]) == 0
    found = AutoTokenizer.from_pretrained(out)
    assert 50 < len(found) <= 200 and found.tokenize("a red kettle") == ["a", "red", "kettle"]
    assert AutoModel.from_pretrained(out).config.vocab_size == len(found)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--temprature=1"], "Did you mean 'temperature'"),
        (["--objective=contrast"], "is not one of contrastive\\+mlm, contrastive, mlm"),
        (["--per_device_batch=1"], "a batch of one pair has no negatives"),
        (["--holdout=2"], "--holdout=2 is neither 'time' nor a share"),
        (["--min_chars=5000"], "no pairs left to train on"),
        (["--dataset=Games"], "give either --pairs=FILE or --dataset=NAME"),
        (["--plm=tfidf-svd"], "has no weights to train"),
        (["--temperature=warm"], "temperature='warm' in the command line is a str; expected float"),
        (["extra"], "unexpected argument 'extra'"),
    ],
)
def test_wrong_use_is_one_line(tmp_path, pairs_file, encoder_folder, capsys, more, message):
    command = arguments(pairs_file, encoder_folder, tmp_path / "out")
    names = {word.split("=")[0] for word in more}
    assert main([word for word in command if word.split("=")[0] not in names] + more) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    import re

    assert re.search(message, error)


def test_mlm_without_a_mask_token_is_refused(tmp_path, pairs_file, encoder_folder, capsys):
    import shutil

    folder = tmp_path / "nomask"
    shutil.copytree(encoder_folder, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["mask_token"] = None
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert main(arguments(pairs_file, folder, tmp_path / "out")) == 2
    assert "has no mask token, which mlm needs" in capsys.readouterr().err


DEFAULTS = {
    "revision": None, "pooling": None, "max_length": 512, "cache_dir": None, "plm_prompt": None,
    "plm_query_prompt": None, "plm_dimensions": None, "plm_normalise": None,
}  # fmt: skip


def test_compare_prints_a_cosine_an_item(trained, capsys):
    out, _, _ = trained
    texts = sentences(2)
    assert main(["compare", texts[0], texts[0], texts[1], f"--plm={out}", "--device=cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert float(lines[0].split()[0]) == pytest.approx(1.0, abs=1e-4) and lines[1].endswith(texts[1])
    found = compare(Namespace(query=texts[0], items=texts, plm=str(out), device="cpu", precision="fp32", **DEFAULTS))
    assert found[1] < found[0] - 1e-6
    assert main(["compare", "query", " ", f"--plm={out}"]) == 2
    assert "item 1 is empty" in capsys.readouterr().err


def test_without_its_extra_pretrain_names_it(tmp_path, pairs_file, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert main(["pretrain", f"--pairs={pairs_file}", f"--output_dir={tmp_path / 'out'}"]) == 2
    line = capsys.readouterr().err
    assert "pretrain needs accelerate, not installed for" in line and "'recbole-blair[pretrain]'" in line
    assert line.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json", "1_Pooling/config.json"])
def test_a_flipped_bit_in_an_exported_encoder_is_named(trained, tmp_path, capsys, file):
    folder = shutil.copytree(trained[0], tmp_path / "encoder")
    assert (folder / "checksums.json").is_file()
    argv = ["compare", "a query", "an item", f"--plm={folder}", "--device=cpu"]
    (folder / "README.md").write_text("who adds to the card damages nothing")
    shutil.rmtree(folder / "pretraining")  # vectors need no heads
    assert main(argv) == 0
    data = bytearray((folder / file).read_bytes())
    data[-3] ^= 1
    (folder / file).write_bytes(data)
    capsys.readouterr()
    assert main(argv) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert f"{file} is damaged" in error or Path(file).name in error
    if file == "model.safetensors":
        assert f"{folder / file} is damaged: its SHA-256" in error and "delete its checksums.json" in error


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt"])
def test_a_damaged_checkpoint_is_not_gone_on_from(tmp_path, file):
    folder = tmp_path / "checkpoint-7"
    folder.mkdir()
    for name in ("model.safetensors", "optimizer.pt"):
        (folder / name).write_bytes(name.encode())
    write_checksums(folder, ["model.safetensors", "optimizer.pt"])
    (folder / WHOLE).write_text('{"step": 7, "world_size": 1}')
    assert last_whole_checkpoint(tmp_path, 1) == folder
    (folder / file).write_bytes(b"other")
    with pytest.raises(InputError, match=rf"{file} is damaged: .*delete .*checkpoint-7 to train from the beginning"):
        last_whole_checkpoint(tmp_path, 1)
    (folder / file).unlink()
    with pytest.raises(InputError, match=rf"{file} cannot be read"):
        last_whole_checkpoint(tmp_path, 1)

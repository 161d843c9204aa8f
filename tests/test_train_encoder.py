"""Whole runs that train their text encoder: resume, export, new items, what is refused, and what is never seen."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path[:0] = [str(Path(__file__).resolve().parent / room) for room in ("", "text", "recommend")]

from builds import VALID_MS, random_sequences, write_build
from recommend_runs import item_words
from tiny_encoders import write_tiny_encoder

import recbole_blair
from recbole_blair.cli.main import main
from recbole_blair.errors import InputError
from recbole_blair.model.softmax import Softmax
from recbole_blair.quick_start import run
from recbole_blair.runs.evaluate_run import evaluate_run
from recbole_blair.runs.open_run import open_run
from recbole_blair.text.encoders import load_encoder
from recbole_blair.text.trained.item_texts import TrainedTexts
from recbole_blair.train import checkpoint
from recbole_blair.train.trainer import BlairTrainer
from tests.test_resume import assert_same_run

KEYS = {
    "epochs": 3, "train_batch_size": 8, "device": "cpu", "precision": "fp32", "show_progress": False, "threads": 1,
    "hidden_size": 16, "inner_size": 32, "softmax": "sampled", "n_negatives": 8, "learning_rate": 0.003,
    "encoder_learning_rate": 0.001, "encoder_warmup_steps": 1, "encoder_batch_tokens": 64, "clip_grad_norm": 1.0,
}  # fmt: skip
OF_MODEL = {
    "UniSRecBlair": {"n_exps": 2}, "SASRecText": {"adaptor_hidden_sizes": [24]},
    "HSTUBlair": {"n_heads": 2, "negatives_of": "step"},
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The keys of a build of 30 items, those from i025 on in validation and test alone, and of a tiny encoder."""
    root = tmp_path_factory.mktemp("world")
    plm = write_tiny_encoder(root / "tiny", pooling="mean")
    events = random_sequences(n_users=24, n_items=25)
    events = {
        user: [(item if time < VALID_MS else f"i{25 + n % 5:03d}", time) for n, (item, time) in enumerate(rows)]
        for user, rows in events.items()
    }
    texts = {f"i{n:03d}": f"{item_words(n)} {'q' if n >= 25 else ''}." for n in range(30)}
    build = write_build(root / "data", events, texts=texts)
    return {"plm": str(plm), "data_path": str(build.parent)}


def train(world, folder, model="SASRecText", **changes):
    keys = {k: v for k, v in {**KEYS, **OF_MODEL[model]}.items() if model != "HSTUBlair" or k != "inner_size"}
    return run(model, "tiny", **{**keys, **world, "output_dir": str(folder), **changes})


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """A finished run of last:1, and its metrics."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    return folder, train(world, folder, train_encoder="last:1")


@pytest.mark.parametrize(("model", "training"), [("UniSRecBlair", "last:1"), ("HSTUBlair", "full"),
                                                 ("SASRecText", "lora:2")])  # fmt: skip
def test_a_run_trains_its_encoder_and_evaluates_to_the_same_figures_again(world, tmp_path, model, training):
    metrics = train(world, tmp_path / "run", model, train_encoder=training)
    assert metrics["encoder"].startswith("encoder-") and metrics["base_encoder"].startswith("tiny-")
    assert evaluate_run(tmp_path / "run", device="cpu")[0] == metrics["test"]
    features = open_run(tmp_path / "run").model.item_texts.features
    exported = load_encoder(tmp_path / "run" / "encoder", device="cpu", precision="fp32")
    _, texts = read_texts(world)
    np.testing.assert_allclose(features.numpy(), exported.encode(texts, progress=False), rtol=1e-4, atol=1e-5)
    before = load_encoder(world["plm"], device="cpu", precision="fp32").encode(texts, progress=False)
    assert np.abs(before - features.numpy()).max() > 1e-3, "the encoder did not learn"


def read_texts(world):
    from recbole_blair.text.features import read_item_texts

    return read_item_texts(Path(world["data_path"]) / "tiny")


def test_the_folder_loads_in_transformers_and_sentence_transformers(trained, world, tmp_path):
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel

    out = tmp_path / "encoder"
    assert main(["export-encoder", f"--checkpoint={trained[0]}", f"--output_dir={out}"]) == 0
    _, texts = read_texts(world)
    features = open_run(trained[0]).model.item_texts.features.numpy()
    theirs = SentenceTransformer(str(out), device="cpu").encode(texts)
    np.testing.assert_allclose(theirs, features, rtol=1e-4, atol=1e-5)
    assert AutoModel.from_pretrained(out).config.num_hidden_layers == 2


def test_new_items_are_encoded_by_the_runs_own_encoder(trained, world, tmp_path):
    """An item of the catalogue, given again under another id, gets the catalogue's vector."""
    shutil.copytree(trained[0], tmp_path / "run")
    loaded = recbole_blair.load(str(tmp_path / "run"), device="cpu")
    _, texts = read_texts(world)
    loaded.add_items([{"item_id": "new", "title": texts[3].removesuffix(".").strip()}])
    features = loaded.scorer.model.item_texts.features
    torch.testing.assert_close(features[-1], features[3], rtol=1e-4, atol=1e-5)


def test_a_scale_is_fitted_once_and_kept(world, tmp_path):
    train(world, tmp_path / "run", train_encoder="last:1", feature_transform="rms")
    opened = open_run(tmp_path / "run")
    exported = load_encoder(tmp_path / "run" / "encoder", device="cpu", precision="fp32")
    raw = exported.encode(read_texts(world)[1], progress=False)
    assert opened.text_scale != 1.0
    features = opened.model.item_texts.features.numpy()
    np.testing.assert_allclose(features, raw * opened.text_scale, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("training", "keys"),
    [("last:1", {}), pytest.param("lora:2", {}, marks=pytest.mark.slow),
     pytest.param("full", {}, marks=pytest.mark.slow), ("last:1", {"encoder_texts_per_step": 4}),
     ("last:1", {"encoder_texts_per_step": 4, "encoder_frozen_epochs": 1}),
     pytest.param("last:1", {"encoder_texts_per_step": 4, "eval_step": 2}, marks=pytest.mark.slow)],
)  # fmt: skip
def test_killed_and_resumed_it_ends_with_the_same_bits(world, tmp_path, monkeypatch, training, keys):
    train(world, tmp_path / "unbroken", train_encoder=training, **keys)
    real, calls = checkpoint.save_epoch, []

    def dies(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_epoch", dies)
        with pytest.raises(KeyboardInterrupt):
            train(world, tmp_path / "run", train_encoder=training, **keys)
    torch.rand(7)
    train(world, tmp_path / "run", train_encoder=training, **keys)
    assert_same_run(tmp_path / "run", tmp_path / "unbroken")
    weights = [(tmp_path / name / "encoder" / "model.safetensors").read_bytes() for name in ("run", "unbroken")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("per_step", [None, 6])
@pytest.mark.parametrize("model", list(OF_MODEL))
def test_texts_of_validation_and_test_never_enter_a_step(world, tmp_path, monkeypatch, model, per_step):
    """Items i025 and up, whose texts hold a marker, are no history, target or negative of training: see every batch."""
    seen = []
    encode = TrainedTexts.encode_chunk

    def watched(self, rows):
        if self.network.training:  # not for the table of all items
            seen.extend(rows)
        return encode(self, rows)

    monkeypatch.setattr(TrainedTexts, "encode_chunk", watched)
    train(world, tmp_path / "run", model, train_encoder="last:1", epochs=2, encoder_texts_per_step=per_step)
    texts = read_texts(world)[1]
    assert len(seen) > 10 and not any("q" in texts[row].split() for row in seen)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plm": "tfidf-svd"}, "=last:1 trains the weights of a text encoder, but plm=tfidf-svd is no neural encoder;"),
        ({"plm": "openai:text-embedding-3-small"}, "plm=openai:text-embedding-3-small is a model behind an API"),
        ({"plm": "vectors:{file}"}, "is ready vectors; give a hub id or a folder, or train_encoder=none"),
        ({"softmax": "full"}, "=full would encode the text of every item in every step; set softmax: sampled"),
        ({"feature_transform": "whiten:4"}, "transform=whiten:4 is fitted on; set feature_transform to none or rms"),
        ({"compile": True}, "with compile=True does not work"),
        ({"train_encoder": "last:9"}, "train_encoder=last:9, but the encoder has 2 layers; give last:2 or less"),
        ({"train_encoder": "top:2"}, "train_encoder='top:2' in the command line is not one of none, last:K"),
        ({"train_encoder": "last:0"}, "train_encoder='last:0'"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_one_line(world, tmp_path, changes, message):
    np.save(tmp_path / "vectors.npy", np.zeros((30, 4), np.float32))
    changes = {k: v.format(file=tmp_path / "vectors.npy") if isinstance(v, str) else v for k, v in changes.items()}
    with pytest.raises(InputError) as error:
        train(world, tmp_path / "run", **{"train_encoder": "last:1", **changes})
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_other_models_do_not_train_an_encoder(world, tmp_path):
    for model in ("SASRec", "LRURecText"):
        with pytest.raises(InputError, match=f"train_encoder=full is of UniSRecBlair, .*; {model} does not"):
            run(model, "tiny", **world, train_encoder="full", device="cpu", output_dir=str(tmp_path / "run"))
    with pytest.raises(InputError, match="with negatives_of=position would encode other negatives"):
        train(world, tmp_path / "run", "HSTUBlair", train_encoder="full", negatives_of="position")


@pytest.mark.parametrize(("negatives_from", "drawn"), [("all", True), ("train", False)])
def test_a_frozen_run_draws_from_the_same_items_when_asked_to(world, tmp_path, monkeypatch, negatives_from, drawn):
    """Items i025 and up are in no training row."""
    seen, draw = [], Softmax.draw
    monkeypatch.setattr(Softmax, "draw", lambda self, target: seen.append(draw(self, target)) or seen[-1])
    train(world, tmp_path / "run", epochs=2, n_negatives=64, negatives_from=negatives_from)
    tokens = set(open_run(tmp_path / "run").dataset.id2token("item_id", torch.cat(seen).unique().numpy()))
    assert bool(tokens & {f"i{n:03d}" for n in range(25, 30)}) == drawn and "i003" in tokens


def test_a_warm_up_as_long_as_the_training_is_refused(world, tmp_path):
    with pytest.raises(InputError, match=r"^encoder_warmup_steps=999 is no less than the \d+ steps of 3 epochs; lower"):
        train(world, tmp_path / "run", train_encoder="last:1", encoder_warmup_steps=999)


@pytest.mark.parametrize("per_step", [None, 6])
def test_the_encoder_stays_as_it_is_in_its_frozen_epochs(world, tmp_path, monkeypatch, per_step):
    """Three epochs, two of them frozen: the encoder's rate rises from the first step of the third."""
    seen, step = [], BlairTrainer.train_step

    def watched(self, *batch):
        loss = step(self, *batch)
        weights = torch.cat([p.detach().flatten() for p in self.texts.trained_parameters()]).double().sum().item()
        seen.append((self.epoch, weights, self.optimiser.param_groups[1]["lr"], self.texts.n_encoded))
        return loss

    monkeypatch.setattr(BlairTrainer, "train_step", watched)
    keys = {"encoder_frozen_epochs": 2, "encoder_warmup_steps": 2, "encoder_texts_per_step": per_step}
    keys |= {"encoder_learning_rate": 2e-5, "learner": "adamw", "weight_decay": 0.1}
    train(world, tmp_path / "run", epochs=3, train_encoder="last:1", **keys)
    frozen, joint = [row for row in seen if row[0] < 2], [row for row in seen if row[0] == 2]
    assert len({weights for _, weights, _, _ in frozen}) == 1 and len({n for *_, n in frozen}) == 1
    assert joint[0][2] == 0 and joint[1][2] == pytest.approx(1e-5) and joint[2][2] == pytest.approx(2e-5)
    assert joint[-1][1] != frozen[0][1] and joint[-1][3] > joint[0][3]


def test_frozen_epochs_leave_some_to_train_in_and_do_not_use_up_the_patience(world, tmp_path):
    with pytest.raises(InputError, match=r"^encoder_frozen_epochs=3 leaves none of the 3 epochs to train the encoder"):
        train(world, tmp_path / "none", train_encoder="last:1", encoder_frozen_epochs=3)
    keys = {"learning_rate": 1e-30, "encoder_learning_rate": 1e-30, "encoder_warmup_steps": 0, "stopping_step": 1}
    run = train(world, tmp_path / "run", epochs=6, train_encoder="last:1", encoder_frozen_epochs=3, **keys)
    assert run["epochs"] == 4, "no epoch is better than the first; the fourth is the first that counts"


def test_a_frozen_run_starts_a_joint_one(world, tmp_path):
    train(world, tmp_path / "frozen", epochs=1)
    again = train(world, tmp_path / "joint", epochs=1, train_encoder="last:1", init_from=str(tmp_path / "frozen"))
    assert "started from" in (tmp_path / "joint" / "log.txt").read_text() and again["epochs"] == 1


def test_an_unfinished_or_frozen_run_has_no_encoder_to_export(trained, world, tmp_path, capsys):
    shutil.copytree(trained[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "encoder")
    (tmp_path / "run" / "metrics.json").unlink()
    assert main(["export-encoder", f"--checkpoint={tmp_path / 'run'}", f"--output_dir={tmp_path / 'out'}"]) == 2
    assert "has not ended, so it holds no encoder/ yet; finish it by" in capsys.readouterr().err
    found = evaluate_run(tmp_path / "run", device="cpu")[0]  # from its checkpoint, as a sweep's trial is
    assert found == pytest.approx(trained[1]["test"])
    with pytest.raises(InputError, match="is not whole before its training has ended, so it takes no new items"):
        recbole_blair.load(str(tmp_path / "run"), device="cpu").add_items([{"item_id": "n", "title": "lamp"}])
    train(world, tmp_path / "frozen", epochs=0)
    assert main(["export-encoder", f"--checkpoint={tmp_path / 'frozen'}", f"--output_dir={tmp_path / 'out'}"]) == 2
    assert "was trained over a frozen encoder" in capsys.readouterr().err
    gone = tmp_path / "gone"
    shutil.copytree(trained[0], gone)
    shutil.rmtree(gone / "encoder")
    assert main(["evaluate", f"--checkpoint={gone}", "--device=cpu"]) == 2
    assert "trained its text encoder, but its encoder/ has gone; copy the run again" in capsys.readouterr().err
    damaged = tmp_path / "damaged"
    shutil.copytree(trained[0], damaged)
    path = damaged / "encoder" / "config.json"
    path.write_text(path.read_text().replace("{", "{ ", 1))
    assert main(["export-encoder", f"--checkpoint={damaged}", f"--output_dir={tmp_path / 'out'}"]) == 2
    assert "config.json is damaged: its SHA-256 is" in capsys.readouterr().err
    assert json.loads((trained[0] / "metrics.json").read_text())["encoder"].startswith("encoder-")


@pytest.mark.slow
def test_two_processes_share_the_steps_and_the_table(world, tmp_path):
    """Each encodes half of the table for an evaluation; one process finds the same figures afterwards."""
    import os
    import subprocess

    keys = {**KEYS, **OF_MODEL["SASRecText"], **world, "epochs": 1, "train_encoder": "last:1", "nproc": 2}
    argv = [f"--{k}={v}" for k, v in {**keys, "output_dir": tmp_path / "run"}.items() if k != "adaptor_hidden_sizes"]
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": root}
    command = [sys.executable, "-m", "recbole_blair", "train", "--model=SASRecText", "--dataset=tiny", *argv]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["processes"] == 2
    assert evaluate_run(tmp_path / "run", device="cpu")[0] == pytest.approx(metrics["test"])


def test_mixed_precision_trains(world, tmp_path):
    metrics = train(world, tmp_path / "run", train_encoder="last:1", precision="bf16", epochs=1)
    assert np.isfinite(metrics["test"]["ndcg@10"]) and open_run(tmp_path / "run").model is not None


def test_a_dry_run_says_what_is_trained_and_what_is_kept(world, capsys):
    """30 items x 160 tokens x 768 x 4 bytes = 0.0137 GiB."""
    argv = ["train", "--model=SASRecText", "--dataset=tiny", f"--data_path={world['data_path']}", "--dry_run"]
    argv += ["--softmax=sampled", "--device=cpu", "--precision=fp32"]
    assert main([*argv, f"--plm={world['plm']}", "--train_encoder=last:1"]) == 0
    out = capsys.readouterr().out
    assert "train_encoder=last:1; states below its layers: about 0.0 GiB at width 768" in out
    assert main([*argv, "--train_encoder=full", "--plm=tfidf-svd"]) == 2


def test_a_run_from_before_the_keys_goes_on(world, tmp_path):
    """Keys that its configuration lacks count as their defaults, of overall.yaml and of the model's own."""
    keys = {"epochs": 0, "encoder_learning_rate": 2e-5, "encoder_warmup_steps": 100, "encoder_batch_tokens": None}
    train(world, tmp_path / "run", "HSTUBlair", **keys, negatives_of="position")
    config = tmp_path / "run" / "config.yaml"
    old = [
        line for line in config.read_text().splitlines()[1:] if "encoder_" not in line and "negatives_of" not in line
    ]
    config.write_text("\n".join(old) + "\n")
    assert train(world, tmp_path / "run", "HSTUBlair", **keys, negatives_of="position")["epochs"] == 0
    with pytest.raises(InputError, match=r"negatives_of 'position' -> 'step'"):
        train(world, tmp_path / "run", "HSTUBlair", **keys, negatives_of="step")

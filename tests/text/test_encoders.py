"""Encoders: names, refusals, order, batch company, agreement with a naive pass and with sentence-transformers."""

import hashlib
import shutil

import numpy as np
import pytest
import torch
from tiny_encoders import some_texts, write_pooling, write_tiny_encoder

from recbole_blair.errors import InputError
from recbole_blair.text.batching import pad_batch, plan_batches, plan_chunks
from recbole_blair.text.devices import pick_devices, pick_precision
from recbole_blair.text.encoders import encoder_name, load_encoder
from recbole_blair.text.weights import weights_hash


def naive(folder, texts, pooling, max_length=64):
    """One text at a time, no padding, straight from the definition."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    rows = []
    with torch.no_grad():
        for text in texts:
            ids = tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt")["input_ids"]
            states = model(input_ids=ids).last_hidden_state[0]
            rows.append(states[0] if pooling == "cls" else states.mean(dim=0))
    return torch.stack(rows).numpy()


def test_names(tiny_bert):
    digest = hashlib.sha256((tiny_bert / "model.safetensors").read_bytes()).hexdigest()
    assert weights_hash(tiny_bert) == digest
    assert encoder_name(tiny_bert) == encoder_name(f"{tiny_bert}/") == f"tiny-{digest[:8]}"
    assert encoder_name("hyp1231/blair-roberta-base") == "blair-roberta-base"
    assert encoder_name("roberta-base") == "roberta-base"
    assert encoder_name("tfidf-svd") == "tfidf-svd"


def test_other_weights_another_name(tmp_path, tiny_bert):
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_bert, folder)
    before = encoder_name(folder)
    write_tiny_encoder(folder, seed=1)
    assert encoder_name(folder) != before


@pytest.mark.parametrize("call", [encoder_name, load_encoder])
@pytest.mark.parametrize(
    ("plm", "message"),
    [
        ("./no/such/folder", "no such folder, and not a hub id .* --plm=tfidf-svd, which needs no download"),
        ("a/b/c", "no such folder, and not a hub id"),
        ("", "no such folder, and not a hub id"),
        ("openai:", "--plm=openai:NAME needs a model's name"),
    ],
)
def test_what_cannot_be_an_encoder(call, plm, message):
    with pytest.raises(InputError, match=message):
        call(plm)


def test_an_id_that_cannot_be_had(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"--plm=no/such at revision v1 .*hub .*or give the folder .*tfidf-svd"):
        load_encoder("no/such", revision="v1", cache_dir=str(tmp_path))


def test_a_hub_model_in_the_cache_needs_no_network(monkeypatch, tmp_path, tiny_bert):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "models--shop--tiny-mean"
    shutil.copytree(tiny_bert, repo / "snapshots" / commit)
    write_pooling(repo / "snapshots" / commit, {"pooling_mode": "mean"})
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    encoder = load_encoder("shop/tiny-mean", cache_dir=str(tmp_path), precision="fp32")
    told = encoder.description()
    assert (encoder.name, encoder.pooling, told["revision"]) == ("shop--tiny-mean", "mean", commit)
    assert told["source"] == "shop/tiny-mean"
    assert np.allclose(encoder.encode(["red lamp"], progress=False), naive(tiny_bert, ["red lamp"], "mean"), atol=1e-5)


def test_folders_that_hold_no_encoder(tmp_path, tiny_bert):
    with pytest.raises(InputError, match=r"config.json and weights \(model.safetensors\) missing"):
        load_encoder(str(tmp_path))
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="is a file, expected the encoder's folder"):
        load_encoder(str(tmp_path / "a.txt"))
    folder = tmp_path / "cut"
    shutil.copytree(tiny_bert, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="could not be loaded as a Hugging Face encoder"):
        load_encoder(folder)


def test_weights_that_lack_a_layer_are_refused(tmp_path, tiny_bert):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "half"
    shutil.copytree(tiny_bert, folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if "layer.1." not in k}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"lack 16 of the model's tensors .*would stay random"):
        load_encoder(folder)


def test_bin_weights_run_no_code(tmp_path, tiny_bert):
    """A pytorch_model.bin is read weights-only: tensors pass, anything else is refused."""
    from safetensors.torch import load_file

    folder = tmp_path / "bin"
    shutil.copytree(tiny_bert, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    out = load_encoder(folder, precision="fp32").encode(["red lamp"], progress=False)
    assert np.allclose(out, naive(tiny_bert, ["red lamp"], "cls"), atol=1e-5)
    torch.save({**tensors, "trap": shutil.copytree}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="could not be loaded"):
        load_encoder(folder)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_agrees_with_one_text_at_a_time(tiny_bert, pooling):
    texts = some_texts(60)
    encoder = load_encoder(tiny_bert, precision="fp32", pooling=pooling)
    assert (encoder.width, encoder.pooling) == (32, pooling)
    out = encoder.encode(texts, batch_tokens=200, progress=False)
    assert out.dtype == np.float32
    assert np.abs(out - naive(tiny_bert, texts, pooling)).max() < 1e-5


def test_company_and_order_change_nothing(tiny_bert):
    texts = some_texts(80)
    encoder = load_encoder(tiny_bert, precision="fp32", pooling="mean")
    whole = encoder.encode(texts, progress=False)
    turned = encoder.encode(texts[::-1], batch_tokens=90, progress=False)[::-1]
    alone = np.concatenate([encoder.encode([text], progress=False) for text in texts])
    assert np.abs(whole - turned).max() < 1e-5
    assert np.abs(whole - alone).max() < 1e-5


def test_bf16_stays_close(tiny_bert):
    texts = [text or "lamp" for text in some_texts(40)]
    a, b = (
        load_encoder(tiny_bert, precision=p).encode(texts, progress=False, normalise=True) for p in ("fp32", "bf16")
    )
    assert (a * b).sum(axis=1).min() > 0.999


def test_normalise_and_nothing(tiny_bert):
    encoder = load_encoder(tiny_bert)
    assert np.allclose(
        np.linalg.norm(encoder.encode(["lamp", ""], normalise=True, progress=False), axis=1), 1, atol=1e-5
    )
    assert encoder.encode([], progress=False).shape == (0, 32)


def test_the_models_own_limit_holds(tmp_path, tiny_bert):
    assert load_encoder(tiny_bert).max_length == 64
    assert load_encoder(tiny_bert, max_length=16).max_length == 16
    roberta = write_tiny_encoder(tmp_path / "roberta", model_type="roberta", positions=66)
    encoder = load_encoder(roberta, precision="fp32")
    assert encoder.max_length == 65  # 66 positions, those up to the padding index 0 are not used
    long = "lamp " * 300
    assert np.abs(encoder.encode([long], progress=False) - naive(roberta, [long], "cls", 65)).max() < 1e-5


def test_nan_is_refused(tmp_path):
    folder = write_tiny_encoder(tmp_path / "nan")
    encoder = load_encoder(folder, precision="fp32")
    encoder.replicas[0][1].transformer.embeddings.word_embeddings.weight.data[7] = float("nan")  # "green"
    with pytest.raises(InputError, match="gives NaN or infinity for the text in row 2"):
        encoder.encode(["red", "blue", "green lamp"], progress=False)


def test_an_error_in_a_thread_reaches_the_caller(tiny_bert):
    encoder = load_encoder(tiny_bert)
    with pytest.raises((TypeError, ValueError)):
        encoder.encode(["red", 5.0], progress=False)


def test_several_devices_share_the_chunks(tiny_bert):
    """Two replicas, here both on the CPU: each chunk once, rows in place."""
    encoder = load_encoder(tiny_bert, precision="fp32", device="cpu")
    texts = some_texts(300)
    one = encoder.encode(texts, batch_tokens=64, progress=False)
    encoder.replicas = [*encoder.replicas, *load_encoder(tiny_bert, precision="fp32", device="cpu").replicas]
    two = encoder.encode(texts, batch_tokens=64, progress=False)
    assert len(encoder.plan(texts, 64)) > 3
    assert np.array_equal(one, two)


def test_options_are_checked(tiny_bert):
    for options, message in [
        ({"pooling": "first"}, "--plm_pooling=first: 'first' is not one of cls, mean, max"),
        ({"precision": "fp8"}, "--precision=fp8 is not one of auto, fp32, bf16, fp16"),
        ({"precision": "fp16", "device": "cpu"}, "--precision=fp16 is for GPUs; on a CPU take bf16 or fp32"),
        ({"dimensions": 33}, "--plm_dimensions=33 is not a width of tiny-.*; it has 1 to 32"),
        ({"dimensions": 0}, "--plm_dimensions=0 is not a number of dimensions"),
        ({"prompt": "passage"}, "--plm_prompt=passage is no prompt of the model's own .it declares none"),
        ({"device": "tpu"}, "--device=tpu is not here; choose one of auto, cpu"),
        ({"max_length": 0}, "--plm_max_length=0 is not a number of tokens"),
        ({"revision": "v1"}, "--plm_revision=v1 belongs to a hub id"),
    ]:
        with pytest.raises(InputError, match=message):
            load_encoder(tiny_bert, **options)
    with pytest.raises(InputError, match=r"--plm_pooling=cls belongs to a model of one's own.*but --plm=tfidf-svd"):
        load_encoder("tfidf-svd", pooling="cls")


def test_precision_follows_the_chip(monkeypatch):
    cpu = pick_devices("cpu")[0]
    for native, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr("recbole_blair.text.devices.has_fast_bf16", lambda device, native=native: native)
        assert pick_precision("auto", cpu) == expected
    assert pick_precision("fp32", cpu) == "fp32"


def test_chunks_and_batches_hold_each_text_once():
    texts = some_texts(500)
    chunks = plan_chunks(texts, 64, 32)
    assert len(chunks) > 2
    assert sorted(np.concatenate(chunks)) == list(range(500))
    assert min(len(texts[i]) for i in chunks[0]) >= max(len(texts[i]) for i in chunks[-1])
    lengths = np.array([3, 9, 1, 4, 4, 20])
    batches = plan_batches(lengths, 12)
    assert [b.tolist() for b in batches] == [[5], [1], [3, 4], [0], [2]]  # 20 alone is over 12; 9; 4 4; 3; 1
    assert plan_chunks([], 64, 32) == []


def test_a_batch_ends_where_that_saves_more_padding_than_a_batch_costs():
    """A budget of 64 makes one more batch cost 2. One before the 3s saves 3 x 7, one before the 9 would save 1."""
    assert [b.tolist() for b in plan_batches(np.array([10, 9, 10]), 64)] == [[0, 2, 1]]
    assert [b.tolist() for b in plan_batches(np.array([3, 10, 3, 9, 10, 3]), 64)] == [[1, 4, 3], [0, 2, 5]]


def test_padding_goes_right():
    assert pad_batch([[5, 6, 7], [8]], np.array([3, 1]), 0).tolist() == [[5, 6, 7], [8, 0, 0]]


def test_minilm_equals_sentence_transformers(minilm_folder):
    """Token means of the real model, normalised as its modules say."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    texts = ["USB-C cable, 2 m, braided.", "A cotton shirt for the summer — très léger.", "", "lamp " * 400]
    reference = sentence_transformers.SentenceTransformer(str(minilm_folder), device="cpu")
    reference.max_seq_length = 512
    expected = reference.encode(texts)
    encoder = load_encoder(minilm_folder, precision="fp32")
    assert (encoder.pooling, encoder.width, encoder.max_length) == ("mean", 384, 512)
    assert np.abs(encoder.encode(texts, progress=False) - expected).max() < 2e-5

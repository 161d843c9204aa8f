"""Encoders of every family give the vectors of SentenceTransformer: modules, poolings, prompts, widths, batches."""

import json
import shutil

import numpy as np
import pytest
import torch
from tiny_encoders import some_texts, write_items, write_tiny_model

from recbole_blair.errors import InputError
from recbole_blair.text.encode import encode_build
from recbole_blair.text.encoders import load_encoder
from recbole_blair.text.layout import read_layout
from recbole_blair.text.partial import PartialFeatures

pytest.importorskip("sentence_transformers")
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Router
from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm, Pooling, Transformer

TEXTS = [text or "lamp" for text in some_texts(64)]  # 1 to 40 words
FAMILIES = ["bert", "roberta", "mpnet", "modernbert", "t5", "qwen3", "mistral", "gemma3_text", "llama", "bart"]
DECODERS = ("qwen3", "mistral", "gemma3_text", "llama")


def save_encoder(folder, kind, *heads, pooling="mean", include_prompt=True, **options):
    """Save a tiny model of a family with modules after it, as sentence-transformers does."""
    write_tiny_model(folder / "plain", kind)
    torch.manual_seed(1)
    modules = [Transformer(str(folder / "plain")), Pooling(32, pooling, include_prompt=include_prompt), *heads]
    SentenceTransformer(modules=modules, device="cpu", **options).save(str(folder / "whole"))
    return folder / "whole"


def check_equal(folder, **options):
    """Compare with the library, one text at a time and in batches of mixed lengths; returns the vectors."""
    reference = SentenceTransformer(str(folder), device="cpu", truncate_dim=options.get("dimensions"))
    prompt = {"prompt": options["prompt"]} if "prompt" in options else {}
    expected = reference.encode_document(TEXTS, batch_size=64, **prompt)
    encoder = load_encoder(folder, precision="fp32", device="cpu", **options)
    found = encoder.encode(TEXTS, batch_tokens=4096, progress=False)
    alone = np.concatenate([encoder.encode([text], progress=False) for text in TEXTS[:8]])
    assert encoder.width == expected.shape[1]
    assert np.abs(found - expected).max() < 1e-5
    assert np.abs(alone - expected[:8]).max() < 1e-5
    queries = encoder.encode_queries(TEXTS[:8], progress=False)
    assert np.abs(queries - reference.encode_query(TEXTS[:8])).max() < 1e-5
    return found


@pytest.mark.parametrize("kind", FAMILIES)
def test_families(tmp_path, kind):
    check_equal(save_encoder(tmp_path, kind, pooling="lasttoken" if kind in DECODERS else "mean"))


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize(
    "pooling",
    ["cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", ("cls", "mean"), ("max", "lasttoken")],
)
def test_poolings(tmp_path, kind, pooling):
    found = check_equal(save_encoder(tmp_path, kind, pooling=pooling))
    assert found.shape[1] == (64 if isinstance(pooling, tuple) else 32)


def test_a_pooling_asked_for_replaces_the_declared_one(tmp_path):
    folder = save_encoder(tmp_path, "bert", Normalize(), pooling="mean")
    asked = load_encoder(folder, precision="fp32", pooling="cls+max").encode(TEXTS, progress=False)
    other = save_encoder(tmp_path / "other", "bert", Normalize(), pooling=("cls", "max"))
    assert np.abs(asked - SentenceTransformer(str(other), device="cpu").encode(TEXTS)).max() < 1e-5


def test_embeddinggemma_shape(tmp_path):
    """Pooling, Dense twice without activation, Normalize; prompts for documents and queries; truncated after it all."""
    heads = [
        Dense(32, 48, bias=False, activation_function=torch.nn.Identity()),
        Dense(48, 24, activation_function=torch.nn.GELU()), Normalize(),
    ]  # fmt: skip
    prompts = {"document": "title none text ", "query": "search "}
    folder = save_encoder(tmp_path, "gemma3_text", *heads, prompts=prompts)
    whole = check_equal(folder)
    assert np.allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)
    cut = check_equal(folder, dimensions=8)
    assert np.array_equal(cut, whole[:, :8])
    about = load_encoder(folder, precision="fp32", device="cpu").description()
    assert [module["type"] for module in about["modules"]] == ["Pooling", "Dense", "Dense", "Normalize"]
    assert (about["prompt"], about["width"], about["normalised"]) == ("title none text ", 24, True)


@pytest.mark.parametrize(
    "heads", [[LayerNorm(32)], [Normalize()], [Dense(32, 8), LayerNorm(8), Normalize()], [Dense(32, 32, bias=False)]]
)
def test_heads(tmp_path, heads):
    check_equal(save_encoder(tmp_path, "bert", *heads))


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("kind", ["bert", "qwen3"])
def test_prompts(tmp_path, kind, include_prompt):
    folder = save_encoder(
        tmp_path, kind, include_prompt=include_prompt, prompts={"document": "big case ", "query": "red "}
    )
    declared = check_equal(folder)
    text = check_equal(folder, prompt="small ")
    by_name = load_encoder(folder, precision="fp32", prompt="query").encode(TEXTS, progress=False)
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, prompt_name="query")
    assert np.abs(by_name - expected).max() < 1e-5
    assert np.abs(declared - text).max() > 1e-3
    none = load_encoder(folder, precision="fp32", prompt="").encode(TEXTS, progress=False)
    assert np.abs(none - SentenceTransformer(str(folder), device="cpu").encode(TEXTS)).max() < 1e-5
    with pytest.raises(InputError, match=r"--plm_prompt=queri is no prompt .*it has document, query.* mean 'query'"):
        load_encoder(folder, prompt="queri")


def test_a_prompt_for_passages_is_one_for_documents(tmp_path):
    folder = save_encoder(tmp_path, "bert", prompts={"passage": "big case "})
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, prompt_name="passage")
    found = load_encoder(folder, precision="fp32").encode(TEXTS, progress=False)
    assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad", [True, False])
def test_padding_of_the_tokenizer_changes_nothing(tmp_path, side, pad):
    """Also where the tokenizer has no padding token, which the library cannot batch."""
    folder = write_tiny_model(tmp_path / "plain", "llama", side=side, pad=pad)
    padded = write_tiny_model(tmp_path / "padded", "llama", side="left")
    reference = SentenceTransformer(modules=[Transformer(str(padded)), Pooling(32, "lasttoken")], device="cpu")
    alone = np.concatenate([reference.encode([text]) for text in TEXTS[:16]])
    encoder = load_encoder(folder, precision="fp32", device="cpu")
    assert encoder.pooling == "lasttoken"  # of a decoder that declares none
    assert np.abs(encoder.encode(TEXTS[:16], progress=False) - alone).max() < 1e-5


def test_poolings_of_models_that_declare_none(tmp_path):
    for kind, pooling in [("bert", "cls"), ("t5", "mean"), ("mpnet", "cls"), ("mistral", "lasttoken")]:
        assert load_encoder(write_tiny_model(tmp_path / kind, kind)).pooling == pooling


def test_end_of_text_tokens_are_the_tokenizers_own(tmp_path):
    """The last token of a text is the one that the tokenizer ends it with, also of a text that is cut."""
    encoder = load_encoder(write_tiny_model(tmp_path / "qwen3", "qwen3"), precision="fp32", max_length=6)
    for text in ("red lamp", "red lamp " * 20):
        ((_, ids, lengths),) = encoder.tokenise([text], np.array([0]), 64)
        assert ids[0, lengths[0] - 1] == encoder.tokenizer.eos_token_id and lengths[0] <= 6


def test_a_router_takes_the_side_of_items_and_of_queries(tmp_path):
    sides = []
    for seed in (0, 1):
        write_tiny_model(tmp_path / str(seed), "bert", seed=seed)
        sides.append([Transformer(str(tmp_path / str(seed))), Pooling(32, ["mean", "cls"][seed])])
    router = Router.for_query_document(query_modules=sides[0], document_modules=sides[1])
    SentenceTransformer(modules=[router, Normalize()], device="cpu").save(str(tmp_path / "whole"))
    check_equal(tmp_path / "whole")
    layout = read_layout(tmp_path / "whole")
    assert layout.poolings == ("cls",) and layout.place != read_layout(tmp_path / "whole", "query").place


def test_lower_casing_that_sentence_transformers_declares(tmp_path):
    folder = save_encoder(tmp_path, "t5")
    told = json.loads((folder / "sentence_bert_config.json").read_text())
    (folder / "sentence_bert_config.json").write_text(json.dumps(told | {"do_lower_case": True}))
    upper = load_encoder(folder, precision="fp32").encode(["RED Lamp"], progress=False)
    assert np.abs(upper - load_encoder(folder, precision="fp32").encode(["red lamp"], progress=False)).max() == 0


def test_weights_load_in_the_precision_asked_for(tmp_path):
    folder = save_encoder(tmp_path, "qwen3", Dense(32, 8))
    model = load_encoder(folder, precision="bf16", device="cpu").replicas[0][1]
    assert {weight.dtype for weight in model.transformer.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in model.heads.parameters()} == {torch.float32}


def test_code_that_is_left_out_is_said(tmp_path):
    folder = write_tiny_model(tmp_path / "qwen3", "qwen3")
    change(folder / "config.json", auto_map={"AutoModel": "modeling.Mine"})
    with pytest.warns(UserWarning, match="qwen3 brings code of its own, which is never run: transformers' own qwen3"):
        load_encoder(folder)


def test_the_real_minilm_with_a_head(tmp_path, minilm_folder):
    """Dense and Normalize, added by the library, saved and loaded."""
    torch.manual_seed(0)
    modules = [*SentenceTransformer(str(minilm_folder), device="cpu"), Dense(384, 96), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "whole"))
    reference = SentenceTransformer(str(tmp_path / "whole"), device="cpu")
    found = load_encoder(tmp_path / "whole", precision="fp32", device="cpu").encode(TEXTS, progress=False)
    assert found.shape == (64, 96) and np.abs(found - reference.encode(TEXTS)).max() < 1e-5


def test_a_killed_run_goes_on_to_the_librarys_vectors(tmp_path, monkeypatch):
    """A decoder with Dense, Normalize and a prompt: encoded whole, and killed after two chunks and gone on with."""
    folder = save_encoder(tmp_path, "gemma3_text", Dense(32, 16), Normalize(), prompts={"document": "small case "})
    expected = SentenceTransformer(str(folder), device="cpu").encode_document(TEXTS)
    builds = [write_items(tmp_path / name / "shop", TEXTS) for name in ("whole", "killed")]
    options = {"precision": "fp32", "device": "cpu", "batch_tokens": 8, "progress": False}
    path = encode_build(builds[0], folder, **options)
    real, calls = PartialFeatures.add, []

    def add(*args):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(real(*args))

    with monkeypatch.context() as patch:
        patch.setattr(PartialFeatures, "add", add)
        with pytest.raises(KeyboardInterrupt):
            encode_build(builds[1], folder, **options)
    again = encode_build(builds[1], folder, **options)
    for features in (path, again):
        assert np.abs(np.fromfile(features, np.float32).reshape(64, 16) - expected).max() < 1e-5


def declare(folder, modules):
    (folder / "modules.json").write_text(json.dumps([{"path": path, "type": kind} for path, kind in modules]))


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([("", "sentence_transformers.models.CLIPModel")], "names the module CLIPModel, which is not offered; offered"),
        ([("", "custom_st.Transformer")], "names custom_st.Transformer, code that the model brings, which is never"),
        ([("../x", "sentence_transformers.models.Transformer")], "names '../x', which leaves the model's folder"),
        ([("", "sentence_transformers.models.Pooling")], "begins with Pooling, expected a Transformer"),
    ],
)  # fmt: skip
def test_modules_that_are_not_offered(tmp_path, modules, message):
    folder = write_tiny_model(tmp_path / "bert", "bert")
    declare(folder, modules)
    with pytest.raises(InputError, match=message):
        load_encoder(folder)


def change(path, **keys):
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def test_folders_that_cannot_be_loaded(tmp_path):
    whole = save_encoder(tmp_path, "bert", Dense(32, 8))
    (dense,) = whole.glob("2_*")
    for number, (spoil, message) in enumerate([
        (lambda f: (f / dense.name / "model.safetensors").unlink(), "safetensors is missing, the weights of Dense"),
        (lambda f: change(f / dense.name / "config.json", activation_function="mine.Swish"), "activation mine.Swish"),
        (lambda f: change(f / "config_sentence_transformers.json", model_type="SparseEncoder"), "is a SparseEncoder"),
        (lambda f: (f / "modules.json").write_text("{"), "modules.json is not JSON"),
        (lambda f: (f / "modules.json").write_text('[{"idx": 0}]'), "is no list of modules with type and path"),
        (lambda f: change(f / "config.json", model_type="new", auto_map={"AutoModel": "m.M"}),
         "brings code of its own, which is never run, and is a new model, which transformers .* does not have"),
        (lambda f: change(f / "config.json", matryoshka_dimensions=[4, 2]), "=3 is not a width of .*; it has 2, 4, 8"),
    ]):  # fmt: skip
        folder = shutil.copytree(whole, tmp_path / str(number))
        spoil(folder)
        with pytest.raises(InputError, match=message):
            load_encoder(folder, dimensions=3)


def test_a_last_normalize_module_can_be_left_out(tmp_path):
    folder = save_encoder(tmp_path, "bert", Normalize())
    whole = load_encoder(folder, precision="fp32", device="cpu").encode(TEXTS, progress=False)
    encoder = load_encoder(folder, precision="fp32", device="cpu", normalise=False)
    raw = encoder.encode(TEXTS, progress=False)
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    assert np.abs(raw / lengths - whole).max() < 1e-5 and lengths.std() > 1e-3
    assert encoder.description()["normalised"] is False
    build = write_items(tmp_path / "data" / "Shop", TEXTS[:9])
    paths = {encode_build(build, folder, progress=False, normalise=value) for value in (None, False)}
    assert len(paths) == 2  # never the other's vectors
    with pytest.raises(InputError, match="--plm_normalise=False belongs to a model of one's own"):
        load_encoder("tfidf-svd", normalise=False)

"""Items added by their text score as the same text in the catalogue does; ids of unseen items contribute nothing."""

import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import recbole_blair
from recbole_blair.errors import InputError
from recbole_blair.files.checksum import file_crc32
from recbole_blair.files.own_json import write_own_json
from recbole_blair.text.encode import encode_build
from recbole_blair.text.features import CHECKSUM_KEY, header_path

from builds import random_sequences, write_build  # isort: skip
from recommend_runs import item_words, save_run, write_text_build  # isort: skip
from embedding_server import WIDTH, EmbeddingServer, refused  # isort: skip
from tiny_encoders import write_tiny_encoder  # isort: skip

USERS = ["u3", "u0", "u17"]
SAME_AS = "i004"
NEW = [
    {"item_id": "N1", "title": item_words(4)},
    {"item_id": "N2", "title": "Small <b>kettle</b>", "features": ["steel", "red &amp; blue"], "categories": ["game"]},
    {"parent_asin": "N3", "description": ["cotton shirt"], "price": 3},
]


def open_run(run, *args, **keys):
    return recbole_blair.load(run, *args, device="cpu", show_progress=False, **keys)


@pytest.mark.parametrize(
    ("model", "keys"),
    [
        ("UniSRecBlair", {}), ("UniSRecBlair", {"feature_scale": "rms"}), ("SASRecText", {}), ("LRURecText", {}),
        ("UniSRecBlair", {"feature_transform": "whiten:6"}),
        ("SASRecText", {"feature_transform": "zca", "text_fields": "text,text"}),
    ],
    ids=["UniSRecBlair", "rms", "SASRecText", "LRURecText", "whitened", "zca of fields"],
)  # fmt: skip
def test_a_new_item_scores_as_the_same_text_in_the_catalogue(make_run, model, keys):
    run = make_run(model, **keys)
    before, loaded = open_run(run), open_run(run, NEW)
    assert loaded.item_ids == [*before.item_ids, "N1", "N2", "N3"]
    assert loaded.titles[-3:] == [item_words(4), "Small kettle", ""]
    scores = loaded.score(USERS)
    np.testing.assert_allclose(scores[:, :-3], before.score(USERS), rtol=1e-5, atol=1e-6)
    same = loaded.score(USERS, [SAME_AS, "N1", "N2"])
    np.testing.assert_allclose(same[:, 0], same[:, 1], rtol=1e-3, atol=1e-4)
    assert np.abs(same[:, 0] - same[:, 2]).max() > 1e-3
    best = loaded.recommend(USERS, top=len(loaded.item_ids), exclude_history=False)
    assert set(best["item_id"]) == set(loaded.item_ids)


def test_the_text_is_the_catalogues_recipe(make_run, plm):
    from recbole_blair.text.encoders import load_encoder

    loaded = open_run(make_run("SASRecText"), NEW)
    text = "Small kettle. steel, red & blue. game."
    vector = load_encoder(plm, device="cpu", precision="fp32").encode([text], progress=False)
    np.testing.assert_allclose(loaded.scorer.model.item_texts.features[-2], vector[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", ["UniSRecBlair", "HSTUBlair"])
def test_histories_may_hold_new_items(make_run, model):
    loaded = open_run(make_run(model, **({"time_bias": "none"} if model == "HSTUBlair" else {})), NEW)
    old, new = (loaded.score([{"user_id": "a", "item_id_list": ["i001", i]}]) for i in ("i002", "N2"))
    assert np.isfinite(new).all() and np.abs(old - new).max() > 1e-3
    best = loaded.recommend([{"user_id": "a", "item_id_list": ["N2"]}], 100, exclude_history=True)
    assert "N2" not in set(best["item_id"]) and "N1" in set(best["item_id"])


def test_the_id_of_a_new_item_contributes_nothing(make_run):
    loaded = open_run(make_run("UniSRecBlair", train_stage="transductive_ft"), NEW)
    model = loaded.scorer.model
    with torch.inference_mode():
        text_alone = F.normalize(model.adaptor(model.item_texts.features[-3:]).float(), dim=1)
    np.testing.assert_allclose(loaded.encode(items=["N1", "N2", "N3"]), text_alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fusion", ["add", "gate", "attention"])
def test_hstublair_takes_a_new_item_as_its_text_alone(make_run, fusion):
    loaded = open_run(make_run("HSTUBlair", fusion=fusion), NEW)
    model = loaded.scorer.model
    with torch.inference_mode():
        e, t, trained = model.sources()
        rows = loaded.scorer.batch(loaded.scorer.load_users(USERS), np.arange(3))
        users = model.user_vectors(rows)
        fused = model.fuse(e, t, trained)[-3:] if fusion == "attention" else t[-3:]
        own = users @ F.normalize(fused, dim=1).T
    assert not trained[-3:].any() and not e[-3:].any() and trained[:-3].any()
    np.testing.assert_allclose(loaded.score(USERS, ["N1", "N2", "N3"]), own, rtol=1e-4, atol=1e-5)


def test_items_can_be_added_later_and_twice(make_run):
    loaded = open_run(make_run("SASRecText"))
    loaded.score(USERS)
    assert loaded.add_items(NEW[:1]) == ["N1"] and loaded.add_items(NEW[1:]) == ["N2", "N3"]
    once = open_run(make_run("SASRecText"), NEW)
    np.testing.assert_allclose(loaded.score(USERS), once.score(USERS), rtol=1e-4, atol=1e-5)


def test_tfidf_svd_is_fitted_on_the_catalogue_again(tmp_path):
    build = write_text_build(tmp_path / "data", "tfidf-svd")
    run = save_run(tmp_path / "run", "UniSRecBlair", build, plm="tfidf-svd")
    loaded = open_run(run, NEW[:2])
    same = loaded.score(USERS, [SAME_AS, "N1"])
    np.testing.assert_allclose(same[:, 0], same[:, 1], rtol=1e-2, atol=1e-3)
    with pytest.raises(InputError, match="tfidf-svd knows no word of new item 1"):
        open_run(run, [{"item_id": "N9", "title": "zzz"}])


@pytest.mark.parametrize("model", ["SASRec", "HSTU", "SeqPop"])
def test_models_of_ids_alone_take_no_new_items(make_run, model):
    with pytest.raises(InputError, match=f"{model} knows items by their ids alone"):
        open_run(make_run(model), NEW)


def test_a_plugin_with_a_weight_an_item_is_refused(make_run):
    loaded = open_run(make_run("SASRecText"))
    loaded.scorer.model.popularity = torch.nn.Parameter(torch.zeros(len(loaded.item_ids)))
    with pytest.raises(InputError, match="SASRecText has popularity with one row per item"):
        loaded.add_items(NEW)


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([{"title": "red"}], "new item 1 has no item_id"),
        ([NEW[0], {"item_id": "N2", "title": " ", "store": "x"}], "new item 2: the item 'N2' has no text"),
        ([NEW[0], NEW[0]], "new item 2: the item 'N1' is in new item 1 too"),
        ([{"item_id": "i001", "title": "red"}], "the item 'i001' is in the catalogue already"),
        (["N1"], "new item 1 is no JSON object"),
        ([], "no item in"),
        ("N1,N2", "new_items=N1,N2 is no file"),
    ],
)
def test_bad_items_are_named(make_run, items, words):
    with pytest.raises(InputError, match=words):
        open_run(make_run("SASRecText"), items)


def test_a_file_of_new_items_names_its_lines(make_run, tmp_path):
    file = tmp_path / "new.jsonl"
    file.write_text("\n".join(map(json.dumps, NEW)))
    assert open_run(make_run("SASRecText"), file).item_ids[-3:] == ["N1", "N2", "N3"]
    file.write_text(json.dumps(NEW[0]) + "\n" + json.dumps({"item_id": "N2"}) + "\n")
    with pytest.raises(InputError, match=r"new.jsonl line 2: the item 'N2' has no text"):
        open_run(make_run("SASRecText"), file)


def test_an_encoder_that_has_gone_or_is_another_is_named(tmp_path):
    plm = write_tiny_encoder(tmp_path / "tiny-encoder", pooling="mean")
    build = write_text_build(tmp_path / "data", str(plm))
    run = save_run(tmp_path / "run", "SASRecText", build, plm=str(plm))
    expected = open_run(run, NEW).score(USERS)
    moved = tmp_path / "elsewhere" / "tiny-encoder"
    shutil.move(plm, moved)
    assert len(open_run(run).recommend(USERS)) == 30  # without new items nobody needs the encoder
    with pytest.raises(
        InputError, match=r"tiny-encoder, has gone; give the folder of tiny-encoder-\w{8} by --plm=FOLDER"
    ):
        open_run(run, NEW)
    np.testing.assert_allclose(open_run(run, NEW, plm=str(moved)).score(USERS), expected, rtol=1e-4, atol=1e-5)
    renamed = shutil.copytree(moved, tmp_path / "renamed")
    np.testing.assert_allclose(open_run(run, NEW, plm=str(renamed)).score(USERS), expected, rtol=1e-4, atol=1e-5)
    other = write_tiny_encoder(tmp_path / "other", pooling="mean", seed=5)
    with pytest.raises(InputError, match=r"is the encoder other-\w{8}, but the features of .* are of tiny-encoder"):
        open_run(run, NEW, plm=str(other))


def test_an_encoder_that_encodes_the_catalogue_otherwise_is_refused(tmp_path, plm):
    build = write_text_build(tmp_path / "data", plm)
    run = save_run(tmp_path / "run", "SASRecText", build, plm=plm)
    file = next(build.glob("*.feature"))
    np.random.default_rng(0).standard_normal(file.stat().st_size // 4).astype(np.float32).tofile(file)
    header = header_path(build, file.name.removeprefix(f"{build.name}.").removesuffix(".feature"))
    write_own_json(header, {**json.loads(header.read_text()), CHECKSUM_KEY: file_crc32(file)})
    with pytest.raises(InputError, match="encodes items of the catalogue otherwise than the run's feature file"):
        open_run(run, NEW)


def test_a_text_that_an_api_refuses_is_named_by_its_item(tmp_path, monkeypatch):
    def behave(number, request):
        return refused(400, "unsafe") if any(text.startswith("Small kettle") for text in request["input"]) else None

    monkeypatch.setenv("OPENAI_API_KEY", "k-test")
    with EmbeddingServer(behave) as server:
        keys = {"plm": "openai:shop-embedder", "plm_dimensions": WIDTH, "plm_base_url": server.url}
        sequences, texts = random_sequences(n_users=30, n_items=40), {f"i{n:03d}": f"thing {n}" for n in range(40)}
        build = write_build(tmp_path / "data", sequences, "tiny", texts=texts)
        encode_build(
            build, keys["plm"], device="cpu", precision="fp32", progress=False, dimensions=WIDTH, base_url=server.url
        )
        run = save_run(tmp_path / "run", "SASRecText", build, **keys)
        assert open_run(run, [NEW[0], NEW[2]]).score(USERS).shape == (3, 42)
        with pytest.raises(InputError, match=r"new item N2: .* refuses it for shop-embedder: unsafe"):
            open_run(run, NEW)

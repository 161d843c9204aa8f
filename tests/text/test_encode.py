"""encode_build: whole and matching is left alone, anything else refused or redone, every kill is survived."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_encoders import some_texts, write_items, write_tiny_encoder

from recbole_blair.cli.main import main
from recbole_blair.errors import InputError
from recbole_blair.files.own_json import write_own_json
from recbole_blair.text import encode, partial
from recbole_blair.text.encode import encode_build
from recbole_blair.text.encoders import encoder_name, load_encoder
from recbole_blair.text.features import load_features, read_items
from recbole_blair.text.item_text import released_text, text_hash

FP32 = {"precision": "fp32", "progress": False}


@pytest.fixture
def one_thread():
    """Byte-equal sums need the same number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def build(tmp_path):
    return write_items(tmp_path / "shop", some_texts(90))


def test_rows_are_in_item_order_and_raw(build, tiny_bert):
    path = encode_build(build, tiny_bert, batch_tokens=128, **FP32)
    assert path.name == f"shop.{encoder_name(tiny_bert)}.feature"
    features, header = load_features(build, encoder_name(tiny_bert))
    expected = load_encoder(tiny_bert, precision="fp32").encode(read_items(build)[1], progress=False)
    assert np.abs(features - expected).max() < 1e-5
    assert (header["pooling"], header["max_length"], header["precision"]) == ("cls", 64, "fp32")
    assert header["source"] == "tiny" and header["libraries"]["torch"] == torch.__version__
    left = {p.name for p in build.iterdir()}
    assert left == {"shop.item", path.name, f"{path.name}.json"}


def test_whole_and_matching_is_left_alone(build, tiny_bert, monkeypatch):
    path = encode_build(build, tiny_bert, **FP32)
    encode_build(build, "tfidf-svd", progress=False)
    stamp = path.stat().st_mtime_ns

    def no_loading(plm, **_):
        if plm != "tfidf-svd":
            raise AssertionError("a model was loaded")
        return load_encoder(plm)

    monkeypatch.setattr(encode, "load_encoder", no_loading)
    assert encode_build(build, tiny_bert, progress=False) == path
    assert encode_build(build, tiny_bert, **FP32) == path
    assert encode_build(build, "tfidf-svd", progress=False).name == "shop.tfidf-svd.feature"
    assert path.stat().st_mtime_ns == stamp


def test_another_precision_is_refused_unless_forced(build, tiny_bert):
    path = encode_build(build, tiny_bert, **FP32)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"is there already, but it was made in fp32, not bf16.*replace it .* --force"):
        encode_build(build, tiny_bert, progress=False, precision="bf16")
    assert path.read_bytes() == before
    encode_build(build, tiny_bert, progress=False, force=True, precision="bf16")
    assert path.read_bytes() != before
    encode_build(build, tiny_bert, progress=False, precision="bf16")


OPTIONS = [
    {"pooling": "mean"}, {"max_length": 16}, {"prompt": "big red: "}, {"dimensions": 8}, {"text_fields": "title"},
    {"text_fields": "title,text"},
]  # fmt: skip


def test_other_settings_have_files_of_their_own(build, tiny_bert):
    """No two of them share a file or a vector, and each is found again."""
    files = [encode_build(build, tiny_bert, **FP32, **options) for options in [{}, *OPTIONS]]
    assert len({path.name for path in files}) == len({path.read_bytes() for path in files}) == len(files)
    for options, path in zip([{}, *OPTIONS], files):
        stamp = path.stat().st_mtime_ns
        assert encode_build(build, tiny_bert, **FP32, **options) == path and path.stat().st_mtime_ns == stamp
        name = path.name.removeprefix("shop.").removesuffix(".feature")
        assert name == encoder_name(tiny_bert, **options) and load_features(build, name)[1]["encoder"] == name


def test_released_texts_come_from_the_raw_metadata(tmp_path, monkeypatch):
    """The sample's raw metadata, through the command; the features are those of the released texts."""
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", "--dataset=sample-u200-i60", "--data_path=d", "--raw_dir=r"]) == 0
    args = ["encode", "--build=d/sample-u200-i60", "--plm=tfidf-svd", "--quiet", "--text_recipe=released"]
    assert main([*args, "--raw_dir=r"]) == 0
    name = encoder_name("tfidf-svd", text_recipe="released")
    features, header = load_features("d/sample-u200-i60", name)
    with gzip.open("r/raw/meta_categories/meta_sample-u200-i60.jsonl.gz", "rt") as file:
        meta = {item["parent_asin"]: item for item in map(json.loads, file)}
    texts = [released_text(meta[item]) for item in read_items("d/sample-u200-i60")[0]]
    np.testing.assert_array_equal(features, load_encoder("tfidf-svd").encode(texts))
    assert (header["text_recipe"], header["recipe_text_sha256"]) == ("released", text_hash(texts))
    assert main([*args, "--raw_dir=gone"]) == 0  # whole: the raw files are not read again
    assert main([*args, "--raw_dir=gone", "--force"]) == 2


def put_in_hub_cache(cache, hub_id, folder, commit="0" * 40):
    """Lay a model folder into a hub cache as `main` of a hub id."""
    repo = cache / f"models--{hub_id.replace('/', '--')}"
    shutil.copytree(folder, repo / "snapshots" / commit)
    (repo / "refs").mkdir(exist_ok=True)
    (repo / "refs" / "main").write_text(commit)


def test_hub_ids_with_one_last_part_have_files_of_their_own(build, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    files = {}
    for seed, hub_id in enumerate(["a/x", "b/x", "hyp1231/x", "x"]):
        put_in_hub_cache(tmp_path, hub_id, write_tiny_encoder(tmp_path / f"model{seed}", seed=seed))
    for hub_id in ("a/x", "b/x", "hyp1231/x"):
        files[hub_id] = encode_build(build, hub_id, cache_dir=str(tmp_path), **FP32)
    assert [path.name for path in files.values()] == ["shop.a--x.feature", "shop.b--x.feature", "shop.x.feature"]
    assert len({path.read_bytes() for path in files.values()}) == 3
    with pytest.raises(InputError, match="it was made with hyp1231/x, not x"):
        encode_build(build, "x", cache_dir=str(tmp_path), **FP32)


def test_another_revision_has_a_file_of_its_own(build, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for seed, commit in enumerate(["0" * 40, "1" * 40]):
        put_in_hub_cache(tmp_path, "a/x", write_tiny_encoder(tmp_path / f"model{seed}", seed=seed), commit)
    files = [encode_build(build, "a/x", cache_dir=str(tmp_path), revision=r, **FP32) for r in (None, "0" * 40)]
    assert files[0] != files[1] and files[0].read_bytes() != files[1].read_bytes()


def make_first_format(path, name, **changes):
    """Turn a feature file into one of format 1: without organisation, modules and prompt in name and header."""
    header = json.loads(Path(f"{path}.json").read_text())
    header = {k: v for k, v in header.items() if k not in ("modules", "prompt", "text_fields")}
    header |= {"format": 1, "encoder": name, "asked": {"revision": None, "pooling": None, "max_length": 512}, **changes}
    new = path.with_name(f"shop.{name}.feature")
    path.rename(new)
    Path(f"{path}.json").unlink()
    write_own_json(Path(f"{new}.json"), header)
    return new


@pytest.mark.parametrize("plain", [True, False])
def test_a_file_of_format_1_is_taken_where_it_says_the_same(build, tmp_path, monkeypatch, plain):
    """Where the model has a prompt of its own, which format 1 left out, the features are made again."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = write_tiny_encoder(tmp_path / "model", pooling="mean")
    put_in_hub_cache(tmp_path, "a/x", model)
    old = make_first_format(encode_build(build, "a/x", cache_dir=str(tmp_path), **FP32), "x")
    if not plain:
        told = tmp_path / "models--a--x/snapshots" / ("0" * 40) / "config_sentence_transformers.json"
        told.write_text(json.dumps({"prompts": {"document": "big: "}}))
    path = encode_build(build, "a/x", cache_dir=str(tmp_path), **FP32)
    assert (path == old) is plain
    assert plain or path.read_bytes() != old.read_bytes()


def test_a_file_of_format_1_of_another_organisation_is_not_taken(build, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    put_in_hub_cache(tmp_path, "a/x", write_tiny_encoder(tmp_path / "model0", pooling="mean"))
    put_in_hub_cache(tmp_path, "b/x", write_tiny_encoder(tmp_path / "model1", pooling="mean", seed=1))
    old = make_first_format(encode_build(build, "a/x", cache_dir=str(tmp_path), **FP32), "x")
    assert encode_build(build, "b/x", cache_dir=str(tmp_path), **FP32).read_bytes() != old.read_bytes()


def test_features_of_other_texts_or_items_are_refused(build, tiny_bert):
    encode_build(build, tiny_bert, **FP32)
    texts = some_texts(90)
    write_items(build, [*texts[:-1], "desk"])
    with pytest.raises(InputError, match="it was made from other item texts"):
        encode_build(build, tiny_bert, **FP32)
    write_items(build, texts, [f"C{i}" for i in range(90)])
    with pytest.raises(InputError, match="it was made for other items"):
        encode_build(build, tiny_bert, **FP32)
    encode_build(build, tiny_bert, force=True, **FP32)
    load_features(build, encoder_name(tiny_bert))


def test_a_feature_file_of_unknown_origin_is_not_overwritten(build):
    path = build / "shop.tfidf-svd.feature"
    path.write_bytes(b"precious")
    with pytest.raises(InputError, match=r"it has no header .* so this tool did not write it"):
        encode_build(build, "tfidf-svd", progress=False)
    assert path.read_bytes() == b"precious"


def test_upstreams_pair_is_left_alone(build):
    ids, _ = read_items(build)
    path = build / "shop.blair-base.feature"
    np.ones((90, 4), np.float32).tofile(path)
    (build / "shop.data_maps").write_text(json.dumps({"item2id": {"[PAD]": 0} | {x: i + 1 for i, x in enumerate(ids)}}))
    assert encode_build(build, "hyp1231/blair-base", progress=False) == path
    assert load_features(build, "blair-base")[0].shape == (90, 4)


def test_an_empty_build_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no item, so there is nothing to encode"):
        encode_build(write_items(tmp_path / "none", []), "tfidf-svd")


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the code catches it, nothing is cleaned up after it but memory."""


def count_renames(monkeypatch, stop_at=None, after=False):
    """Count the renames of the writer; at number `stop_at` die before or after it."""
    calls, real = [], os.replace

    def replace(*args):
        calls.append(args)
        if len(calls) - 1 == stop_at and not after:
            raise Killed
        real(*args)
        if len(calls) - 1 == stop_at:
            raise Killed

    monkeypatch.setattr(partial.os, "replace", replace)
    return calls


def test_dying_at_any_rename_leaves_nothing_false(tmp_path, tiny_bert, monkeypatch, one_thread):
    """Each step ends in a rename; die before and after each, look at what a reader sees, and go on."""
    texts, options = some_texts(60), {"batch_tokens": 64, **FP32}
    whole = encode_build(write_items(tmp_path / "whole" / "shop", texts), tiny_bert, **options)
    with monkeypatch.context() as patch:
        calls = count_renames(patch)
        encode_build(write_items(tmp_path / "count" / "shop", texts), tiny_bert, **options)
    assert len(calls) >= 5  # the first progress, at least two chunks, rows, header
    for stop_at in range(len(calls)):
        for after in (False, True):
            build = write_items(tmp_path / f"{stop_at}-{after}" / "shop", texts)
            with monkeypatch.context() as patch:
                count_renames(patch, stop_at, after)
                with pytest.raises(Killed):
                    encode_build(build, tiny_bert, **options)
            with pytest.raises(InputError, match=r"is unfinished|is missing"):
                load_features(build, encoder_name(tiny_bert))
            path = encode_build(build, tiny_bert, **options)
            assert path.read_bytes() == whole.read_bytes()
            assert json.loads(Path(f"{path}.json").read_text()) == json.loads(Path(f"{whole}.json").read_text())
            assert len(list(build.iterdir())) == 3


def test_finished_chunks_are_not_encoded_again(build, tiny_bert, monkeypatch):
    with monkeypatch.context() as patch:
        calls = count_renames(patch, stop_at=3, after=True)  # first progress and three chunks
        with pytest.raises(Killed):
            encode_build(build, tiny_bert, batch_tokens=32, **FP32)
    assert len(calls) == 4
    rows = []
    real = partial.PartialFeatures.add
    monkeypatch.setattr(
        partial.PartialFeatures, "add", lambda self, i, r, v: (rows.extend(r.tolist()), real(self, i, r, v))[1]
    )
    encode_build(build, tiny_bert, batch_tokens=32, **FP32)
    plan = load_encoder(tiny_bert).plan(read_items(build)[1], 32)
    assert sorted(rows) == sorted(np.concatenate(plan[3:]).tolist())


def test_what_another_run_left_is_not_mixed_in(build, tiny_bert, monkeypatch, one_thread):
    """Other settings or other texts than the interrupted run's start afresh."""
    with monkeypatch.context() as patch:
        count_renames(patch, stop_at=2, after=True)
        with pytest.raises(Killed):
            encode_build(build, tiny_bert, pooling="mean", batch_tokens=64, **FP32)
    path = encode_build(build, tiny_bert, batch_tokens=64, **FP32)
    expected = load_encoder(tiny_bert, precision="fp32").encode(read_items(build)[1], batch_tokens=64, progress=False)
    assert path.read_bytes() == expected.tobytes()


def test_a_second_process_is_kept_out(build, tiny_bert):
    pytest.importorskip("fcntl")
    encoder = load_encoder(tiny_bert)
    about = {"rows": 90, "width": 32, **encoder.description()}
    path = build / f"shop.{encoder.name}.feature"
    with (
        partial.PartialFeatures(path, about, 2, encoder, None),
        pytest.raises(InputError, match=r"another process is writing shop\.tiny-.*wait for it"),
    ):
        encode_build(build, tiny_bert, **FP32)


def test_a_full_disk_is_one_line_and_exit_2(build, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(partial.os, "posix_fallocate", full)
    assert main(["encode", f"--build={build}", "--plm=tfidf-svd", "--quiet"]) == 2
    error = capsys.readouterr().err
    assert "error: cannot write" in error and "No space left" in error and error.count("\n") == 1
    assert f"{build}/shop.tfidf-svd.feature.partial: No space" in error
    monkeypatch.undo()
    assert main(["encode", f"--build={build}", "--plm=tfidf-svd", "--quiet"]) == 0
    load_features(build, "tfidf-svd")


def test_sigkill_in_the_middle(tmp_path, one_thread):
    """The real command, really killed; the same command ends with the bytes of an uninterrupted one."""
    model = write_tiny_encoder(tmp_path / "tiny")
    texts = some_texts(3000)
    build = write_items(tmp_path / "killed" / "shop", texts)
    args = ["encode", f"--build={build}", f"--plm={model}", "--precision=fp32", "--batch_tokens=64", "--quiet"]
    progress = Path(f"{build}/shop.{encoder_name(model)}.feature.partial.json")
    process = subprocess.Popen(
        [sys.executable, "-m", "recbole_blair", *args], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    deadline, state = time.monotonic() + 120, {"done": []}
    while time.monotonic() < deadline and process.poll() is None and not (state["done"] and state["done"][0][1] >= 2):
        time.sleep(0.002)
        if progress.exists():
            state = json.loads(progress.read_text())
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    state = json.loads(progress.read_text())
    assert 2 <= state["done"][0][1] < state["chunks"] - 1
    with pytest.raises(InputError, match="is unfinished"):
        load_features(build, encoder_name(model))

    assert main(args) == 0
    other = write_items(tmp_path / "whole" / "shop", texts)
    assert main([args[0], f"--build={other}", *args[2:]]) == 0
    name = f"shop.{encoder_name(model)}.feature"
    assert (build / name).read_bytes() == (other / name).read_bytes()
    assert (build / f"{name}.json").read_text() == (other / f"{name}.json").read_text()
    assert not progress.exists()


def test_the_command_finds_the_build(tmp_path, capsys):
    write_items(tmp_path / "Video_Games", some_texts(20))
    assert main(["encode", "--dataset=Games", f"--data_path={tmp_path}", "--plm=tfidf-svd", "--quiet"]) == 0
    assert capsys.readouterr().out.strip().endswith("Video_Games.tfidf-svd.feature")
    shutil.rmtree(tmp_path / "Video_Games")
    for args, message in [
        (["--dataset=Games", f"--data_path={tmp_path}"], "make it first: recbole-blair prepare"),
        (["--dataset=Gamez", f"--data_path={tmp_path}"], "unknown dataset 'Gamez'"),
        ([], "give either --dataset=NAME or --build=FOLDER"),
        (["--build=a", "--dataset=b"], "give either"),
    ]:
        assert main(["encode", "--plm=tfidf-svd", *args]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_a_plm_that_does_not_exist(build, capsys):
    assert main(["encode", f"--build={build}", "--plm=./nowhere"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --plm=./nowhere: no such folder") and error.count("\n") == 1

"""A build made again after events and items were appended: the files of a full rebuild, and only new texts encoded."""

import os
from pathlib import Path

import numpy as np
import pytest

from dataset_tools.builds import raw_digests
from dataset_tools.own_data import prepare_own
from dataset_tools.prepare import prepare
from recbole_blair.cli.main import main
from recbole_blair.errors import InputError
from recbole_blair.text import reuse
from recbole_blair.text.encode import encode_build
from recbole_blair.text.encoders import load_encoder
from recbole_blair.text.features import load_features, read_items

DAY = 86_400_000
FP32 = {"precision": "fp32", "progress": False, "device": "cpu"}


def write_log(folder, users, items, words=None):
    """A log of `users` with eight events each over `items`, and the items' file; `words` replaces an item's text."""
    lines = ["user_id,item_id,timestamp"]
    for user in range(users):
        events = [(user * 7 + step * 3) % items for step in range(8)]
        lines += [f"u{user},i{item},{1_600_000_000_000 + (user + step * 20) * DAY}" for step, item in enumerate(events)]
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    texts = [(words or {}).get(i, f"item {'long ' * (i % 9)}number {i}") for i in range(items)]
    (folder / "items.csv").write_text("\n".join(["item_id,title", *(f"i{i},{t}" for i, t in enumerate(texts))]) + "\n")


def build(folder, data_path="dataset", **options):
    return prepare_own(
        "shop",
        folder / "log.csv",
        folder / "items.csv",
        data_path=folder / data_path,
        progress=False,
        threads=1,
        **options,
    )


def contents(folder):
    """Every file that is no cache, with its bytes."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def counted(monkeypatch):
    """The texts that a model encodes, in a list that grows."""
    seen = []

    def load(plm, **options):
        encoder = load_encoder(plm, **options)
        real = encoder.encode_chunks

        def encode_chunks(texts, **settings):
            seen.extend(texts)
            return real(texts, **settings)

        encoder.encode_chunks = encode_chunks
        return encoder

    return seen, load


def test_appended_events_and_items_encode_only_the_new_texts(tmp_path, tiny_bert, counted):
    """Two items are new, one has another text: three texts, and the files of a build from nothing."""
    seen, load = counted
    write_log(tmp_path, 60, 40)
    folder = build(tmp_path)
    path = encode_build(folder, tiny_bert, load=load, **FP32)
    assert len(seen) == 40
    seen.clear()
    write_log(tmp_path, 62, 42, {5: "a new text of item five"})
    with pytest.raises(InputError, match="prepare --force builds it again"):
        build(tmp_path)
    assert build(tmp_path, force=True) == folder
    assert len(reuse.kept_items(folder)) == 1
    encode_build(folder, tiny_bert, load=load, **FP32)
    assert sorted(seen) == sorted(read_texts(folder, ["i5", "i40", "i41"]))
    assert not reuse.kept_items(folder)  # nothing is of the former build any more

    fresh = build(tmp_path, "fresh")
    encode_build(fresh, tiny_bert, **FP32)
    ours, theirs = contents(folder), contents(fresh)
    differ = {name for name in ours if ours[name] != theirs[name]}  # the last bits of rows, and their checksum
    assert ours.keys() == theirs.keys() and differ <= {path.name, f"{path.name}.json"}
    (rows, _), (again, _) = (
        load_features(one, path.name.split(".", 1)[1].removesuffix(".feature")) for one in (folder, fresh)
    )
    np.testing.assert_allclose(rows, again, atol=2e-6)


def read_texts(folder, wanted):
    ids, texts = read_items(folder)
    return [text for item, text in zip(ids, texts) if item in wanted]


def test_another_encoder_reuses_nothing(tmp_path, tiny_bert, counted):
    """Each file is brought up to date by its own encoder's rows; settings that differ are refused as ever."""
    seen, load = counted
    write_log(tmp_path, 60, 40)
    folder = build(tmp_path)
    encode_build(folder, tiny_bert, load=load, **FP32)
    encode_build(folder, tiny_bert, load=load, pooling="mean", **FP32)
    encode_build(folder, "tfidf-svd", progress=False)
    write_log(tmp_path, 61, 41)
    build(tmp_path, force=True)
    seen.clear()
    encode_build(folder, tiny_bert, load=load, pooling="mean", **FP32)
    assert len(seen) == 1 and reuse.kept_items(folder)  # others are still of the former build
    encode_build(folder, "tfidf-svd", load=load, progress=False)  # fitted on the whole catalogue: all texts again
    assert len(seen) == 1 + 41
    encode_build(folder, tiny_bert, load=load, **FP32)
    assert len(seen) == 1 + 41 + 1 and not reuse.kept_items(folder)
    write_log(tmp_path, 62, 42)
    build(tmp_path, force=True)
    with pytest.raises(InputError, match="it was made in fp32, not bf16"):
        encode_build(folder, tiny_bert, precision="bf16", progress=False, device="cpu")


def test_train_brings_the_features_up_to_date(tmp_path, tiny_bert, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_log(tmp_path, 60, 40)
    prepare_argv = ["prepare", "--dataset=shop", "--interactions=log.csv", "--items=items.csv", "--quiet"]
    train_argv = ["train", "--model=SASRecText", "--dataset=shop", f"--plm={tiny_bert}", "--epochs=1", "--device=cpu"]
    train_argv += ["--threads=1", "--precision=fp32"]
    assert main(prepare_argv) == 0 and main(train_argv) == 0
    assert "existing build reused" not in capsys.readouterr().out
    assert main(prepare_argv) == 0
    assert "dataset/shop: existing build reused, made from files of the same content" in capsys.readouterr().out
    write_log(tmp_path, 62, 42)
    assert main(prepare_argv) == 2 and "--force" in capsys.readouterr().err
    assert main([*prepare_argv, "--force"]) == 0 and main(train_argv) == 0
    assert "2 of 42 texts are new, the rows of the others stay" in capsys.readouterr().out


def test_an_interrupted_update_goes_on(tmp_path, tiny_bert, counted, monkeypatch):
    _, load = counted
    write_log(tmp_path, 60, 40)
    folder = build(tmp_path)
    encode_build(folder, tiny_bert, load=load, batch_tokens=64, **FP32)
    write_log(tmp_path, 90, 70)
    build(tmp_path, force=True)
    real, done = reuse.Reusing.encode_chunks, []

    def dies(self, *args, **settings):
        for number, rows, vectors in real(self, *args, **settings):
            yield number, rows, vectors
            done.append(number)
            if len(done) == 1:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(reuse.Reusing, "encode_chunks", dies)
        with pytest.raises(KeyboardInterrupt):
            encode_build(folder, tiny_bert, load=load, batch_tokens=64, **FP32)
    path = encode_build(folder, tiny_bert, load=load, batch_tokens=64, **FP32)
    rows, _ = load_features(folder, path.name.split(".", 1)[1].removesuffix(".feature"))
    fresh = build(tmp_path, "fresh")
    again, _ = load_features(
        fresh, encode_build(fresh, tiny_bert, **FP32).name.split(".", 1)[1].removesuffix(".feature")
    )
    np.testing.assert_allclose(rows, again, atol=2e-6)


def test_content_decides_and_is_hashed_once_per_change(tmp_path, monkeypatch):
    """Same name, same size, another character: refused. A file that nobody touched is not read again."""
    write_log(tmp_path, 60, 40)
    folder = build(tmp_path)
    read = []
    real = raw_digests.file_sha256
    monkeypatch.setattr(raw_digests, "file_sha256", lambda path: read.append(Path(path).name) or real(path))
    build(tmp_path)
    assert read == []
    os.utime(tmp_path / "log.csv", (1, 1))
    build(tmp_path)
    build(tmp_path)
    assert read == ["log.csv"]
    log = tmp_path / "log.csv"
    log.write_text(log.read_text().replace("u1,", "u7,", 1))
    with pytest.raises(InputError, match=r"log\.csv has other content than log\.csv had, by its SHA-256"):
        build(tmp_path)
    (folder / ".cache" / raw_digests.DIGESTS).write_text("[")
    with pytest.raises(InputError, match="other content"):
        build(tmp_path)


def test_amazons_raw_files_are_compared_by_content(tmp_path):
    folder = prepare("sample-u60-i60", tmp_path / "d", tmp_path / "raw", threads=1, progress=False)
    (raw,) = (tmp_path / "raw").rglob("review_categories/*.jsonl*")
    prepare("sample-u60-i60", tmp_path / "d", tmp_path / "raw", threads=1, progress=False)
    data = bytearray(raw.read_bytes())
    data[4] ^= 1  # the time in the head of a .gz file: other content of the same size
    raw.write_bytes(data)
    with pytest.raises(InputError, match=r"other content than .* had, by its SHA-256; prepare --force"):
        prepare("sample-u60-i60", tmp_path / "d", tmp_path / "raw", threads=1, progress=False)
    before = (folder / f"{folder.name}.train.inter").read_bytes()
    prepare("sample-u60-i60", tmp_path / "d", tmp_path / "raw", threads=1, progress=False, force=True)
    assert (folder / f"{folder.name}.train.inter").read_bytes() == before
    prepare("sample-u60-i60", tmp_path / "d", tmp_path / "raw", threads=1, progress=False)


def test_force_replaces_a_build_of_other_settings(tmp_path):
    write_log(tmp_path, 60, 40)
    folder = build(tmp_path)
    with pytest.raises(InputError, match="max_history=50, asked is max_history=3; prepare --force builds"):
        build(tmp_path, max_history=3)
    build(tmp_path, max_history=3, force=True)
    assert contents(folder) == contents(build(tmp_path, "fresh", max_history=3))


def test_no_row_of_a_damaged_file_is_kept(tmp_path, tiny_bert, counted):
    seen, load = counted
    write_log(tmp_path, 60, 40)
    folder = build(tmp_path)
    path = encode_build(folder, tiny_bert, load=load, **FP32)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    write_log(tmp_path, 61, 41)
    build(tmp_path, force=True)
    with pytest.raises(InputError, match=r"\.feature is damaged: from row 0 on .*; encode again: .* --force"):
        encode_build(folder, tiny_bert, load=load, **FP32)
    seen.clear()
    encode_build(folder, tiny_bert, load=load, force=True, **FP32)
    assert len(seen) == 41

"""Feature files: whose rows they hold, what is refused and how, upstream's pairs."""

import json
import subprocess
import sys

import numpy as np
import pytest
from tiny_encoders import some_texts, write_items

from recbole_blair.errors import InputError
from recbole_blair.files import checksum
from recbole_blair.text import features
from recbole_blair.text.encode import encode_build
from recbole_blair.text.features import (
    feature_path,
    features_are_whole,
    find_encoder_files,
    header_path,
    load_features,
    read_item_texts,
    read_items,
)
from recbole_blair.text.item_text import ids_hash, text_hash

TEXTS = [text or "lamp" for text in some_texts(30)]
IDS = [f"B{i:04}" for i in range(30)]


@pytest.fixture
def build(tmp_path):
    """A build with tfidf-svd features."""
    folder = write_items(tmp_path / "shop", TEXTS, IDS)
    encode_build(folder, "tfidf-svd", progress=False)
    return folder


def test_rows_and_header(build):
    features, header = load_features(build, "tfidf-svd")
    assert isinstance(features, np.memmap) and features.dtype == np.float32
    assert features.shape == (30, header["width"])
    assert header["ids_sha256"] == ids_hash(IDS) and header["text_sha256"] == text_hash(TEXTS)
    assert (header["encoder"], header["rows"], header["normalised"]) == ("tfidf-svd", 30, False)
    assert header["tool"].startswith("recbole_blair ")
    with pytest.raises(ValueError, match="read-only"):
        features[0, 0] = 1
    again, _ = load_features(build, "tfidf-svd", ids=IDS, texts_hash=text_hash(TEXTS), width=header["width"])
    assert np.array_equal(features, again)
    assert list(find_encoder_files(build)) == ["tfidf-svd"]


def refuse(build, message, name="tfidf-svd", **options):
    with pytest.raises(InputError, match=message):
        load_features(build, name, **options)


def test_missing_names_what_is_there(build, tmp_path):
    refuse(build, r"shop\.x\.feature is missing \(encoders with features there: tfidf-svd, wanted x\)", "x")
    refuse(build, "recbole-blair encode --build=.*shop --plm=<hub id or folder of x>", "x")
    empty = write_items(tmp_path / "empty", TEXTS)
    refuse(empty, r"encoders with features there: none.*--plm=tfidf-svd")


def test_other_items(build):
    refuse(build, r"made for other items \(30 rows, the dataset has 30 items.*--force", ids=IDS[::-1])
    refuse(build, r"made for other items \(30 rows, the dataset has 29 items", ids=IDS[:-1])


def test_other_texts(build):
    refuse(build, r"made from other item texts than shop\.item holds; encode again: .*--force", texts_hash="0" * 64)
    write_items(build, [*TEXTS[:-1], "another desk"], IDS)
    refuse(build, "made from other item texts")
    refuse(build, "made from other item texts", ids=IDS)


def test_other_width(build):
    width = load_features(build, "tfidf-svd")[1]["width"]
    message = f"shop.tfidf-svd.feature has width {width} but plm_size is 768; set plm_size: {width}, or encode"
    refuse(build, message, width=768)


def test_other_size(build):
    path = feature_path(build, "tfidf-svd")
    path.write_bytes(path.read_bytes()[:-4])
    refuse(build, r"bytes, expected \d+ = 4 x 30 rows x width")


def test_another_encoders_file(build):
    for path in (feature_path, header_path):
        path(build, "tfidf-svd").rename(path(build, "other"))
    refuse(build, r"shop\.other\.feature was made by tfidf-svd, expected other", "other")


def test_no_header_or_a_broken_one(build):
    header = header_path(build, "tfidf-svd")
    text = header.read_text()
    header.write_text("{")
    refuse(build, r"is not JSON .*; delete it and encode again")
    header.write_text("[]")
    refuse(build, "it holds a list; expected a feature header; delete it and encode again")
    header.write_text(text.replace('"width"', '"weite"'))
    refuse(build, "it has no 'width'; expected a feature header; delete it and encode again")
    header.unlink()
    refuse(build, r"has no header shop\.tfidf-svd\.feature\.json beside it .*move it away and encode again")


def test_an_unfinished_file_is_not_used(build):
    assert features_are_whole(build, "tfidf-svd")
    (build / "shop.tfidf-svd.feature.partial.json").write_text("{}")
    assert not features_are_whole(build, "tfidf-svd")
    refuse(build, r"is unfinished: encoding was interrupted.*recbole-blair encode")


def test_items_are_read_as_written(tmp_path):
    """Quotes, empty texts, `NA` and letters beyond ASCII are text like any other."""
    texts = ['19" rack "pro', "", "NA", "null", "naïve 茶 – ok", "'x"]
    folder = write_items(tmp_path / "odd", texts)
    assert read_items(folder)[1] == texts


def test_item_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"gone\.item is missing; make the atomic files first"):
        read_items(tmp_path / "gone")
    folder = write_items(tmp_path / "shop", TEXTS)
    path = folder / "shop.item"
    path.write_text(path.read_text().replace("text:token", "words:token"))
    with pytest.raises(InputError, match=r"has no column text:token \(it has item_id:token, title:token, words:token"):
        read_items(folder)
    write_items(folder, TEXTS)
    path.write_text(path.read_text() + "B9\tonly two\n")
    with pytest.raises(InputError, match=r"shop\.item is broken .*Expected 4 columns, got 2"):
        read_items(folder)
    path.write_text("")
    with pytest.raises(InputError, match="has no column item_id:token, text:token"):
        read_items(folder)


def write_upstream(folder, rows, item2id, name="blair"):
    rows.astype(np.float32).tofile(feature_path(folder, name))
    id2item = [item for item, _ in sorted(item2id.items(), key=lambda kv: kv[1])]
    (folder / f"{folder.name}.data_maps").write_text(json.dumps({"item2id": item2id, "id2item": id2item}))


def test_upstreams_pair_is_put_in_our_order(tmp_path):
    """Row i - 1 belongs to id i; 0 is padding; an item more than ours does no harm."""
    folder = write_items(tmp_path / "shop", ["a b", "c d", "e f"], ["A", "B", "C"])
    rows = np.array([[1, 1], [2, 2], [3, 3], [4, 4]])
    write_upstream(folder, rows, {"[PAD]": 0, "C": 1, "X": 2, "A": 3, "B": 4})
    features, header = load_features(folder, "blair", width=2)
    assert features.tolist() == [[3, 3], [4, 4], [1, 1]]
    assert (header["width"], header["rows"], header["kind"]) == (2, 3, "upstream")
    write_upstream(folder, rows[:3], {"[PAD]": 0, "A": 1, "B": 2, "C": 3})
    assert isinstance(load_features(folder, "blair")[0], np.memmap)


def test_upstreams_pairs_that_do_not_fit(tmp_path):
    folder = write_items(tmp_path / "shop", ["a b", "c d", "e f"], ["A", "B", "C"])
    rows = np.ones((3, 2))
    write_upstream(folder, rows, {"[PAD]": 0, "A": 1, "Y": 2, "Z": 3})
    refuse(folder, r"data_maps lacks 2 of the dataset's 3 items \(first: B, C\)", "blair")
    write_upstream(folder, np.ones((7, 1)), {"[PAD]": 0, "A": 1, "B": 2, "C": 3})
    refuse(folder, "28 bytes, which is no whole number of float32 rows for the 3 items", "blair")
    write_upstream(folder, rows, {"[PAD]": 0, "A": 1, "B": 1, "C": 3})
    refuse(folder, "should number 3 items 1 to 3, each once", "blair")
    write_upstream(folder, rows, {"[PAD]": 0, "A": 1, "B": 2, "C": 3})
    refuse(folder, "has width 2 but plm_size is 768", "blair", width=768)
    (folder / "shop.data_maps").write_text("[]")
    refuse(folder, "is not upstream's JSON with an item2id map", "blair")


def test_features_load_neither_torch_nor_transformers():
    code = (
        "import sys; import recbole_blair.text.features, recbole_blair.text.encode\n"
        "from recbole_blair.text.encoders import encoder_name; encoder_name('a/b')\n"
        "print(sorted({'torch', 'transformers', 'sklearn', 'ray'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_texts_of_columns(tmp_path):
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "shop.item").write_text(
        "item_id:token\ttitle:token\ttext:token\tcategories:token_seq\tstore:token\tprice:float\n"
        "B1\tRed lamp\tRed lamp. Steel.\tHome_Decor Lamps\tAcme!\t3.5\nB2\t\tA desk.\t\t\t\n"
    )
    assert read_item_texts(folder) == (["B1", "B2"], ["Red lamp. Steel.", "A desk."])
    assert read_item_texts(folder, "title")[1] == ["Red lamp.", ""]
    assert read_item_texts(folder, "store, title,categories")[1] == ["Acme! Red lamp. Home Decor, Lamps.", ""]
    with pytest.raises(
        InputError, match=r"text_fields=title,pricy: .*shop.item has no text 'pricy'; it has item_id, t"
    ):
        read_item_texts(folder, "title,pricy")


@pytest.mark.parametrize("place", [0, 1, 2, 3])  # of four: the first and last byte and two between
def test_a_flipped_bit_is_seen(build, monkeypatch, place):
    monkeypatch.setattr(checksum, "CRC_BLOCK_BYTES", 100)  # several blocks
    monkeypatch.setattr(features, "CRC_BLOCK_BYTES", 100)
    encode_build(build, "tfidf-svd", progress=False, force=True)
    path, (rows, header) = feature_path(build, "tfidf-svd"), load_features(build, "tfidf-svd")
    assert len(header["crc32_4MiB"]) == 8 * -(-path.stat().st_size // 100)
    data = bytearray(path.read_bytes())
    at = (len(data) - 1) * place // 3
    data[at] ^= 1 << place
    path.write_bytes(data)
    row = at // 100 * 100 // (4 * rows.shape[1])
    with pytest.raises(InputError, match=rf"feature is damaged: from row {row} on its checksum .*--force"):
        load_features(build, "tfidf-svd")
    encode_build(build, "tfidf-svd", progress=False, force=True)
    assert load_features(build, "tfidf-svd")[1] == header


def test_a_header_of_an_earlier_version_has_no_checksum(build):
    path = header_path(build, "tfidf-svd")
    header = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in header.items() if "crc32" not in key}))
    assert load_features(build, "tfidf-svd")[0].shape == (30, header["width"])

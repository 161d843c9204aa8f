"""Ready vectors: every kind of file gives the same features, checked against the items."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_encoders import write_items

from recbole_blair.errors import InputError
from recbole_blair.text import vectors
from recbole_blair.text.encode import encode_build
from recbole_blair.text.encoders import encoder_name, load_encoder
from recbole_blair.text.features import load_features

IDS = ["B1", "B2", "B3"]
VECTORS = np.arange(12, dtype=np.float32).reshape(3, 4)
TURNED = [2, 0, 1]  # files with ids hold the rows in another order, and one of another item


@pytest.fixture
def build(tmp_path):
    return write_items(tmp_path / "shop", ["a", "b", "c"], IDS)


def with_ids():
    return [*(IDS[i] for i in TURNED), "other"], np.concatenate([VECTORS[TURNED], np.full((1, 4), 9, np.float32)])


def write_npy(folder):
    np.save(folder / "v.npy", VECTORS)
    return folder / "v.npy"


def write_npz(folder):
    ids, vectors = with_ids()
    np.savez(folder / "v.npz", ids=np.array(ids), embeddings=vectors)
    return folder / "v.npz"


def write_lists(folder):
    ids, vectors = with_ids()
    pq.write_table(pa.table({"parent_asin": ids, "vector": vectors.tolist()}), folder / "v.parquet")
    return folder / "v.parquet"


def write_columns(folder):
    ids, vectors = with_ids()
    columns = {f"x{i}": vectors[:, i] for i in range(4)}
    pq.write_table(pa.table({"item_id": ids, **columns}), folder / "c.parquet")
    return folder / "c.parquet"


def write_upstream(folder):
    ids, vectors = with_ids()
    vectors.tofile(folder / "v.feature")
    maps = {"item2id": {"[PAD]": 0} | {item: i for i, item in enumerate(ids, 1)}}
    (folder / "v.data_maps").write_text(json.dumps(maps))
    return folder / "v.feature"


@pytest.mark.parametrize("write", [write_npy, write_npz, write_lists, write_columns, write_upstream])
def test_every_kind_of_file(build, tmp_path, write):
    plm = f"vectors:{write(tmp_path)}"
    path = encode_build(build, plm, progress=False)
    name = encoder_name(plm)
    assert path.name == f"shop.{name}.feature" and name.startswith("vectors-")
    features, header = load_features(build, name)
    np.testing.assert_array_equal(features, VECTORS)
    assert (header["kind"], header["width"], header["rows"]) == ("vectors", 4, 3)
    stamp = path.stat().st_mtime_ns
    assert encode_build(build, plm, progress=False) == path and path.stat().st_mtime_ns == stamp
    cut = encode_build(build, plm, progress=False, dimensions=2)
    assert cut != path and np.fromfile(cut, np.float32).tolist() == VECTORS[:, :2].ravel().tolist()


def test_other_vectors_another_name(build, tmp_path):
    first = encode_build(build, f"vectors:{write_npy(tmp_path)}", progress=False)
    np.save(tmp_path / "v.npy", VECTORS + 1)
    assert encode_build(build, f"vectors:{tmp_path / 'v.npy'}", progress=False) != first


def spoil_count(folder):
    np.save(folder / "v.npy", VECTORS[:2])


def spoil_nan(folder):
    np.save(folder / "v.npy", np.where(VECTORS == 6, np.nan, VECTORS))


def spoil_shape(folder):
    np.save(folder / "v.npy", VECTORS.ravel())


def spoil_pickle(folder):
    np.save(folder / "v.npy", np.array([{}, {}], object), allow_pickle=True)


def spoil_bytes(folder):
    (folder / "v.npy").write_bytes(b"no array")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_count, "has 2 rows and no ids, the build has 3 items"),
        (spoil_nan, r"item 'B2' .row 2 of the .item file.: .*not finite"),
        (spoil_shape, r"holds float32 of shape \(12,\), expected numbers \(items, width\)"),
        (spoil_pickle, "v.npy is no .npy file of numbers"), (spoil_bytes, "v.npy is no .npy file of numbers"),
    ],
)  # fmt: skip
def test_files_without_ids_that_cannot_be_taken(build, tmp_path, spoil, message):
    spoil(tmp_path)
    before = sorted(build.iterdir())
    with pytest.raises(InputError, match=message):
        encode_build(build, f"vectors:{tmp_path / 'v.npy'}", progress=False)
    assert sorted(build.iterdir()) == before


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_refused_vectors_leave_nothing(build, tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(vectors, "CHUNK", chunk)  # rows before the wrong one may be written already
    before = sorted(build.iterdir())
    np.save(tmp_path / "v.npy", np.where(np.arange(12).reshape(3, 4) == 11, np.nan, VECTORS))
    with pytest.raises(InputError, match=r"item 'B3' .row 3 of the .item file.: .*not finite"):
        encode_build(build, f"vectors:{tmp_path / 'v.npy'}", progress=False)
    assert sorted(build.iterdir()) == before


def test_files_with_ids_that_cannot_be_taken(build, tmp_path):
    table = {"item_id": ["B1", "B3"], "v": [[1.0], [2.0]]}
    for changes, message in [
        ({}, r"lacks 1 of the build's 3 items .first: B2"),
        ({"item_id": ["B1", "B1"]}, "has 2 vectors, 2 ids, 1 of them different"),
        ({"v": [[1.0], [2.0, 3.0]]}, "the vectors in v have different widths .1, 2"),
        ({"v": ["a", "b"]}, "has no column of lists or of numbers besides item_id"),
    ]:
        pq.write_table(pa.table({**table, **changes}), tmp_path / "v.parquet")
        with pytest.raises(InputError, match=message):
            encode_build(build, f"vectors:{tmp_path / 'v.parquet'}", progress=False)
    pq.write_table(pa.table({"name": ["B1"], "v": [[1.0]]}), tmp_path / "v.parquet")
    with pytest.raises(InputError, match=r"has no column of ids .item_id, .*it has name, v"):
        encode_build(build, f"vectors:{tmp_path / 'v.parquet'}", progress=False)
    np.savez(tmp_path / "v.npz", VECTORS)
    with pytest.raises(InputError, match=r"expected one array of vectors .n, width. and one of ids"):
        encode_build(build, f"vectors:{tmp_path / 'v.npz'}", progress=False)


def test_wrong_use(build, tmp_path):
    plm = f"vectors:{write_npy(tmp_path)}"
    for options, message in [
        ({"dimensions": 5}, "--plm_dimensions=5 is not a width of .*v.npy; it has 1 to 4"),
        ({"pooling": "mean"}, "--plm_pooling=mean belongs to"), ({"prompt": "a: "}, "--plm_prompt=a:  belongs to"),
        ({"text_fields": "title"}, "--text_fields=title belongs to encoders of texts"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=message):
            encode_build(build, plm, progress=False, **options)
    with pytest.raises(InputError, match="holds vectors of a build's items, no encoder for other texts"):
        load_encoder(plm).encode_queries(["a"])
    with pytest.raises(InputError, match=r"^--plm=vectors: names no file; expected --plm=vectors:FILE"):
        encoder_name("vectors: ")
    for name, message in [("none.npy", "none.npy"), ("shop", "shop"), ("shop/shop.item", ".item, expected vectors")]:
        with pytest.raises(InputError, match=message):
            encoder_name(f"vectors:{tmp_path / name}")

"""Downloads from a hub on loopback: of a model what its modules name alone, of a data set a file of vectors."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from tiny_encoders import WORDS, write_items, write_pooling, write_tiny_model

from recbole_blair.errors import InputError
from recbole_blair.text import hub
from recbole_blair.text.encode import encode_build
from recbole_blair.text.encoders import encoder_name, resolve_plm
from recbole_blair.text.features import load_features
from recbole_blair.text.hub import fetch_snapshot
from recbole_blair.text.weights import weights_hash

COMMIT = "c" * 40


class Handler(BaseHTTPRequestHandler):
    """Answers for one repository, model or data set, as the hub does; `server.folder` holds its files."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, body=True):
        root, path = self.server.folder, self.path.partition("?")[0]
        files = {str(p.relative_to(root)): p for p in root.rglob("*") if p.is_file()}
        name = re.sub(f"^(/datasets)?/shop/x/resolve/{COMMIT}/", "", path)
        path = path.replace("/api/datasets/", "/api/models/")
        headers = {"X-Repo-Commit": COMMIT}
        if path.startswith("/api/models/shop/x/revision/"):
            about = {"id": "shop/x", "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
            data = json.dumps(about).encode()
        elif path.startswith("/api/models/shop/x/tree/"):
            data = json.dumps([
                {"type": "file", "path": name, "size": p.stat().st_size, "oid": "0"} for name, p in files.items()
            ]).encode()  # fmt: skip
        elif name in files:
            data = files[name].read_bytes()
            headers |= {"ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


@pytest.fixture
def serve(monkeypatch):
    """Serve a folder as the hub's shop/x."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", url, raising=False)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )

    def folder(path):
        server.folder = path

    yield folder
    server.shutdown()
    server.server_close()


def names_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def litter(folder):
    """Files of a repository that no module names."""
    for name in ("onnx/model.onnx", "onnx/config.json", "openvino/config.json", "README.md", "model.gguf", "run.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")


def test_a_plain_model(tmp_path, serve):
    source = write_tiny_model(tmp_path / "source", "bert")
    own = names_in(source)
    litter(source)
    serve(source)
    folder = fetch_snapshot("shop/x", None, str(tmp_path / "cache"))
    assert names_in(folder) == own and folder.name == COMMIT


def test_modules_in_folders_of_their_own(tmp_path, serve):
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer

    plain = write_tiny_model(tmp_path / "plain", "bert")
    sides = [[Transformer(str(plain)), Pooling(32), Dense(32, 8)] for _ in range(2)]
    source = tmp_path / "source"
    SentenceTransformer(modules=[Router.for_query_document(*sides), Dense(8, 4)], device="cpu").save(str(source))
    own = {name for name in names_in(source) if name != "README.md"}
    litter(source)
    serve(source)
    folder = fetch_snapshot("shop/x", None, str(tmp_path / "cache"))
    assert names_in(folder) == own
    assert weights_hash(folder) == weights_hash(source)


def test_a_module_that_is_not_offered_brings_no_weights(tmp_path, serve):
    source = write_tiny_model(tmp_path / "source", "bert")
    write_pooling(source, {"pooling_mode": "mean"})
    modules = json.loads((source / "modules.json").read_text())
    (source / "modules.json").write_text(
        json.dumps([*modules, {"path": "2", "type": "sentence_transformers.models.CNN"}])
    )
    serve(source)
    with pytest.raises(InputError, match=r"names the module CNN, which is not offered"):
        fetch_snapshot("shop/x", None, str(tmp_path / "cache"))
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.fixture
def vectors_hub(tmp_path, serve, monkeypatch):
    """Serve tmp_path/hub as a data set, with a cache of its own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    hub.fetch_dataset_file.cache_clear()
    (tmp_path / "hub/Shop").mkdir(parents=True)
    serve(tmp_path / "hub")
    return tmp_path / "hub"


def shop_of_words(folder, n=150):
    """A build of n items with two words each, in an order that is not that of their ids, and a vector for each.

    Returns:
        build; ids in `.item` order; (n, 16) counts of the words, float32.
    """
    rng = np.random.default_rng(0)
    pairs = [(i % 5, 5 + i // 5 % 6) for i in range(n)]
    ids = [f"B{k:04}" for k in rng.permutation(n)]
    vectors = np.zeros((n, len(WORDS)), np.float32)
    for row, pair in enumerate(pairs):
        vectors[row, list(pair)] = 1
    return write_items(folder / "Shop", [" ".join(WORDS[k] for k in pair) for pair in pairs], ids), ids, vectors


ADDRESS = "vectors:hf://datasets/shop/x/Shop/Shop.big.npy"


def test_published_vectors_by_id(tmp_path, vectors_hub):
    """Rows in the order of the sorted ids, as BLaIR-Bench writes them; a downloaded copy gives the same features."""
    build, ids, vectors = shop_of_words(tmp_path)
    np.save(vectors_hub / "Shop/Shop.big.npy", vectors[np.argsort(ids)])
    (vectors_hub / "Shop/other.npy").write_bytes(b"never fetched")
    for plm in (f"{ADDRESS}#sorted", f"vectors:{vectors_hub}/Shop/Shop.big.npy#sorted"):
        encode_build(build, plm, progress=False)
        name = encoder_name(plm)
        assert name.startswith("vectors-Shop.big-sorted-")
        features, header = load_features(build, name)
        np.testing.assert_array_equal(features, vectors)
        assert header["row_order"] == "sorted ids"
        next(build.glob("*.feature")).unlink()
    assert [path.name for path in (tmp_path / "cache").rglob("*.npy")] == ["Shop.big.npy"]
    assert encoder_name(f"{ADDRESS.replace('/x/', f'/x@{COMMIT}/')}#sorted") == name


def test_published_vectors_with_ids(tmp_path, vectors_hub):
    build, ids, vectors = shop_of_words(tmp_path)
    order = np.argsort(ids)
    vectors[order].tofile(vectors_hub / "Shop/Shop.big.feature")
    maps = {"item2id": {"[PAD]": 0} | {ids[row]: k for k, row in enumerate(order, 1)}}
    (vectors_hub / "Shop/Shop.big.data_maps").write_text(json.dumps(maps))
    plm = ADDRESS.replace(".npy", ".feature")
    encode_build(build, plm, progress=False)
    features, header = load_features(build, encoder_name(plm))
    np.testing.assert_array_equal(features, vectors)
    assert header["source"] == plm.removeprefix("vectors:")
    with pytest.raises(InputError, match="names its items, so #sorted means nothing"):
        encode_build(build, f"{plm}#sorted", progress=False)


def test_published_vectors_in_another_order_are_refused(tmp_path, vectors_hub):
    """Of `.item`; shifted by a row in the last third, as where one item was dropped and another one added."""
    build, ids, vectors = shop_of_words(tmp_path)
    right = vectors[np.argsort(ids)]
    before = sorted(build.iterdir())
    for number, (rows, message) in enumerate([
        (vectors, "from row 0 to 49 .* of the items are nearer to the item with the most alike title than to a random"),
        (np.concatenate([right[:100], np.roll(right[100:], 1, axis=0)]), "from row 100 to 149 "),
        (right[:-1], "has 149 rows and no ids, the build has 150 items"),
    ]):  # fmt: skip
        np.save(vectors_hub / f"Shop/{number}.npy", rows)
        with pytest.raises(InputError, match=message):
            encode_build(build, f"vectors:{vectors_hub}/Shop/{number}.npy#sorted", progress=False)
    few, ids, vectors = shop_of_words(tmp_path / "few", 40)
    np.save(vectors_hub / "few.npy", vectors[np.argsort(ids)])
    with pytest.raises(InputError, match="cannot be checked: 40 items have titles alike, 50 are needed"):
        encode_build(few, f"vectors:{vectors_hub}/few.npy#sorted", progress=False)
    assert sorted(build.iterdir()) == before


def test_published_vectors_that_cannot_be_had(tmp_path, vectors_hub):
    build, _, vectors = shop_of_words(tmp_path)
    np.save(vectors_hub / "Shop/Shop.big.npy", vectors)
    for plm, message in [
        (ADDRESS, "Shop.big.npy names no items; add #sorted if its rows are in the order of the sorted item ids"),
        (ADDRESS.replace("big", "bog"), "shop/x has no such file; of this kind it has Shop/Shop.big.npy$"),
        (ADDRESS.replace("/x/", "/y/"), "could not be fetched from the Hugging Face hub"),
        (ADDRESS.replace("Shop/", "../"), "is no file of a hub data set; expected hf://datasets/"),
        (ADDRESS.replace("datasets/", ""), "is no file of a hub data set; expected hf://datasets/"),
        (ADDRESS.replace(".npy", ".csv"), ".csv, expected vectors of the items"),
    ]:
        with pytest.raises(InputError, match=message):
            encode_build(build, plm, progress=False)
    path = resolve_plm(ADDRESS)[1].path.resolve()
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    hub.fetch_dataset_file.cache_clear()
    with pytest.raises(InputError, match="is damaged: its SHA-256 is not that of the hub's file; delete it"):
        encode_build(build, f"{ADDRESS}#sorted", progress=False)

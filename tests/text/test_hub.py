"""Downloads of hub models from a server on loopback: what the modules name comes, and nothing else."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tiny_encoders import write_pooling, write_tiny_model

from recbole_blair.errors import InputError
from recbole_blair.text.hub import fetch_snapshot
from recbole_blair.text.weights import weights_hash

COMMIT = "c" * 40


class Handler(BaseHTTPRequestHandler):
    """Answers for one model repository as the hub does; `server.folder` holds its files."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, body=True):
        root, path = self.server.folder, self.path.partition("?")[0]
        files = {str(p.relative_to(root)): p for p in root.rglob("*") if p.is_file()}
        name = path.removeprefix(f"/shop/x/resolve/{COMMIT}/")
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

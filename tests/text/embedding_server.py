"""An OpenAI-compatible embedding server on loopback that misbehaves when told to."""

import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

WIDTH = 8


def vector_of(text, width=WIDTH):
    """The vector this server gives a text: unit length, a function of the text."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    vector = np.random.default_rng(seed).standard_normal(width)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def good(request):
    """The answer of a server that works; `input` in reverse order, as the numbers say."""
    width = request.get("dimensions") or WIDTH
    data = [
        {"object": "embedding", "index": i, "embedding": vector_of(text, width).tolist()}
        for i, text in enumerate(request["input"])
    ]
    usage = {"prompt_tokens": 7, "total_tokens": 7}
    return {"object": "list", "model": request["model"], "data": data[::-1], "usage": usage}


def refused(status, message, code=None, headers=None):
    """An error in OpenAI's form."""
    return status, {"error": {"message": message, "type": "x", "code": code}}, headers or {}


class EmbeddingServer:
    """Answers as `behave(number, request)` says: None for a good answer, a dict for that body, or (status, body,
    headers); "hang" waits until the server is closed. `requests`, `times`, `keys` record what came."""

    def __init__(self, behave=lambda number, request: None):
        self.requests, self.times, self.keys, self.paths = [], [], [], []
        self.at_once, self.most_at_once = 0, 0
        self.mutex, self.closing = threading.Lock(), threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.mutex:
                    number = len(server.requests)
                    server.requests.append(request)
                    server.times.append(time.monotonic())
                    server.keys.append(self.headers["Authorization"])
                    server.paths.append(self.path)
                    server.at_once += 1
                    server.most_at_once = max(server.most_at_once, server.at_once)
                try:
                    self.answer(behave(number, request), request)
                finally:
                    with server.mutex:
                        server.at_once -= 1

            def answer(self, what, request):
                if what == "hang":
                    server.closing.wait(60)
                    return
                what = good(request) if what is None else what
                status, body, headers = what if isinstance(what, tuple) else (200, what, {})
                data = (body if isinstance(body, str) else json.dumps(body)).encode()
                try:
                    self.send_response(status)
                    for key, value in headers.items():
                        self.send_header(key, value)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    pass  # the client has gone

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    @property
    def texts(self):
        """Every text that was asked for, in order."""
        return [text for request in self.requests for text in request["input"]]

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()

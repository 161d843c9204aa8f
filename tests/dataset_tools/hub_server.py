"""A small server that answers like the hub: HEAD with the hub's headers, a redirect to a store, ranges, faults."""

import hashlib
import time
from http.server import BaseHTTPRequestHandler

from loopback import LoopbackServer

from recbole_blair.schema import HF_DATASET

COMMIT = "c" * 40


class Hub(LoopbackServer):
    """Serves `files` {path in the repository: bytes}; `requests` holds (method, path, range, status) of each.

    cut_after (int | None): every answer breaks off after so many bytes.
    delay_s (float): pause between blocks of 16 KiB.
    corrupt (bool): the bytes differ from the promised hash.
    """

    def __init__(self, files, cut_after=None, delay_s=0.0, corrupt=False):
        super().__init__(Handler)
        self.files, self.cut_after, self.delay_s, self.corrupt = files, cut_after, delay_s, corrupt
        self.requests = []
        self.sent = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        hub, path = self.server, self.path.partition("?")[0]
        prefix = f"/datasets/{HF_DATASET}/resolve/"
        if path.startswith(prefix):
            revision, _, name = path[len(prefix) :].partition("/")
            self.resolve(revision, name)
        elif path.startswith("/store/") and path[len("/store/") :] in hub.files:
            self.send_data(hub.files[path[len("/store/") :]], body)
        else:
            self.refuse(404, "EntryNotFound")

    def note(self, status):
        self.server.requests.append((self.command, self.path, self.headers.get("Range"), status))

    def refuse(self, status, code):
        self.note(status)
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def resolve(self, revision, name):
        if revision not in ("main", COMMIT):
            return self.refuse(404, "RevisionNotFound")
        if name not in self.server.files:
            return self.refuse(404, "EntryNotFound")
        data = self.server.files[name]
        self.note(302)
        self.send_response(302)
        self.send_header("Location", f"/store/{name}")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Linked-Etag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Linked-Size", str(len(data)))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_data(self, data, body):
        begin = 0
        if self.headers.get("Range"):
            begin = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
        self.note(206 if begin else 200)
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        if body:
            self.send_blocks(data[begin:])

    def send_blocks(self, data):
        hub = self.server
        if hub.corrupt:
            data = b"#" * len(data)
        whole, data = len(data), data[: hub.cut_after] if hub.cut_after else data
        try:
            for begin in range(0, len(data), 16_384):
                self.wfile.write(data[begin : begin + 16_384])
                hub.sent += len(data[begin : begin + 16_384])
                time.sleep(hub.delay_s)
        except OSError:
            pass
        if len(data) < whole:
            self.close_connection = True
            self.connection.close()

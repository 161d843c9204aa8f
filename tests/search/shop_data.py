"""Raw reviews and metadata of two small domains, and a chat server that can misbehave, for the build-c4 tests."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from recbole_blair.schema import TEST_START_MS

DOMAINS = ("Appliances", "All_Beauty")
GOOD = "I am looking for something that keeps my kitchen quiet while I cook, and it must last for years, number {}."


def review_text(i):
    """A review of more than 100 characters that names its number."""
    return f"Review number {i}: it works very well in our kitchen and everybody here has been happy with it " * 2


def write_raw(root, n_items=80, n_reviews=60):
    """Write raw files; per domain, `n_reviews` eligible five-star reviews among ineligible ones."""
    for d, domain in enumerate(DOMAINS):
        reviews, meta = [], []
        for i in range(n_items):
            title = f"Quietmax Dishwasher Cleaner Tablets {d}{i}"
            row = {"parent_asin": f"I{d}{i:04d}", "title": title, "description": [f"Item {i}"], "store": "Zorblax"}
            meta.append(row)
        for i in range(n_reviews):
            row = {"user_id": f"U{d}{i}", "parent_asin": f"I{d}{i % n_items:04d}", "rating": 5.0}
            row |= {"timestamp": TEST_START_MS + i, "title": "t", "text": review_text(f"{d}-{i}")}
            reviews.append(row)
            reviews.append(row | {"user_id": f"early{i}", "timestamp": TEST_START_MS - 1})
            reviews.append(row | {"user_id": f"four{i}", "rating": 4.0})
            reviews.append(row | {"user_id": f"short{i}", "text": "x" * 99})
        reviews.append(reviews[0] | {"user_id": "nometa", "parent_asin": "GONE"})
        for kind, prefix, rows in (("review", "", reviews), ("meta", "meta_", meta)):
            folder = root / "raw" / f"{kind}_categories"
            folder.mkdir(parents=True, exist_ok=True)
            text = "".join(json.dumps(r) + "\n" for r in rows)
            (folder / f"{prefix}{domain}.jsonl").write_text(text, encoding="utf-8")
    return root


def reply(text, usage=True):
    """A chat completion."""
    body = {
        "id": "x", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
    }  # fmt: skip
    if usage:
        body["usage"] = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
    return 200, body


class ChatServer:
    """An OpenAI-compatible server on loopback.

    Args:
        behave (callable): (call number from 0, prompt text) -> (status, body dict or raw str[, headers]), or the
        string "hang" (answers after `hang_s`).
    """

    def __init__(self, behave, hang_s=30.0):
        self.calls, self.prompts, self.at_once, self.most_at_once = 0, [], 0, 0
        self.mutex, self.closing = threading.Lock(), threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                prompt = request["messages"][-1]["content"]
                with server.mutex:
                    number = server.calls
                    server.calls += 1
                    server.prompts.append(prompt)
                    server.at_once += 1
                    server.most_at_once = max(server.most_at_once, server.at_once)
                try:
                    self.answer(behave(number, prompt))
                finally:
                    with server.mutex:
                        server.at_once -= 1

            def answer(self, what):
                if what == "hang":
                    server.closing.wait(hang_s)
                    what = reply("too late")
                status, body, *headers = what
                data = (body if isinstance(body, str) else json.dumps(body)).encode()
                try:
                    self.send_response(status)
                    for key, value in (headers[0] if headers else {}).items():
                        self.send_header(key, value)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    pass  # the client gave up waiting

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()


def wait_for(condition, timeout_s=30.0):
    """Wait until `condition()` holds; fail loudly if it never does."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the condition never came true")
        time.sleep(0.02)

"""A server as the command starts it, in a process of its own, and a client for it."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

START_S = 120


class RunningServer:
    """Starts `recbole-blair serve` on a free port; the block's end is SIGTERM.

    Args:
        run: a run's folder.
        *options: of the command.
    """

    def __init__(self, run, *options):
        argv = ["serve", f"--checkpoint={run}", "--device=cpu", "--port=0", *options]
        self.log = Path(tempfile.mkstemp(suffix=".log")[1])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "recbole_blair", *argv], stdout=self.log.open("w"), stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
        )  # fmt: skip
        end = time.monotonic() + START_S
        while not (found := re.search(r"serving on http://127\.0\.0\.1:(\d+)", self.log.read_text())):
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)
        self.port = int(found[1])

    def __enter__(self):
        return self

    def __exit__(self, *error):
        status = self.stop()
        text = self.log.read_text()
        self.log.unlink()
        assert status == 0 and "Traceback" not in text, (status, text)

    def stop(self):
        """End it by SIGTERM; returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def raw(self, method, path, body=None, headers=None):
        """Return status and bytes of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before all of it was sent
                connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def ask(self, path, body=None):
        """Return status and value of one request with JSON."""
        headers = {"Content-Type": "application/json"}
        status, content = self.raw("GET" if body is None else "POST", path, body and json.dumps(body), headers)
        return status, json.loads(content)

    def memory(self):
        """Return the resident bytes of the process."""
        import psutil

        return psutil.Process(self.process.pid).memory_info().rss

"""Opens a page in headless Chromium over its debugging pipe (descriptors 3 and 4), and checks that all pages pass."""

import base64
import contextlib
import fcntl
import json
import os
import re
import select
import shutil
import subprocess
import sys
import time

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--mute-audio",
    "--remote-debugging-pipe",
)  # fmt: skip
# Starts the browser with its ends of the pipes at 3 and 4, whatever numbers they have here.
LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
LOUD = ("warning", "error", "assert")
TOO_WIDE = """[...document.querySelectorAll('body *')].filter(e => e.checkVisibility() && !e.closest('.scroll, nav') &&
    e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
GROUND = "getComputedStyle(document.body).backgroundColor"
DRAWN = "new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))"


def find_chromium():
    """The browser's path: CHROMIUM, or the first of the usual names; None when there is none."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def skip_without_chromium():
    """Skip the test where there is no browser."""
    if find_chromium() is None:
        pytest.skip("no Chromium is on the PATH (Debian: apt-get install chromium; or set CHROMIUM to a browser)")


class Page:
    """One page: `complaints` are console errors and warnings, exceptions and blocked requests; `requests` all URLs."""

    def __init__(self, read, write, timeout_s):
        self.read, self.write, self.timeout_s = read, write, timeout_s
        self.buffer, self.last_id, self.session = b"", 0, None
        self.complaints, self.requests, self.events = [], [], []

    def call(self, method, **params):
        """Send one command and return its result."""
        self.last_id += 1
        message = {"id": self.last_id, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        answer = self.wait(lambda m: m.get("id") == self.last_id, method)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def wait(self, wanted, what):
        """Read messages until one is wanted."""
        deadline = time.monotonic() + self.timeout_s
        while True:
            while b"\0" in self.buffer:
                raw, self.buffer = self.buffer.split(b"\0", 1)
                message = json.loads(raw)
                self.note(message)
                if wanted(message):
                    return message
            if not select.select([self.read], [], [], max(0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"Chromium did not answer to {what} in {self.timeout_s} s")
            chunk = os.read(self.read, 1 << 20)
            if not chunk:
                raise RuntimeError(f"Chromium ended during {what}")
            self.buffer += chunk

    def note(self, message):
        """Keep what the browser reports by itself."""
        params = message.get("params", {})
        kind = message.get("method")
        if kind:
            self.events.append(kind)
        if kind == "Runtime.exceptionThrown":
            self.complaints.append(params["exceptionDetails"].get("exception", {}).get("description", "exception"))
        elif kind == "Runtime.consoleAPICalled" and params["type"] in LOUD:
            self.complaints.append(str(params["args"]))
        elif kind == "Log.entryAdded" and params["entry"]["level"] in LOUD:
            self.complaints.append(params["entry"]["text"])
        elif kind == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def open(self, url):
        """Load a page and wait for it."""
        self.events.clear()
        self.call("Page.navigate", url=url)
        if "Page.loadEventFired" not in self.events:
            self.wait(lambda m: m.get("method") == "Page.loadEventFired", "loading")

    def evaluate(self, expression):
        """Evaluate JavaScript and return its value."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(str(result["exceptionDetails"]))
        return result["result"].get("value")

    def resize(self, width, height, phone=False):
        """Set the size of the window, in CSS pixels."""
        scale = 2 if phone else 1
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )

    def dark(self, on=True):
        """Prefer a dark or a light page."""
        value = "dark" if on else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def screenshot(self, path, whole=True):
        """Write a PNG."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))


@contextlib.contextmanager
def browser_page(profile, timeout_s=400):
    """Start Chromium and give one empty Page; the browser ends with the block.

    Args:
        profile (Path): an empty folder for the browser's own files.
    """
    pipes = [*os.pipe(), *os.pipe()]
    theirs_read, ours_write, ours_read, theirs_write = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in pipes]
    for fd in pipes:
        os.close(fd)
    command = [sys.executable, "-c", LAUNCH, str(theirs_read), str(theirs_write), find_chromium(), *FLAGS]
    process = subprocess.Popen(
        [*command, f"--user-data-dir={profile}"], pass_fds=(theirs_read, theirs_write), stderr=subprocess.DEVNULL
    )
    os.close(theirs_read)
    os.close(theirs_write)
    try:
        page = Page(ours_read, ours_write, timeout_s)
        target = page.call("Target.createTarget", url="about:blank")["targetId"]
        page.session = page.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        yield page
        page.session = None
        page.call("Browser.close")
        process.wait(timeout_s)
    finally:
        process.kill()
        process.wait()
        os.close(ours_read)
        os.close(ours_write)


def open_quietly(page, address, width=1280):
    """Open an address; returns what the browser complained about and the addresses that it asked for."""
    page.complaints.clear()
    page.requests.clear()
    page.resize(width, 900, phone=width < 700)
    page.open(address)
    page.evaluate(DRAWN)
    return page.complaints, [url for url in page.requests if not url.startswith("data:")]


def check_fits(page, width):
    """No part of the open page is wider than a screen of `width`; tables that scroll in their own place may be."""
    page.resize(width, 844, phone=width < 700)
    page.evaluate(DRAWN)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(TOO_WIDE) == []


def brightness(page):
    """Red, green and blue of the open page's ground, added up."""
    return sum(map(int, re.findall(r"\d+", page.evaluate(GROUND))))


def check_dark_and_light(page):
    """The open page follows the system, and its button turns it round."""
    page.dark(False)
    light = brightness(page)
    page.dark(True)
    assert brightness(page) < 150 < 600 < light
    page.evaluate("document.getElementById('theme').click()")
    assert brightness(page) == light
    page.dark(False)

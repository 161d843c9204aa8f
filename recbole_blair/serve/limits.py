"""What is refused before it is read: bodies that are too large, and names of hosts that this server does not have."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
BODY_S = 10  # seconds in which a body arrives: one that never ends would keep a server from ending
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")


class Limits:
    """ASGI middleware.

    Args:
        app: what answers.
        max_body: bytes of a body.
        hosts: names by which the server may be called; empty: any. A web page elsewhere whose name is made to point
            at this machine could otherwise read what is served to it alone.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], max_body: int, hosts: tuple[str, ...] = ()) -> None:
        self.app, self.max_body, self.hosts = app, max_body, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if self.hosts and (host if host.endswith("]") else host.rpartition(":")[0] or host) not in self.hosts:
            await refuse(send, 421, f"this server is not called {host[:100]!r}; use {self.hosts[0]}, or --host")
            return
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.max_body:
            await refuse(send, 413, f"the body has {length[:20].decode('latin-1')} bytes; at most {self.max_body:,}")
            return
        if int(length) == 0 and b"transfer-encoding" not in headers:
            await self.app(scope, receive, send)
            return
        try:
            body = await asyncio.wait_for(self.read(receive), BODY_S)
        except asyncio.TimeoutError:
            await refuse(send, 408, f"the body did not arrive within {BODY_S} s")
            return
        if body is None:
            return
        if len(body) > self.max_body:
            await refuse(send, 413, f"the body is larger than {self.max_body:,} bytes")
            return
        await self.app(scope, once(body, receive), send)

    async def read(self, receive: Receive) -> bytes | None:
        """Return a whole body, or its beginning when it is too large; None: whoever asked has gone."""
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if not message.get("more_body", False) or len(body) > self.max_body:
                return body


def once(body: bytes, receive: Receive) -> Receive:
    """Return what gives a body that was read, and then what comes after it."""
    given = False

    async def read() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return read


async def refuse(send: Send, status: int, message: str) -> None:
    """Send an error."""
    body = json.dumps({"error": message}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})

"""The server's life: it starts, loads newer runs, and on SIGTERM answers what it has taken before it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import uvicorn

from recbole_blair.serve.app import build_app
from recbole_blair.serve.batching import Batcher
from recbole_blair.serve.engine import Serving
from recbole_blair.serve.limits import LOOPBACK, Limits

SWITCH_S = 0.001  # Python gives the interpreter to another thread after this time: answers go out while others compute
GRACE_S = 60  # what is in flight has this time when the server ends
KEEP_ALIVE_S = 30  # an idle connection is kept this long


@dataclass
class ServeOptions:
    """How a server listens.

    Attributes:
        host, port: where; port 0: a free one.
        max_body_kb: KiB of a request's body.
        max_waiting: requests that may wait; more are refused.
        max_batch: requests computed together.
        reload_s: seconds between looks for a newer run; 0: only on SIGHUP.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    max_body_kb: int = 1024
    max_waiting: int = 1000
    max_batch: int = 64
    reload_s: float = 10.0


class Server(uvicorn.Server):
    """uvicorn's server; SIGTERM and SIGINT end it with status 0 when it has answered what it has taken."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `serve`."""
        yield


def serve(serving: Serving, options: ServeOptions) -> None:
    """Serve runs that are loaded until SIGTERM or SIGINT."""
    asyncio.run(serve_async(serving, options))


async def serve_async(serving: Serving, options: ServeOptions) -> None:
    """Serve within an event loop; see `serve`."""
    sys.setswitchinterval(SWITCH_S)
    batcher = Batcher(serving.work, options.max_waiting, options.max_batch)
    app = build_app(serving, batcher)
    hosts = LOOPBACK if options.host in LOOPBACK else ()
    config = uvicorn.Config(
        Limits(app, options.max_body_kb << 10, hosts), host=options.host, port=options.port, log_level="warning",
        access_log=False, server_header=False, lifespan="off", timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=KEEP_ALIVE_S,
    )  # fmt: skip
    server, asked = Server(config), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, setattr, server, "should_exit", True)
    loop.add_signal_handler(signal.SIGHUP, asked.set)
    watching = asyncio.create_task(watch(serving, batcher, app.state, asked, options.reload_s))
    announcing = asyncio.create_task(announce(server, options))
    freeze_objects()
    try:
        await server.serve()
    finally:
        for task in (watching, announcing):
            task.cancel()
        batcher.close()


def freeze_objects() -> None:
    """Collect what nothing uses, then keep the rest out of later collections.

    A full collection visits some 300,000 objects of libraries and runs: 0.2 s in which nobody gets an answer.
    """
    gc.unfreeze()  # a run that was served before may be among them
    gc.collect()
    gc.freeze()


async def announce(server: Server, options: ServeOptions) -> None:
    """Say where the page is when it is there."""
    while not server.started:
        await asyncio.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    host = f"[{options.host}]" if ":" in options.host else options.host
    print(f"serving on http://{host}:{port}  (API: /openapi.json; end: Ctrl-C)", flush=True)
    if options.host not in LOOPBACK:
        print(f"everybody who reaches {options.host} can use it: it asks for no password", file=sys.stderr, flush=True)


async def watch(serving: Serving, batcher: Batcher, state: object, asked: asyncio.Event, every_s: float) -> None:
    """Load newer runs when they stand in their folders, or all on SIGHUP; the old one answers until then."""
    while True:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asked.wait(), every_s or None)
        runs = list(serving.folders) if asked.is_set() else await asyncio.to_thread(serving.outdated)
        asked.clear()
        for run in runs:
            try:
                engine, what = await asyncio.to_thread(serving.open, run)
                await batcher.run("exchange", (run, engine, what))
                freeze_objects()
                state.reload_error = None  # type: ignore[attr-defined]
                print(f"loaded {serving.folders[run]} again", file=sys.stderr, flush=True)
            except Exception as error:  # a run that cannot be read must not end what is served
                message = f"{serving.folders[run]}: {error}"
                if state.reload_error != message:  # type: ignore[attr-defined]
                    print(f"not loaded, the run before it is served on: {message}", file=sys.stderr, flush=True)
                state.reload_error = message  # type: ignore[attr-defined]

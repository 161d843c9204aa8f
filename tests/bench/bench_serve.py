"""How many requests a second does `recbole-blair serve` answer, and how late?

    python tests/bench/bench_serve.py --items=9671 --rate=200 --seconds=30
    python tests/bench/bench_serve.py --items=115816 --clients=1 --seconds=30

A server of UniSRecBlair with random weights (300 numbers per item, defaults otherwise) on a generated build is asked
from loopback for the top 10 of one history of 1 to 20 items per request. With --rate requests are due at random moments
(Poisson), whether or not earlier answers have come, and a late one counts from the moment at which it was due; without
it each of --clients asks again when it has its answer. First some answers are compared with `recommend`, bit for bit.
One JSON line: latencies in ms, answers per second, the server's processor time and memory, the machine's load.
"""

import argparse
import asyncio
import gc
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE), str(HERE.parent), *(str(HERE.parent / room) for room in ("recommend", "serve"))]

import measure
import psutil
import torch
from builds import write_build, write_features
from recommend_runs import SMALL, item_words, save_run
from running_server import RunningServer

import recbole_blair

EVENTS = 8  # of a user of the generated build
CHECKED = 20  # answers that are compared
LONGEST = 20  # history of a request


def make_run(folder, n_items):
    """Write a build of n_items and a run of random weights on it; returns the run's folder."""
    ids = [f"i{n:06d}" for n in range(n_items)]
    times = [1_500_000_000_000 + n for n in range(EVENTS - 2)] + [1_640_000_000_000, 1_660_000_000_000]
    users = {f"u{u}": list(zip(ids[u : u + EVENTS], times)) for u in range(0, n_items - EVENTS + 1, EVENTS)}
    users["last"] = list(zip(ids[-EVENTS:], times))
    build = write_build(folder, users, "generated", texts={item: item_words(n) for n, item in enumerate(ids)})
    write_features(build, width=384)
    SMALL.clear()  # the model's own defaults
    return save_run(folder / "run", "UniSRecBlair", build, plm="someone/test-encoder"), ids


def bodies_of(ids, n, rng):
    """Bodies of n requests."""
    return [
        {"users": [{"item_id_list": rng.choice(ids, int(rng.integers(1, LONGEST + 1))).tolist()}], "top": 10}
        for _ in range(n)
    ]


class Client:
    """One kept connection that asks one thing after the other."""

    def __init__(self, port):
        self.port, self.reader, self.writer = port, None, None

    async def ask(self, request):
        """Send the bytes of a request; returns its status."""
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await self.reader.readexactly(length)
        return int(head.split(b" ", 2)[1])


def encode(body):
    """Return a request's bytes."""
    content = json.dumps(body).encode()
    head = f"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n"
    return head.encode() + b"Content-Type: application/json\r\n\r\n" + content


async def at_a_rate(port, requests, rate, rng):
    """Ask when requests are due; returns latencies in seconds and statuses."""
    due = np.cumsum(rng.exponential(1 / rate, len(requests)))
    free, latencies, statuses = [Client(port) for _ in range(8)], [], []
    started = time.perf_counter()

    async def one(request, moment):
        client = free.pop() if free else Client(port)
        statuses.append(await client.ask(request))
        latencies.append(time.perf_counter() - started - moment)
        free.append(client)

    tasks = []
    for request, moment in zip(requests, due):
        await asyncio.sleep(max(0.0, moment - (time.perf_counter() - started)))
        tasks.append(asyncio.create_task(one(request, moment)))
    await asyncio.gather(*tasks)
    return latencies, statuses


async def one_after_the_other(port, requests, clients, seconds):
    """Ask again and again from some clients; returns latencies in seconds and statuses."""
    latencies, statuses, waiting, end = [], [], iter(requests * 1000), time.perf_counter() + seconds

    async def one():
        client = Client(port)
        while time.perf_counter() < end:
            request, begun = next(waiting), time.perf_counter()
            statuses.append(await client.ask(request))
            latencies.append(time.perf_counter() - begun)

    await asyncio.gather(*(one() for _ in range(clients)))
    return latencies, statuses


def check(run, server, bodies):
    """Compare answers with `recommend`."""
    loaded = recbole_blair.load(run, device="cpu", show_progress=False)
    for body in bodies:
        answer = server.ask("/recommend", body)[1]["users"][0]["items"]
        frame = loaded.recommend([{"user_id": "v", **body["users"][0]}], body["top"])
        assert [(item["item_id"], item["score"]) for item in answer] == [
            (item, float(score)) for item, score in zip(frame["item_id"], frame["score"])
        ]


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=9671)
    parser.add_argument(
        "--rate", type=float, default=0.0, help="requests per second; 0: each client waits for its answer"
    )
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--threads", type=int, help="of the server and of `recommend`; empty: PyTorch's default")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    rng = np.random.default_rng(args.seed)
    if args.threads:
        torch.set_num_threads(args.threads)
    # The last bits of a matrix product depend on the number of threads, so both sides get the same.
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    with tempfile.TemporaryDirectory() as folder:
        run, ids = make_run(Path(folder), args.items)
        bodies = bodies_of(ids, max(200, int(args.rate * args.seconds)), rng)
        requests = [encode(body) for body in bodies]
        with RunningServer(run, "--reload_s=0") as server:
            check(run, server, bodies[:CHECKED])
            process = psutil.Process(server.process.pid)
            asyncio.run(one_after_the_other(server.port, requests, 4, 2.0))  # warm
            gc.freeze()  # a full collection of the asking process would count as 0.2 s of the server
            before, begun = process.cpu_times(), time.perf_counter()
            if args.rate:
                latencies, statuses = asyncio.run(at_a_rate(server.port, requests, args.rate, rng))
            else:
                latencies, statuses = asyncio.run(
                    one_after_the_other(server.port, requests, args.clients, args.seconds)
                )
            seconds, after, health = time.perf_counter() - begun, process.cpu_times(), server.ask("/health")[1]
            memory = server.memory() >> 20
    milliseconds = np.sort(latencies) * 1000
    measure.emit(
        "serve", items=args.items, rate=args.rate or None, clients=None if args.rate else args.clients,
        answers=len(statuses), refused=len(statuses) - statuses.count(200),
        per_second=round(len(statuses) / seconds, 1), batches=health["batches"], requests=health["requests"],
        **{f"p{q}_ms": round(float(np.percentile(milliseconds, q)), 2) for q in (50, 90, 99, 99.9)},
        max_ms=round(float(milliseconds[-1]), 2), server_memory_mb=memory,
        server_cpu_ms=round(1000 * (after.user + after.system - before.user - before.system) / len(statuses), 2),
        threads=torch.get_num_threads(), load=[round(x, 1) for x in os.getloadavg()],
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])

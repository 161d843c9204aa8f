"""Batches: what waits is computed together, too much is refused, an error stays with its request."""

import asyncio
import threading

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")

from recbole_blair.serve.batching import Batcher, BusyError


def test_what_arrives_during_work_is_one_batch():
    sizes, gate = [], threading.Event()

    def work(jobs):
        sizes.append(len(jobs))
        gate.wait(10)
        for job in jobs:
            job.answer = job.body + 1

    async def ask():
        batcher = Batcher(work, max_waiting=100, max_batch=4)
        first = asyncio.create_task(batcher.run("x", 0))
        while not sizes:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(batcher.run("x", n)) for n in range(1, 8)]
        await asyncio.sleep(0.01)
        gate.set()
        answers = await asyncio.gather(first, *others)
        batcher.close()
        return answers

    assert asyncio.run(ask()) == list(range(1, 9))
    assert sizes == [1, 4, 3]


def test_too_many_are_refused_and_closing_answers_what_waits():
    gate, started = threading.Event(), threading.Event()

    def work(jobs):
        started.set()
        gate.wait(10)
        for job in jobs:
            job.answer = "done"

    async def ask():
        batcher = Batcher(work, max_waiting=2, max_batch=1)
        tasks = [asyncio.create_task(batcher.run("x"))]
        await asyncio.sleep(0)
        await asyncio.to_thread(started.wait, 10)
        tasks += [asyncio.create_task(batcher.run("x")) for _ in range(2)]
        await asyncio.sleep(0.01)
        with pytest.raises(BusyError):
            await batcher.run("x")
        tasks.pop(1).cancel()  # whoever goes away changes nothing for the others
        gate.set()
        await asyncio.to_thread(batcher.close)
        with pytest.raises(BusyError):
            await batcher.run("x")
        return await asyncio.gather(*tasks)

    assert asyncio.run(ask()) == ["done", "done"]


def test_an_error_of_one_request_or_of_the_work_reaches_those_who_asked():
    def work(jobs):
        if any(job.kind == "all" for job in jobs):
            raise MemoryError
        for job in jobs:
            job.error = KeyError(job.kind)

    async def ask():
        batcher = Batcher(work, max_waiting=2, max_batch=1)
        with pytest.raises(KeyError):
            await batcher.run("one")
        with pytest.raises(MemoryError):
            await batcher.run("all")
        with pytest.raises(KeyError):
            await batcher.run("one")
        batcher.close()

    asyncio.run(ask())

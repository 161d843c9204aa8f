"""One thread computes; what arrives while it does waits and is computed together next."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


class BusyError(Exception):
    """More requests wait than may."""


@dataclass
class Job:
    """One request: what is asked, and where its answer or its error goes."""

    kind: str
    body: Any
    future: asyncio.Future[Any] | None = None
    answer: Any = None
    error: BaseException | None = None
    state: dict[str, Any] = field(default_factory=dict)  # of the work between its steps


class Batcher:
    """Hands jobs to `work` in a thread, as many at once as wait.

    Args:
        work: sets the `answer` or the `error` of each job.
        max_waiting: jobs that may wait; more are refused.
        max_batch: jobs handed over at once.

    Attributes:
        jobs, batches: how many were computed.
    """

    def __init__(self, work: Callable[[Sequence[Job]], None], max_waiting: int, max_batch: int) -> None:
        self.work, self.max_waiting, self.max_batch = work, max_waiting, max_batch
        self.jobs = self.batches = 0
        self._waiting: deque[Job] = deque()
        self._condition, self._closing = threading.Condition(), False
        self._thread = threading.Thread(target=self._loop, name="recommend", daemon=True)
        self._thread.start()

    async def run(self, kind: str, body: Any = None) -> Any:
        """Compute one job and return its answer.

        Raises:
            BusyError: too many wait, or the server ends. What the work raised.
        """
        job = Job(kind, body, asyncio.get_running_loop().create_future())
        with self._condition:
            if self._closing or len(self._waiting) >= self.max_waiting:
                raise BusyError
            self._waiting.append(job)
            self._condition.notify()
        return await job.future  # type: ignore[misc]

    def close(self) -> None:
        """Compute what waits, then end the thread."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join()

    def _loop(self) -> None:
        """Take jobs until closed and empty."""
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self.max_batch))]
            try:
                self.work(batch)
            except BaseException as error:
                for job in batch:
                    job.error = job.error or error
            self.jobs, self.batches = self.jobs + len(batch), self.batches + 1
            for loop in {job.future.get_loop() for job in batch if job.future}:
                loop.call_soon_threadsafe(deliver, batch)


def deliver(batch: Sequence[Job]) -> None:
    """Give the answers to those who wait for them; runs in their event loop."""
    for job in batch:
        if job.future is None or job.future.done():  # whoever asked has gone
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.answer)

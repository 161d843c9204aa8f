"""Tokenising ahead of the model: one thread tokenises, one thread per device runs the model."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from recbole_blair.text.transformer import Replica, TransformerEncoder

QUEUE_CHUNKS = 2  # tokenised chunks waiting for a device


class Pipeline:
    """Chunks on their way through tokeniser and model; `next()` gives finished ones. Enter it to start the threads."""

    def __init__(
        self,
        encoder: TransformerEncoder,
        texts: Sequence[str] | Mapping[int, str],
        todo: Sequence[tuple[int, np.ndarray]],
        budget: int,
    ) -> None:
        self.encoder, self.texts, self.todo, self.budget = encoder, texts, todo, budget
        self.ready: queue.Queue = queue.Queue(maxsize=QUEUE_CHUNKS + len(encoder.replicas))
        self.finished: queue.Queue = queue.Queue()
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self._guard, args=(self._tokenise,), daemon=True)]
        for replica in encoder.replicas:
            self.threads.append(threading.Thread(target=self._guard, args=(self._forward, replica), daemon=True))

    def __enter__(self) -> Pipeline:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join()

    def next(self) -> tuple[int, np.ndarray, np.ndarray]:
        """Return the next finished chunk, or raise what a thread raised."""
        result = self.finished.get()
        if isinstance(result, BaseException):
            raise result
        return result

    def _guard(self, step: Callable[..., None], *args: object) -> None:
        """Run a thread's work; its error is raised in the caller's thread."""
        try:
            step(*args)
        except BaseException as error:
            self.finished.put(error)

    def _tokenise(self) -> None:
        for number, rows in self.todo:
            self._put((number, rows, self.encoder.tokenise(self.texts, rows, self.budget)))
        for _ in self.encoder.replicas:
            self._put(None)

    def _put(self, chunk: tuple[int, np.ndarray, list] | None) -> None:
        while not self.stopped.is_set():
            try:
                return self.ready.put(chunk, timeout=0.2)
            except queue.Full:
                continue

    def _forward(self, replica: Replica) -> None:
        while not self.stopped.is_set():
            try:
                chunk = self.ready.get(timeout=0.2)
            except queue.Empty:
                continue
            if chunk is None:
                return
            number, rows, batches = chunk
            self.finished.put((number, rows, self.encoder.forward_chunk(replica, batches, len(rows))))

"""Batches on their device before they are asked for, so that a GPU does not wait for the CPU to build them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from recbole_blair.parallel.distributed import world_size

if TYPE_CHECKING:
    import torch

N_PREFETCHED = 2  # batches built before they are asked for: one is in use, the next one waits
END = object()
T = TypeVar("T")


def prefetch(batches: Iterable[tuple], device: torch.device) -> Iterator[tuple]:
    """Iterate over batches, moved to `device`.

    For one process with a GPU a thread builds the next batches. On a CPU, which computes the training step itself, and
    where several processes agree on each batch, a batch is built when it is asked for.

    Args:
        batches: tuples of an Interaction and anything else.
    """
    moved = ((interaction.to(device), *rest) for interaction, *rest in batches)
    return iterate_in_thread(moved) if device.type == "cuda" and world_size() == 1 else moved


def iterate_in_thread(iterable: Iterable[T]) -> Iterator[T]:
    """Yield what a thread takes from `iterable`, at most `N_PREFETCHED` of it early; its exception is raised here."""
    ready: queue.Queue = queue.Queue(N_PREFETCHED)
    stopped = threading.Event()

    def put(item: tuple) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def fill() -> None:
        try:
            for item in iterable:
                put((item, None))
                if stopped.is_set():
                    return
            put((END, None))
        except BaseException as error:  # raised again in the thread that iterates
            put((END, error))

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is END:
                return
            yield item
    finally:
        stopped.set()
        thread.join()

"""Batches on their device before they are asked for, so that a GPU does not wait for the CPU to build them."""

import queue
import threading

from recbole_blair.parallel.distributed import world_size

N_AHEAD = 2  # batches built before they are asked for
END = object()


def ahead(batches, device):
    """Iterate over batches, moved to `device`.

    For one process with a GPU a thread builds the next ones. On a CPU, which has the training itself to do, and where
    several processes agree on each batch, they are built when asked for.

    Args:
        batches (iterable): tuples of an Interaction and anything else.
        device (torch.device)
    """
    moved = ((interaction.to(device), *rest) for interaction, *rest in batches)
    return in_thread(moved) if device.type == "cuda" and world_size() == 1 else moved


def in_thread(iterable):
    """Yield what a thread takes from `iterable`, at most `N_AHEAD` of it early; its exception is raised here."""
    ready, stopped = queue.Queue(N_AHEAD), threading.Event()

    def put(item):
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def fill():
        try:
            for item in iterable:
                put((item, None))
                if stopped.is_set():
                    return
            put((END, None))
        except BaseException as error:  # raised again by the one who asks
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

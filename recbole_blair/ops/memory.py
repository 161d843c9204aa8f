"""Memory: kept for the next step while a model trains, given back to the system afterwards, its peak measured."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # mallopt's numbers
_LOCK = threading.Lock()
_INSIDE: list[None] = []  # one entry per `keep_freed_memory` that is running
NEVER, MMAP_DEFAULT = -1, 65536
# What glibc raises them to by itself once it has seen large blocks; whoever sets one has to set both.
LARGE_BLOCK, TRIM_LARGE = 32 << 20, 64 << 20


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Let glibc keep what a step frees for the next one.

    By default it returns every large block at once, and the system clears it anew, page by page, when the next step
    asks: a tenth to a fifth of a training step on a CPU. The settings are the whole process's, from the first to enter
    to the last to leave. Other threads' large blocks, a Ray trial's for example, still go back at once, and elsewhere
    (macOS, musl) nothing is changed.
    """
    libc = glibc()
    if libc is None:
        yield
        return
    with _LOCK:
        _INSIDE.append(None)
        libc.mallopt(MMAP_MAX, 0)
        libc.mallopt(TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        with _LOCK:
            _INSIDE.pop()
            if not _INSIDE:
                libc.mallopt(MMAP_MAX, MMAP_DEFAULT)
                libc.mallopt(MMAP_THRESHOLD, LARGE_BLOCK)
                libc.mallopt(TRIM_THRESHOLD, TRIM_LARGE)
                libc.malloc_trim(0)


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Switch off the search for reference cycles inside; objects without references are still freed at once."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def give_back_memory() -> None:
    """Return the memory of finished work to the system and to the GPU.

    Ray runs each trial in a thread of its own, and glibc gives many of them an arena of its own, which keeps what was
    freed: without this a process grew by half a gigabyte per trial on Electronics.
    """
    import torch  # heavy

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    gc.collect()
    if libc := glibc():
        libc.malloc_trim(0)


def start_peak_memory() -> None:
    """Count `peak_memory_mb` from now on, where the system allows it: on Linux, and on CUDA.

    Several runs of one process, as in `reproduce` and `--seeds`, would else all report the largest one's peak.
    """
    import torch  # heavy

    with contextlib.suppress(OSError):  # 5: reset the peak of the resident size (man 5 proc_pid_clear_refs)
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_mb(device: torch.device | None = None) -> float:
    """Return the process's largest resident size in MiB; of a CUDA device, the allocator's peak there.

    Counted from the last `start_peak_memory`, or from the process's start.
    """
    if device is not None and device.type == "cuda":
        import torch  # heavy

        return torch.cuda.max_memory_allocated(device) / 2**20
    with contextlib.suppress(OSError):  # not ru_maxrss: a new process begins with its parent's
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024  # KiB
    import resource  # not on Linux

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def glibc() -> ctypes.CDLL | None:
    """Return the C library, or None where it is another."""
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):
        return None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None

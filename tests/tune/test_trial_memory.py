"""A process that ended a trial gives its memory back: each trial is a thread, and glibc keeps what threads freed."""

import platform
import threading
from pathlib import Path

import pytest

from recbole_blair.ops import give_back_memory

MIB = 1 << 20


def resident():
    """Bytes of this process's own memory that are in RAM."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc_trim is glibc's")
def test_what_a_trials_thread_freed_is_given_back():
    kept = []

    def trial():
        """Free all but every fiftieth block: no end of the heap is free by itself."""
        blocks = [bytearray(100_000) for _ in range(2_000)]
        for block in blocks:
            block[::4096] = b"\1" * len(block[::4096])  # touched, so that it is in RAM
        kept.extend(blocks[::50])

    give_back_memory()  # it imports torch, which takes more
    before = resident()
    thread = threading.Thread(target=trial)
    thread.start()
    thread.join()
    held = resident() - before
    give_back_memory()
    left = resident() - before
    assert held > 100 * MIB, "freed memory was given back by itself: this test would show nothing"
    assert left < held / 4

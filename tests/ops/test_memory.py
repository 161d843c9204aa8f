"""Memory that is kept while training, in a process of its own: glibc's settings are the whole process's."""

import os
import subprocess
import sys

import pytest

from recbole_blair.ops import memory

PROBE = """
import resource, torch
from recbole_blair.ops import keep_freed_memory

def faults(n):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(n):
        torch.ones(1 << 24)  # 64 MB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20

faults(2)
start = resident_mb()
plain = faults(5)
with keep_freed_memory():
    with keep_freed_memory():
        faults(20)  # a few blocks until one fits the next
    kept, held = faults(5), resident_mb() - start
after = faults(5)
print(plain, kept, after, held, resident_mb() - start)
"""


@pytest.mark.skipif(
    memory.glibc() is None or not sys.platform.startswith("linux"), reason="another C library than glibc"
)
def test_blocks_are_not_cleared_anew_inside_and_are_given_back_after():
    environment = {**os.environ, "THP_MEM_ALLOC_ENABLE": "1"}  # as our command line sets it: large blocks are aligned
    done = subprocess.run([sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, check=True)
    plain, kept, after, held, left = map(float, done.stdout.split())
    assert kept < 0.1 * plain and after > 0.5 * plain
    assert 50 < held < 1000 and left < 30


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory, "glibc", lambda: None)
    with memory.keep_freed_memory():
        assert not memory._INSIDE
    memory.give_back_memory()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is started anew on Linux alone")
def test_the_peak_is_of_the_work_since_the_start():
    """Not of a larger run before it in the same process, which 'freed' here stands for."""
    probe = """
import mmap
from recbole_blair.ops import peak_memory_mb, start_peak_memory

def hold(mb):
    block = mmap.mmap(-1, mb << 20)
    block[:] = bytes(1 << 20) * mb
    return block

hold(300).close()
whole = peak_memory_mb()
start_peak_memory()
before = peak_memory_mb()
block = hold(100)
print(whole - before, peak_memory_mb() - before)
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    freed, grown = map(float, done.stdout.split())
    assert freed > 250 and 90 < grown < 250

"""Environment variables that libraries read when they load: set before torch and NumPy are imported."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

# A thread that waits sleeps after some ten microseconds of spinning: an operation's end and the next one's begin lie
# nearer, and a longer spin makes PyTorch several times slower wherever another process wants a core.
THREADS = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
LARGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}  # for large tensors: fewer page faults a step
# NumPy sorts with an AVX-512 instruction that Zen 4 has in microcode: five times slower than with AVX2 there.
NO_AVX512 = {"NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_ICL AVX512_SPR X86_V4"}  # NumPy 1 and 2
CPU_INFO = Path("/proc/cpuinfo")


def missing_variables(given: Mapping[str, str]) -> dict[str, str]:
    """Return what `given` lacks; whoever says how threads wait says all of it."""
    threads = {} if THREADS.keys() & given.keys() else THREADS
    others = {**LARGE_PAGES, **(NO_AVX512 if is_zen4() else {})}
    return {**threads, **{name: value for name, value in others.items() if name not in given}}


def is_zen4() -> bool:
    """True on AMD's Zen 4: the one core of its family (25, with Zen 3) that has AVX-512."""
    if not CPU_INFO.exists():
        return False
    text = CPU_INFO.read_text()
    return "AuthenticAMD" in text and "cpu family\t: 25\n" in text and "avx512f" in text


def set_environment() -> None:
    """Set them for this process and those that it starts; what is set already stays."""
    os.environ.update(missing_variables(os.environ))

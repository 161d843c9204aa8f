"""Environment variables that libraries read when they load: set before torch is imported."""

import os

# A thread that waits sleeps after some ten microseconds of spinning: an operation's end and the next one's begin lie
# nearer, and a longer spin makes PyTorch several times slower wherever another process wants a core.
THREADS = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
LARGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}  # for large tensors: fewer page faults a step


def missing_variables(given):
    """Return what `given` (dict of str) lacks; whoever says how threads wait says all of it."""
    threads = {} if THREADS.keys() & given.keys() else THREADS
    return {**threads, **{name: value for name, value in LARGE_PAGES.items() if name not in given}}


def set_environment():
    """Set them for this process and those that it starts; what is set already stays."""
    os.environ.update(missing_variables(os.environ))

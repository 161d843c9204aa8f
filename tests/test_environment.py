"""Environment variables for the libraries: ours where nobody has set any."""

import os

import pytest

from recbole_blair.parallel import environment
from recbole_blair.parallel.environment import LARGE_PAGES, NO_AVX512, THREADS, missing_variables, set_environment

ZEN4 = "vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\nflags\t\t: avx2 avx512f avx512_bf16\n"


@pytest.fixture(autouse=True)
def cpu(tmp_path, monkeypatch):
    """A file in place of the one that tells the processor; absent at first."""
    monkeypatch.setattr(environment, "CPU_INFO", tmp_path / "cpuinfo")
    return tmp_path / "cpuinfo"


def test_all_of_them_in_an_empty_environment():
    assert missing_variables({}) == {**THREADS, **LARGE_PAGES}
    assert missing_variables(missing_variables({})) == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (ZEN4, NO_AVX512),
        (ZEN4.replace("avx512f", ""), {}),  # Zen 3
        (ZEN4.replace(": 25", ": 26"), {}),  # Zen 5
        (ZEN4.replace("AuthenticAMD", "GenuineIntel"), {}),
    ],
)
def test_numpy_leaves_avx512_alone_on_zen_4(cpu, text, found):
    cpu.write_text(text)
    assert missing_variables({}) == {**THREADS, **LARGE_PAGES, **found}
    assert missing_variables({**THREADS, **NO_AVX512}) == LARGE_PAGES


@pytest.mark.parametrize("name", THREADS)
def test_a_user_who_says_how_threads_wait_says_all_of_it(name):
    assert missing_variables({name: "active"}) == LARGE_PAGES


def test_what_is_set_stays(monkeypatch):
    variables = {"THP_MEM_ALLOC_ENABLE": "0", "HOME": "/home"}
    monkeypatch.setattr(os, "environ", variables)
    set_environment()
    assert variables == {"THP_MEM_ALLOC_ENABLE": "0", "HOME": "/home", **THREADS}

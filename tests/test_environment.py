"""Environment variables for the libraries: ours where nobody has set any."""

import os

import pytest

from recbole_blair.environment import LARGE_PAGES, THREADS, missing_variables, set_environment


def test_all_of_them_in_an_empty_environment():
    assert missing_variables({}) == {**THREADS, **LARGE_PAGES}
    assert missing_variables(missing_variables({})) == {}


@pytest.mark.parametrize("name", THREADS)
def test_a_user_who_says_how_threads_wait_says_all_of_it(name):
    assert missing_variables({name: "active"}) == LARGE_PAGES


def test_what_is_set_stays(monkeypatch):
    variables = {"THP_MEM_ALLOC_ENABLE": "0", "HOME": "/home"}
    monkeypatch.setattr(os, "environ", variables)
    set_environment()
    assert variables == {"THP_MEM_ALLOC_ENABLE": "0", "HOME": "/home", **THREADS}

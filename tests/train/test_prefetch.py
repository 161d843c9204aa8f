"""Batches taken early by a thread: all of them, in order; errors are raised where they are asked for."""

import threading
import time

import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_blair.train.prefetch import N_PREFETCHED, iterate_in_thread, prefetch


def test_everything_comes_once_and_in_order():
    assert list(iterate_in_thread(iter(range(50)))) == list(range(50))
    assert list(iterate_in_thread(iter([]))) == []


def test_no_more_is_taken_early_than_said():
    taken = []

    def numbers():
        for i in range(20):
            taken.append(i)
            yield i

    stream = iterate_in_thread(numbers())
    assert next(stream) == 0
    time.sleep(0.3)
    assert len(taken) <= N_PREFETCHED + 2  # waiting in the queue, and one in the thread's hand
    assert list(stream) == list(range(1, 20))


def test_an_error_is_raised_after_the_items_before_it():
    def broken():
        yield 1
        raise ValueError("row 7 is bad")

    stream = iterate_in_thread(broken())
    assert next(stream) == 1
    with pytest.raises(ValueError, match="row 7 is bad"):
        next(stream)


def test_leaving_early_ends_the_thread():
    before = threading.active_count()
    stream = iterate_in_thread(iter(range(1000)))
    assert next(stream) == 0
    stream.close()
    assert threading.active_count() == before


def test_on_a_cpu_nothing_is_taken_early():
    taken = []

    def batches():
        for i in range(3):
            taken.append(i)
            yield Interaction({"item_id": torch.tensor([i])}), i

    stream = prefetch(batches(), torch.device("cpu"))
    assert next(stream)[1] == 0
    assert taken == [0]

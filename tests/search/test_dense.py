"""Chunked dense search equals the full stable sort to the last rank, ties included, for any chunk and precision."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_blair.errors import InputError
from recbole_blair.search import dense


def full_sort(queries, items, k):
    """Score every pair in float64, rounded to fp32, and sort stably."""
    q, x = queries.astype(np.float64), items.astype(np.float64)
    length = np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(x, axis=1)[None]
    dots = np.einsum("qd,nd->qnd", q, x).sum(axis=2)
    scores = np.divide(dots, length, out=np.zeros_like(length), where=length > 0).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(scores, order, 1)


def tied_data(seed=0, n_items=3000, width=24):
    """Random vectors with blocks of copies, scaled copies, all-zero rows, and a zero query."""
    rng = np.random.default_rng(seed)
    items = rng.normal(size=(n_items, width)).astype(np.float32)
    items[200:700] = items[11]  # more copies than any list keeps
    items[2500:2560] = 2 * items[13]  # power of two: the same direction to the last bit
    items[800:1000] = 0
    queries = rng.normal(size=(40, width)).astype(np.float32)
    queries[3] = items[11]
    queries[4] = items[13]
    queries[5] = 0
    return queries, items


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("k", [1, 7, 100, 5000])
def test_equals_the_full_sort(precision, k):
    queries, items = tied_data()
    order, scores = full_sort(queries, items, k)
    positions, found = dense.search(queries, items, k, precision=precision, progress=False)
    n = min(k, len(items))
    np.testing.assert_array_equal(positions[:, :n], order)
    np.testing.assert_allclose(found[:, :n], scores, rtol=0, atol=1e-7)
    assert (positions[:, n:] == -1).all()


@pytest.mark.parametrize("memory_limit_mb", [74, 80, 200])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_chunks_change_nothing(monkeypatch, memory_limit_mb, precision):
    queries, items = tied_data(1)
    monkeypatch.setattr(dense, "FIRST_CHUNK", 64)
    monkeypatch.setattr(dense, "QUERY_BLOCK", 7)
    monkeypatch.setattr(dense, "CHUNK_LIMIT", 333)
    order, _ = full_sort(queries, items, 50)
    positions, _ = dense.search(
        queries, items, 50, precision=precision, memory_limit_mb=memory_limit_mb, progress=False
    )
    np.testing.assert_array_equal(positions, order)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 60),
    q=st.integers(1, 6),
    k=st.integers(1, 70),
    levels=st.integers(1, 3),
)
def test_small_integer_vectors(seed, n, q, k, levels):
    """Few distinct vectors: nearly everything ties."""
    rng = np.random.default_rng(seed)
    items = rng.integers(-levels, levels + 1, size=(n, 3)).astype(np.float32)
    queries = rng.integers(-levels, levels + 1, size=(q, 3)).astype(np.float32)
    order, scores = full_sort(queries, items, k)
    for precision in ("fp32", "bf16"):
        positions, found = dense.search(queries, items, k, precision=precision, progress=False)
        np.testing.assert_allclose(found[:, : len(scores[0])], scores, rtol=0, atol=1e-7)
        np.testing.assert_array_equal(positions[:, : order.shape[1]], order)


def test_the_rounding_bound_holds():
    rng = np.random.default_rng(0)
    query = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(64, 768)).astype(np.float32)), dim=1)
    items = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(500, 768)).astype(np.float32)), dim=1)
    items = torch.nn.functional.normalize(items + 0.3 * query[:1], dim=1)
    exact = query.double() @ items.double().T
    for dtype in (torch.float32, torch.bfloat16):
        found = dense._Candidates(query, 10, dtype)
        found.add(items, 0, 64)
        error = (query.to(dtype) @ items.to(dtype).T).double() - exact
        bound = dense.error_bound(768, dtype, exact.abs().amax(dim=1), found.query_error, found.item_error)
        assert (error.abs().amax(dim=1) <= bound).all()


def test_memory_maps_and_a_memory_bound(tmp_path):
    queries, items = tied_data(2)
    items.tofile(tmp_path / "x")
    mapped = np.memmap(tmp_path / "x", dtype=np.float32, mode="r", shape=items.shape)
    np.testing.assert_array_equal(
        dense.search(queries, mapped, 9, progress=False)[0], dense.search(queries, items, 9, progress=False)[0]
    )
    block, chunk = dense.plan_memory(20_000, 10**6, 768, 132, 1024)
    held = 20_000 * (8 * 768 + 12 * 132) + chunk * 12 * 768 + 5 * block * chunk + block * 132 * 24 * 9
    assert held <= 1024 * 2**20
    assert chunk >= 4096


def test_refusals():
    one, other = np.ones((2, 4), np.float32), np.ones((3, 5), np.float32)
    with pytest.raises(InputError, match="one width"):
        dense.search(one, other, 1)
    with pytest.raises(InputError, match="precision 'fp8' is unknown"):
        dense.search(one, one, 1, precision="fp8")
    with pytest.raises(InputError, match="depth 0"):
        dense.search(one, one, 0)
    with pytest.raises(InputError, match="memory_limit_mb=1 is too small"):
        dense.search(one, one, 1, memory_limit_mb=1)
    bad = one.copy()
    bad[1, 2] = np.nan
    with pytest.raises(InputError, match=r"vector of item 1 .* is not finite"):
        dense.search(one, bad, 1, progress=False)
    with pytest.raises(InputError, match=r"vector of query 1 .* is not finite"):
        dense.search(bad, one, 1, progress=False)

"""NumPy and Arrow arrays of each other without a copy, in place of PyArrow's own ways, which import pandas (.3 s)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Sequence


def to_arrow(values: np.ndarray) -> pa.Array:
    """Return an ndarray (n,) of integers or booleans as an Arrow array; integers are not copied."""
    values = np.ascontiguousarray(values)
    if values.dtype == bool:
        return _from_bytes(pa.bool_(), len(values), np.packbits(values, bitorder="little"))
    return _from_bytes(pa.from_numpy_dtype(values.dtype), len(values), values)


def to_numpy(array: pa.Array | pa.ChunkedArray, null: int | None = None) -> np.ndarray:
    """Return an Arrow array (n,) of integers or booleans, chunked or not, as an ndarray.

    Args:
        array: integers or booleans.
        null: value that replaces nulls, of integers; None: the array has no null.
    """
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if null is not None and array.null_count:  # faster than Arrow's own `fill_null`
        values = np.frombuffer(array.buffers()[1], str(array.type))
        values = values[array.offset : array.offset + len(array)]
        return np.where(to_numpy(array.is_valid()), values, values.dtype.type(null))
    if pa.types.is_boolean(array.type):
        return np.from_dlpack(array.cast(pa.uint8())).view(bool)
    return np.from_dlpack(array)


def to_strings(texts: Sequence[bytes]) -> pa.StringArray:
    """Return UTF-8 texts (n,) as an Arrow string array."""
    ends = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    return pa.StringArray.from_buffers(len(texts), pa.py_buffer(ends), pa.py_buffer(b"".join(texts)))


def to_string(text: bytes) -> pa.StringScalar:
    """Return a UTF-8 text as an Arrow scalar, for kernels that take one in place of an array."""
    return to_strings([text])[0]


def string_ends(strings: pa.StringArray) -> np.ndarray:
    """Return where the strings of an Arrow array (n,) begin in its data, and where the last ends: (n + 1,) int32."""
    return np.frombuffer(strings.buffers()[1], np.int32)[strings.offset : strings.offset + len(strings) + 1]


def string_bytes(strings: pa.StringArray) -> memoryview | bytes:
    """Return the bytes of an Arrow string array, one string after the other, without a copy."""
    data = strings.buffers()[2]
    if data is None or not len(strings):
        return b""
    ends = string_ends(strings)
    return memoryview(data)[ends[0] : ends[-1]]


def _from_bytes(kind: pa.DataType, n: int, values: np.ndarray) -> pa.Array:
    return pa.Array.from_buffers(kind, n, [None, pa.py_buffer(values)])

"""Between NumPy and Arrow. PyArrow's own functions for that load pandas, which takes .3 s and is not needed here."""

import numpy as np
import pyarrow as pa


def to_arrow(values):
    """Return an ndarray (n,) of integers or booleans as an Arrow array; integers are not copied."""
    values = np.ascontiguousarray(values)
    if values.dtype == bool:
        return _from_bytes(pa.bool_(), len(values), np.packbits(values, bitorder="little"))
    return _from_bytes(pa.from_numpy_dtype(values.dtype), len(values), values)


def to_numpy(array):
    """Return an Arrow array (n,) of integers or booleans, chunked or not, as an ndarray; it has no null."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_boolean(array.type):
        return np.from_dlpack(array.cast(pa.uint8())).view(bool)
    return np.from_dlpack(array)


def to_strings(texts):
    """Return a list (n,) of UTF-8 bytes as an Arrow string array."""
    ends = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    return pa.StringArray.from_buffers(len(texts), pa.py_buffer(ends), pa.py_buffer(b"".join(texts)))


def to_string(text):
    """Return UTF-8 bytes as an Arrow scalar, for kernels that take one in place of an array."""
    return to_strings([text])[0]


def _from_bytes(kind, n, values):
    return pa.Array.from_buffers(kind, n, [None, pa.py_buffer(values)])

"""Between NumPy and Arrow. PyArrow's own functions for that load pandas, which takes .3 s and is not needed here."""

import numpy as np
import pyarrow as pa


def to_arrow(values):
    """Return an ndarray (n,) of integers or booleans as an Arrow array; integers are not copied."""
    values = np.ascontiguousarray(values)
    if values.dtype == bool:
        return _from_bytes(pa.bool_(), len(values), np.packbits(values, bitorder="little"))
    return _from_bytes(pa.from_numpy_dtype(values.dtype), len(values), values)


def to_numpy(array, null=None):
    """Return an Arrow array (n,) of integers or booleans, chunked or not, as an ndarray.

    Args:
        null (int | None): in place of nulls, of integers; None: there is none.
    """
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if null is not None and array.null_count:  # sooner than Arrow's own `fill_null`
        values = np.frombuffer(array.buffers()[1], str(array.type))
        values = values[array.offset : array.offset + len(array)]
        return np.where(to_numpy(array.is_valid()), values, values.dtype.type(null))
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


def string_ends(strings):
    """Return where the strings of an Arrow array (n,) begin in its data, and the last ends (n + 1,)."""
    return np.frombuffer(strings.buffers()[1], np.int32)[strings.offset : strings.offset + len(strings) + 1]


def string_bytes(strings):
    """Return the bytes of an Arrow string array, one string after the other, without a copy."""
    data = strings.buffers()[2]
    if data is None or not len(strings):
        return b""
    ends = string_ends(strings)
    return memoryview(data)[ends[0] : ends[-1]]


def common_width(strings):
    """Return the number of bytes that all strings have, or None if they differ."""
    widths = np.diff(string_ends(strings)) if len(strings) else ()
    return int(widths[0]) if len(widths) and widths[0] > 0 and (widths == widths[0]).all() else None


def take_strings(strings, position):
    """Return the strings of an Arrow array at `position` (n,); sooner than Arrow does where all have one width."""
    width = common_width(strings)
    if width is None or width * len(position) >= 2**31:
        return strings.take(to_arrow(position))
    ends = np.arange(len(position) + 1, dtype=np.int32) * width
    cells = np.frombuffer(string_bytes(strings), f"V{width}").take(position)
    return pa.StringArray.from_buffers(len(position), pa.py_buffer(ends), pa.py_buffer(cells))


def _from_bytes(kind, n, values):
    return pa.Array.from_buffers(kind, n, [None, pa.py_buffer(values)])

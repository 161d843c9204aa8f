"""Arrays that cross between NumPy and Arrow as by pyarrow's own functions, and a conversion that never loads pandas."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from raw_data import meta, table, write_raw

from dataset_tools.storage.arrow import to_arrow, to_numpy, to_string, to_strings

ARRAYS = [np.arange(9), np.arange(20, dtype=np.int32)[3:15:2], np.zeros(0, np.uint64), np.arange(19) % 3 == 0]


@pytest.mark.parametrize("values", ARRAYS, ids=str)
def test_there_and_back(values):
    array = to_arrow(values)
    assert array.equals(pa.array(values))
    assert to_numpy(array).tolist() == to_numpy(pa.chunked_array([array, array[:1]])).tolist()[: len(values)]
    assert to_numpy(array[1:]).tolist() == values[1:].tolist() and to_numpy(array).dtype == values.dtype


def test_no_chunk_at_all():
    assert to_numpy(pa.chunked_array([], pa.int32())).tolist() == []


def test_strings():
    texts = ["Zoë", "", "b"]
    assert to_strings([text.encode() for text in texts]).equals(pa.array(texts))
    assert to_strings([]).equals(pa.array([], pa.string()))
    assert to_string("\tß".encode()).as_py() == "\tß"


def test_a_conversion_does_not_load_pandas(tmp_path):
    reviews, metadata = table()
    write_raw(tmp_path, "Appliances", reviews, [*metadata[1:], meta("i1", "<b>not plain</b>")])
    code = (
        "import sys; from dataset_tools.prepare import prepare; "
        f"prepare('Appliances', {str(tmp_path / 'dataset')!r}, {str(tmp_path)!r}, progress=False); "
        "sys.exit('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

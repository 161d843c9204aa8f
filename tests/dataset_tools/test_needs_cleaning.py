"""Which records need no cleaning: NumPy's answer against one regular expression per record."""

import json
import re

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_tools.items import needs_cleaning as module
from dataset_tools.items.needs_cleaning import find_clean_records

DIRTY = re.compile(r'[^\x00-\x7e]|[\\<]|  |""|&[^ ]|&$|" "')
SPACED = re.compile(r' "|" ')
PIECES = ["a", " ", "  ", "&", "& ", "<", "\\", "\x7f", "é", '"', "", "long enough for a few blocks"]
TEXT = st.lists(st.sampled_from(PIECES), max_size=4).map("".join)
FIELD = st.one_of(st.none(), TEXT, st.lists(TEXT, max_size=3), st.integers()).map(
    lambda value: None if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
)


@given(
    st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=8), st.integers(0, 3), st.sampled_from([1, 2, 7, 1 << 18])
)
@settings(max_examples=300, deadline=None)
def test_as_a_regular_expression_says(records, offset, block_bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK_BYTES", block_bytes)
        clean, spaced = find_clean_records([pa.array(column, pa.string())[offset:] for column in zip(*records)])
    rows = records[offset:]
    assert clean.tolist() == [not any(DIRTY.search(field or "") for field in row) for row in rows]
    assert spaced.tolist() == [any(SPACED.search(field or "") for field in row) for row in rows]

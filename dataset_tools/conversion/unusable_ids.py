"""Ids that cannot be written to an atomic file, in Arrow; `cleaning_rules.unusable_id_sql` is the same rule in SQL."""

import numpy as np
import pyarrow.compute as pc

from dataset_tools.conversion import cleaning_rules
from dataset_tools.storage.arrow import string_bytes, to_numpy, to_strings

_DELETE = 0x7F  # the one control character above the space
_WORD_BYTES = max(len(word) for word in cleaning_rules.UNUSABLE_ID_WORDS)


def are_unusable(ids):
    """Tell which ids, an Arrow string array (n,), cannot be written to an atomic file; null can not."""
    if not may_be_unusable(ids):
        return np.zeros(len(ids), bool)
    words = pc.is_in(ids, to_strings([word.encode() for word in cleaning_rules.UNUSABLE_ID_WORDS]))
    found = pc.or_(words, pc.match_substring_regex(ids, cleaning_rules.UNUSABLE_ID_PATTERN))
    return to_numpy(pc.coalesce(found, ids.is_null()))


def may_be_unusable(ids):
    """Tell whether an id holds a byte that no id may, or is as short as a word that none may be."""
    data = np.frombuffer(string_bytes(ids), np.uint8)
    seldom = len(data) and (data.min() <= ord('"') or data.max() >= _DELETE)  # two fast passes spare five slow ones
    if seldom and ((data <= ord(" ")) | (data == ord('"')) | (data == _DELETE)).any():
        return True
    shortest = pc.min(pc.binary_length(ids)).as_py()
    return shortest is not None and shortest <= _WORD_BYTES

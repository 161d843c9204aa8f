"""When a finished run's encoder counts as gone."""

import pytest

from recbole_blair.data.build import encoder_has_gone


@pytest.mark.parametrize(
    ("plm", "trained_with", "gone"),
    [
        ("tfidf-svd", "tfidf-svd", False),
        ("openai:text-embedding-3-small", "text-embedding-3-small", False),
        ("hyp1231/blair-roberta-base", "blair-roberta-base", False),
        ("encoders/large", "my-encoder", True),  # a relative folder that is not there reads like a hub id
        ("no folder/at all/here", "my-encoder", True),
    ],
)
def test_an_encoder_that_has_gone(plm, trained_with, gone):
    assert encoder_has_gone(plm, trained_with) == gone

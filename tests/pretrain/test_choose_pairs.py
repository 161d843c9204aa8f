"""Which training pairs are taken, and an encoder with fewer layers."""

import itertools

import numpy as np
import pytest
from builds import VALID_MS, write_build
from datasets import Dataset

from recbole_blair.errors import InputError
from recbole_blair.pretrain.data import choose_pairs
from recbole_blair.pretrain.load import load_pair_encoder


@pytest.fixture
def train():
    return Dataset.from_dict({"item_id": ["a", "b", "a", "c", "d"], "context": list("vwxyz")})


def rows(table):
    return list(zip(table["item_id"], table["context"]))


def test_items_stay_out(train, tmp_path):
    ids = tmp_path / "ids.txt"
    ids.write_text("a\nd\n")
    assert rows(choose_pairs(train, ids, None, 0)) == [("b", "w"), ("c", "y")]
    build = write_build(tmp_path, {"u": [("b", 1), ("c", 2), ("d", VALID_MS)]})
    assert rows(choose_pairs(train, build, None, 0)) == [("a", "v"), ("a", "x")]
    ids.write_text("a b c d")
    with pytest.raises(InputError, match="leaves none of the 5 training pairs"):
        choose_pairs(train, ids, None, 0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no empty\.item; expected a build, or a file of item ids"):
        choose_pairs(train, tmp_path / "empty", None, 0)


def test_fewer_pairs_are_a_part_of_more_and_keep_their_order(train):
    chosen = [rows(choose_pairs(train, None, n, 7)) for n in (2, 3, 4, 9)]
    assert [len(one) for one in chosen] == [2, 3, 4, 5] and chosen[-1] == rows(train)
    for small, large in itertools.pairwise(chosen):
        assert [pair for pair in large if pair in small] == small
    assert len({tuple(rows(choose_pairs(train, None, 2, seed))) for seed in range(9)}) > 1


@pytest.mark.parametrize("mlm", [False, True])
def test_the_first_layers_are_kept(encoder_folder, mlm):
    whole, cut = (load_pair_encoder(encoder_folder, mlm=mlm, keep_layers=keep)[0].body for keep in (None, 1))
    assert len(whole.encoder.layer) == 2
    assert cut.config.num_hidden_layers == len(cut.encoder.layer) == 1
    weights = [body.encoder.layer[0].attention.self.query.weight.detach().numpy() for body in (whole, cut)]
    assert np.array_equal(*weights)
    with pytest.raises(InputError, match=r"--keep_layers=3, but .* has 2 layers"):
        load_pair_encoder(encoder_folder, mlm=mlm, keep_layers=3)

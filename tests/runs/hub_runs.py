"""What the tests of pushing and fetching runs do over and over."""

import numpy as np
from hub_repositories import TOKEN

import recbole_blair
from recbole_blair.cli.main import main

VISITORS = [
    {"user_id": "a", "item_id_list": ["i001", "i002", "i003"], "timestamp_list": [1690000000000, 1690000000001,
                                                                                 1690000000002]},
    {"user_id": "b", "item_id_list": ["i030"], "timestamp_list": [1690000000000]},
]  # fmt: skip
NOBODY = {"user_id": "nobody", "item_id_list": []}
TEST = {"recall@10": 0.1 + 0.2, "ndcg@10": 1 / 3, "mrr": 1e-05, "hit@50": 0.0}


def push(source, *options, repo="shop/games"):
    return main(["push", str(source), f"--repo={repo}", *options])


def refused(capsys, source, *options, repo="shop/games"):
    """Push what is refused, and return the one line."""
    assert push(source, *options, repo=repo) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in error and TOKEN not in error
    return lines[0]


def load(run="shop/games", **keys):
    return recbole_blair.load(run, device="cpu", show_progress=False, **keys)


def same(found, expected):
    """Compare recommendations, scores and vectors bit for bit."""
    for users in (VISITORS, [NOBODY]):
        assert found.recommend(users, top=7).equals(expected.recommend(users, top=7))
    assert np.array_equal(found.score(VISITORS), expected.score(VISITORS))
    filtered = [run.recommend(VISITORS, where="title contains 3") for run in (found, expected)]
    assert filtered[0].equals(filtered[1])

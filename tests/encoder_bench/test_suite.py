"""The suites: their cells, what may be chosen of them, and that their keys are known."""

from collections import Counter

import pytest

from recbole_blair.bench.cells import Cell, EncoderChoice
from recbole_blair.bench.plan import estimate_cell
from recbole_blair.bench.suite import load_suite, suite_names
from recbole_blair.config import resolve_config
from recbole_blair.errors import InputError
from recbole_blair.registry import find_model


@pytest.mark.parametrize("name", suite_names())
def test_every_key_of_a_suite_is_one_of_its_model(name):
    suite = load_suite(name)
    assert suite.parts and len({part.id for part in suite.parts}) == len(suite.parts)
    for part in suite.parts:
        assert part.items > 0 and part.rows > 0
        if part.task.command == "train":
            for point in part.task.grid:
                keys = {**part.keys, **point, "plm": "tfidf-svd", "save_ranks": True}
                config = resolve_config(find_model(part.task.model), part.dataset, (), keys)
                assert (
                    part.task.metric == config["valid_metric"] or part.task.metric in config["metrics"] or point == {}
                )


def test_blair_bench_has_the_published_cells():
    """Three Amazon sets, ML-1M, Yelp in sequence; those and Book-Crossing for users; three query sets."""
    found = Counter(part.task.name for part in load_suite("blair-bench").parts)
    assert found == {"sequential": 5, "collaborative": 6, "search-short": 1, "search-complex": 2}


def test_parts_of_one_task_stand_together_and_the_seeds_are_not_in_their_hash():
    suite = load_suite("smoke")
    tasks = [part.task.name for part in suite.parts]
    assert tasks == sorted(tasks, key=list(dict.fromkeys(tasks)).index)
    other = suite.select(None, None, [1, 2, 3])
    assert [part.sha256 for part in other.parts] == [part.sha256 for part in suite.parts]
    assert len({part.sha256 for part in suite.parts}) == len(suite.parts)
    assert other.parts[0].task.seeds == (1, 2, 3) and other.parts[-1].task.seeds == (0,)  # nothing is drawn in search


def test_a_family_names_all_its_tasks():
    names = {part.task.name for part in load_suite("smoke").select(["search"], None, None).parts}
    assert names == {"search-short", "search-complex"}


@pytest.mark.parametrize(
    ("tasks", "datasets", "seeds", "message"),
    [
        (["serach"], None, None, r"unknown task 'serach' of suite smoke. Did you mean 'search'\?"),
        (None, ["smaple"], None, r"unknown data set 'smaple' of suite smoke. Did you mean 'sample'\?"),
        (["search"], ["sample"], None, "nothing is left to do"),
        (None, None, [1, 1], "holds a seed twice"),
    ],
)
def test_what_a_suite_does_not_have_is_refused(tasks, datasets, seeds, message):
    with pytest.raises(InputError, match=message):
        load_suite("smoke").select(tasks, datasets, seeds)


def test_the_memory_of_a_plan_is_that_of_the_item_vectors():
    """Base-sized weights of 500 MB, 768 numbers per item: 14 bytes each in training, 8 in search, and 1.2 GB."""
    encoder = EncoderChoice("some/bert", "bert", "some--bert")
    for part in load_suite("blair-bench").parts:
        per_number = 8 if part.task.command == "search" else 14
        wanted = 1.2 + (500e6 + part.items * 768 * per_number) / 2**30
        assert estimate_cell(Cell(part, encoder), "cpu", True).memory_gb == pytest.approx(wanted)


def test_an_unknown_suite_names_the_nearest():
    with pytest.raises(InputError, match=r"unknown suite 'slcies'. Did you mean 'slices'\?"):
        load_suite("slcies")

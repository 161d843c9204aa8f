"""Small decisions of the page's parts, without any run."""

import pytest

from recbole_blair import figures
from recbole_blair.report import sections


def test_numbers_are_written_for_people():
    assert figures.fraction(0.00456) == ".0046" and figures.fraction(1) == "1.0000" and figures.fraction(None) == "–"
    assert figures.signed(-0.01) == "−.0100" and figures.signed(0.01) == "+.0100"
    assert figures.p_text(0.0004) == "< .001" and figures.p_text(0.0341) == ".034" and figures.p_text(None) == "–"
    assert sections.metric_name("ndcg@10") == "NDCG@10" and sections.metric_name("recall@5") == "Recall@5"
    assert sections.count(1, "run") == "1 run" and sections.count(1200, "run") == "1,200 runs"


def test_a_difference_is_clear_when_every_test_says_so():
    pair = {"p_value_holm": 0.01, "p_value_bootstrap_holm": 0.02, "p_value_t_holm": None}
    assert sections.certain(pair)
    assert not sections.certain({**pair, "p_value_holm": 0.06})


def group(label, mean, deviation=0.001):
    return {"label": label, "mean": {"ndcg@10": mean}, "deviation": {"ndcg@10": deviation}, "runs": [{}, {}]}


def test_the_headline_says_who_is_first_and_how_surely():
    pair = {"a": "A", "b": "B", "p_value_holm": 0.2, "p_value_bootstrap_holm": 0.3, "p_value_t_holm": 0.2}
    panel = {"groups": [group("A", 0.02), group("B", 0.016)], "comparisons": {"pairs": [pair]}}
    line = sections.headline(panel, "ndcg@10")
    assert line == (
        "<b>A</b> has the highest NDCG@10: .0200 ± .0010 over 2 seeds, +25.0 % over B; no clear difference "
        "over users (bootstrap p .300, corrected)."
    )
    shaky = {**panel, "groups": [group("A", 0.02, 0.005), group("B", 0.016)]}
    assert "(bootstrap p .300, corrected), but no larger than the deviation over seeds, .0050" in sections.headline(
        shaky, "ndcg@10"
    )
    untested = sections.headline({**panel, "comparisons": None}, "ndcg@10")
    assert untested.endswith("the difference was not tested.")
    nothing = {"groups": [group("A", 0.02), group("B", 0.0)], "comparisons": None}
    assert "%" not in sections.headline(nothing, "ndcg@10")


@pytest.mark.parametrize(("runs", "clear"), [([{}, {}], True), ([{"epochs": 9}], False), ([{"epochs": 0}], True)])
def test_one_seed_is_never_a_clear_difference(runs, clear):
    """A model that trains nothing, such as SeqPop, is the same with every seed."""
    pair = {"a": "A", "b": "B", **dict.fromkeys(("p_value_holm", "p_value_bootstrap_holm", "p_value_t_holm"), 0.001)}
    second = {**group("B", 0.016), "runs": runs}
    line = sections.headline({"groups": [group("A", 0.02), second], "comparisons": {"pairs": [pair]}}, "ndcg@10")
    assert ("a clear difference over users" in line) is clear
    assert line.endswith("but B has one seed: others may turn it round.") is not clear


def curve(label, losses):
    points = [[epoch, value] for epoch, value in enumerate(losses, 1)]
    return {"label": label, "seed": 1, "metric": "ndcg@10", "best": 1, "loss": points, "valid": points}


@pytest.mark.parametrize(("second", "divided"), [([8.0, 7.0], False), ([0.7, 0.6], True)])
def test_losses_of_other_kinds_are_drawn_as_shares_of_their_first(second, divided):
    panel = {
        "groups": [group("A", 0.1), group("B", 0.1)], "missing": {"curves": []},
        "curves": [curve("A", [9.0, 8.0]), curve("B", second)],
    }  # fmt: skip
    assert ("divided by the first" in sections.learning(panel, "ndcg@10")) is divided
    assert sections.of_first([[1, 4.0], [2, 1.0]]) == [[1, 1.0], [2, 0.25]]


def test_one_scale_unless_it_would_hide_the_small_parts():
    assert sections.far_apart([0.5, 0.01]) and not sections.far_apart([0.5, 0.1])
    assert sections.far_apart([0.5, 0.0]) and not sections.far_apart([0.0, 0.0])


def test_a_label_is_no_markup():
    evil = "<img src=x onerror=alert(1)>"
    panel = {"groups": [group(evil, 0.1)], "comparisons": None}
    for drawn in (sections.headline(panel, "ndcg@10"), sections.legend(panel), sections.note(evil, [evil])):
        assert "<img" not in drawn and "&lt;img" in drawn

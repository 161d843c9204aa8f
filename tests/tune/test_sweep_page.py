"""The page of a sweep: what it says of hand-made trials, and how it behaves in a real browser. No Ray."""

import json
import math
import re

import pytest
from chromium import check_dark_and_light, check_fits, open_quietly

from recbole_blair.figures import fraction
from recbole_blair.tune import coordinates, importance, page
from recbole_blair.tune import sweep_dir as files
from recbole_blair.tune.results import choose_best, count_by_status
from recbole_blair.tune.run import build_sweep
from recbole_blair.tune.space import Entry

SPACE = """
learning_rate: {loguniform: [1.0e-5, 1.0e-2]}
hidden_size: {choice: [16, 64]}
softmax: {choice: [full, sampled]}
n_negatives: {choice: [1024, 4096], when: {softmax: sampled}}
"""
EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def sweep(sweep_keys, tmp_path_factory):
    """Fourteen trials whose value is that of their learning rate; one failed, one was not begun. None was trained."""
    folder = tmp_path_factory.mktemp("sweep_page")
    (folder / "space.yaml").write_text(SPACE)
    options = {"space": str(folder / "space.yaml"), "num_samples": 14, "defaults_first": True}
    made = build_sweep("SASRecText", "tiny", options=options, output_dir=str(folder / "sweep"), **sweep_keys)
    for trial in made.trials:
        value = 0.09 - 0.02 * abs(math.log10(trial.point.get("learning_rate", 1e-3)) + 3)
        trial.status = "stopped" if trial.number % 2 else "finished"
        for epoch in range(1, 2 if trial.status == "stopped" else 4):
            trial.lines.append({"epoch": epoch, "loss": 1.0, "ndcg@10": value * epoch / 3, "seconds": 2.0 * epoch})
        files.save_trial(made.folder, trial)
    made.trials[2].status, made.trials[2].error = "failed", f"RuntimeError: {EVIL}"
    made.trials[3].status, made.trials[3].lines = "planned", []
    return made


@pytest.fixture(scope="module")
def record(sweep):
    """What best.json would hold."""
    best = choose_best(sweep)
    line = best.best("ndcg@10")
    return {
        "model": "SASRecText", "dataset": "tiny", "metric": "ndcg@10", "trial": best.number, "epoch": line["epoch"],
        "point": best.point, "valid": {"ndcg@10": line["ndcg@10"]}, "test": {"ndcg@10": 0.0123, "recall@10": 0.5},
        "trials": count_by_status(sweep.trials), "run": f"trials/{best.number:04d}",
    }  # fmt: skip


@pytest.fixture(scope="module")
def written(sweep, record):
    path = sweep.folder / "report.html"
    page.write_page(sweep, record, path)
    return path


def test_it_opens_without_a_complaint_or_a_request(chromium_page, written):
    complaints, requests = open_quietly(chromium_page, written.as_uri())
    assert complaints == [] and requests == [written.as_uri()]
    assert written.stat().st_size < 200_000


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_screen_and_can_be_read(chromium_page, written, width):
    open_quietly(chromium_page, written.as_uri(), width)
    check_fits(chromium_page, width)
    smallest = "Math.min(...[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height))"
    assert chromium_page.evaluate(smallest) > 9
    assert chromium_page.evaluate("document.querySelectorAll('figure[data-chart] svg').length") == 3


def test_it_is_dark_or_light(chromium_page, written):
    open_quietly(chromium_page, written.as_uri())
    check_dark_and_light(chromium_page)


def test_the_best_trial_is_on_top_and_darkest(chromium_page, written, record):
    open_quietly(chromium_page, written.as_uri())
    for chart in ("trials", "learning"):
        lines = chromium_page.evaluate(
            f"""[...document.querySelectorAll('figure[data-chart={chart}] g')].map(
                g => [g.querySelector('title').textContent, Number(g.getAttribute('opacity'))])"""
        )
        titles, shades = zip(*lines)
        assert len(lines) == 13 and titles[-1].startswith(f"trial {record['trial']} (")  # drawn last, over the others
        assert list(shades) == sorted(shades) and shades[-1] == 1 > shades[-2]
    numbers = "[...document.querySelectorAll('#trials tbody tr')].map(row => Number(row.cells[0].dataset.value))"
    shown = chromium_page.evaluate(numbers)
    assert shown[0] == record["trial"] and shown[-2:] == [2, 3]  # the failed one, and that without a value


def test_trials_link_to_their_folders_and_show_their_numbers(chromium_page, written, sweep):
    open_quietly(chromium_page, written.as_uri())
    links = chromium_page.evaluate("[...document.querySelectorAll('#trials td a')].map(a => [a.textContent, a.href])")
    assert {int(text): href for text, href in links} == {
        trial.number: files.trial_dir(sweep.folder, trial.number).as_uri() + "/"
        for trial in sweep.trials
        if trial.lines
    }
    cells = """[...document.querySelectorAll('td[data-trial]')].map(
        c => [c.dataset.trial, c.dataset.value, c.textContent])"""
    for number, value, shown in chromium_page.evaluate(cells):
        best = sweep.trials[int(number)].best("ndcg@10")
        assert shown == fraction(best and best["ndcg@10"]) and (value is None) == (best is None)
    saved = json.loads(chromium_page.evaluate("document.getElementById('numbers').textContent"))
    assert [t["trial"] for t in saved["trials"]] == [t.number for t in page.rank_trials(sweep)]
    assert saved["importance"].keys() == {"learning_rate", "hidden_size", "softmax"}
    assert max(saved["importance"], key=saved["importance"].get) == "learning_rate"
    assert "after epoch 1, the last that all have" in written.read_text()  # a stopped trial is not held to be worse


def test_names_and_errors_are_no_markup(chromium_page, written):
    open_quietly(chromium_page, written.as_uri())
    assert EVIL in chromium_page.evaluate("document.querySelector('#trials .note').textContent")
    assert EVIL not in written.read_text()


def test_epochs_are_whole_numbers(written):
    chart = written.read_text().split('data-chart="learning"')[1].split("</svg>")[0]
    middle = [part.split(">")[1].split("<")[0] for part in chart.split('text-anchor="middle"')[1:]]
    assert middle == ["1", "2", "3", "epoch"]


def test_a_sweep_without_a_value_has_a_page(sweep, sweep_keys):
    empty = build_sweep("SASRecText", "tiny", options={"num_samples": 2}, **sweep_keys)
    drawn = page.render(empty, None)
    assert "No trial has a value" in drawn and "<svg" not in drawn


@pytest.mark.parametrize(
    ("values", "why"), [([0.1] * 7, "8 trials with a value .* there are 7"), ([0.1] * 9, "same value")]
)
def test_why_nothing_is_said_of_keys(sweep, values, why):
    points = [{"learning_rate": 0.001}] * len(values)
    assert re.search(why, importance.why_none(points, values))
    assert importance.key_importances(sweep.space, points, values) == {}


def test_an_axis_places_each_value():
    axis = coordinates.key_axis(Entry("learning_rate", "loguniform", [1e-4, 1e-2]), [1e-3, None, 1e-4])
    assert axis.shares == [pytest.approx(0.5), None, 0] and axis.label == "learning_rate (log)"
    assert [text for _, text in axis.ticks] == ["0.0001", "0.000316", "0.001", "0.00316", "0.01"]
    whole = coordinates.key_axis(Entry("n_layers", "uniform", [1, 4]), [1, 4, 2])
    assert [text for _, text in whole.ticks] == ["1", "2", "3", "4"]
    lists = coordinates.key_axis(Entry("sizes", "choice", [[300], [512, 300]]), [[512, 300], [64]])
    assert lists.shares == [0.5, 1] and [text for _, text in lists.ticks] == ["[300]", "[512, 300]", "[64]"]

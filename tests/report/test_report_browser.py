"""The report in a real browser: it opens in silence, asks nothing of the network, fits a phone, shows the numbers."""

import json
import re
from pathlib import Path

import pytest
from chromium import browser_page, check_dark_and_light, check_fits, open_quietly, skip_without_chromium

from recbole_blair.cli.main import main
from recbole_blair.figures import fraction

DATA = Path(__file__).resolve().parents[2] / "../shared/data/amazon_reviews_2023"
CELLS = """[...document.querySelectorAll('td[data-run]')].map(cell => [cell.dataset.run, cell.dataset.metric,
    cell.dataset.value, cell.textContent])"""
MEANS = """[...document.querySelectorAll('td[data-group]')].map(cell => [cell.dataset.group, cell.dataset.metric,
    cell.dataset.value, cell.firstChild.textContent])"""


def write_report(runs, output, *flags):
    """Make a page by the command."""
    assert main(["report", str(runs), f"--output={output}", "--quiet", "--samples=300", *flags]) == 0
    return output


@pytest.fixture(scope="module")
def tiny_report(tiny_runs, tmp_path_factory):
    return write_report(tiny_runs, tmp_path_factory.mktemp("page") / "report.html")


def check_numbers(page, runs):
    """Compare every number of every run, and every mean, with the metrics.json files."""
    saved = {str(path.parent): json.loads(path.read_text()) for path in Path(runs).rglob("metrics.json")}
    cells = page.evaluate(CELLS)
    assert {(folder, metric) for folder, metric, *_ in cells} == {(f, m) for f in saved for m in saved[f]["test"]}
    for folder, metric, value, shown in cells:
        assert float(value) == saved[folder]["test"][metric] and shown == fraction(float(value))
    means = page.evaluate(MEANS)
    models = {own["model"] for own in saved.values()}
    assert {label for label, *_ in means} == models
    for label, metric, value, shown in means:
        own = [run["test"][metric] for run in saved.values() if run["model"] == label]
        assert float(value) == pytest.approx(sum(own) / len(own), abs=1e-12) and shown == fraction(float(value))
    assert len(means) == len(models) * len(next(iter(saved.values()))["test"])


def test_the_browser_test_hears_errors(chromium_page, tmp_path):
    loud = tmp_path / "loud.html"
    loud.write_text(
        """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'">
        <img src="http://127.0.0.1:9/a.png"><script>console.error('said aloud'); missing_function()</script>"""
    )
    complaints, _ = open_quietly(chromium_page, loud.as_uri())
    heard = " ".join(complaints)
    assert "said aloud" in heard and "missing_function" in heard and "a.png" in heard


def test_the_report_opens_without_a_complaint_or_a_request(chromium_page, tiny_report):
    complaints, requests = open_quietly(chromium_page, tiny_report.as_uri())
    assert complaints == [] and requests == [tiny_report.as_uri()]


def test_the_numbers_shown_are_those_of_metrics_json(chromium_page, tiny_report, tiny_runs):
    open_quietly(chromium_page, tiny_report.as_uri())
    check_numbers(chromium_page, tiny_runs)


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_screen(chromium_page, tiny_report, width):
    open_quietly(chromium_page, tiny_report.as_uri())
    check_fits(chromium_page, width)
    assert chromium_page.evaluate("document.querySelectorAll('svg').length") >= 8
    smallest = "Math.min(...[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height))"
    assert chromium_page.evaluate(smallest) > 9 or width < 390  # the charts' text stays readable


def test_examples_stack_on_a_phone(chromium_page, tiny_report):
    open_quietly(chromium_page, tiny_report.as_uri(), 390)
    columns = """[...document.querySelectorAll('.example .cols')].map(cols => [cols.scrollWidth - cols.clientWidth,
        new Set([...cols.children].map(part => part.getBoundingClientRect().left)).size])"""
    shown = chromium_page.evaluate(columns)
    assert len(shown) == 6 and shown == [[0, 1]] * 6  # one below the other, and nothing to scroll sideways
    chromium_page.resize(1280, 900)
    assert all(places > 1 for _, places in chromium_page.evaluate(columns))


def test_dark_and_light_follow_the_system_and_the_button(chromium_page, tiny_report):
    open_quietly(chromium_page, tiny_report.as_uri())
    check_dark_and_light(chromium_page)


def test_heads_sort_and_numbers_can_be_saved(chromium_page, tiny_report):
    open_quietly(chromium_page, tiny_report.as_uri())
    column = "[...document.querySelector('table').tBodies[0].rows].map(row => Number(row.cells[1].dataset.value))"
    values = chromium_page.evaluate(column)
    head = "document.querySelector('table').tHead.rows[0].cells[1].click()"
    chromium_page.evaluate(head)
    assert chromium_page.evaluate(column) == sorted(values, reverse=True)
    chromium_page.evaluate(head)
    assert chromium_page.evaluate(column) == sorted(values) != sorted(values, reverse=True)
    chromium_page.evaluate("document.getElementById('save').click()")
    assert chromium_page.complaints == []


def check_electronics(page, runs, output):
    """The page of three models with three seeds each opens, is whole, and shows the numbers of metrics.json."""
    complaints, requests = open_quietly(page, output.as_uri())
    assert complaints == [] and requests == [output.as_uri()]
    check_numbers(page, runs)
    assert len(page.evaluate(CELLS)) == 9 * 9
    assert page.evaluate("document.querySelectorAll('.example').length") == 6
    titles = page.evaluate("[...document.querySelectorAll('.example li .clip')].map(e => e.textContent)")
    assert len(titles) >= 6 * 3 * 5 and not any(re.fullmatch(r"B0\w{8}", title) for title in titles)
    assert page.evaluate("document.querySelectorAll('figure[data-by]').length") == 3
    check_fits(page, 390)


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="the real slices of ../shared/data are absent")
def test_three_models_and_three_seeds_on_electronics(tmp_path):
    """The whole way on real reviews: convert, encode, nine runs, the page."""
    skip_without_chromium()
    from recbole_blair.quick_start import run_many

    shared = {
        "data_path": str(tmp_path / "data"), "raw_dir": str(DATA), "plm": "tfidf-svd", "seeds": [1, 2, 3], "epochs": 2,
        "save_ranks": True, "show_progress": False, "MAX_ITEM_LIST_LENGTH": 5, "device": "cpu",
    }  # fmt: skip
    small = {"hidden_size": 16, "inner_size": 32, "n_layers": 1, "softmax": "sampled", "n_negatives": 64}
    models = {
        "UniSRecBlair": {**small, "n_exps": 2},
        "SASRecText": {**small, "adaptor_hidden_sizes": [32]},
        "SASRec": {"hidden_size": 16, "inner_size": 32, "n_layers": 1, "loss_type": "BPR"},
    }
    for model, own in models.items():
        run_many(model, "Electronics", **shared, **own, output_dir=str(tmp_path / "runs" / model))
    output = write_report(tmp_path / "runs", tmp_path / "report.html")
    with browser_page(tmp_path / "browser") as page:  # started now: it need not idle through the training
        check_electronics(page, tmp_path / "runs", output)

"""The leaderboard in a real browser: silent, no request, readable on a phone, sorted by click and by keyboard."""

import json

import pytest
from chromium import check_dark_and_light, check_fits, open_quietly

from recbole_blair.bench.leaderboard import render
from recbole_blair.bench.suite import load_suite
from recbole_blair.figures import fraction

CELLS = """[...document.querySelectorAll('td[data-column]')].map(c => [c.dataset.encoder, c.dataset.column,
    Number(c.dataset.value), c.firstChild.textContent])"""
COLUMN = "[...document.querySelector('#board table').tBodies[0].rows].map(row => Number(row.cells[2].dataset.value))"
HEAD = "document.querySelector('#board table').tHead.rows[0].cells[2]"


@pytest.fixture(scope="module")
def page(chromium_page, finished_bench):
    """The leaderboard, open in a headless Chromium."""
    open_quietly(chromium_page, (finished_bench / "out/leaderboard.html").as_uri())
    return chromium_page


def test_it_opens_without_a_complaint_or_a_request(page, finished_bench):
    assert page.complaints == []
    asked = [url for url in page.requests if not url.startswith("data:")]
    assert asked == [(finished_bench / "out/leaderboard.html").as_uri()]


def test_the_numbers_are_those_of_the_cells(page, finished_bench):
    values = {}
    for line in (finished_bench / "out/results.jsonl").read_text().splitlines():
        about = json.loads(line)
        values[about["encoder"]["id"], about["task"]] = about["value"]
    shown = {(encoder, column): (value, text) for encoder, column, value, text in page.evaluate(CELLS)}
    for key, value in values.items():  # one data set per task here
        assert shown[key][0] == pytest.approx(value, abs=1e-12) and shown[key][1] == fraction(value)
    assert {column for _, column in shown} == {"borda", "share", "sequential", "search-short"}
    assert sum(shown[encoder, "borda"][0] for encoder in {e for e, _ in shown}) == 2  # two data sets, two encoders


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(page, width):
    check_fits(page, width)
    assert page.evaluate("document.querySelectorAll('figure[data-x] svg circle').length") >= 3
    smallest = "Math.min(...[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height))"
    assert page.evaluate(smallest) > 9


def test_four_tasks_fit_a_screen_without_scrolling(chromium_page, finished_bench, tmp_path):
    text = (finished_bench / "out/leaderboard.html").read_text()
    board = json.loads(text.split('id="numbers">')[1].split("</script>")[0])
    titles = [part.task.title for part in load_suite("slices").parts]
    tasks = [{**board["tasks"][n % 2], "title": title} for n, title in enumerate(dict.fromkeys(titles))]
    encoders = [
        {**one, "label": f"{one['label'][:4]} of a long name", "parameters": 7_600_000_000} for one in board["encoders"]
    ]
    (tmp_path / "page.html").write_text(render({**board, "tasks": tasks, "encoders": encoders}))
    open_quietly(chromium_page, (tmp_path / "page.html").as_uri())
    check_fits(chromium_page, 1280)
    assert chromium_page.evaluate("document.querySelectorAll('#board th').length") == 9
    scroll = "(place => place.scrollWidth <= place.clientWidth)(document.querySelector('#board .scroll'))"
    assert chromium_page.evaluate(scroll)


def test_heads_sort_by_click_and_by_keyboard(page):
    page.resize(1280, 900)
    values = page.evaluate(COLUMN)
    page.evaluate(f"{HEAD}.click()")
    assert page.evaluate(COLUMN) == sorted(values, reverse=True)
    assert page.evaluate(f"{HEAD}.getAttribute('aria-sort')") == "descending"
    press = "dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true}))"
    page.evaluate(f"{HEAD}.focus(); document.activeElement.{press}")
    assert page.evaluate(COLUMN) == sorted(values) != sorted(values, reverse=True)
    assert page.complaints == []


def test_dark_and_light(page):
    check_dark_and_light(page)

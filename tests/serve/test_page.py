"""The page in a real browser: phone and desk, light and dark, by mouse and by keyboard, asking this server alone."""

import pytest
from chromium import brightness, check_fits

pytest.importorskip("fastapi", reason="the serve extra is not installed")

from running_server import RunningServer  # isort: skip

# Waits until a condition holds in the page, at most a minute.
WAIT = """new Promise((done, fail) => { const end = Date.now() + 60000; (function look() {
    if (CONDITION) done(true);
    else if (Date.now() > end) fail('never: ' + `CONDITION`);
    else setTimeout(look, 20); })(); })"""
SHOWN = """[...document.querySelectorAll('#results section')].map(part =>
    [...part.querySelectorAll('button.item')].map(button => button.dataset.item))"""


def until(page, condition):
    page.evaluate(WAIT.replace("CONDITION", condition))


def open_page(page, server, width=1280):
    page.complaints.clear()
    page.requests.clear()
    page.resize(width, 844, phone=width < 700)
    page.open(f"http://127.0.0.1:{server.port}/")
    until(page, "document.querySelectorAll('#results button.item').length >= 20")


def press(page, key, text=None):
    for kind in ("keyDown", "keyUp"):
        more = {"text": text} if text and kind == "keyDown" else {}
        page.call("Input.dispatchKeyEvent", type=kind, key=key, **more)


def type_text(page, text):
    page.call("Input.insertText", text=text)


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_opens_in_silence_and_fits_the_screen(chromium_page, server, width, dark):
    chromium_page.dark(dark)
    open_page(chromium_page, server, width)
    assert chromium_page.complaints == []
    own = f"http://127.0.0.1:{server.port}/"
    assert all(url.startswith((own, "data:")) for url in chromium_page.requests) and len(chromium_page.requests) >= 5
    check_fits(chromium_page, width)
    assert (brightness(chromium_page) > 600) != dark
    small = "[...document.querySelectorAll('button')].filter(b => b.offsetParent && b.offsetHeight < 36).length"
    assert chromium_page.evaluate(small) == 0  # a thumb finds them
    chromium_page.dark(False)


def test_a_history_is_built_by_clicks_and_changes_both_runs(chromium_page, server):
    page = chromium_page
    open_page(page, server)
    popular = page.evaluate(SHOWN)
    assert len(popular) == 2 and popular[0] == popular[1]  # no history yet
    assert page.evaluate("document.querySelectorAll('#results .soft').length") >= 4
    page.evaluate("document.querySelector('#results button.item').click()")
    until(
        page,
        "document.querySelectorAll('#history button').length === 1 && !document.body.innerText.includes('No history')",
    )
    first = page.evaluate("document.querySelector('#history button').dataset.item")
    for run, shown in zip(("checkpoint", "compare"), page.evaluate(SHOWN)):
        body = {"users": [{"item_id_list": [first]}], "run": run, "exclude_history": True}
        items = server.ask("/recommend", body)[1]["users"][0]["items"]
        assert shown == [item["item_id"] for item in items] and first not in shown
    scores = page.evaluate("[...document.querySelectorAll('#results .score')].map(e => e.textContent)")
    best = server.ask("/recommend", {**body, "run": "checkpoint"})[1]["users"][0]["items"][0]
    assert scores[0] == f"{best['score']:.4f}"
    page.evaluate("document.querySelector('#history button').click()")
    until(
        page,
        "document.querySelectorAll('#history button').length === 0 && document.body.innerText.includes('No history')",
    )
    assert page.evaluate(SHOWN) == popular and page.complaints == []


def test_by_keyboard_alone(chromium_page, server):
    page = chromium_page
    open_page(page, server)
    press(page, "/", "/")
    assert page.evaluate("document.activeElement.id") == "query"
    type_text(page, "i007")
    until(
        page,
        "document.querySelector('#found button') && document.querySelector('#found button').dataset.item === 'i007'",
    )
    press(page, "Enter", "\r")
    until(page, "document.querySelectorAll('#history button').length === 1")
    assert page.evaluate("document.querySelector('#history button').dataset.item") == "i007"
    reachable = """[...document.querySelectorAll('button, input, textarea, summary, a')].every(e => e.tabIndex >= 0)"""
    assert page.evaluate(reachable)
    page.evaluate("document.querySelector('#history button').focus()")
    press(page, "Enter", "\r")
    until(page, "document.querySelectorAll('#history button').length === 0")
    assert page.evaluate("document.activeElement.id") == "query" and page.complaints == []


def test_a_condition_and_its_mistake_are_shown_in_words(chromium_page, server):
    page = chromium_page
    open_page(page, server)
    for condition, seen in (("title contains 'of i00'", 10), ("price>9", 0), ("cost<3", 0)):
        page.evaluate(f"byId('where').value = {condition!r}; recommend()")
        until(page, f"document.querySelectorAll('#results section:first-child button.item').length === {seen}")
    assert "no column 'cost'" in page.evaluate("document.querySelector('#results .error').textContent")
    page.evaluate("byId('where').value = ''")


def test_a_new_item_is_typed_in_and_marked_as_cold(chromium_page, make_run):
    page = chromium_page
    with RunningServer(make_run("UniSRecBlair")) as own:
        page.complaints.clear()
        page.open(f"http://127.0.0.1:{own.port}/")
        until(page, "document.querySelectorAll('#results button.item').length >= 10")
        page.evaluate("document.querySelector('details').open = true; byId('title').focus()")
        title = "<b>red</b> lamp & phone"
        type_text(page, title)
        page.evaluate("byId('new').requestSubmit()")
        until(page, "document.querySelectorAll('#history button').length === 1")
        assert title in page.evaluate("document.querySelector('#history').textContent")  # as typed, never as markup
        assert page.evaluate("document.querySelectorAll('#history .cold, #history b').length") == 1
        page.evaluate("byId('exclude').click()")
        until(page, "document.querySelectorAll('#results .cold').length >= 1")
        assert page.complaints == []

"""The tables and the figure of measured differences, from results as the full scale writes them."""

import json
import xml.etree.ElementTree as ET

import pytest
from builds import TEST_MS, VALID_MS, write_build

from recbole_blair.cli.main import main
from recbole_blair.report.svg import interval_chart, log_ticks, place_names
from recbole_blair.reproduce import differences, tables

DATA = {"gift_cards": "amazon2018_gift_cards", "wines": "xwines_slim"}


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Results of two data sets, HSTUBlair .2 and .1, HSTU .1 and .2; their builds are not looked at."""
    results = {}
    for label, above, below, low, high, p in (
        ("gift_cards", 0.2, 0.1, 0.05, 0.15, 0.01),
        ("wines", 0.1, 0.2, -0.2, 0.02, 0.3),
    ):
        for name, value in (("hstublair", above), ("hstu", below)):
            results[f"slices-platforms/{name}/{label}"] = {
                "figures": [{"metric": "ndcg@10", "ours": value, "deviation": 0.01}], "runs": ["a", "b"],
                "setting": {"learning_rate": 0.003}, "grid": [{}, {}], "verdict": "not comparable",
            }  # fmt: skip
        figure = {"metric": "ndcg@10", "ours": above - below, "low": low, "high": high, "p_value": p, "seeds": "2 of 3"}
        results[f"slices-platforms/hstublair-over-hstu/{label}"] = {"figures": [figure], "verdict": "above"}
    path = tmp_path / "out/full/results/slices-platforms.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(results))
    about = {"rows": 274, "items": 148, "cold_share": 2.5, "characters": 77.4, "rows_per_item": 13.2}
    monkeypatch.setattr(
        differences, "describe_build", lambda build: about | {"items": 148 + (build.name == DATA["wines"])}
    )
    return tmp_path


def test_the_tables_and_the_figure_hold_what_was_measured(measured, capsys):
    figure = measured / "d.svg"
    assert main(["reproduce", "slices-platforms", f"--output_dir={measured / 'out'}", f"--output={figure}"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert (
        "| gift_cards | 274 | 148 | 2.5 % | 77 | 13.2 |" in out and "| wines | 274 | 149 | 2.5 % | 77 | 13.2 |" in out
    )
    assert "| gift_cards | hstublair | 2 | .2000 ± .0100 | – | – | – | – | learning_rate 0.003 of 2 |" in out
    assert "| gift_cards | hstublair − hstu | ndcg@10 | +.1000 | +.0500 to +.1500 | .020 | 2 of 3 |" in out  # .01 x 2
    assert "| wines | hstublair − hstu | ndcg@10 | −.1000 | −.2000 to +.0200 | .300 | 2 of 3 |" in out
    root = ET.fromstring(figure.read_text())
    titles = [title.text for title in root.iter("{http://www.w3.org/2000/svg}title")]
    # in per cent of the better model's .2; three panels
    assert (
        titles
        == ["hstublair − hstu, gift_cards: +50.0 [+25.0, +75.0]", "hstublair − hstu, wines: -50.0 [-100.0, +10.0]"] * 3
    )
    style = root.find("{http://www.w3.org/2000/svg}style").text
    assert "prefers-color-scheme:dark" in style and "--s0" in style and ".interval" in style


def test_markdown_holds_what_is_printed(measured, capsys):
    tables_file = measured / "t.md"
    assert main(["reproduce", "slices-platforms", f"--output_dir={measured / 'out'}", f"--output={tables_file}"]) == 0
    assert tables_file.read_text() == capsys.readouterr().out
    assert "| wines | hstublair − hstu | ndcg@10 |" in tables_file.read_text()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["slices-platforms", "--output=x.png"],
            "--output=x.png: expected the name of a figure or of Markdown tables, as in gain.svg, tables.md",
        ),
        (
            ["slices-platforms", "--output=x.svg", "--output_dir=none"],
            "none/full/results holds no results of these rows",
        ),
    ],
)
def test_wrong_use_is_one_line(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", *argv]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert not list(tmp_path.glob("x.*"))


def test_a_build_is_described_by_its_rows(tmp_path, monkeypatch):
    """Of the test targets e, b, c, f training never saw e and f; three training rows, six items."""
    early, valid, test = 1_500_000_000_000, VALID_MS, TEST_MS
    build = write_build(
        tmp_path,
        {
            "u1": [("a", early), ("b", early + 1), ("c", early + 2), ("d", valid), ("e", test)],
            "u2": [("a", early), ("c", early + 1), ("b", test)],
            "u3": [("a", early), ("c", test)],
            "u4": [("a", early), ("f", test)],
        },
    )
    splits = {"train": {"rows": 3}, "test": {"rows": 4}}
    stats = {"splits": splits, "items": 6, "table3": {"avg_item_chars": 9.0}}
    monkeypatch.setattr(differences, "require_stats", lambda folder: stats)
    expected = {"rows": 4, "items": 6, "cold_share": 50.0, "characters": 9.0, "rows_per_item": 0.5}
    assert differences.describe_build(build) == expected


def test_ticks_of_a_logarithmic_axis():
    assert log_ticks(0, 1.2) == [1, 2, 5, 10]
    assert log_ticks(-1, 3) == pytest.approx([0.1, 1, 10, 100, 1000])


def test_names_beside_close_points_do_not_cover_each_other():
    parts = place_names({"movielens": (100, 80), "movietweetings": (104, 82), "wines": (300, 81)}, 20)
    heights = {text.text: float(text.get("y")) for text in map(ET.fromstring, parts)}
    assert abs(heights["movielens"] - heights["movietweetings"]) >= 13
    assert heights["movielens"] == 74 and heights["wines"] == 75  # there is room where they belong


def test_lines_join_the_points_of_a_curve_in_the_order_of_x():
    points = [{"x": x, "difference": y, "low": y - 1, "high": y + 1, "name": ""} for x, y in ((9, 3), (1, 1), (3, 2))]
    chart = interval_chart([{"name": "s", "colour": 0, "joined": True, "points": points}], "pairs", "gain", log=True)
    (line,) = ET.fromstring(chart).iter("polyline")
    texts = {text.text for text in ET.fromstring(chart).iter("text")}
    assert {"1", "3", "9"} <= texts and "5" not in texts  # the points' own x
    places = [float(place.split(",")[0]) for place in line.get("points").split()]
    assert places == sorted(places) and places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.2)


@pytest.mark.parametrize("lost", ["value", "figure", "row"])
def test_an_order_of_a_row_without_value_is_refused(measured, capsys, lost):
    path = measured / "out/full/results/slices-platforms.json"
    results = json.loads(path.read_text())
    row = results["slices-platforms/hstu/wines"]
    if lost == "value":
        row["figures"][0]["ours"] = None
    elif lost == "figure":
        row["figures"] = []
    else:
        del results["slices-platforms/hstu/wines"]
    path.write_text(json.dumps(results))
    where = [f"--output_dir={measured / 'out'}", f"--output={measured / 'd.svg'}"]
    status, error = main(["reproduce", "slices-platforms", *where]), capsys.readouterr().err
    if lost == "row":  # its order is not among those of the measured rows
        assert status == 0
        return
    assert status == 2 and len(error.strip().splitlines()) == 1
    assert "the results hold an order by ndcg@10 but no ndcg@10 of its row slices-platforms/hstu/wines" in error
    assert not (measured / "d.svg").exists()


@pytest.mark.parametrize("table", tables.table_ids())
def test_orders_compare_by_what_their_rows_measure(table):
    """Rows keep the figures of published metrics alone, and a difference is shown relative to them."""
    for order in tables.load_orders(table, tables.load_table(table)):
        for row in (order.above, order.below):
            assert {row.metric_name(metric) for metric in order.published} <= row.published.keys(), order.id


@pytest.mark.parametrize("table", tables.table_ids())
def test_what_a_figure_names_is_there(table):
    rows = tables.load_table(table)
    stated = differences.load_yaml(differences.props_dir() / "reproduce" / f"{table}.yaml").get("figure") or []
    orders = tables.load_orders(table, rows)
    panels = stated if isinstance(stated, list) else [stated]
    for wanted, name in [(panel, name) for panel in panels for name in panel["orders"]]:
        found = [order for order in orders if order.id.startswith(f"{table}/{name}/")]
        assert found and all(wanted["metric"] in order.published for order in found), name
        for by in wanted["by"]:
            assert by in differences.PROPERTIES or all(by in order.above.x for order in found), (name, by)

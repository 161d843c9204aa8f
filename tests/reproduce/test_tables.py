"""The tables: every figure of the papers has a row, and no row lacks what makes it a claim."""

import re
from datetime import datetime

import pytest

from recbole_blair.errors import InputError
from recbole_blair.reproduce import tables
from recbole_blair.reproduce.steps import Planner
from recbole_blair.steps.step import Places

# Rows x columns of the papers' tables, counted by hand: lines, data sets, figures of one line on one data set.
COUNTED = {
    "blair-table1": 7,  # reviews, users, items, items with metadata, categories, first and last month
    "blair-table3": 3 * 4,
    "blair-table4": 11 * 3 * 4,
    "blair-bench-table6": 11 * 4,
    "blair-table7": 9 * (5 + 5) + 2 * 2,  # and queries and items of both sets
    "blair-table8": 2 * (4 + 2 + 2),
    "blair-table9": 2 * (4 + 2 + 2),
    "blair-pairs": 1,
    "hstu-blair-games": 4 * 6 + 1,  # and the number of items
    "hstu-blair-office": 4 * 6 + 1,
    "hstu-blair-music": 4 * 6 + 1,
    "hstu-blair-steam": 4 * 6 + 1,
}


@pytest.fixture(scope="module")
def rows():
    return tables.find_rows("all")


@pytest.mark.parametrize("table", COUNTED)
def test_every_figure_has_a_row(table):
    found = tables.load_table(table)
    assert sum(len(row.published) for row in found) == COUNTED[table]
    assert len({(row.id, metric) for row in found for metric in row.published}) == COUNTED[table]


def test_the_other_tables_are_our_own():
    own = set(tables.table_ids()) - set(COUNTED)
    assert own and all(name.startswith("slices-") for name in own)


def test_no_row_lacks_data_command_tolerance_or_cost(rows):
    settings = tables.load_smoke()
    for row in rows:
        assert row.data["dataset"] and row.commands and row.published and row.source, row.id
        assert row.tolerance["why"] and {"relative", "absolute"} <= row.tolerance.keys(), row.id
        assert row.cost["hours"] > 0 and row.cost["derived"], row.id
        assert row.checks and set(row.checks) <= settings["checks"].keys(), row.id
        trains = row.commands[-1][0] == "train"
        assert not trains or (row.model and row.seeds), row.id


def test_an_illegible_cell_is_there_with_its_reason(rows):
    empty = {
        (row.id, metric): row.reasons.get(metric) for row in rows for metric, v in row.published.items() if v is None
    }
    own = {row.id for row in rows if row.table.startswith("slices-")}
    assert {reason for (name, _), reason in empty.items() if name in own} == {"not measured"}
    papers = {cell: reason for cell, reason in empty.items() if cell[0] not in own}
    assert list(papers) == [("blair-table8/mlm-games-search/c4", "ndcg@100 Video_Games")]
    assert "illegible" in next(iter(papers.values()))


def test_every_row_can_be_planned_with_keys_its_command_knows(rows):
    from recbole_blair.config import resolve_config
    from recbole_blair.pretrain.settings import pretrain_keys
    from recbole_blair.registry import find_model

    planner = Planner(Places(plm="."))
    for row in rows:
        planner.steps_of(row)
    for step in planner.steps.values():
        keys = dict(step.keys)
        assert not any(isinstance(value, str) and "{" in value for value in keys.values()), step
        if step.command == "train":
            model, dataset, grid = find_model(keys.pop("model")), keys.pop("dataset"), keys.pop("grid", {})
            for setting in [{}, *({key: value} for key, values in grid.items() for value in values)]:
                resolve_config(model, dataset, (), {**keys, **setting})
        if step.command == "pretrain":
            assert keys.keys() <= pretrain_keys().defaults.keys(), step


def test_a_row_may_search_with_the_encoder_that_its_training_leaves():
    """The step that trains it is that of the row which is measured; of several seeds the first."""
    planner = Planner(Places(plm="."))
    table = {row.id.partition("/")[2]: planner.steps_of(row) for row in tables.load_table("slices-finetuning")}
    trained, searched = table["unisrec-last2/electronics"][-1], table["search-last2/c4"]
    assert trained in searched
    retriever = planner.steps[searched[-1]].keys["retriever"]
    assert retriever == f"step:{trained}/UniSRecBlair-2020/encoder"
    single = Planner(Places(plm=".", seeds=[7]))
    (row,) = (row for row in tables.load_table("slices-finetuning") if row.id.endswith("search-last2/c4"))
    *_, trained, searched = single.steps_of(row)
    assert single.steps[searched].keys["retriever"] == f"step:{trained}/encoder"


def line_of(anchors, begins):
    """The numbers of the cells of a table line of the measuring notes."""
    line = next(line for line in anchors.splitlines() if line.startswith(f"| {begins} |"))
    return [float(cell) for cell in line.split("|", 2)[2].replace("|", " ").split()]


def test_table4_holds_the_published_figures(shared_data):
    anchors = (shared_data.parent / "ANCHORS.md").read_text(encoding="utf-8")
    names = {
        "gru4rec": "GRU4Rec",
        "sasrec": "SASRec",
        "sasrectext-roberta-base": "SASRec (Text) RoBERTa-base",
        "unisrec-roberta-base": "UniSRec RoBERTa-base",
        "unisrec-blair-mlm-base": "UniSRec BLaIR-MLM-base",
        "unisrec-blair-base": "UniSRec BLaIR-base",
        "sasrectext-roberta-large": "SASRec (Text) RoBERTa-large",
        "unisrec-roberta-large": "UniSRec RoBERTa-large",
        "unisrec-simcse-large": "UniSRec SimCSE-large",
        "unisrec-blair-mlm-large": "UniSRec BLaIR-MLM-large",
        "unisrec-blair-large": "UniSRec BLaIR-large",
    }
    found = tables.load_table("blair-table4")
    for name, line in names.items():
        ours = [v for label in ("beauty", "games", "baby") for row in found
                if (row.name, row.label) == (name, label) for v in row.published.values()]  # fmt: skip
        assert ours == line_of(anchors, line), name


@pytest.mark.parametrize(
    ("name", "begins"),
    [("games", "Video Games:"), ("office", "Office:"), ("music", "Musical Instruments:"), ("steam", "Steam:")],
)
def test_hstu_blair_holds_the_published_figures(shared_data, name, begins):
    anchors = (shared_data.parent / "ANCHORS.md").read_text(encoding="utf-8")
    line = next(line for line in anchors.splitlines() if line.strip().startswith(f"- {begins}"))
    ours = [v for row in tables.load_table(f"hstu-blair-{name}") if row.name != "items" for v in row.published.values()]
    assert ours == [float(text) for text in re.findall(r"(?<!\w)\.\d{4}", line)]


def test_table7_holds_the_published_figures(shared_data):
    anchors = (shared_data.parent / "ANCHORS.md").read_text(encoding="utf-8")
    text = anchors.split("then Amazon-C4 the same):")[1].split("ESCI rows:")[0]
    lines = [
        re.findall(r"(?<![\w.])\d*\.?\d+(?!\w)", re.sub(r"BM25|BLaIR-MLM|C4", "", part)) for part in text.split(";")
    ]
    found = {(row.name, row.label): list(row.published.values()) for row in tables.load_table("blair-table7")}
    names = [name for name, label in found if label == "esci" and name != "sizes"]
    assert len(lines) == len(names) == 9
    for name, line in zip(names, lines):
        assert found[name, "esci"] + found[name, "c4"] == [float(value) for value in line], name


def test_tables_1_and_3_hold_the_published_counts(shared_data):
    anchors = (shared_data.parent / "ANCHORS.md").read_text(encoding="utf-8")
    (row,) = tables.load_table("blair-table1")
    pattern = (
        r"([\d,]+) reviews, ([\d,]+) users, ([\d,]+) items \(([\d,]+) with metadata\), (\d+) categories, "
        r"(\w{3} \d{4}) – (\w{3} \d{4})"
    )
    *counts, first, last = re.search(pattern, anchors).groups()
    months = [datetime.strptime(text, "%b %Y").strftime("%Y-%m") for text in (first, last)]
    assert list(row.published.values()) == [int(text.replace(",", "")) for text in counts] + months

    line = re.search(r"Table 3 \(items, interactions, avg length, avg characters of metadata\): (.*?)\. The", anchors)[
        1
    ]
    for row, (name, *figures) in zip(
        tables.load_table("blair-table3"),
        re.findall(r"(\w+) ([\d,]+) · ([\d,]+) · ([\d.]+) · ([\d.]+)", line),
        strict=True,
    ):
        assert row.label == name.lower()
        assert list(row.published.values()) == [float(text.replace(",", "")) for text in figures]


def test_tables_8_and_9_hold_the_published_figures(shared_data):
    anchors = (shared_data.parent / "ANCHORS.md").read_text(encoding="utf-8")
    line = next(line for line in anchors.splitlines() if line.startswith("- Tables 8 and 9"))
    published = [float(text) for text in re.findall(r"(?<![\w.])\d*\.\d+", line)]
    ours = []
    for table in ("blair-table8", "blair-table9"):
        by_row = {(row.name, row.label): list(row.published.values()) for row in tables.load_table(table)}
        for name in dict.fromkeys(name for name, label in by_row if label == "games"):
            ours += by_row[name, "games"] + by_row[f"{name}-search", "esci"] + by_row[f"{name}-search", "c4"]
    assert [value for value in ours if value is not None] == published  # the illegible cell is the one None


def test_ids_name_tables_rows_and_data():
    assert len(tables.find_rows("blair-table3")) == 3
    assert [row.id for row in tables.find_rows("blair-table4/sasrec/games")] == ["blair-table4/sasrec/games"]
    assert len(tables.find_rows("blair-table4/sasrec,blair-table4/sasrec/games")) == 3  # each once
    with pytest.raises(InputError, match=r"unknown id 'blair-tabel4'. Did you mean 'blair-table4'\?"):
        tables.find_rows("blair-tabel4")

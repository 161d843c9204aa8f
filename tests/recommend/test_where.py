"""Conditions on item columns: what they pick, what they refuse, and that nothing in them is ever run."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_blair.errors import InputError
from recbole_blair.recommend.where import Column, select_items

COLUMNS = {  # five items
    "title": Column("token", pa.array(["Red lamp", "blue lamp", "Kettle", "", "a = b"])),
    "categories": Column("token_seq", pa.array(["Home Table_Lamps", "Home", "Kitchen", "", "Homeware"])),
    "store": Column("token", pa.array(["Acme", "Bolt", "Acme", "Acme & Co", ""])),
    "price": Column("float", pa.array(["10", "20.5", "", "5", "1e2"])),
    "weight": Column("token", pa.array(["3", "12", "", "7", "100"])),
}


def picked(condition):
    return [int(i) for i in select_items(condition, list(COLUMNS), COLUMNS.__getitem__).nonzero()[0]]


@pytest.mark.parametrize(
    ("condition", "items"),
    [
        ("price<20", [0, 3]), ("price >= 20.5", [1, 4]), ("price=100", [4]), ("price!=10", [1, 3, 4]),
        ("not price<20", [1, 4]),  # item 2 has no price: neither a condition nor its negation picks it
        ("price<20 or not price<20", [0, 1, 3, 4]), ("price<20 or store=Acme", [0, 2, 3]),
        ("weight>3", [1, 3, 4]),  # numbers, whatever the column's type
        ("categories=Home", [0, 1]), ("category=Home", [0, 1]), ("categories='Table Lamps'", [0]),
        ("categories!=Home", [2, 4]), ("categories in (Home, Kitchen)", [0, 1, 2]),
        ("category=Home and price<20", [0]), ("store=Acme or store=Bolt and price>50", [0, 2]),
        ("(store=Acme or store=Bolt) and price>15", [1]), ('store in (Bolt, "Acme & Co")', [1, 3]),
        ("title contains LAMP", [0, 1]), ("NOT title contains lamp AND store=Acme", [2]),
        ('title="a = b"', [4]), ("price in (5, 10)", [0, 3]), ("store==Acme", [0, 2]),
        ("not (store=Acme or price=5)", [1]),
    ],
)  # fmt: skip
def test_what_a_condition_picks(condition, items):
    assert picked(condition) == items


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("", "found 'the end'; expected a column"), ("colour=red", "no column 'colour'; they have title, categories"),
        ("prices<3", "Did you mean 'price'"), ("price<cheap", "price<cheap: expected a number"),
        ("store<Bolt", "store holds text, which has no order"), ("price 3", "expected one of = == !="),
        ("price<3 4", "found '4'; expected and, or, or the end"), ("(price<3", r"found 'the end'; expected \)"),
        ("price<", "found 'the end'; expected a value"), ("store in Acme", r"expected \( after in"),
        ("store in (Acme", "expected , or"), ("store in ()", "expected a value"), ("and price<3", "expected a column"),
        ("price<3; drop table x", "expected a number behind <"), ("price<3 ; drop table x", "found ';'"),
        ("__import__('os')", "no column '__import__'"), ('title="x', "cannot be read"),
        ("not " * 40 + "price<3", "more than 32 brackets"), ("price<3 or " * 400, "at most 2,000 are read"),
        ("price !", "cannot be read"),
    ],
)  # fmt: skip
def test_what_is_refused(condition, words):
    with pytest.raises(InputError, match=words):
        picked(condition)


PARTS = ["price", "title", "<", "=", "in", "(", ")", ",", "and", "or", "not", "contains", "3", "x", "'", '"', " ", "!"]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(PARTS), max_size=14).map("".join) | st.text(max_size=40))
def test_any_text_is_a_condition_or_is_refused(condition):
    try:
        assert len(select_items(condition, list(COLUMNS), COLUMNS.__getitem__)) == 5
    except InputError as error:
        assert "where" in str(error)

"""Reading pools and query files: what is taken, and each refusal by its message."""

import gzip
import json

import pytest

from recbole_blair.errors import InputError
from recbole_blair.search import readers


def write_pool(path, rows):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.writelines((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    return path


ROWS = [
    {"item_id": "0001", "category": "Video_Games", "metadata": "Blue controller."},
    {"item_id": "B2", "category": "Care", "metadata": ""},
]


@pytest.mark.parametrize("name", ["pool.jsonl", "pool.jsonl.gz"])
def test_pool_plain_and_gzip(tmp_path, name):
    pool = readers.load_pool(write_pool(tmp_path / name, [ROWS[0], "", ROWS[1]]))
    assert pool.item_ids == ["0001", "B2"]
    assert pool.categories == ["Video_Games", "Care"]
    assert pool.texts == ["Blue controller.", ""]


def test_pool_reads_the_released_item_key_and_raw_metadata(tmp_path):
    rows = [
        {"item": "A", "category": "X", "metadata": "m"},
        {"parent_asin": "B", "title": "Lamp", "description": ["Warm &amp; small"]},
    ]
    pool = readers.load_pool(write_pool(tmp_path / "p.jsonl", rows))
    assert pool.item_ids == ["A", "B"]
    assert pool.categories == ["X", "Unknown"]
    assert pool.texts == ["m", "Lamp. Warm & small."]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROWS[0], ROWS[1], ROWS[0]], r"item_id '0001' is on line 1 and again on line 3"),
        ([], "the pool is empty"),
        ([{"category": "X"}], r"line 1: no item id \(columns: category\)"),
        ([ROWS[0], "{broken"], "line 2 is not JSON"),
        (["[1]"], "line 1 is a JSON .*expected JSON lines"),
        ([{"item_id": "a b", "metadata": "m"}], "holds white space"),
    ],
)
def test_pool_refusals(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        readers.load_pool(write_pool(tmp_path / "p.jsonl", rows))


def test_pool_truncated_gzip(tmp_path):
    path = write_pool(tmp_path / "p.jsonl.gz", [{"item_id": str(i), "metadata": "x" * i} for i in range(500)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="ends too early: copy or fetch it again"):
        readers.load_pool(path)


def test_queries_keep_text_as_it_is_written(tmp_path):
    path = tmp_path / "test.csv"
    path.write_text('qid,query,item_id\n7,"null, a\nsecond line",0001\n8,nan,B2\n', encoding="utf-8")
    queries = readers.load_queries(path)
    assert queries.qids == ["7", "8"]
    assert queries.texts == ["null, a second line", "nan"]
    assert queries.item_ids == ["0001", "B2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("qid,query,item_id\n1,a,b\n2,  ,c\n", "data row 2: an empty query"),
        ("qid,query,item_id\n1,a,\n", "data row 1: an empty item_id"),
        ("qid,querry,item_id\n1,a,b\n", r"missing: query.*Did you mean 'querry'"),
        ("qid,query,item_id\n", "no queries"),
    ],
)
def test_query_refusals(tmp_path, text, message):
    path = tmp_path / "test.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        readers.load_queries(path)


def test_hash_of_strings_knows_where_entries_end():
    assert readers.hash_strings(["ab", "c"]) != readers.hash_strings(["a", "bc"])
    assert readers.hash_strings(["a"], ["b"]) != readers.hash_strings(["a", "b"], [])
    assert readers.hash_strings(["a", "b"]) == readers.hash_strings(["a", "b"])


@pytest.mark.parametrize("block", [31, 32, 33, 1 << 20])
def test_category_mapping_is_streamed(tmp_path, monkeypatch, block):
    monkeypatch.setattr(readers, "CATEGORY_BLOCK", block)
    path = tmp_path / "asin2category.json"
    path.write_text(json.dumps({f"B{i}": f"Cat {i % 3}" for i in range(50)}, indent=None))
    assert readers.load_asin2category(path, {"B4", "B49", "B50"}) == {"B4": "Cat 1", "B49": "Cat 1"}
    path.write_text("{}")
    assert readers.load_asin2category(path, {"B4"}) == {}


@pytest.mark.parametrize("text", ["", "[]", '{"A": "x"', '{"A": 1}', '{"A": "x", broken}'])
def test_category_mapping_refusals(tmp_path, text):
    path = tmp_path / "asin2category.json"
    path.write_text(text)
    with pytest.raises(InputError, match="not a whole JSON object"):
        readers.load_asin2category(path, {"A"})
    with pytest.raises(InputError, match="no such file"):
        readers.load_asin2category(tmp_path / "none.json", {"A"})


TITLES = [  # a line of a pool, its text under pool_text=title
    ({"metadata": "Reading lamp. Warm light. Oak."}, "Reading lamp"),
    ({"metadata": "Reading lamp."}, "Reading lamp"),
    ({"metadata": "Screen 2.5 in, 4K. For desks"}, "Screen 2.5 in, 4K"),
    ({"metadata": "Dr. Brown bottle. Blue."}, "Dr"),  # the cut's known fault
    ({"metadata": "Dr. Brown bottle. Blue.", "title": "Dr. Brown &amp; Co. bottle"}, "Dr. Brown & Co. bottle"),
    ({"title": "Lamp", "description": ["Warm"]}, "Lamp"),
    ({"metadata": ""}, "."),
    ({"metadata": ". No title"}, "."),
    ({"title": None, "description": ["Warm"]}, "Warm"),
]


def test_texts_are_cut_to_the_title(tmp_path):
    rows = [{"item_id": f"i{n}", **row} for n, (row, _) in enumerate(TITLES)]
    path = write_pool(tmp_path / "item_pool.jsonl", rows)
    assert readers.load_pool(path, "title").texts == [title for _, title in TITLES]
    assert readers.load_pool(path).texts[0] == "Reading lamp. Warm light. Oak."


def test_a_published_file_of_titles_is_taken_as_it_is(tmp_path):
    rows = [{"item_id": "a", "category": "C", "metadata": "Vol. 1. A book"}, {"item_id": "b", "metadata": "."}]
    path = write_pool(tmp_path / "C4_titles_only_na2period.jsonl", rows)
    assert readers.load_pool(path, "title").texts == readers.load_pool(path).texts == ["Vol. 1. A book", "."]


def test_an_object_of_titles_is_a_pool(tmp_path):
    path = tmp_path / "reddit_movie_id2name.json"
    path.write_text(json.dumps({"tt02": "Alien (1979)", "tt01": "  "}), encoding="utf-8")
    pool = readers.load_pool(path, "title")
    assert (pool.item_ids, pool.texts, pool.categories) == (["tt02", "tt01"], ["Alien (1979)", "."], ["Unknown"] * 2)


@pytest.mark.parametrize("value", [{}, [], {"a": 1}, {"a b": "x"}, {"": "x"}])
def test_another_object_is_refused(tmp_path, value):
    path = tmp_path / "reddit_movie_id2name.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(InputError, match=r"is no JSON object item id -> title|is empty or holds white space"):
        readers.load_pool(path)


def test_the_queries_of_reddit_movie_name_their_item_target(tmp_path):
    path = tmp_path / "test.csv"
    path.write_text("target,query,metadata\ntt01,something like Alien,Aliens\n", encoding="utf-8")
    queries = readers.load_queries(path)
    assert (queries.item_ids, queries.texts, queries.qids) == (["tt01"], ["something like Alien"], ["0"])

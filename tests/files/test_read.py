"""Whatever is wrong with a file that a user gives is one line: the file, the line, the fix."""

import gzip
import json
import re
import time
from pathlib import Path

import pytest

from recbole_blair.errors import InputError
from recbole_blair.files.own_json import read_own_json
from recbole_blair.files.read import (
    MAX_DEPTH,
    check_file,
    check_folder_flag,
    iter_csv,
    iter_jsonl,
    iter_lines,
    json_depth,
    parse_json,
    read_json,
    read_parquet,
    read_text,
    read_yaml,
    why_no_folder,
)

CASES = Path(__file__).parents[3] / "shared" / "cases" / "files"


def file(folder, content, name="file.jsonl"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return path


def test_lines_of_plain_and_packed_files(tmp_path):
    raw = b"\xef\xbb\xbfa\r\n\n \t\n\xc3\xa9 b \nc"
    for path in (file(tmp_path, raw, "a.txt"), file(tmp_path, gzip.compress(raw), "a.txt.gz")):
        assert list(iter_lines(path)) == [(1, "a"), (4, "é b"), (5, "c")]
    assert read_text(file(tmp_path, b"\xef\xbb\xbfx\n")) == "x\n"


def test_json(tmp_path):
    assert list(iter_jsonl(file(tmp_path, '{"a": 1}\n\n{"b": "\\ud83d\\ude00"}\n'), "x")) == [
        (1, {"a": 1}),
        (3, {"b": "😀"}),
    ]
    assert read_json(file(tmp_path, "[1, null]")) == [1, None]
    assert parse_json('"\\ud83d"', "here", keep_surrogates=True) == "\ud83d"


@pytest.mark.parametrize(
    ("text", "depth"),
    [("[]", 1), ('{"a": [{}]}', 3), ('"[[["', 0), ('["\\"[[", []]', 2), ("[[", 2), ('["[', 1), ('["\\', 1), ("1", 0)],
)
def test_depth(text, depth):
    assert json_depth(text) == depth


DAMAGED = {  # name and content of a file of JSON lines, what the message says
    "not gzip": ("a.jsonl.gz", b"{}", "not a whole gzip file .*copy or fetch it again"),
    "cut gzip": ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 9)[:-9], "it ends too early"),
    "bad gzip": (
        "a.jsonl.gz",
        gzip.compress(b"{}" * 99, mtime=0)[:15] + b"\xff" * 40,
        "not a whole gzip file|ends too early",
    ),
    "gzip without its name": ("a.jsonl", gzip.compress(b"{}"), r"give it a name that ends in \.gz"),
    "parquet": ("a.jsonl", b"PAR1\xff", r"name that ends in \.parquet"),
    "utf-16": ("a.jsonl", '{"a": 1}'.encode("utf-16"), "save it as UTF-8"),
    "latin-1": ("a.jsonl", '{}\n{"a": "é"}'.encode("latin-1"), "line 2: not UTF-8 text .byte 0xe9"),
    "raw surrogate": ("a.jsonl", '{}\n{"a": "\ud800"}', "line 2: not UTF-8 text .byte 0xed"),
    "lone surrogate": ("a.jsonl", '{}\n\n{"a": ["\\uD83D"]}', r"line 3: \\ud83d is half of a character"),
    "surrogate key": ("a.jsonl", '{"\\udc00": 1}', r"line 1: \\udc00 is half"),
    "deep": ("a.jsonl", "{}\n" + "[" * 1_000_000, f"line 2: lists or objects more than {MAX_DEPTH} deep"),
    "deep objects": ("a.jsonl", '{"a":' * 90_000, f"more than {MAX_DEPTH} deep"),
    "deep enough to crash": ("a.jsonl", "[" * 900 + "]" * 900, f"more than {MAX_DEPTH} deep"),
    "unclosed": ("a.jsonl", '{}\n{"a": "' + '[\\"' * 500_000, "line 2 is not JSON"),
    "nul": ("a.jsonl", '{"a": "\0"}', "line 1 is not JSON"),
    "no object": ("a.jsonl", "{}\n3\n", "line 2 is a JSON int, not an object; expected a pair"),
    "huge number": ("a.jsonl", '{"a": ' + "1" * 5000 + "}", "line 1 is not JSON"),
    "cut": ("a.jsonl", '{"a": 1}\n{"a": ', "line 2 is not JSON"),
}


@pytest.mark.parametrize(("name", "content", "message"), DAMAGED.values(), ids=list(DAMAGED))
def test_damaged_json_lines(tmp_path, name, content, message):
    path, start = file(tmp_path, content, name), time.monotonic()
    with pytest.raises(InputError, match=message) as failure:
        list(iter_jsonl(path, "a pair"))
    assert re.match(re.escape(str(path)), str(failure.value)) and "\n" not in str(failure.value)
    assert time.monotonic() - start < 10


def test_long_lines_are_refused_before_they_fill_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("recbole_blair.files.read.MAX_LINE_BYTES", 10)
    monkeypatch.setattr("recbole_blair.files.read.MAX_TEXT_BYTES", 10)
    path = file(tmp_path, "a\n" + "x" * 11)
    with pytest.raises(InputError, match="line 2: longer than"):
        list(iter_lines(path))
    with pytest.raises(InputError, match="larger than"):
        read_text(path)


NO_FILES = {
    "absent": ("absent", "no such file; expected a list"),
    "folder": (".", "a folder, not a file; expected a list"),
    "below a file": ("file/x", "a part of this path is a file"),
    "nul": ("a\0b", "a path cannot hold a NUL character"),
    "long": ("x" * 5000, "the name is too long"),
    "loop": ("loop", "lead in a circle"),
    "device": ("/dev/zero", "a device or a pipe"),
}


@pytest.mark.parametrize(("name", "message"), NO_FILES.values(), ids=list(NO_FILES))
def test_paths_that_are_no_file(tmp_path, name, message):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for read in (read_text, read_json, lambda path, what: list(iter_lines(path, what))):
        with pytest.raises(InputError, match=message) as failure:
            read(tmp_path / name, "a list")
        assert len(str(failure.value)) < 500 and str(failure.value).isprintable()


def test_other_files(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    file(tmp_path, "")
    assert check_file("~/file.jsonl", "x") == tmp_path / "file.jsonl"
    with pytest.raises(InputError, match="it is empty; expected numbers"):
        read_json("~/file.jsonl", "numbers")
    assert why_no_folder(tmp_path) is None and why_no_folder(tmp_path / "file.jsonl") == "a file, not a folder"
    assert why_no_folder(tmp_path / "x") == "no such folder"


def test_csv(tmp_path):
    path = file(tmp_path, b"\xef\xbb\xbfa,b\n1,\xc3\xa9\n2\n", "a.csv")
    assert list(iter_csv(path, "x")) == [{"a": "1", "b": "é"}, {"a": "2", "b": None}]
    for content, message in {b"a\n\xff\n": "not UTF-8", b'a\n"' + b"x" * 200_000: "damaged .*limit"}.items():
        with pytest.raises(InputError, match=message):
            list(iter_csv(file(tmp_path, content, "b.csv"), "x"))


def test_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": list(range(1000)), "b": ["x"] * 1000}), path)
    assert read_parquet(path, ["a"]).column_names == ["a"]
    with pytest.raises(InputError, match=r"no column 'c' \(it has a, b\); expected ranks"):
        read_parquet(path, ["c"], "ranks")
    whole = path.read_bytes()
    for content in (b"", whole[:-20], b"PAR1" + whole[40:], whole[:4] + b"\0" * 200 + whole[204:]):
        with pytest.raises(InputError, match="damaged"):
            read_parquet(file(tmp_path, content, "b.parquet"))


@pytest.mark.skipif(not CASES.is_dir(), reason=f"no {CASES}")
@pytest.mark.parametrize("name", ["bin.gz", "trunc.jsonl.gz", "users_deep.jsonl", "users_surr.jsonl"])
def test_files_that_failed(name):
    with pytest.raises(InputError, match=name):
        list(iter_jsonl(CASES / name, "users"))


@pytest.mark.skipif(not CASES.is_dir(), reason=f"no {CASES}")
@pytest.mark.parametrize("name", ["bin.yaml", "bomb4.yaml", "bomb_space.yaml", "deep.yaml"])
def test_yaml_that_failed(name):
    start = time.monotonic()
    with pytest.raises(InputError, match=rf"{name}.*; expected keys and values") as failure:
        read_yaml(CASES / name, "keys and values")
    assert "\n" not in str(failure.value) and time.monotonic() - start < 5


@pytest.mark.skipif(not CASES.is_dir(), reason=f"no {CASES}")
def test_files_that_are_read_as_they_are():
    assert read_yaml(CASES / "date.yaml") == {"learning_rate": "2024-99-99"}  # which no number is: its key says so
    assert list(iter_jsonl(CASES / "empty.jsonl", "users")) == []


def test_yaml(tmp_path):
    assert read_yaml(file(tmp_path, "a: 1e-3\nb: 2024-99-99\n")) == {"a": 0.001, "b": "2024-99-99"}
    assert read_yaml(file(tmp_path, "")) is None
    for content, message in {"a: [1\nb: 2\n": "line 2 is not valid YAML", "a: \0": "is not valid YAML"}.items():
        with pytest.raises(InputError, match=message):
            read_yaml(file(tmp_path, content))


def test_json_that_is_right_passes_unchanged(tmp_path):
    rows = [{"a": "[" * 100, "b": [[1.5, None, True]], "c": "\\ud800 é 😀"}, {"x": ["{"] * 100}]
    path = file(tmp_path, "".join(json.dumps(row) + "\n" for row in rows))
    assert [row for _, row in iter_jsonl(path, "rows")] == rows


OWN = {  # a file that this tool wrote, damaged: what is said of it
    "empty": (b"", "it is empty; expected the results; run again"),
    "cut": (b'{"a": 1, "b"', r"is not JSON \(.*\); run again"),
    "deep": (b'{"a": ' + b"[" * 100_000, "more than 64 deep in each other; run again"),
    "bytes": (b"\xff\x00", "not UTF-8 text .*; run again"),
    "list": (b"[1]", "is damaged: it holds a list; expected the results; run again"),
    "lacks a key": (b'{"a": 1}', "is damaged: it has no 'b'; expected the results; run again"),
}


@pytest.mark.parametrize(("data", "message"), OWN.values(), ids=list(OWN))
def test_a_damaged_file_of_our_own_is_one_line(tmp_path, data, message):
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(InputError, match=f"^.*x.json.*{message}$"):
        read_own_json(tmp_path / "x.json", "the results", "run again", ("a", "b"))


def test_a_file_where_a_flags_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    for path, reason in [("file", "a file, not a folder"), ("file/x", "a part of this path is a file")]:
        with pytest.raises(InputError, match=f"^--data_path=.*{path}: {reason}; give a folder$"):
            check_folder_flag("data_path", tmp_path / path)
    check_folder_flag("data_path", tmp_path)
    check_folder_flag("data_path", tmp_path / "none")

"""Data of one's own: every format gives the same rows, recipes run as written, bad rows are counted and named."""

import gzip
import json
import re
import shlex
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import own_raw
import recipe_raw

from dataset_tools.builds.statistics_file import load_stats
from dataset_tools.own_data import prepare_own
from recbole_blair.cli.main import main
from recbole_blair.errors import InputError
from recbole_blair.schema import SPLITS

DOC = Path(__file__).resolve().parents[2] / "docs/own_data.md"
COMMANDS = [
    line for block in re.findall(r"```bash\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL) for line in
    block.splitlines()
]  # fmt: skip
PREPARE = [shlex.split(line)[1:] for line in COMMANDS if line.startswith("recbole-blair prepare")]
WRITERS = {**own_raw.WRITERS, "book-crossing": lambda folder: recipe_raw.write_book_crossing(folder / "book-crossing")}
COLUMNS = "user_id=u,item_id=i,timestamp=t"
QUIET = {"progress": False, "threads": 1}


def option(argv, name):
    return next((word.split("=", 1)[1] for word in argv if word.startswith(f"--{name}=")), None)


def inter_rows(folder, split):
    return (folder / f"{folder.name}.{split}.inter").read_text(encoding="utf-8").splitlines()[1:]


def items_of(folder):
    lines = (folder / f"{folder.name}.item").read_text(encoding="utf-8").splitlines()
    names = [column.split(":")[0] for column in lines[0].split("\t")]
    return {line.split("\t")[0]: dict(zip(names, line.split("\t"))) for line in lines[1:]}


def naive_rows(instants=None):
    """The rows of the log, by hand: per split, (user, history, item, time in ms) of user and item numbers."""
    log = sorted(own_raw.events(), key=lambda event: event[2])
    times = [t * 1000 for _, _, t in log]
    valid, test = instants or (times[-(-8 * len(times) // 10) - 1], times[-(-9 * len(times) // 10) - 1])
    rows, past = {split: set() for split in SPLITS}, {}
    for user, item, second in log:
        history = past.setdefault(user, [])
        if history:
            ms = second * 1000
            split = "train" if ms < valid else "valid" if ms < test else "test"
            rows[split].add((user, tuple(history), item, ms))
        history.append(item)
    return rows


def read_rows(folder, number):
    """The rows of a build, ids turned back into numbers by `number`."""
    found = {}
    for split in SPLITS:
        cells = (line.split("\t") for line in inter_rows(folder, split))
        found[split] = {
            (number(user), tuple(number(i) for i in past.split(" ")), number(item), int(ms))
            for user, past, item, _, ms in cells
        }
    return found


@pytest.fixture
def log(tmp_path, monkeypatch):
    """A working folder with the log of ten-line files in plain CSV."""
    monkeypatch.chdir(tmp_path)
    lines = [f"{u},{i},{t * 1000}" for u, i, t in own_raw.events()]
    own_raw.write(tmp_path / "log.csv", ["u,i,t", *lines])
    return lines


def recipe_of(argv):
    """The recipe of a command, or the name of its data."""
    return option(argv, "recipe") or option(argv, "dataset")


@pytest.mark.parametrize("argv", PREPARE, ids=" ".join)
def test_a_recipe_of_the_docs_runs_as_written(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name = recipe_of(argv)
    WRITERS[name](tmp_path)
    assert main([*argv, "--quiet", "--threads=1"]) == 0
    printed = capsys.readouterr().out
    protocol = "last_out" if name == "yelp-2019" else option(argv, "protocol") or "timestamp"
    build = option(argv, "dataset") or name
    protocol = "random" if name == "book-crossing" else protocol
    folder = tmp_path / "dataset" / (build if protocol == "timestamp" else f"{build}-{protocol}")
    stats, items = load_stats(folder), items_of(folder)
    assert stats["items"] == own_raw.ITEMS and stats["users"] == own_raw.USERS
    assert all(item["title"].startswith("Thing ") and item["text"] for item in items.values())
    if protocol == "random":
        return
    if protocol == "last_out":
        assert {s: stats["splits"][s]["rows"] for s in ("valid", "test")} == {"valid": 30, "test": 30}
        return
    scale = 10 if name == "steam" else 1  # its product ids end in 0

    def number(token):
        found = int(re.search(r"\d+$", token.replace("Player%20", ""))[0])
        return found // scale if name == "steam" and "Player" not in token else found

    assert read_rows(folder, number) == naive_rows()
    assert str(stats["instants"]["valid_start_ms"]) in printed and "left out" in printed


def test_the_recipes_cover_what_the_docs_promise():
    assert sorted({recipe_of(argv) for argv in PREPARE}) == sorted(WRITERS)


def prepare_recipe(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    WRITERS[name](tmp_path)
    argv = next(argv for argv in PREPARE if recipe_of(argv) == name)
    assert main([*argv, "--quiet", "--threads=1"]) == 0
    return tmp_path / "dataset" / name


def test_latin_letters_quotes_and_lists_of_movielens(tmp_path, monkeypatch):
    movie = items_of(prepare_recipe("ml-1m", tmp_path, monkeypatch))["2"]
    assert movie["title"] == "Thing 1 ''é'' (1995)"
    assert movie["categories"] == "Action Children's"
    assert movie["text"] == "Thing 1 ''é'' (1995). Action, Children's."


def test_text_fields_and_names_of_steam(tmp_path, monkeypatch):
    folder = prepare_recipe("steam", tmp_path, monkeypatch)
    game = items_of(folder)["20"]
    assert game["text"] == "Thing 1. Fun, 2D, Single-player, Dev 2. Action, Children's."
    assert (game["store"], game["price"]) == ("P", "4.99")
    stats = load_stats(folder)
    assert stats["percent_encoded_ids"] == {"users": own_raw.USERS, "items": 0}
    assert stats["cleaning"]["metadata"]["price_not_a_number"] == 1
    assert any("Player%2030" in line for line in inter_rows(folder, "test"))


def test_yelps_missing_categories_leave_no_trace(tmp_path, monkeypatch):
    shops = items_of(prepare_recipe("yelp", tmp_path, monkeypatch))
    assert shops["b-3"]["text"] == "Thing 2. Reno, NV."
    assert shops["b-2"]["text"] == "Thing 1. Reno, NV. Action, Children's."


def other_formats(folder, lines):
    """Write the log in every other format; returns {file: options}."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [[int(cell) for cell in line.split(",")] for line in lines]
    objects = [dict(zip("uit", row)) for row in cells]
    own_raw.write(folder / "log.csv.gz", ["u,i,t", *lines])
    own_raw.write(folder / "log.tsv", ["u\ti\tt", *(line.replace(",", "\t") for line in lines)])
    own_raw.write(folder / "semi.csv", ["u;i;t", *(line.replace(",", ";") for line in lines)])
    own_raw.write(folder / "log.jsonl.gz", map(json.dumps, objects))
    own_raw.write(folder / "literal.json", map(repr, objects))
    own_raw.write(folder / "seconds.csv", ["u,i,t", *(f"{u},{i},{t / 1000}" for u, i, t in cells)])
    zone = [f"{u},{i},{own_raw.iso(t // 1000 + 7200, '%Y-%m-%dT%H:%M:%S')}+02:00" for u, i, t in cells]
    own_raw.write(folder / "zone.csv", ["u,i,t", *zone])
    local = [f"{u},{i},{own_raw.iso(t // 1000, '%d.%m.%Y um %H:%M:%S Uhr')}" for u, i, t in cells]
    own_raw.write(folder / "local.csv", ["u,i,t", *local])
    columns = {name: [row[n] for row in cells] for n, name in enumerate("uit")}
    pq.write_table(pa.table(columns), folder / "log.parquet")
    stamps = pa.array(columns["t"], pa.timestamp("ms"))
    pq.write_table(pa.table({**columns, "t": stamps}), folder / "stamps.parquet")
    return {
        "log.csv.gz": {}, "log.tsv": {}, "semi.csv": {"delimiter": ";"}, "log.jsonl.gz": {}, "log.parquet": {},
        "literal.json": {"source": "python"}, "seconds.csv": {"timestamp_unit": "s"},
        "local.csv": {"timestamp_unit": "%d.%m.%Y um %H:%M:%S Uhr"},
        "zone.csv": {"timestamp_unit": "iso"}, "stamps.parquet": {"timestamp_unit": "iso"},
    }  # fmt: skip


def test_every_format_gives_the_same_rows(log, tmp_path):
    folder = prepare_own("log", tmp_path / "log.csv", columns=COLUMNS, data_path="plain", **QUIET)
    plain = [inter_rows(folder, split) for split in SPLITS]
    assert read_rows(folder, int) == naive_rows()
    for file, options in other_formats(tmp_path, log).items():
        folder = prepare_own("log", tmp_path / file, columns=COLUMNS, data_path=f"of-{file}", **options, **QUIET)
        assert [inter_rows(folder, split) for split in SPLITS] == plain, file


def test_given_instants_cut_there(log):
    instants = ((own_raw.START_S + 60 * 86_400) * 1000, (own_raw.START_S + 200 * 86_400) * 1000)
    folder = prepare_own(
        "log", "log.csv", columns=COLUMNS, valid_start_ms=instants[0], test_start_ms=instants[1], **QUIET
    )
    assert read_rows(folder, int) == naive_rows(instants)
    assert load_stats(folder)["instants"] == {"valid_start_ms": instants[0], "test_start_ms": instants[1]}


def test_bad_rows_are_counted_under_their_rule(log, tmp_path):
    bad = ["a,,1500000000000", "a,1,", "a,1,1500000000", "a,1,1500000000000000", "null,1,1500000000000"]
    bad += ["1,1,1900000000000", "x y,2,1500000000001", "x y,3,1500000000002"]
    many = [
        f"filler{n},1,{1_500_000_000_000 + n * 19_000_000}" for n in range(1100)
    ]  # so that one broken line is less than a thousandth
    own_raw.write(tmp_path / "bad.csv", ["u,i,t", *log, *bad, *many, "1,2"])
    folder = prepare_own("bad", "bad.csv", columns=COLUMNS, **QUIET)
    counts = load_stats(folder)["cleaning"]["interactions"]
    assert counts == {
        "broken_line": 1, "empty_ids": 1, "time_missing_or_not_positive": 1, "time_in_seconds": 1,
        "time_in_microseconds": 1, "unusable_ids": 1, "repeated_user_item": 1, "item_without_metadata": 0,
        "outside_window": 0, "item_without_title": 0, "few_events": 0, "few_events_of_item": 0,
    }  # fmt: skip
    assert load_stats(folder)["percent_encoded_ids"] == {"users": 1, "items": 0}
    assert any(line.startswith("x%20y\t2\t3\t") for line in inter_rows(folder, "train"))


def test_an_item_that_the_items_file_lacks_is_counted(log, tmp_path):
    own_raw.write(tmp_path / "items.jsonl", [json.dumps({"item_id": i, "title": f"t{i}"}) for i in range(2, 13)])
    folder = prepare_own("log", "log.csv", "items.jsonl", columns=COLUMNS, **QUIET)
    expected = sum(item == 1 for _, item, _ in own_raw.events())
    assert load_stats(folder)["cleaning"]["interactions"]["item_without_metadata"] == expected
    assert "1" not in items_of(folder) and items_of(folder)["2"]["text"] == "t2."


BROKEN = {
    "csv": (["u,i,t", "1,2,1500000000000", "1,2"], r"log\.csv line 3: Expected Number of Columns: 3 Found: 2; 1 of 2"),
    "jsonl": (['{"u": 1, "i": 2, "t": 1500000000000}', "{oops"], r"log\.jsonl line 2: not JSON: .*; 1 of 2 lines"),
    "json": (["{'u': 1, 'i': 2, 't': 1500000000000}", "__import__('os')"], r"log\.json line 2: ValueError: malformed"),
}


@pytest.mark.parametrize("extension", BROKEN)
def test_the_first_broken_line_is_named(extension, tmp_path):
    lines, message = BROKEN[extension]
    path = own_raw.write(tmp_path / f"log.{extension}", lines)
    source = "python" if extension == "json" else "csv"
    with pytest.raises(InputError, match=message):
        prepare_own("log", path, columns=COLUMNS, source=source, data_path=tmp_path, **QUIET)
    assert not (tmp_path / "log" / "log.stats.json").exists()


MISTAKES = {
    "a column that is not there": ({"columns": "user_id=user,item_id=i,timestamp=t"}, "has no column 'user'.* u, i, t"),
    "an unknown field": ({"columns": "user=u"}, "unknown field 'user'; known: user_id, .*Did you mean 'user_id'"),
    "another unit": ({"timestamp_unit": "s"}, "times are after 2286.*first is '14.*try --timestamp_unit=ms$"),
    "times that are words": ({"timestamp_unit": "iso"}, "times do not parse .*=iso.; .* try --timestamp_unit=ms or --"),
    "a format that is not theirs": ({"timestamp_unit": "%Y/%m/%d"}, "times do not parse .*=%Y/%m/%d"),
    "a unit nobody knows": ({"timestamp_unit": "hours"}, "unknown timestamp_unit 'hours'"),
    "a name of Amazon's": ({"dataset": "Games"}, "Games is a name of Amazon Reviews 2023"),
    "an empty delimiter": ({"delimiter": ""}, "delimiter is empty; give a character"),
    "an empty list separator": ({"list_separator": ""}, "list_separator is empty; give a character"),
    "no memory": ({"memory_limit": "0"}, "--memory_limit='0' is no size"),
    "a path for a name": ({"dataset": "../x"}, "not a plain name"),
    "an encoding": ({"encoding": "ebcdic"}, "unknown encoding 'ebcdic'; known: utf-8, utf-16, latin-1"),
    "no such file": ({"interactions": "gone.csv"}, "gone.csv: no such file"),
    "item columns alone": ({"item_columns": "title=x"}, "--item_columns needs --items"),
    "titles without items": ({"titled_only": True}, "--titled_only needs --items"),
    "instants with last_out": ({"protocol": "last_out", "test_start_ms": 10**12}, "last_out has no instants"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_clear_line(mistake, log):
    changes, message = MISTAKES[mistake]
    options = {"dataset": "log", "interactions": "log.csv", "columns": COLUMNS, **QUIET, **changes}
    with pytest.raises(InputError, match=message):
        prepare_own(**options)


def test_python_literals_are_named_where_json_was_expected(tmp_path):
    path = own_raw.write(tmp_path / "log.json", ["{u'u': 1}"])
    with pytest.raises(InputError, match=r"holds no JSON objects.*use --source=python"):
        prepare_own("log", path, data_path=tmp_path, **QUIET)


def test_a_damaged_gzip_is_named(log, tmp_path):
    data = gzip.compress("\n".join(["u,i,t", *log * 50]).encode())
    (tmp_path / "cut.csv.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"cut\.csv\.gz is not a whole gzip file"):
        prepare_own("log", "cut.csv.gz", columns=COLUMNS, **QUIET)


def test_prepared_again_it_is_left_alone_and_a_changed_file_is_refused(log, tmp_path, capsys):
    argv = ["prepare", "--dataset=log", "--source=csv", "--interactions=log.csv", f"--columns={COLUMNS}", "--quiet"]
    assert main(argv) == 0
    before = (tmp_path / "dataset/log/log.stats.json").stat().st_mtime_ns
    assert main(argv) == 0 and (tmp_path / "dataset/log/log.stats.json").stat().st_mtime_ns == before
    assert main([*argv, "--max_history=5"]) == 2
    assert "built with max_history=50, asked is max_history=5" in capsys.readouterr().err
    assert main([*argv, "--valid_start_ms=1600000000000", "--test_start_ms=1700000000000"]) == 2
    shown = capsys.readouterr().err
    assert "asked is valid_start_ms=2020-09-13 12:26:40 UTC (1600000000000); prepare --force" in shown
    assert main([*argv, "--dataset=later", "--events_from=2090-01-01"]) == 2
    assert "outside_window" in (shown := capsys.readouterr().err) and "--events_from and --events_until leave" in shown
    own_raw.write(tmp_path / "log.csv", ["u,i,t", *log, "99,1,1500000000000"])
    assert main(argv) == 2
    assert "log.csv has" in capsys.readouterr().err


OTHER_FILES = [  # which file changes, its new name and content: what the second command says
    (
        "interactions",
        "log.csv",
        lambda text: text.replace("1,1,", "1,2,", 1),
        r"log\.csv has other content than log\.csv",
    ),
    (
        "interactions",
        "b.csv",
        lambda text: text.replace("1,1,", "1,2,", 1),
        r"b\.csv has other content than log\.csv had",
    ),
    (
        "interactions",
        "b.csv",
        lambda text: text + "1,2,1500000000000\n",
        r"b\.csv has [\d,]+ bytes, log\.csv had [\d,]+",
    ),
    (
        "items",
        "items.csv",
        str.swapcase,
        r"items\.csv has other content than items\.csv had, by its SHA-256; prepare --force",
    ),
    ("items", "b.csv", str.swapcase, r"b\.csv has other content than items\.csv had"),
    (
        "items",
        None,
        None,
        r"made with the items of items\.csv, asked is without; prepare --force builds it again",
    ),
]


@pytest.mark.parametrize(("which", "name", "change", "message"), OTHER_FILES)
def test_files_of_other_content_are_refused_under_one_name(which, name, change, message, log, tmp_path):
    (tmp_path / "items.csv").write_text("item_id,title\n" + "".join(f"{i},name {i}\n" for i in range(1, 13)))
    files = {"interactions": "log.csv", "items": "items.csv"}
    prepare_own("log", **files, columns=COLUMNS, **QUIET)
    if name is not None:
        header, rest = (tmp_path / files[which]).read_text().split("\n", 1)
        (tmp_path / name).write_text(f"{header}\n{change(rest)}")
    with pytest.raises(InputError, match=message):
        prepare_own("log", **{**files, which: name}, columns=COLUMNS, **QUIET)


def test_the_same_content_under_another_name_is_the_same_build(log, tmp_path):
    folder = prepare_own("log", "log.csv", columns=COLUMNS, **QUIET)
    before = (folder / "log.stats.json").stat().st_mtime_ns
    (tmp_path / "log.csv").rename(tmp_path / "moved.csv")
    assert prepare_own("log", "moved.csv", columns=COLUMNS, **QUIET) == folder
    assert (folder / "log.stats.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("extension", ["csv", "json"])
def test_times_in_words_of_their_own_are_shown_with_the_way_to_read_them(extension, tmp_path):
    lines = {"csv": ["u,i,t", "1,2,12.01.2023 15:42"], "json": ["{'u': 1, 'i': 2, 't': '12.01.2023 15:42'}"]}[extension]
    path = own_raw.write(tmp_path / f"log.{extension}", lines)
    source = "python" if extension == "json" else "csv"
    message = (
        r"1 of 1 times do not parse \(timestamp_unit=ms\); the first is '12.01.2023 15:42'; try --timestamp_unit=iso or"
    )
    with pytest.raises(InputError, match=message + r" a format of its own, such as --timestamp_unit='%d.%m.%Y %H:%M'$"):
        prepare_own("log", path, columns=COLUMNS, source=source, data_path=tmp_path, **QUIET)


def test_another_delimiter_is_guessed_in_the_message(tmp_path):
    path = own_raw.write(tmp_path / "log.csv", ["u;i;t", "1;2;1500000000000"])
    with pytest.raises(InputError, match=r"has no column 'u'.*separated otherwise: add --delimiter=';'"):
        prepare_own("log", path, columns=COLUMNS, data_path=tmp_path, **QUIET)


def test_interactions_make_data_of_ones_own(log, capsys):
    argv = ["prepare", "--dataset=shop", f"--columns={COLUMNS}", "--quiet"]
    assert main([*argv, "--interactions=log.csv"]) == 0
    assert load_stats(Path("dataset/shop"))["settings"]["source"] == "csv"
    assert main(argv) == 2
    assert "data of your own needs --interactions=FILE" in capsys.readouterr().err
    assert main([*argv, "--interactions=log.csv", "--source=amazon"]) == 2
    assert "--interactions is for data of your own; leave out --source=amazon" in capsys.readouterr().err


def test_some_ids_that_are_spelled_otherwise_are_named(log, capsys):
    """Item 1 is written 1.0 in the log: its events are left out, and a line shows both spellings."""
    lines = [",".join([u, "1.0" if i == "1" else i, t]) for u, i, t in (line.split(",") for line in log)]
    own_raw.write(Path("log.csv"), ["u,i,t", *lines])
    own_raw.write(Path("items.csv"), ["item_id,title", *(f"{i},name" for i in range(1, 13))])
    argv = ["prepare", "--dataset=shop", f"--columns={COLUMNS}", "--interactions=log.csv", "--items=items.csv"]
    assert main([*argv, "--quiet"]) == 0
    printed = capsys.readouterr()
    cause = "one file writes ids as decimals"
    assert f"some interactions have no item: an item is '1.0' there and '1' among the items: {cause}" in printed.err
    assert "item_without_metadata" in printed.out
    instants = load_stats(Path("dataset/shop"))["instants"]
    dates = [datetime.fromtimestamp(ms / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%S") for ms in instants.values()]
    assert printed.out.split("train < ")[1].startswith(f"{dates[0]} UTC ({instants['valid_start_ms']}) <= valid < ")
    assert f"<= valid < {dates[1]} UTC" in printed.out
    assert printed.err.splitlines()[-1] == "next: recbole-blair train --model=UniSRecBlair --dataset=shop"


SPELLINGS = [  # ids of the log and of the items: one of each, and the likely cause
    ("{}.0", "{}", r"an item is '1\.0' there and '1' among the items: one file writes ids as decimals"),
    ("{}", "{}.00", r"an item is '1' there and '1\.00' among the items: one file writes ids as decimals"),
    ("b{}", "B{}", r"'b1' there and 'B1' among the items: they differ in upper and lower case"),
    ("{}", "00{}", r"'1' there and '001' among the items: one file has lost the zeros in front"),
    ("{}", "'{}'", r"""'1' there and "'1'" among the items: one file has spaces or quotes around them"""),
    ("{}", "x{}", r"'1' there, 'x1' is one of the items: the two files do not belong together; check that both are of"),
]


@pytest.mark.parametrize(("there", "here", "message"), SPELLINGS)
def test_ids_that_never_meet_are_shown_with_the_likely_cause(there, here, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own_raw.write(
        tmp_path / "log.csv", ["u,i,t", *(f"{u},{there.format(i)},{t * 1000}" for u, i, t in own_raw.events())]
    )
    own_raw.write(tmp_path / "items.csv", ["item_id,title", *(f"{here.format(i)},name" for i in range(1, 13))])
    with pytest.raises(
        InputError, match=rf"log\.csv: none of the \d+ interactions has an item with metadata; .*{message}"
    ):
        prepare_own("log", "log.csv", "items.csv", columns=COLUMNS, **QUIET)

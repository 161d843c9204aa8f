"""Data sets in RecBole's layout: read, split by each protocol, never written over; what is wrong is one line."""

import gzip
import re

import pytest

from dataset_tools.atomic_source import load_atomic
from dataset_tools.builds.statistics_file import load_stats
from recbole_blair.cli.main import main
from recbole_blair.errors import InputError

DAY = 86_400
FIRST = 880_000_000  # seconds
INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
ITEM = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
TITLES = ["Toy Story", "GoldenEye", 'The "Big" One', "Heat", "Seven"]


def write_atomic(folder, name="tiny-100k", users=6, header=INTER, item=ITEM):
    """Every user has the five items, each a day after the one before; the order starts at the user's own item."""
    folder = folder / "dataset" / name
    folder.mkdir(parents=True)
    rows = [
        (user, (user + step) % 5 + 1, 3.0, FIRST + (step * users + user) * DAY)
        for step in range(5)
        for user in range(users)
    ]
    width = header.count("\t") + 1
    lines = [header, *("\t".join(map(str, row[:width])) for row in rows)]
    (folder / f"{name}.inter").write_text("\n".join(lines) + "\n")
    if item:
        rows = [(n, title, 1995, "Comedy Children's") for n, title in enumerate(TITLES, 1)]
        (folder / f"{name}.item").write_text("\n".join([item, *("\t".join(map(str, row)) for row in rows)]) + "\n")
    return folder


def prepare(folder, capsys, *words):
    """Run `prepare --source=atomic` in `folder`; returns the status, the error line or the output."""
    status = main(["prepare", "--source=atomic", f"--data_path={folder / 'dataset'}", "--quiet", *words])
    shown = capsys.readouterr()
    return status, shown.err if status else shown.out


def lines_of(build, suffix):
    return (build / f"{build.name}.{suffix}").read_text(encoding="utf-8").splitlines()


def test_last_out_in_one_command(tmp_path, capsys):
    source = write_atomic(tmp_path)
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    assert prepare(tmp_path, capsys, "--dataset=tiny-100k", "--protocol=last_out")[0] == 0
    build = tmp_path / "dataset/tiny-100k-last_out"
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    # user 2 has the items 3, 4, 5, 1, 2: the last is its test row, the one before its valid row
    start = (FIRST + 2 * DAY) * 1000
    times = [start + step * 6 * DAY * 1000 for step in range(5)]
    (row,) = [line.split("\t") for line in lines_of(build, "test.inter")[1:] if line.startswith("2\t")]
    assert row == ["2", "3 4 5 1", "2", " ".join(map(str, times[:4])), str(times[4])]
    assert [line.split("\t")[2] for line in lines_of(build, "valid.inter")[1:] if line.startswith("2\t")] == ["1"]
    items = {line.split("\t")[0]: line.split("\t") for line in lines_of(build, "item")[1:]}
    # a quote in the source is a letter; every build writes it as two apostrophes
    assert items["3"][1:4] == ["The ''Big'' One", "The ''Big'' One. Comedy, Children's.", "Comedy Children's"]


def test_by_time_in_one_command(tmp_path, capsys):
    """30 events cut 8:1:1: test begins with the 27th, of user 2; the source's folder is named, the build beside it."""
    source = write_atomic(tmp_path)
    assert prepare(tmp_path, capsys, f"--source_dir={source}", "--dataset=tiny-time")[0] == 0
    build = tmp_path / "dataset/tiny-time"
    test = [line.split("\t") for line in lines_of(build, "test.inter")[1:]]
    assert [(row[0], row[4]) for row in test] == [
        (str(user), str((FIRST + (24 + user) * DAY) * 1000)) for user in (2, 3, 4, 5)
    ]


def test_pairs_without_times_and_packed_files(tmp_path, capsys):
    folder = write_atomic(tmp_path, header="user_id:token\titem_id:token", item=None)
    plain = folder / "tiny-100k.inter"
    plain.with_name("tiny-100k.inter.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    assert prepare(tmp_path, capsys, "--dataset=tiny-100k", "--protocol=random")[0] == 0
    stats = load_stats(tmp_path / "dataset/tiny-100k-random")
    assert stats["counts"]["log"]["pairs"] == 30 and stats["catalogue"]["without_text"] == 5


def test_other_names_of_columns(tmp_path, capsys):
    source = write_atomic(
        tmp_path,
        header="session:token\tsong:token\tweight:float\twhen:float",
        item="song:token\twords:token_seq\tyear:token\tmood:token",
    )
    columns = "--columns=user_id=session,item_id=song,timestamp=when"
    words = [f"--source_dir={source}", "--dataset=songs", columns, "--item_columns=title=words,categories=mood"]
    assert prepare(tmp_path, capsys, *words)[0] == 0
    items = [line.split("\t") for line in lines_of(tmp_path / "dataset/songs", "item")[1:]]
    # `mood` is one token, not a list of them
    assert next(row[1:3] for row in items if row[0] == "1") == ["Toy Story", "Toy Story. Comedy Children's."]


def test_a_file_that_is_named(tmp_path, capsys):
    """The extension says what it is, and seconds are the unit."""
    source = write_atomic(tmp_path)
    words = [f"--interactions={source / 'tiny-100k.inter'}", f"--data_path={tmp_path / 'builds'}", "--dataset=mine"]
    assert main(["prepare", *words, "--quiet"]) == 0
    capsys.readouterr()
    assert main(["prepare", *words, "--quiet", "--timestamp_unit=ms", "--force"]) == 2
    assert "times are before 1973" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--source=atomic needs --dataset=NAME"),
        (["--dataset=tiny-100k"], "among its source's files in .*; name it otherwise: --source_dir=.*-time, or give"),
        (["--dataset=nowhere"], "nowhere: no such folder; expected the folder of a data set of RecBole's, nowhere"),
        (["--dataset=empty"], r"empty holds no \.inter file; expected a data set of RecBole's, empty\.inter"),
        (["--dataset=split"], "split is split already; train with --dataset=split"),
        (["--dataset=x", "--columns=user_id=user"], r"no column 'user'\. Did you mean 'user_id'\? It has: user_id"),
        (["--dataset=x", "--interactions=a.inter"], "both name the interactions; leave out one"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line(tmp_path, capsys, words, message):
    source = write_atomic(tmp_path)
    (tmp_path / "dataset/empty").mkdir()
    (tmp_path / "dataset/split").mkdir()
    for split in ("train", "valid", "test"):
        (tmp_path / f"dataset/split/split.{split}.inter").write_text("user_id:token\n")
    words = [*words, f"--source_dir={source}"] if "--dataset=x" in words else words
    status, line = prepare(tmp_path, capsys, *words)
    assert status == 2 and line.count("\n") == 1 and re.search(message, line), line


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("user_id\titem_id\ttimestamp", "has the column 'user_id' without a type; expected RecBole's header"),
        ("user_id:token,item_id:token,timestamp:float", "has no column 'user_id'|has no column 'item_id'"),
        ("user_id:token\tuser_id:float\titem_id:token", "has the column 'user_id:token' twice"),
    ],
)
def test_headers_that_are_not_recboles(tmp_path, capsys, header, message):
    write_atomic(tmp_path, header=header)
    status, line = prepare(tmp_path, capsys, "--dataset=tiny-100k", "--protocol=last_out")
    assert status == 2 and re.search(message, line), line


def test_items_without_a_text_column_are_named(tmp_path, capsys):
    write_atomic(tmp_path, item="item_id:token\tyear:float\tcolour:token\tx:float")
    status, line = prepare(tmp_path, capsys, "--dataset=tiny-100k", "--protocol=last_out")
    assert status == 2 and "no column is named title" in line and "item_id, year, colour" in line


def test_the_name_of_the_folder_above(tmp_path, monkeypatch):
    source = write_atomic(tmp_path)
    monkeypatch.chdir(source)
    assert load_atomic(None, "dataset", ".")["dataset"] == "tiny-100k"
    with pytest.raises(InputError, match="a file, not a folder; expected the folder of a data set of RecBole's"):
        load_atomic(None, "dataset", source / "tiny-100k.inter")


def test_training_on_a_plain_data_set_names_the_command(tmp_path, capsys, monkeypatch):
    write_atomic(tmp_path)
    monkeypatch.chdir(tmp_path)
    for protocol, command in (
        ("timestamp", "--source=atomic --source_dir=dataset/tiny-100k --dataset=tiny-100k-time"),
        ("last_out", "--source=atomic --dataset=tiny-100k --data_path=dataset --protocol=last_out"),
    ):
        for argv in (["train", "--model=SASRec", "--epochs=1", "--device=cpu"], ["prepare"]):
            assert main([*argv, "--dataset=tiny-100k", f"--protocol={protocol}"]) == 2
            line = capsys.readouterr().err
            assert f"is not split yet; run recbole-blair prepare {command}" in line, line
    assert main(["prepare", *command.split(), "--quiet"]) == 0  # the command that was named does it

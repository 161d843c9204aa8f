"""Names, incremental builds, refusals, kills, a full disk, the command."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from builds import change_json
from raw_data import T, V, table, write_raw

from dataset_tools.builds.folder import build_is_whole
from dataset_tools.builds.settings import AmazonSettings
from dataset_tools.builds.statistics_file import load_stats
from dataset_tools.conversion import convert as convert_module
from dataset_tools.prepare import build_name, prepare
from dataset_tools.raw.domains import resolve_datasets, resolve_domain
from recbole_blair.cli.main import main
from recbole_blair.data.interactions import load_interactions
from recbole_blair.errors import InputError
from recbole_blair.schema import DOMAINS
from recbole_blair.text.features import read_items

REPO = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"dataset": "Games"}, "Video_Games"),
        ({"dataset": "Video_Games", "valid_start_ms": V, "test_start_ms": T}, "Video_Games"),
        ({"dataset": "Games", "protocol": "last_out"}, "Video_Games-last_out"),
        ({"dataset": "Games", "protocol": "random"}, "Video_Games-random"),
        (
            {"dataset": "Games", "protocol": "random", "split_seed": 101, "split_shares": [4, 3, 3]},
            "Video_Games-random",
        ),
        ({"dataset": "sample"}, "sample"),
        ({"dataset": "sample", "sample_users": 100, "sample_items": 60}, "sample-u100-i60"),
        ({"dataset": "sample", "sample_users": 2000}, "sample"),
        ({"dataset": "Unknown"}, "Unknown"),
    ],
)
def test_build_names(options, name):
    assert build_name(**options) == name


def test_other_settings_get_a_hash_of_their_own():
    names = [
        build_name("Beauty", **options)
        for options in (
            {"max_history": 20},
            {"ascii_text": True},
            {"catalogue": "all"},
            {"valid_start_ms": V + 1},
            {"revision": "0" * 40},
            {"protocol": "last_out", "max_history": 20},
        )
    ]
    assert len(set(names)) == len(names)
    assert all(name.startswith("All_Beauty-") and len(name.split("-")[-1]) == 8 for name in names)
    assert names[-1].startswith("All_Beauty-last_out-")
    assert build_name("Beauty", max_history=20) == names[0]


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "", "a\\b", "/etc", "x..y", ".hidden", "a b", None])
def test_names_cannot_leave_a_folder(name):
    with pytest.raises(InputError, match="is not a plain name"):
        resolve_domain(name)


def test_builds_are_looked_for_only_where_the_dataset_is_unknown():
    def refuse():
        raise AssertionError("looked for")

    assert resolve_domain("Games", builds=refuse) == "Video_Games"
    with pytest.raises(InputError, match=r"Did you mean 'shop'.* Builds at hand: shop --protocol=last_out\. Known: "):
        resolve_domain("shopp", builds=lambda: ["shop --protocol=last_out"])


def test_unknown_dataset_names_the_nearest(tmp_path):
    with pytest.raises(InputError, match=r"unknown dataset 'Vido_Games'.*Did you mean 'Video_Games'\?"):
        prepare("Vido_Games", tmp_path, tmp_path)


def test_lists_of_datasets():
    assert resolve_datasets("Games, Baby,Video_Games") == ["Video_Games", "Baby_Products"]
    assert resolve_datasets("all") == list(DOMAINS) and len(DOMAINS) == 33
    with pytest.raises(InputError, match="no dataset given"):
        resolve_datasets(" ,")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "last"}, r"unknown protocol 'last'; known: timestamp, last_out, random. Did you mean 'last_out'"),
        ({"catalogue": "every"}, r"unknown catalogue 'every'; known: interactions, all"),
        ({"max_history": 0}, r"max_history is 0, expected 1 or more"),
        ({"valid_start_ms": V // 1000}, r"valid_start_ms is 1628643414, expected Unix milliseconds"),
        ({"valid_start_ms": T, "test_start_ms": V}, rf"valid_start_ms .*\({T}\) is not before test_start_ms .*\({V}\)"),
        ({"protocol": "last_out", "test_start_ms": T}, r"protocol=last_out has no instants"),
        ({"protocol": "random", "test_start_ms": T}, r"protocol=random has no instants"),
        ({"split_seed": 1}, r"split_seed is for protocol=random; with protocol=timestamp leave it out"),
        ({"protocol": "random", "keep_repeats": True}, r"protocol=random splits distinct \(user, item\) pairs"),
        ({"protocol": "random", "split_shares": [4, 6]}, r"split_shares=\[4, 6\] must be three whole numbers above 0"),
        ({"protocol": "random", "split_shares": [4, 0, 6]}, r"split_shares=\[4, 0, 6\] must be three whole numbers"),
    ],
)
def test_settings_that_make_no_sense(options, message):
    with pytest.raises(InputError, match=message):
        AmazonSettings.resolve("Games", **options)


@pytest.fixture
def small(tmp_path):
    write_raw(tmp_path, "Appliances", *table())
    return tmp_path


def make(root, **options):
    return prepare("Appliances", root / "dataset", root, progress=False, **options)


def stamps(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.is_file()}


def test_whole_builds_are_left_alone(small):
    folder = make(small)
    before = stamps(folder)
    assert make(small) == folder
    assert stamps(folder) == before
    assert build_is_whole(folder, AmazonSettings.resolve("Appliances"))


def test_whole_builds_need_no_raw_files(small):
    folder = make(small)
    for path in (small / "raw").rglob("*.jsonl"):
        path.unlink()
    assert make(small) == folder


def test_missing_data_file_or_stats_means_build_again(small):
    folder = make(small)
    whole = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for name in ("Appliances.valid.inter", "Appliances.stats.json"):
        (folder / name).unlink()
        assert not build_is_whole(folder, AmazonSettings.resolve("Appliances"))
        make(small)
        assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == whole


def test_other_files_of_the_folder_stay(small):
    folder = make(small)
    (folder / "Appliances.tfidf-svd.feature").write_bytes(b"kept")
    (folder / "Appliances.stats.json").unlink()
    make(small)
    assert (folder / "Appliances.tfidf-svd.feature").read_bytes() == b"kept"


def test_a_build_with_other_settings_is_refused(small):
    folder = make(small)
    path = folder / "Appliances.stats.json"
    change_json(path, '"max_history": 50', '"max_history": 20')
    with pytest.raises(InputError, match=r"built with max_history=20, asked is max_history=50; prepare --force"):
        make(small)


def test_a_changed_data_file_is_refused(small):
    folder = make(small)
    with open(folder / "Appliances.train.inter", "a") as file:
        file.write("x")
    with pytest.raises(InputError, match=r"Appliances\.train\.inter has \d+ bytes but Appliances\.stats\.json says"):
        make(small)


@pytest.mark.parametrize(("name", "read"), [("item", read_items), ("train.inter", load_interactions)])
def test_a_data_file_with_another_digit_is_refused(small, name, read):
    folder = make(small)
    read(folder)
    shutil.rmtree(folder / ".cache")
    path = folder / f"Appliances.{name}"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"Appliances\.{name} is damaged or was changed: .*; delete .* to build it"):
        read(folder)


def test_a_changed_raw_file_is_refused(small):
    make(small)
    with open(small / "raw/review_categories/Appliances.jsonl", "a") as file:
        file.write("\n")
    with pytest.raises(
        InputError,
        match=r"Appliances\.jsonl has 1,2\d\d bytes, Appliances\.jsonl had 1,1\d\d; prepare --force builds it again",
    ):
        make(small)


def test_unreadable_stats_are_named(small):
    folder = make(small)
    (folder / "Appliances.stats.json").write_text("{")
    with pytest.raises(InputError, match=r"Appliances\.stats\.json is not JSON .*; delete it and run prepare again"):
        make(small)


def test_own_data_without_metadata_names_the_missing_file(tmp_path):
    reviews, metadata = table()
    _, meta_path = write_raw(tmp_path, "shop", reviews, metadata)
    meta_path.unlink()
    with pytest.raises(InputError, match=r"meta_shop\.jsonl\[\.gz\] is missing; put the file there"):
        prepare("shop", tmp_path / "dataset", tmp_path, progress=False)


def test_full_disk_while_rows_are_written_leaves_nothing_behind(small, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")

    monkeypatch.setattr(convert_module, "write_rows", full)
    with pytest.raises(OSError, match="No space left") as failure:
        make(small)
    assert failure.value.errno == errno.ENOSPC
    assert not (small / "dataset").exists()
    monkeypatch.undo()
    assert load_stats(make(small))["rows"] == 5


def test_duckdb_out_of_disk_is_one_line_and_exit_2(small, monkeypatch, capsys):
    """DuckDB may fill the disk too: its message becomes ENOSPC, which the command prints as one line."""
    import duckdb

    def full(duck, *_, **__):
        error = duckdb.IOException('IO Error: Could not write file "x": No space left on device\nmore')
        raise duck.explain(error)

    monkeypatch.setattr(convert_module, "read_reviews", full)
    arguments = ["--dataset=Appliances", f"--raw_dir={small}", f"--data_path={small / 'dataset'}", "--quiet"]
    assert main(["prepare", *arguments]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "No space left on device" in line
    assert not (small / "dataset").exists()


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting a small disk needs root on Linux")
def test_really_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("this machine does not let us mount a small disk")
    try:
        result = command(disk, tmp_path, sample_users=3000)
        assert result.returncode == 2, result.stderr
        assert result.stderr.count("\n") == 1 and "No space left on device" in result.stderr
        assert not [path for path in disk.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def arguments(data_path, raw_dir, sample_users):
    return [
        sys.executable,
        "-m",
        "recbole_blair",
        "prepare",
        "--dataset=sample",
        f"--data_path={data_path}",
        f"--raw_dir={raw_dir}",
        f"--sample_users={sample_users}",
        "--quiet",
    ]


def command(data_path, raw_dir, sample_users):
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    return subprocess.run(arguments(data_path, raw_dir, sample_users), env=environment, capture_output=True, text=True)


USERS = 5_000
KILL_WHEN = {
    "generating": ("raw", "review_categories/.*.tmp"),
    "reading": ("d", ".*.tmp"),
    "writing rows": ("d", ".*.tmp/*.train.inter"),
    "writing items": ("d", ".*.tmp/*.item"),
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    assert command(root / "d", root, USERS).returncode == 0
    return root


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def moments():
    """One in the default run, all by CI."""
    return [pytest.param(m, marks=() if m == "writing rows" else pytest.mark.slow) for m in KILL_WHEN]


@pytest.mark.parametrize("moment", moments())
def test_killed_and_run_again_gives_the_same_bytes(tmp_path, uninterrupted, moment):
    """SIGKILL as soon as the step's file is there; then the same command."""
    base, pattern = KILL_WHEN[moment]
    build = f"sample-u{USERS}-i1500"
    for attempt in range(5):  # on a busy machine the command can be over before its file is seen
        root = tmp_path / str(attempt)
        if kill_when_there(root, pattern=f"{base}/{pattern}"):
            break
    else:
        pytest.fail("five times it was over before the kill")
    assert not (root / "d" / build / f"{build}.stats.json").exists()
    assert any((root / base).glob(pattern))  # the kill left something half done
    assert command(root / "d", root, USERS).returncode == 0
    assert contents(root / "d" / build) == contents(uninterrupted / "d" / build)
    assert sorted(path.name for path in (root / "d").iterdir()) == [f".{build}.lock", build]


def kill_when_there(root, pattern):
    """Prepare, kill as soon as a file of the pattern is there; returns whether the kill came in time."""
    root.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    process = subprocess.Popen(arguments(root / "d", root, USERS), env=environment, stdout=subprocess.DEVNULL)
    while process.poll() is None and not any(root.glob(pattern)):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def test_killed_between_the_renames_is_not_whole(small, monkeypatch):
    """Some files renamed, no stats.json: the next run builds again."""
    whole = contents(make(small))
    (small / "dataset/Appliances/Appliances.stats.json").unlink()
    (small / "dataset/Appliances/Appliances.train.inter").write_text("half")
    assert contents(make(small)) == whole


def test_command_prints_table_3(small, capsys):
    options = [f"--raw_dir={small}", f"--data_path={small / 'dataset'}", "--quiet"]
    assert main(["prepare", "--dataset=Appliances", *options]) == 0
    line = capsys.readouterr().out
    assert line == (
        "Appliances: #Items 4 · #Inters 8 · Avg.n 1.40 · Avg.t 12.00 · users 3 · rows 5 "
        "(train / valid / test 1 / 3 / 1)\n"
    )


def test_dry_run_writes_nothing(small, capsys):
    options = [f"--raw_dir={small}", f"--data_path={small / 'dataset'}", "--dry_run=true"]
    assert main(["prepare", "--dataset=Appliances,Games", *options]) == 0
    printed = capsys.readouterr().out
    assert "Appliances.jsonl: there" in printed and "Video_Games.jsonl: to be downloaded" in printed
    assert "memory up to 4GB" in printed and "MiB are free" in printed
    assert not (small / "dataset").exists()
    make(small)
    assert main(["prepare", "--dataset=Appliances", *options]) == 0
    assert "there and whole; nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["Gamez", "../Games"])
def test_command_exits_2_with_one_line(small, capsys, name):
    assert main(["prepare", f"--dataset={name}", f"--raw_dir={small}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1

"""Published split files give the build of the raw reviews, byte for byte; what is wrong with one is one line."""

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import Hub
from raw_data import write_raw
from split_raw import HEADER, write_split
from test_download import environment

from dataset_tools.builds.settings import AmazonSettings
from dataset_tools.builds.statistics_file import load_stats
from dataset_tools.prepare import prepare, prepare_split
from dataset_tools.raw.sample import write_sample
from dataset_tools.storage.resources import Resources
from recbole_blair.cli.main import main
from recbole_blair.errors import InputError

SLICES = Path(__file__).resolve().parents[2] / "../shared/data/amazon_reviews_2023/raw"
FOLDERS = ["0core/timestamp", "0core/timestamp_w_his", "5core/last_out", "5core/last_out_w_his"]
REVIEWS, META = "raw/review_categories/Appliances.jsonl.gz", "raw/meta_categories/meta_Appliances.jsonl.gz"
ONE = Resources("1GB", 1, False)


def make(raw_dir, data_path, folder="0core/timestamp", domain="Appliances"):
    protocol = "last_out" if "last_out" in folder else "timestamp"
    return prepare(domain, data_path, raw_dir, protocol=protocol, source="split", progress=False, threads=1)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".inter", ".item")}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Generated raw files under a published name: 400 users."""
    root = tmp_path_factory.mktemp("raw")
    review, meta = write_sample(root / "made", "sample-u400-i120", 400, 120, progress=False)
    for path, kind, prefix in ((review, "review", ""), (meta, "meta", "meta_")):
        target = root / "raw" / f"{kind}_categories" / f"{prefix}Appliances.jsonl.gz"
        target.parent.mkdir(parents=True)
        shutil.copy(path, target)
    return root


@pytest.fixture
def split(raw, tmp_path):
    """A copy of the metadata alone, to lay split files beside."""
    (tmp_path / "raw/meta_categories").mkdir(parents=True)
    shutil.copy(raw / META, tmp_path / "raw/meta_categories")
    return tmp_path


@pytest.mark.parametrize("folder", FOLDERS)
def test_split_files_give_the_rows_of_the_raw_reviews(raw, split, folder):
    protocol = "last_out" if "last_out" in folder else "timestamp"
    of_raw = prepare("Appliances", split / "of raw", raw, protocol=protocol, progress=False, threads=1)
    paths = write_split(split, "Appliances", raw / REVIEWS, folder)
    of_split = make(split, split / "of split", folder)
    assert of_split.name == of_raw.name and contents(of_split) == contents(of_raw)
    counts, stats = load_stats(of_split)["split_files"], load_stats(of_split)
    lines = [path.read_text().count("\n") - 1 for path in paths]
    assert [counts[f"{part}_rows"] for part in ("train", "valid", "test")] == lines
    assert counts.get("history_differs", 0) == 0 and ("history_differs" in counts) == folder.endswith("w_his")
    assert stats["counts"]["reviews"] == sum(lines) and stats["cleaning"]["reviews"]["repeated_user_item"] == 0


def test_the_random_protocol_deals_out_the_same_pairs(raw, split):
    of_raw = prepare("Appliances", split / "of raw", raw, protocol="random", progress=False, threads=1)
    write_split(split, "Appliances", raw / REVIEWS, FOLDERS[0])
    settings = AmazonSettings.resolve("Appliances", split, protocol="random")
    assert contents(prepare_split(settings, split / "of split", split, ONE)) == contents(of_raw)


@pytest.mark.skipif(not SLICES.is_dir(), reason="the real slices of ../shared/data are absent")
@pytest.mark.parametrize("folder", [FOLDERS[1], FOLDERS[2]])
def test_real_slices_give_the_same_build_both_ways(tmp_path, folder):
    domain = "Electronics" if "last_out" in folder else "All_Beauty"
    protocol = "last_out" if "last_out" in folder else "timestamp"
    of_raw = prepare(domain, tmp_path / "a", SLICES, protocol=protocol, progress=False, threads=1)
    (tmp_path / "raw/meta_categories").mkdir(parents=True)
    shutil.copy(SLICES / f"meta_categories/meta_{domain}.jsonl.gz", tmp_path / "raw/meta_categories")
    write_split(tmp_path, domain, SLICES / f"review_categories/{domain}.jsonl.gz", folder)
    of_split = make(tmp_path, tmp_path / "b", folder, domain)
    assert contents(of_split) == contents(of_raw)


def cut_mid_line(path):
    path.write_bytes(path.read_bytes()[:-7])


def drop_lines(path):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: len(lines) // 2]))


def other_header(path):
    path.write_text(path.read_text().replace(HEADER, "user,item,rating,time", 1))


def no_header(path):
    path.write_text(path.read_text().split("\n", 1)[1])


def other_domain(path):
    rows = [f"U{n},Z{n},5.0,{1_700_000_000_000 + n}" for n in range(50)]
    path.write_text("\n".join([HEADER, *rows]) + "\n")


def other_part(path):
    shutil.copy(path.with_name(path.name.replace("test", "train")), path)


def short_rows(path):
    path.write_text(path.read_text() + "U1,I1\n" * 20)


def two_headers(path):
    path.write_text("\n".join(line + ("," if n else ",history") for n, line in enumerate(path.read_text().split("\n"))))
    path.write_text(path.read_text().rstrip(","))


def emptied(path):
    path.write_text(HEADER + "\n")


DAMAGES = [  # what is done to Appliances.test.csv, in which folder; the message
    (cut_mid_line, FOLDERS[0], r"Appliances\.test\.csv ends in the middle of a line: it is cut; fetch it again"),
    (other_header, FOLDERS[0], r"test\.csv begins with 'user,item,rating,time'; expected the header user_id,"),
    (no_header, FOLDERS[0], r"test\.csv begins with 'U?.*'; expected the header"),
    (other_domain, FOLDERS[0], r"test\.csv is of another domain than meta_Appliances.*: 0 of its 50 rows .*Z0"),
    (other_part, FOLDERS[0], r"test\.csv holds [\d,]+ rows outside test \(from \d+ to the end, in ms\)"),
    (short_rows, FOLDERS[0], r"test\.csv line \d+: .*; 20 of [\d,]+ lines are broken"),
    (emptied, FOLDERS[0], r"test\.csv holds no row"),
    (two_headers, FOLDERS[0], r"train\.csv and .*test\.csv differ in their headers; take all three"),
    (drop_lines, FOLDERS[2], r"test\.csv has not one row for [\d,]+ of [\d,]+ users: it is cut, or another"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "folder", "message"), DAMAGES, ids=[damage.__name__ for damage, _, _ in DAMAGES])
def test_a_wrong_file_gets_one_clear_line(raw, split, damage, folder, message, capsys):
    damage(write_split(split, "Appliances", raw / REVIEWS, folder)[2])
    with pytest.raises(InputError, match=message):
        make(split, split / "data", folder)
    assert not list((split / "data").rglob("*.inter"))
    argv = ["prepare", "--dataset=Appliances", "--source=split", f"--raw_dir={split}", f"--data_path={split / 'data'}"]
    protocol = "last_out" if "last_out" in folder else "timestamp"
    assert main([*argv, f"--protocol={protocol}", "--quiet"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_histories_tell_of_a_train_file_that_is_cut_between_two_lines(raw, split):
    drop_lines(write_split(split, "Appliances", raw / REVIEWS, FOLDERS[1])[0])
    with pytest.raises(InputError, match=r"the history of .* rows is not the user's earlier rows: one of the three"):
        make(split, split / "data", FOLDERS[1])


def test_the_command_prints_what_the_files_held_and_leaves_a_build_alone(raw, split, capsys):
    write_split(split, "Appliances", raw / REVIEWS, FOLDERS[0])
    argv = ["prepare", "--dataset=Appliances", "--source=split", f"--raw_dir={split}", f"--data_path={split / 'data'}"]
    assert main([*argv, "--dry_run"]) == 0
    plan = capsys.readouterr().out
    assert plan.count("there, ") == 4 and not (split / "data").exists()
    assert main([*argv, "--quiet"]) == 0
    assert "split files: train_rows " in capsys.readouterr().out
    stats = split / "data/Appliances/Appliances.stats.json"
    before = stats.stat().st_mtime_ns
    assert main([*argv, "--quiet"]) == 0 and stats.stat().st_mtime_ns == before
    prepare("Appliances", split / "raw made", raw, progress=False)
    capsys.readouterr()
    assert main([*argv[:-1], f"--data_path={split / 'raw made'}", "--quiet"]) == 0
    assert "made before, from the raw reviews" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset=sample"], "dataset=sample has no published split files"),
        (
            ["--dataset=Appliances", "--test_start_ms=1700000000000"],
            "the published files are split at 16286434",
        ),
        (
            ["--dataset=Appliances", "--interactions=x.csv"],
            "is for data of your own; leave out --source=split",
        ),
        (["--dataset=Appliances", "--engine=ray"], "--engine=ray makes Amazon's domains, a task each; --source=split"),
    ],
)
def test_what_split_files_do_not_have_is_refused(options, message, tmp_path, capsys):
    assert main(["prepare", "--source=split", f"--raw_dir={tmp_path}", f"--data_path={tmp_path / 'd'}", *options]) == 2
    assert message in capsys.readouterr().err


def test_missing_files_are_downloaded_by_the_real_client(raw, split):
    paths = write_split(split / "there", "Appliances", raw / REVIEWS, FOLDERS[0])
    names = [path.relative_to(split / "there").as_posix() for path in paths]
    files = {name: path.read_bytes() for name, path in zip(names, paths)}
    files[META.removesuffix(".gz")] = gzip.decompress((split / META).read_bytes())
    here = split / "here"
    argv = [sys.executable, "-m", "recbole_blair", "prepare", "--dataset=Appliances", "--source=split", "--raw_dir=in",
            "--data_path=out", "--quiet"]  # fmt: skip
    here.mkdir()
    with Hub(files) as hub:
        done = subprocess.run(argv, env=environment(here, hub.url), capture_output=True, text=True, cwd=here)
        assert done.returncode == 0, done.stderr
        assert all((here / "in" / name).read_bytes() == data for name, data in files.items())
        asked = len(hub.requests)
        again = subprocess.run(argv, env=environment(here, hub.url), capture_output=True, text=True, cwd=here)
        assert again.returncode == 0 and len(hub.requests) == asked
    of_raw = prepare("Appliances", split / "of raw", raw, progress=False, threads=1)
    assert contents(here / "out/Appliances") == contents(of_raw)
    files.pop(names[2])
    shutil.rmtree(here)
    here.mkdir()
    with Hub(files) as hub:
        done = subprocess.run(argv, env=environment(here, hub.url), capture_output=True, text=True, cwd=here)
    assert done.returncode == 2 and f"has no file {names[2]} at revision 'main'" in done.stderr


def test_equal_first_times_of_two_users_may_change_their_order_alone(split):
    """Of two users who begin at one time, raw files put first who has that event first; split files, who has any."""

    def review(user, item, ms):
        return {"user_id": user, "parent_asin": item, "rating": 5.0, "timestamp": ms, "title": "", "text": ""}

    times = (1_600_000_000_000, 1_610_000_000_000, 1_640_000_000_000, 1_700_000_000_000)
    rows = [review("late", f"i{n}", times[n]) for n in (3, 2, 1)] + [review("b", f"i{n}", times[n]) for n in range(4)]
    rows += [review("late", "i0", times[0])]
    write_raw(split, "Appliances", rows, [{"parent_asin": f"i{n}", "title": f"t{n}"} for n in range(4)])
    of_raw = prepare("Appliances", split / "a", split, progress=False, threads=1)
    write_split(split, "Appliances", split / "raw/review_categories/Appliances.jsonl", FOLDERS[0])
    of_split = make(split, split / "b")
    found, expected = (
        {name: data.split(b"\n") for name, data in contents(folder).items()} for folder in (of_split, of_raw)
    )
    assert found != expected and {n: sorted(x) for n, x in found.items()} == {n: sorted(x) for n, x in expected.items()}
    assert json.loads((of_split / "Appliances.stats.json").read_text())["rows"] == 6

"""A written file is whole or not there, what killed commands left is removed, and errors say what can be done."""

import errno
import fcntl
import json
import os
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest

from recbole_blair.errors import InputError
from recbole_blair.files import write
from recbole_blair.files.write import WriteError, whole_file, whole_folder, write_bytes, write_json, write_text


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


def test_what_is_written(tmp_path):
    write_text(tmp_path / "a" / "text", "é\r\nx\n")
    write_bytes(tmp_path / "bytes", b"\0\1")
    write_json(tmp_path / "j1", {"é": [1]})
    write_json(tmp_path / "j2", {"é": 1.5, "p": tmp_path / "x"}, indent=None, ensure_ascii=True, default=str)
    write_text(tmp_path / "lone", "\ud800", errors="surrogatepass")
    write_json(tmp_path / "j3", "\ud800")
    assert (tmp_path / "a" / "text").read_bytes() == "é\r\nx\n".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\0\1"
    assert (tmp_path / "j1").read_text(encoding="utf-8") == '{\n "é": [\n  1\n ]\n}\n'
    assert json.loads((tmp_path / "j3").read_bytes()) == "\ud800"
    assert (tmp_path / "j2").read_text() == json.dumps({"é": 1.5, "p": str(tmp_path / "x")}) + "\n"
    assert names(tmp_path) == ["a", "bytes", "j1", "j2", "j3", "lone", "text"]


def test_mode_follows_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "")
        with whole_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("raised", [RuntimeError("no"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_content(tmp_path, raised):
    write_text(tmp_path / "file", "old")
    with whole_folder(tmp_path / "folder") as folder:
        (folder / "x").write_text("old")
    with pytest.raises(type(raised)), whole_file(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise raised
    with pytest.raises(type(raised)), whole_folder(tmp_path / "folder") as folder:
        (folder / "y").write_text("half")
        raise raised
    assert names(tmp_path) == ["file", "folder", "x"]
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "x").read_text() == "old"


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for name in ("x", "y"):
        with whole_folder(tmp_path / "folder") as folder:
            (folder / name).write_text(name)
            assert folder.parent == tmp_path
    assert names(tmp_path) == ["folder", "y"]


def test_two_writers_of_one_folder_both_end_well(tmp_path):
    with whole_folder(tmp_path / "folder") as first:
        with whole_folder(tmp_path / "folder") as second:
            (second / "second").touch()
        (first / "first").touch()
    assert names(tmp_path) == ["first", "folder"]


KILLED = """
import os, sys, time
from recbole_blair.files.write import whole_file, whole_folder
with whole_file(sys.argv[1] + "/file") as a, whole_folder(sys.argv[1] + "/folder") as b:
    a.write_text("half"); (b / "x").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        write_text(tmp_path / "other", "")
        assert len(names(tmp_path)) == 4  # the two temporary entries, x and other
        process.kill()
    write_text(tmp_path / "other", "")
    assert names(tmp_path) == ["other"]


def test_a_file_that_a_library_put_under_the_temporary_name_is_not_taken_for_a_leftover(tmp_path):
    with whole_file(tmp_path / "weights") as place:
        (tmp_path / "other").write_text("new")
        os.replace(tmp_path / "other", place)  # as safetensors does: the lock went with the old file
        in_other_process = f"from recbole_blair.files.write import write_text; write_text({str(tmp_path / 'b')!r}, '')"
        subprocess.run([sys.executable, "-c", in_other_process], check=True)
        write_text(tmp_path / "a", "")
    assert (tmp_path / "weights").read_text() == "new" and names(tmp_path) == ["a", "b", "weights"]
    for process in (4194305, 10**30):  # above what Linux gives; above what a number may be
        (tmp_path / f".a.blair-{process}-0123abcd.tmp").touch()
    young = tmp_path / f".a.blair-{os.getpid()}-0123abcd.tmp"  # of a process that had our number before
    young.touch()
    os.utime(young, (1e9, 1e9))
    write_text(tmp_path / "a", "")
    assert names(tmp_path) == ["a", "b", "weights"]


def test_without_locks_only_old_leftovers_go(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    new, old = tmp_path / ".a.blair-00000001.tmp", tmp_path / ".a.blair-00000002.tmp"
    new.touch()
    old.mkdir()
    os.utime(old, (time.time() - 90_000,) * 2)
    write_text(tmp_path / "b", "")
    assert names(tmp_path) == [new.name, "b"]


def test_names_of_others_stay(tmp_path):
    for name in (".a.tmp", "a.tmp", ".a.blair-1.tmp", "a.blair-00000001.tmp"):
        (tmp_path / name).touch()
    write_text(tmp_path / "b", "")
    assert len(names(tmp_path)) == 5


def test_a_long_name_fits(tmp_path):
    write_text(tmp_path / ("é" * 127), "")
    with whole_folder(tmp_path / ("x" * 255)), whole_folder(tmp_path / ("x" * 255)):
        pass
    assert [len(name) for name in names(tmp_path)] == [255, 127]


CANNOT = {
    "file as folder": ("file/x", "a file is where a folder should be|a part of this path is a file"),
    "folder as file": ("folder", "Is a directory; give a file"),
    "proc": ("/proc/x/y", "cannot be made"),
    "long": ("x" * 300, "File name too long; choose a shorter name"),
    "nul": ("a\0b", "NUL character"),
    "device": ("/dev/null", "device or a pipe"),
}


@pytest.mark.parametrize(("path", "message"), CANNOT.values(), ids=list(CANNOT))
def test_a_path_that_cannot_be(tmp_path, path, message):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=f"cannot write .*({message})"):
        write_text(tmp_path / path, "")
    if path != "/dev/null":
        with pytest.raises(InputError, match="cannot write"), whole_folder(tmp_path / path.replace("folder", "file")):
            pass
    assert names(tmp_path) == ["file", "folder"]


def torch_save(path):
    import torch

    torch.save(torch.zeros(100_000), path)


def safetensors_save(path):
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(100_000)}, path)


def parquet_save(path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"x": np.random.default_rng(0).random(100_000)}), path)


def arrow_save(path):
    import pyarrow as pa

    table = pa.table({"x": np.zeros(100_000)})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as out:
        out.write_table(table)


def numpy_save(path):
    with open(path, "wb") as file:
        np.save(file, np.zeros(100_000))


def duckdb_save(path):
    import duckdb

    duckdb.sql(f"COPY (SELECT hash(i) FROM range(300000) t(i)) TO '{path}' (FORMAT csv)")


def csv_save(path):
    import pandas as pd

    pd.DataFrame({"x": range(100_000)}).to_csv(path)


def text_save(path):
    path.write_text("x" * 400_000)


WRITERS = [text_save, numpy_save, torch_save, safetensors_save, parquet_save, arrow_save, csv_save, duckdb_save]


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    """A file system of 256 KiB."""
    folder = tmp_path_factory.mktemp("disk")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True)
    if made.returncode:
        pytest.skip(f"cannot mount a small file system here: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("save", WRITERS, ids=lambda f: f.__name__)
def test_a_full_disk_is_named_whatever_the_library_says(small_disk, save):
    message = r"cannot write .*/data: No space left on device; free some space"
    with pytest.raises(WriteError, match=message) as failure, whole_file(small_disk / "data") as temporary:
        save(temporary)
    assert failure.value.errno == errno.ENOSPC and not names(small_disk)
    with pytest.raises(WriteError, match="No space left"), whole_folder(small_disk / "folder") as folder:
        save(folder / "data")
    assert not names(small_disk)


LIMITED = """
import resource, sys
from pathlib import Path
from tests.files import test_write
from recbole_blair.errors import InputError
from recbole_blair.files.write import whole_file
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for save in test_write.WRITERS[:4]:
    try:
        with whole_file(Path(sys.argv[1]) / "data") as temporary:
            save(temporary)
    except InputError as error:
        print(error)
"""


def test_a_limit_on_file_sizes_is_named(tmp_path):
    run = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert len(lines) == 4 and not names(tmp_path), run.stdout
    assert all("File too large" in line or "quota" in line for line in lines), run.stdout


@pytest.mark.parametrize(
    "error", [ValueError("other"), FileNotFoundError(errno.ENOENT, "no", "/elsewhere/input"), KeyError(1)]
)
def test_errors_about_something_else_pass_through(tmp_path, error):
    with pytest.raises(type(error)) as failure, whole_file(tmp_path / "x"):
        raise error
    assert failure.value is error


def test_read_only_is_named(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(write.os, "replace", refused)
    with pytest.raises(OSError, match="Read-only file system; choose a folder that can be written") as failure:
        write_text(tmp_path / "x", "")
    copy = pickle.loads(pickle.dumps(failure.value))
    assert str(copy) == str(failure.value) and copy.errno == failure.value.errno == errno.EROFS


@pytest.mark.parametrize("what", ["file", "folder", "work", "lock", "marked"])
@pytest.mark.parametrize("there", [True, False])
def test_what_is_refused_leaves_no_new_empty_folder(tmp_path, what, there):
    folder = tmp_path / "a" / "b"
    if there:
        folder.mkdir(parents=True)
    block = {
        "file": lambda: whole_file(folder / "x"), "folder": lambda: whole_folder(folder / "x"),
        "work": lambda: write.work_folder(folder / "x"), "lock": lambda: write.locked_folder(folder, ".lock"),
        "marked": lambda: write.locked_folder(folder, ".lock", marks=(".unfinished",)),
    }[what]  # fmt: skip
    with pytest.raises(InputError), block():
        if what == "marked":
            (folder / ".unfinished").touch()
        raise InputError("refused")
    lock = {"lock": [".lock"], "marked": [".lock", ".unfinished"]}.get(what, [])
    assert names(tmp_path) == ([*lock, "a", "b"] if there else [])
    with block():
        write_text(folder / "y", "")
    assert folder.is_dir() and (folder / "y").is_file()

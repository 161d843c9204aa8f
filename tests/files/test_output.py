"""An output that cannot be written is refused before the work, and the check leaves nothing."""

import errno
import multiprocessing
import os

import pytest

from recbole_blair.errors import InputError
from recbole_blair.files.output import check_output_file, check_output_folder


def test_what_can_be_written_passes_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "file").write_text("old")
    for path in (".", "a/b", "~/c", tmp_path / "d"):
        check_output_folder(path)
    for path in ("file", "a/b/file", "file2"):
        check_output_file(path)
    assert check_output_folder("~/c") == tmp_path / "home" / "c"
    assert os.listdir(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "old"
    assert not check_output_folder("a/b").exists() and not os.path.exists("a")


CANNOT = {
    "file": ("file", "a file is where a folder should be"),
    "below a file": ("file/x/y", "a part of this path is a file"),
    "proc": ("/proc/x", "the folder does not exist and cannot be made"),
    "nul": ("a\0b", "NUL"),
    "long": ("a/" + "x" * 256, "File name too long; choose a shorter name"),
    "very long": ("x" * 5000, "File name too long; choose a shorter name"),
    "loop": ("loop", "a file is where a folder should be|lead in a circle"),
}


@pytest.mark.parametrize(("path", "message"), CANNOT.values(), ids=list(CANNOT))
def test_what_cannot_be_written_is_one_line(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=message) as failure:
        check_output_folder(path)
    assert "\n" not in str(failure.value) and len(str(failure.value)) < 600
    if path != "file":
        with pytest.raises(InputError, match="cannot write"):
            check_output_file(f"{path}/z" if path in ("/proc/x", "loop") else path)
    assert sorted(os.listdir(tmp_path)) == ["file", "loop"]


def test_a_folder_as_file_and_a_device_are_refused(tmp_path):
    for path, message in ((tmp_path, "give a file, not a folder"), ("/dev/null", "a device or a pipe")):
        with pytest.raises(InputError, match=message):
            check_output_file(path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_full_or_read_only_disk_is_found(tmp_path, monkeypatch, number):
    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refused)
    for check in (check_output_folder, check_output_file):
        with pytest.raises(InputError, match=f"cannot write {tmp_path}/new: {os.strerror(number)}"):
            check(tmp_path / "new")
    assert not os.listdir(tmp_path)


def _check_often(folder, results):
    for _ in range(60):
        check_output_folder(folder)
    results.put("done")


def test_processes_that_check_one_folder_at_the_same_time_do_not_disturb_each_other(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=_check_often, args=(tmp_path / "runs" / "a", results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert [results.get(timeout=10) for _ in workers] == ["done"] * 3
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
